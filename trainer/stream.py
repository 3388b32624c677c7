"""Batches of a feature set, ready before they are asked for: chunks are fetched ahead by threads, checked, and gathered.

Three parties work at the same time. A few threads fetch whole chunks and compare their checksums; one thread gathers the
rows of a batch, chunk by chunk, into a buffer that is used again and again; the consumer trains on the batch before. Memory
is reused because fresh memory is what costs most: it is faulted in page by page, at a third of the speed of the copy itself.
No process is forked: that deadlocks once obstore or zarr has started its threads.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue
from time import perf_counter

import numpy as np
import torch

from featurestore.errors import UsageError
from trainer.chunk_source import ChunkSource, Fetched, Key, StreamOptions, Tensors, huge_empty
from trainer.order import BatchPlan, EpochOrder

READY = 2
"""Batches that are gathered before they are asked for."""


@dataclass(frozen=True)
class Batch:
    """Rows of a feature set.

    Attributes:
        features: (b, 3, band, frame) float16, normalized; memory that is used again, see `BatchStream`.
        position: (b, 2) float64, latitude and longitude of the transmitter in degrees, WGS84.
        row: (b,) int64, index in the set. Of padding it is `order.PADDING`, its position is NaN and its features are 0.
    """

    features: torch.Tensor
    position: torch.Tensor
    row: torch.Tensor

    def __len__(self) -> int:
        return len(self.row)

    def copy(self) -> Batch:
        """The same, in memory of its own, to be kept for as long as one likes."""
        return Batch(self.features.clone(), self.position, self.row)


@dataclass
class StreamStats:
    """What one epoch cost so far.

    Attributes:
        batches: handed over.
        rows: in them, padding left out.
        seconds: from the first request for a batch to the end of the latest.
        waited_s: of these, seconds in which the consumer waited for a batch.
        chunks_fetched: chunks read from the store.
        bytes_fetched: their bytes, those of damaged ones that were fetched again included.
        fetched_again: chunks that were missing or damaged at first.
        cache_hits: chunks that were in memory already.
    """

    batches: int = 0
    rows: int = 0
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
        stats: to be kept.
    """

    def __init__(
        self, source: ChunkSource, order: EpochOrder, pool: ThreadPoolExecutor, threads: int, stats: StreamStats
    ) -> None:
        self._source = source
        self._order = order
        self._pool = pool
        self._limit = 2 * max(threads, order.spec.pool_chunks if order.spec.shuffle else 0)
        self._stats = stats
        self._held: dict[int, Fetched | Future[Fetched]] = {}

    def from_batch(self, start_batch: int) -> Iterator[tuple[BatchPlan, list[Tensors]]]:
        """The plans from one batch on, and the chunks of each.

        Raises:
            ChunkError, ServiceUnavailableError: see `ChunkSource.fetch`; when the batch that needs the chunk is due.
        """
        plans = self._order.batches(start_batch)
        coming = next(plans, None)
        planned: deque[BatchPlan] = deque()
        while True:
            # At least the next batch is under way, however many chunks a batch needs.
            while coming and (len(planned) < READY or len(self._held.keys() | coming.chunks) <= self._limit):
                for index in coming.chunks:
                    if index not in self._held:
                        self._held[index] = self._request(index)
                planned.append(coming)
                coming = next(plans, None)
            if not planned:
                return
            plan = planned.popleft()
            yield plan, [self._wait(index) for index in plan.chunks]
            for index in plan.finished:
                held = self._held.pop(index)
                if isinstance(held, Fetched):
                    self._source.give_back(self._key(index), held)

    def close(self) -> None:
        """Let the chunks go."""
        self._held.clear()

    def _key(self, index: int) -> Key:
        table = self._order.table
        return int(table.segment[index]), int(table.chunk[index])

    def _request(self, index: int) -> Fetched | Future[Fetched]:
        key = self._key(index)
        kept = self._source.kept(key)
        if kept is not None:
            self._stats.cache_hits += 1
            return kept
        return self._pool.submit(self._source.fetch, key)

    def _wait(self, index: int) -> Tensors:
        held = self._held[index]
        if isinstance(held, Future):
            held = self._held[index] = held.result()
            self._stats.chunks_fetched += 1
            self._stats.bytes_fetched += held.n_bytes
            self._stats.fetched_again += held.again
        return held.rows


class BatchStream:
    """Whole batches of a set, in a given order, gathered ahead of use into a ring of buffers.

    The ring has `n_buffers + READY` buffers, pinned where there is a GPU. The features of a batch are valid until `n_buffers`
    more batches have been asked for, also across epochs: with 4, a batch and the three after it can be in use together.
    `Batch.copy` gets one out of the ring. A copy to a GPU that does not block must be over by then as well.

    Args:
        source: of the chunks.
        batch_size: rows of the largest batch.
        options: see `StreamOptions`.

    Attributes:
        stats: of the epoch that was begun last.
    """

    def __init__(self, source: ChunkSource, batch_size: int, options: StreamOptions) -> None:
        self.stats = StreamStats()
        self._source = source
        self._options = options
        self._shape = (batch_size, *source.tensor_shape)
        self._ring: list[torch.Tensor] = []
        self._delivered = 0
        self._epoch: _Epoch | None = None

    def batches(self, order: EpochOrder, start_batch: int = 0) -> Generator[Batch]:
        """The batches of an epoch, from number `start_batch` on.

        Threads start with the first request, and end with the epoch, with `close()` of the iterator, when nothing refers to
        it any more, or when another epoch begins.

        Raises:
            ChunkError: when a chunk stays missing or damaged; batches before it have been handed over.
            ServiceUnavailableError: when the store does not answer.
        """
        self.close()
        if not self._ring:
            self._ring = [_batch_memory(self._shape) for _ in range(self._options.n_buffers + READY)]
        ring = deque(self._ring)
        ring.rotate(-(self._delivered % len(ring)))
        stats = self.stats = StreamStats()
        epoch = self._epoch = _Epoch(
            self._source, order, start_batch, ring=list(ring), threads=self._options.threads, stats=stats
        )
        began = perf_counter()
        try:
            for _ in range(start_batch, order.n_batches):
                asked = perf_counter()
                batch, n_rows = epoch.next_batch()
                stats.waited_s += perf_counter() - asked
                stats.batches += 1
                stats.rows += n_rows
                self._delivered += 1
                yield batch
                stats.seconds = perf_counter() - began
        finally:
            stats.seconds = perf_counter() - began
            epoch.close()

    def close(self) -> None:
        """End the epoch that is running, if there is one, and its threads."""
        if self._epoch is not None:
            self._epoch.close()
            self._epoch = None


def _batch_memory(shape: tuple[int, ...]) -> torch.Tensor:
    if torch.cuda.is_available():
        return torch.empty(shape, dtype=torch.float16, pin_memory=True)
    return torch.from_numpy(huge_empty(2 * math.prod(shape)).view(np.float16).reshape(shape))


class _Epoch:
    """The threads behind the batches of one epoch. Nothing in here refers to the iterator, so that it can be collected."""

    def __init__(  # noqa: PLR0913 - private, and called once
        self,
        source: ChunkSource,
        order: EpochOrder,
        start_batch: int,
        *,
        ring: list[torch.Tensor],
        threads: int,
        stats: StreamStats,
    ) -> None:
        self._position = source.feature_set.labels.position
        self._ring = ring
        self._buffers = [tensor.numpy() for tensor in ring]
        self._start_batch = start_batch
        self._pool = ThreadPoolExecutor(threads, "fetch-chunks")
        self._chunks = ChunkStream(source, order, self._pool, threads, stats)
        self._ready: SimpleQueue[tuple[Batch, int] | Exception | None] = SimpleQueue()
        self._asked: SimpleQueue[None] = SimpleQueue()  # a semaphore, of the quick kind
        for _ in range(READY):
            self._asked.put(None)
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="gather-batches", daemon=True)
        self._thread.start()

    def next_batch(self) -> tuple[Batch, int]:
        """The next batch, when it is ready, and its rows without padding; gives leave to gather one more."""
        self._asked.put(None)
        found = None if self._closed else self._ready.get()
        if found is None:
            raise UsageError("this epoch was closed, or another one begun; go on with the new iterator")
        if isinstance(found, Exception):
            raise found
        return found

    def close(self) -> None:
        """End the threads; reads that are under way are waited for."""
        if self._closed:
            return
        self._closed = True
        self._ready.put(None)  # for one that waits in another thread
        self._asked.put(None)
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._thread.join()
        self._chunks.close()

    def _run(self) -> None:
        try:
            for number, (plan, chunks) in enumerate(self._chunks.from_batch(self._start_batch)):
                self._asked.get()
                if self._closed:
                    return
                batch = self._gather(plan, chunks, number % len(self._ring))
                self._ready.put((batch, len(batch) if chunks else 0))
        except Exception as error:  # noqa: BLE001 - it is raised where the batch is asked for
            self._ready.put(error)

    def _gather(self, plan: BatchPlan, chunks: list[Tensors], slot: int) -> Batch:
        buffer, n_rows = self._buffers[slot], len(plan.rows)
        for chunk, begin, end in zip(chunks, plan.bounds[:-1], plan.bounds[1:], strict=True):
            # (row, 3, band, frame); "raise" would go through one more copy
            np.take(chunk, plan.local[begin:end], axis=0, out=buffer[begin:end], mode="clip")
        if chunks:
            position = self._position[plan.rows]
        else:  # padding
            buffer[:n_rows] = 0
            position = np.full((n_rows, 2), math.nan)
        return Batch(self._ring[slot][:n_rows], torch.from_numpy(position), torch.from_numpy(plan.rows))
