"""Chunks before they are needed: fetched by threads while earlier batches are gathered, each held until its last batch."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from trainer.stream.device import DeviceRows
from trainer.stream.order import BatchPlan, EpochOrder
from trainer.stream.source import ChunkSource, Fetched, Key, Tensors

PREFETCH_DEPTH = 2
"""Batches that are gathered before they are requested."""


@dataclass
class StreamStats:
    """What one epoch cost so far.

    Attributes:
        batches: handed over.
        rows: in them, padding left out.
        began: when the first batch was asked for, on the clock of `time.perf_counter`.
        seconds: from the first request for a batch to the end of the latest.
        waited_s: of these, seconds in which the consumer waited for a batch.
        chunks_fetched: chunks read from the store.
        bytes_fetched: their bytes, those of damaged ones that were fetched again included.
        fetched_again: chunks that were missing or damaged at first.
        cache_hits: chunks that were in memory already.
    """

    batches: int = 0
    rows: int = 0
    began: float = 0.0
    seconds: float = 0.0
    waited_s: float = 0.0
    chunks_fetched: int = 0
    bytes_fetched: int = 0
    fetched_again: int = 0
    cache_hits: int = 0


class ChunkStream:
    """Plans of batches, each with its chunks, which were fetched while earlier batches were gathered.

    As many chunks are held at a time as two pools have, or twice as many as there are threads: when a pool begins, all its
    chunks are wanted at once, so they are fetched while the pool before is served.

    Args:
        source: of the chunks.
        order: of the epoch.
        pool: threads that fetch.
        threads: how many they are.
        stats: of the epoch; updated here.
        resident: where the split's rows stay on a device; chunks go there when they have been read.
    """

    def __init__(  # noqa: PLR0913 - all that one epoch is made of
        self,
        source: ChunkSource,
        order: EpochOrder,
        pool: ThreadPoolExecutor,
        *,
        threads: int,
        stats: StreamStats,
        resident: DeviceRows | None,
    ) -> None:
        self._source = source
        self._order = order
        self._pool = pool
        self._limit = 2 * max(threads, order.spec.pool_chunks if order.spec.shuffle else 0)
        self._stats = stats
        self._resident = resident
        self._held: dict[int, Fetched | Future[Fetched] | None] = {}  # `None`: on the device

    def from_batch(self, start_batch: int) -> Iterator[tuple[BatchPlan, list[Tensors]]]:
        """The plans from one batch on, and the chunks of each; no chunks when rows are to be taken from the device.

        Raises:
            ChunkError, ServiceUnavailableError: see `ChunkSource.fetch`; when the batch that needs the chunk is due.
        """
        plans = self._order.batches(start_batch)
        coming = next(plans, None)
        planned: deque[BatchPlan] = deque()
        while True:
            # At least the next batch is under way, however many chunks a batch needs.
            while coming and (len(planned) < PREFETCH_DEPTH or len(self._held.keys() | coming.chunks) <= self._limit):
                for index in coming.chunks:
                    if index not in self._held:
                        self._held[index] = self._request(index)
                planned.append(coming)
                coming = next(plans, None)
            if not planned:
                return
            plan = planned.popleft()
            fetched = [self._wait(index) for index in plan.chunks]
            yield plan, [chunk.rows for chunk in fetched if chunk is not None and self._resident is None]
            for index in plan.finished:
                if any(index in later.chunks for later in planned):
                    continue  # another arc of sessions needs it, too, and will say when it is done
                held = self._held.pop(index)
                if isinstance(held, Fetched):
                    self._source.release(self._key(index), held)

    def close(self) -> None:
        """Drop the chunks."""
        self._held.clear()

    def _key(self, index: int) -> Key:
        table = self._order.table
        return int(table.segment[index]), int(table.chunk[index])

    def _request(self, index: int) -> Fetched | Future[Fetched] | None:
        key = self._key(index)
        cached = self._source.cached(key)
        if cached is not None or (self._resident is not None and self._resident.has(index)):
            self._stats.cache_hits += 1
            return cached
        return self._pool.submit(self._fetch, index)

    def _fetch(self, index: int) -> Fetched:
        fetched = self._source.fetch(self._key(index))
        if self._resident is not None:
            self._resident.put(index, fetched.rows)
        return fetched

    def _wait(self, index: int) -> Fetched | None:
        held = self._held[index]
        if isinstance(held, Future):
            held = self._held[index] = held.result()
            self._stats.chunks_fetched += 1
            self._stats.bytes_fetched += held.n_bytes
            self._stats.fetched_again += held.again
        return held
