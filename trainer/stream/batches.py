"""Batches of a feature set, ready before they are asked for: chunks are fetched ahead by threads, checked, and gathered.

Three parties work at the same time. A few threads fetch whole chunks and compare their checksums; one thread gathers the
rows of a batch, chunk by chunk, into a buffer that is used again and again, and queues its copy to the device, if there is
one; the consumer trains on the batch before. Memory is reused because fresh memory is what costs most: it is faulted in page
by page, at a third of the speed of the copy itself. No process is forked: that deadlocks once obstore or zarr has started its
threads.
"""

from __future__ import annotations

import math
import threading
import weakref
from collections.abc import Callable, Generator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from queue import SimpleQueue
from time import perf_counter

import numpy as np
import numpy.typing as npt
import torch

from featurestore.errors import UsageError
from trainer.stream.chunk_table import Index
from trainer.stream.device import DeviceRows, Done, Lane
from trainer.stream.options import StreamOptions
from trainer.stream.order import BatchPlan, EpochOrder, OrderSpec
from trainer.stream.prefetch import READY, ChunkStream, StreamStats
from trainer.stream.ring import Ring
from trainer.stream.session_order import SessionPlan
from trainer.stream.source import ChunkSource, Tensors

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Batch:
    """Rows of a feature set.

    Attributes:
        features: (b, 3, band, frame) float16, normalized, on the stream's device; on a CPU memory that is used again, see
            `BatchStream`.
        position: (b, 2) float64, latitude and longitude of the transmitter in degrees, WGS84; always on the CPU.
        row: (b,) int64, index in the set, on the stream's device. Of padding it is `order.PADDING`, its position is NaN and its
            features are 0.
    """

    features: torch.Tensor
    position: torch.Tensor
    row: torch.Tensor

    def __len__(self) -> int:
        return len(self.row)

    def tensors(self) -> list[torch.Tensor]:
        """All that it holds."""
        return [getattr(self, field.name) for field in fields(self)]

    def copy(self) -> Batch:
        """The same, in memory of its own, to be kept for as long as one likes."""
        return Batch(self.features.clone(), self.position, self.row)


@dataclass(frozen=True)
class SessionBatch(Batch):
    """Whole sessions of a feature set, each with a line of r places for its rows; r is that of the batch's largest session.

    A row is one window of one capture; rows are in the order of (receiver, row), those that are absent come last.

    Attributes:
        features: (b, r, 3, band, frame) float16, as in `Batch`; 0 where absent.
        position: (b, 2) float64, as in `Batch`.
        row: (b, r) int64, index in the set; `order.PADDING` where absent.
        receiver: (b, r) int64, `websdr_id`; -1 where absent.
        present: (b, r) bool, whether there is a row.
        session: (b,) int64, number in `FeatureSet.sessions` of the split; of padding `order.PADDING`, and all of it is absent.
    """

    receiver: torch.Tensor
    present: torch.Tensor
    session: torch.Tensor

    def copy(self) -> SessionBatch:
        """See `Batch.copy`."""
        return replace(self, features=self.features.clone())


Ready = tuple[Batch, int, Done]
"""A batch, its rows without padding, and what says that it has arrived."""
Assemble = Callable[[BatchPlan, list[Tensors], int], Ready]
"""Takes the number of the batch, too, counted over all epochs."""


class BatchStream:
    """Whole batches of a set, in a given order, gathered ahead of use into a ring of buffers.

    On a CPU the features of a batch are valid until `n_buffers` more batches have been asked for, also across epochs: with 4, a
    batch and the three after it can be in use together. `Batch.copy` gets one out of the ring. On a GPU each batch has memory
    of its own; its copy runs while the consumer computes, and what the consumer queues waits for it by itself.

    Args:
        source: of the chunks.
        n_places: tensors of the largest batch.
        options: see `StreamOptions`.
        device: where batches are wanted.
        resident: where the split's rows stay on that device; batches are gathered from there.

    Attributes:
        stats: of the epoch that was begun last.
    """

    def __init__(
        self,
        source: ChunkSource,
        n_places: int,
        options: StreamOptions,
        device: torch.device = CPU,
        resident: DeviceRows | None = None,
    ) -> None:
        self.stats = StreamStats()
        self._source = source
        self._options = options
        self._shape = (n_places, *source.tensor_shape)
        self._lane = Lane(device)
        self._resident = resident
        self._ring: Ring | None = None
        self._delivered = 0
        self._epoch: _Epoch | None = None
        self._prepared: tuple[OrderSpec, _Epoch, weakref.finalize[..., BatchStream]] | None = None

    def batches(self, order: EpochOrder, start_batch: int = 0) -> Generator[Batch]:
        """The batches of an epoch, from number `start_batch` on.

        Threads start with the first request, and end with the epoch, with `close()` of the iterator, when nothing refers to
        it any more, or when another epoch begins.

        Raises:
            ChunkError: when a chunk stays missing or damaged; batches before it have been handed over.
            ServiceUnavailableError: when the store does not answer.
        """
        epoch = self._take_prepared(order, start_batch)
        self.close()
        self._epoch = epoch = epoch or self._make(order, start_batch)
        stats = self.stats = epoch.stats
        epoch.begin(self._delivered)
        began = stats.began = perf_counter()
        try:
            for _ in range(start_batch, order.n_batches):
                asked = perf_counter()
                batch, n_rows, done = epoch.next_batch()
                if done is not None:
                    self._lane.hand_over(done, *batch.tensors())
                stats.waited_s += perf_counter() - asked
                stats.batches += 1
                stats.rows += n_rows
                self._delivered += 1
                yield batch
                stats.seconds = perf_counter() - began
        finally:
            stats.seconds = perf_counter() - began
            epoch.close()

    def prepare(self, order: EpochOrder) -> None:
        """Fetch the first chunks of an epoch now, while the one before is served, or validated, so that it begins at once.

        As many chunks are held for it as it would hold itself. Nothing is gathered before its first batch is asked for.
        """
        self._drop_prepared()
        epoch = self._make(order, 0)
        self._prepared = order.spec, epoch, weakref.finalize(self, epoch.close)

    def close(self) -> None:
        """End the epoch that is running, and one that was prepared, if there are any, and their threads."""
        if self._epoch is not None:
            self._epoch.close()
            self._epoch = None
        self._drop_prepared()

    def _take_prepared(self, order: EpochOrder, start_batch: int) -> _Epoch | None:
        if self._prepared is None or start_batch or self._prepared[0] != order.spec:
            return None
        _, epoch, finalizer = self._prepared
        finalizer.detach()
        self._prepared = None
        return epoch

    def _drop_prepared(self) -> None:
        if self._prepared is not None:
            self._prepared[2]()  # closes it, once
            self._prepared = None

    def _make(self, order: EpochOrder, start_batch: int) -> _Epoch:
        """The threads of an epoch, which begin to fetch."""
        stats, threads = StreamStats(), self._options.threads
        pool = ThreadPoolExecutor(threads, "fetch-chunks")
        chunks = ChunkStream(self._source, order, pool, threads=threads, stats=stats, resident=self._resident)
        second = ThreadPoolExecutor(1, "gather-half")
        return _Epoch(chunks, start_batch, (pool, second), self._assembly(second), stats)

    def _assembly(self, second: Executor) -> Assemble:
        """What makes batches of plans for one epoch; called by its thread, with a second one to help."""
        if self._ring is None and self._resident is None:
            self._ring = Ring(self._shape, self._options.n_buffers + READY, self._lane)
        position, ring, resident, lane = self._source.feature_set.labels.position, self._ring, self._resident, self._lane

        def assemble(plan: BatchPlan, chunks: list[Tensors], number: int) -> Ready:
            with lane.use():
                if resident is not None:
                    features = resident.gather(plan, lane)
                elif ring is not None:
                    features = ring.gather(plan, chunks, number, second)
                if isinstance(plan, SessionPlan):
                    batch: Batch = _session_batch(plan, features, lane, position)
                else:
                    batch = Batch(features, _positions(plan, plan.rows, position), lane.bring(torch.from_numpy(plan.rows)))
                done = lane.mark()
            return batch, len(plan.rows) if plan.chunks else 0, done

        return assemble


def _positions(plan: BatchPlan, rows: Index, position: npt.NDArray[np.float64]) -> torch.Tensor:
    """(b, 2) where rows were sent from; padding has no chunks, and is no row."""
    return torch.from_numpy(position[rows] if plan.chunks else np.full((len(rows), 2), math.nan))


def _session_batch(plan: SessionPlan, features: torch.Tensor, lane: Lane, position: npt.NDArray[np.float64]) -> SessionBatch:
    shape = len(plan.session), plan.width
    row, receiver = plan.places.reshape(shape), plan.receiver.reshape(shape)
    at_device = [lane.bring(torch.from_numpy(part)) for part in (row, receiver, row >= 0, plan.session)]
    where = _positions(plan, row[:, 0], position)  # of the first row of each session
    return SessionBatch(features.view(*shape, *features.shape[1:]), where, *at_device)


class _Epoch:
    """The threads behind the batches of one epoch. Nothing in here refers to the iterator, so that it can be collected."""

    def __init__(
        self,
        chunks: ChunkStream,
        start_batch: int,
        pools: tuple[ThreadPoolExecutor, ThreadPoolExecutor],
        assemble: Assemble,
        stats: StreamStats,
    ) -> None:
        self.stats = stats
        self._chunks = chunks
        self._start_batch = start_batch
        self._fetching, self._gathering = pools
        self._assemble = assemble
        self._ready: SimpleQueue[Ready | Exception | None] = SimpleQueue()
        self._asked: SimpleQueue[None] = SimpleQueue()  # a semaphore, of the quick kind
        self._first_number = 0
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="gather-batches", daemon=True)
        self._thread.start()

    def begin(self, number: int) -> None:
        """Let batches be gathered; the first one has this number. Before, chunks are fetched, and no more."""
        self._first_number = number  # what was gathered last time and not handed over is overwritten
        for _ in range(READY):
            self._asked.put(None)

    def next_batch(self) -> Ready:
        """The next batch, when it is ready; gives leave to gather one more."""
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
        self._fetching.shutdown(wait=True, cancel_futures=True)
        self._thread.join()
        self._gathering.shutdown()
        self._chunks.close()

    def _run(self) -> None:
        try:
            for number, (plan, chunks) in enumerate(self._chunks.from_batch(self._start_batch)):
                self._asked.get()
                if self._closed:
                    return
                self._ready.put(self._assemble(plan, chunks, self._first_number + number))
        except Exception as error:  # noqa: BLE001 - it is raised where the batch is asked for
            self._ready.put(error)
