"""Batches of a feature set, ready before they are asked for: chunks are fetched ahead by threads, checked, and gathered.

Three parties work at the same time:

    fetch-chunks (StreamOptions.threads)    gather-batches (1)                  consumer (the training loop)
    ------------------------------------    --------------------------------    ----------------------------
    GET a chunk, compare its checksum       ChunkStream: wait for the chunks
              |                             of the next plan
              +--- Future of each chunk --> wait for a permit   <-- _permits -- next_batch(): allow one more,
                                            gather rows into a buffer of the    then wait for a batch
                                            BufferPool (gather-half helps)
                                            queue the copy to the device
                                            ReadyBatch          --- _ready ---> wait_event(copied): the device
                                                                                waits for the copy, then trains

`_permits` bounds what is gathered ahead: `PREFETCH_DEPTH` permits to begin with, one more with each request. `ChunkStream`
bounds what is fetched ahead. Buffers are reused, because fresh memory is what costs most: it is faulted in page by page, at
a third of the speed of the copy itself. No process is forked: that deadlocks once obstore or zarr has started its threads.

Longer than 300 lines, because the diagram, the batches and the threads that make them are read together.
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
from trainer.stream.buffer_pool import BufferPool
from trainer.stream.chunk_table import Index
from trainer.stream.device import CopyEvent, CopyStream, DeviceRows
from trainer.stream.options import StreamOptions
from trainer.stream.order import BatchPlan, EpochOrder, OrderSpec
from trainer.stream.prefetch import PREFETCH_DEPTH, ChunkStream, StreamStats
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


@dataclass(frozen=True)
class ReadyBatch:
    """A batch on its way to the consumer.

    Attributes:
        batch: the batch itself, on the device.
        n_rows: its rows; padding does not count.
        copied: the event behind its copy to the device.
    """

    batch: Batch
    n_rows: int
    copied: CopyEvent


Assemble = Callable[[BatchPlan, list[Tensors], int], ReadyBatch]
"""Makes a batch of a plan, its chunks and the batch's number, which counts over all epochs."""


class BatchStream:
    """Whole batches of a set, in a given order, gathered ahead of use into a pool of buffers.

    On a CPU the features of a batch are valid until `n_buffers` more batches have been asked for, also across epochs: with 4, a
    batch and the three after it can be in use together. `Batch.copy` gets one out of the pool. On a GPU each batch has memory
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
        self._copy_stream = CopyStream(device)
        self._resident = resident
        self._buffers: BufferPool | None = None
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
                ready = epoch.next_batch()
                self._copy_stream.wait_event(ready.copied, *ready.batch.tensors())
                stats.waited_s += perf_counter() - asked
                stats.batches += 1
                stats.rows += ready.n_rows
                self._delivered += 1
                yield ready.batch
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
        if self._buffers is None and self._resident is None:
            self._buffers = BufferPool(self._shape, self._options.n_buffers + PREFETCH_DEPTH, self._copy_stream)
        position, buffers, resident, copy_stream = (
            self._source.feature_set.labels.position,
            self._buffers,
            self._resident,
            self._copy_stream,
        )

        def assemble(plan: BatchPlan, chunks: list[Tensors], number: int) -> ReadyBatch:
            with copy_stream.use():
                if resident is not None:
                    features = resident.gather(plan, copy_stream)
                elif buffers is not None:
                    features = buffers.gather(plan, chunks, number, second)
                if isinstance(plan, SessionPlan):
                    batch: Batch = _session_batch(plan, features, copy_stream, position)
                else:
                    batch = Batch(
                        features, _positions(plan, plan.rows, position), copy_stream.to_device(torch.from_numpy(plan.rows))
                    )
                copied = copy_stream.record_event()
            return ReadyBatch(batch, len(plan.rows) if plan.chunks else 0, copied)

        return assemble


def _positions(plan: BatchPlan, rows: Index, position: npt.NDArray[np.float64]) -> torch.Tensor:
    """(b, 2) where rows were sent from; padding has no chunks, and is no row."""
    return torch.from_numpy(position[rows] if plan.chunks else np.full((len(rows), 2), math.nan))


def _session_batch(
    plan: SessionPlan, features: torch.Tensor, copy_stream: CopyStream, position: npt.NDArray[np.float64]
) -> SessionBatch:
    shape = len(plan.session), plan.width
    row, receiver = plan.places.reshape(shape), plan.receiver.reshape(shape)
    at_device = [copy_stream.to_device(torch.from_numpy(part)) for part in (row, receiver, row >= 0, plan.session)]
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
        self._ready: SimpleQueue[ReadyBatch | Exception | None] = SimpleQueue()
        # A semaphore: one item is the permit to gather one batch. SimpleQueue is C, threading.Semaphore Python.
        self._permits: SimpleQueue[None] = SimpleQueue()
        self._first_number = 0
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="gather-batches", daemon=True)
        self._thread.start()

    def begin(self, number: int) -> None:
        """Let batches be gathered; the first one has this number. Before, chunks are fetched, and no more."""
        self._first_number = number  # what was gathered last time and not handed over is overwritten
        for _ in range(PREFETCH_DEPTH):
            self._permits.put(None)

    def next_batch(self) -> ReadyBatch:
        """The next batch, when it is ready; permits one more to be gathered."""
        self._permits.put(None)
        ready = None if self._closed else self._ready.get()
        if ready is None:
            raise UsageError("this epoch was closed, or another one begun; go on with the new iterator")
        if isinstance(ready, Exception):
            raise ready
        return ready

    def close(self) -> None:
        """End the threads; reads that are under way are waited for."""
        if self._closed:
            return
        self._closed = True
        self._ready.put(None)  # for one that waits in another thread
        self._permits.put(None)
        self._fetching.shutdown(wait=True, cancel_futures=True)
        self._thread.join()
        self._gathering.shutdown()
        self._chunks.close()

    def _run(self) -> None:
        try:
            for number, (plan, chunks) in enumerate(self._chunks.from_batch(self._start_batch)):
                self._permits.get()
                if self._closed:
                    return
                self._ready.put(self._assemble(plan, chunks, self._first_number + number))
        except Exception as error:  # noqa: BLE001 - it is raised where the batch is asked for
            self._ready.put(error)
