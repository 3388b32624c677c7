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
from collections.abc import Callable, Generator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from itertools import count
from queue import SimpleQueue
from time import perf_counter

import numpy as np
import numpy.typing as npt
import torch

from featurestore.errors import UsageError
from trainer.stream.chunk_table import Index
from trainer.stream.device import DeviceRows, Done, Lane
from trainer.stream.order import PADDING, BatchPlan, EpochOrder
from trainer.stream.prefetch import READY, ChunkStream, StreamStats
from trainer.stream.session_order import SessionPlan
from trainer.stream.source import ChunkSource, StreamOptions, Tensors, huge_empty

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


class Ring:
    """Buffers for batches, used in turn, pinned where there is a GPU.

    Args:
        shape: of the largest batch.
        n_buffers: how many.
        lane: that brings each batch to its device; a CPU gets the buffers themselves.
    """

    def __init__(self, shape: tuple[int, ...], n_buffers: int, lane: Lane) -> None:
        self._memory = [_batch_memory(shape) for _ in range(n_buffers)]
        self._buffers = [tensor.numpy() for tensor in self._memory]
        self._copied: list[Done] = [None] * n_buffers
        self._lane = lane

    def gather(self, plan: BatchPlan, chunks: list[Tensors], number: int, second: Executor) -> torch.Tensor:
        """The features (place, 3, band, frame) of a plan; no chunks are for padding. A second thread gathers half of them."""
        slot = number % len(self._buffers)
        copied = self._copied[slot]
        if copied is not None:
            copied.synchronize()  # an event of long ago, as a rule
        buffer = self._buffers[slot]
        other = second.submit(plan.copy_to, buffer, chunks, 0, 2)
        plan.copy_to(buffer, chunks, 1, 2)
        other.result()
        features = self._lane.bring(self._memory[slot][: plan.n_places])
        self._copied[slot] = self._lane.mark()
        return features


def _batch_memory(shape: tuple[int, ...]) -> torch.Tensor:
    if torch.cuda.is_available():
        return torch.empty(shape, dtype=torch.float16, pin_memory=True)
    return torch.from_numpy(huge_empty(2 * math.prod(shape)).view(np.float16).reshape(shape))


Ready = tuple[Batch, int, Done]
"""A batch, its rows without padding, and what says that it has arrived."""
Assemble = Callable[[BatchPlan, list[Tensors]], Ready]


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

    def batches(self, order: EpochOrder, start_batch: int = 0) -> Generator[Batch]:
        """The batches of an epoch, from number `start_batch` on.

        Threads start with the first request, and end with the epoch, with `close()` of the iterator, when nothing refers to
        it any more, or when another epoch begins.

        Raises:
            ChunkError: when a chunk stays missing or damaged; batches before it have been handed over.
            ServiceUnavailableError: when the store does not answer.
        """
        self.close()
        stats = self.stats = StreamStats()
        threads = self._options.threads
        pool = ThreadPoolExecutor(threads, "fetch-chunks")
        chunks = ChunkStream(self._source, order, pool, threads=threads, stats=stats, resident=self._resident)
        second = ThreadPoolExecutor(1, "gather-half")
        epoch = self._epoch = _Epoch(chunks, start_batch, (pool, second), self._assembly(second))
        began = stats.began = perf_counter()
        try:
            for _ in range(start_batch, order.n_batches):
                asked = perf_counter()
                batch, n_rows, done = epoch.next_batch()
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

    def close(self) -> None:
        """End the epoch that is running, if there is one, and its threads."""
        if self._epoch is not None:
            self._epoch.close()
            self._epoch = None

    def _assembly(self, second: Executor) -> Assemble:
        """What makes batches of plans for one epoch; called by its thread, with a second one to help."""
        if self._ring is None and self._resident is None:
            self._ring = Ring(self._shape, self._options.n_buffers + READY, self._lane)
        position, receiver = self._source.feature_set.labels.position, self._source.receiver
        ring, resident, lane = self._ring, self._resident, self._lane
        slots = count(self._delivered)  # what was gathered last time and not handed over is overwritten

        def assemble(plan: BatchPlan, chunks: list[Tensors]) -> Ready:
            with lane.use():
                if resident is not None:
                    features = resident.gather(plan, lane)
                elif ring is not None:
                    features = ring.gather(plan, chunks, next(slots), second)
                if isinstance(plan, SessionPlan):
                    batch: Batch = _session_batch(plan, features, lane, position, receiver)
                else:
                    batch = Batch(features, _positions(plan, plan.rows, position), lane.bring(torch.from_numpy(plan.rows)))
                done = lane.mark()
            return batch, len(plan.rows) if plan.chunks else 0, done

        return assemble


def _positions(plan: BatchPlan, rows: Index, position: npt.NDArray[np.float64]) -> torch.Tensor:
    """(b, 2) where rows were sent from; padding has no chunks, and is no row."""
    return torch.from_numpy(position[rows] if plan.chunks else np.full((len(rows), 2), math.nan))


def _session_batch(
    plan: SessionPlan, features: torch.Tensor, lane: Lane, position: npt.NDArray[np.float64], receiver: npt.NDArray[np.int32]
) -> SessionBatch:
    shape = len(plan.session), plan.width
    row = plan.in_places.reshape(shape)
    present = row >= 0
    parts = row, np.where(present, receiver[row], PADDING).astype(np.int64), present, plan.session
    at_device = [lane.bring(torch.from_numpy(part)) for part in parts]
    where = _positions(plan, row[:, 0], position)  # of the first row of each session
    return SessionBatch(features.view(*shape, *features.shape[1:]), where, *at_device)


class _Epoch:
    """The threads behind the batches of one epoch. Nothing in here refers to the iterator, so that it can be collected."""

    def __init__(
        self, chunks: ChunkStream, start_batch: int, pools: tuple[ThreadPoolExecutor, ThreadPoolExecutor], assemble: Assemble
    ) -> None:
        self._chunks = chunks
        self._start_batch = start_batch
        self._fetching, self._gathering = pools
        self._assemble = assemble
        self._ready: SimpleQueue[Ready | Exception | None] = SimpleQueue()
        self._asked: SimpleQueue[None] = SimpleQueue()  # a semaphore, of the quick kind
        for _ in range(READY):
            self._asked.put(None)
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="gather-batches", daemon=True)
        self._thread.start()

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
            for plan, chunks in self._chunks.from_batch(self._start_batch):
                self._asked.get()
                if self._closed:
                    return
                self._ready.put(self._assemble(plan, chunks))
        except Exception as error:  # noqa: BLE001 - it is raised where the batch is asked for
            self._ready.put(error)
