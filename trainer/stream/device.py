"""Batches on the device that trains: copied there while the step before computes, or gathered from rows that stay there.

Everything here works on a CPU as well, where it is a plain pass-through, so that it can be tested without a GPU. The CUDA part
is `CopyStream`: a CUDA stream of its own, on which copies and gathers run beside the kernels of the training step.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import numpy.typing as npt
import torch

from featurestore.errors import UsageError
from trainer.stream.chunk_table import ChunkTable
from trainer.stream.order import BatchPlan

RESIDENT = frozenset({"cuda"})
"""Kinds of devices with memory of their own, in which rows can stay."""

Tensors = npt.NDArray[np.float16]
CopyEvent = torch.cuda.Event | None
"""Recorded behind the work that was queued on a copy stream; `None` on a CPU, where that work is over at once."""


def free_bytes(device: torch.device) -> int:
    """Memory of a device that nobody uses; of one without memory of its own there is none to be had."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0


def check_cache(mode: str, device: torch.device) -> None:
    """Say early that rows cannot stay on a GPU.

    Raises:
        UsageError: when they are to, and batches are wanted on another device.
    """
    if mode == "gpu" and device.type not in RESIDENT:
        raise UsageError(
            f"cache is 'gpu', but batches are wanted on the {device.type.upper()}; train on a CUDA device "
            "(torch.cuda.is_available() says whether there is one), or use --cache auto"
        )


class CopyStream:
    """Copies batches to a device while it computes the step before.

    On CUDA this is a stream beside the one that trains. Work inside `with copy_stream.use():` is queued on it.
    `record_event()` marks the end of that work, and `wait_event` makes the stream that trains wait for the mark. That wait
    happens on the device; the CPU goes on. On a CPU every method passes its work through.

    Args:
        device: that batches are copied to.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]  # torch's

    def use(self) -> AbstractContextManager[object]:
        """A context: what is queued inside runs on this stream."""
        return torch.cuda.stream(self._stream) if self._stream is not None else nullcontext()

    def to_device(self, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor on the device; the same one if it is there. Does not wait for the copy where its memory is pinned."""
        return tensor.to(self.device, non_blocking=True)

    def record_event(self) -> CopyEvent:
        """An event behind all that was queued so far."""
        return self._stream.record_event() if self._stream is not None else None

    def synchronize(self) -> None:
        """Wait until all that was queued so far is over; for a thread that may block."""
        if self._stream is not None:
            self._stream.synchronize()

    def wait_event(self, done: CopyEvent, *tensors: torch.Tensor) -> None:
        """Make the current stream wait for an event of this one, and use tensors made before the event."""
        if done is None:
            return
        current = torch.cuda.current_stream(self.device)
        current.wait_event(done)
        for tensor in tensors:
            if tensor.is_cuda:
                tensor.record_stream(current)  # the allocator reuses its memory only after the step


class DeviceRows:
    """The features of one split in the memory of a device, filled chunk by chunk as they are read, gathered from there.

    Only rows of the split are kept: what a chunk holds of other splits, or of rejected rows, does not get here.

    Args:
        table: the split's chunks.
        tensor_shape: (3, band, frame).
        device: where.

    Raises:
        torch.OutOfMemoryError: when there is not enough memory.
    """

    def __init__(self, table: ChunkTable, tensor_shape: tuple[int, ...], device: torch.device) -> None:
        self._table = table
        self._begin = np.concatenate([[0], np.cumsum(table.count)])  # (C + 1,) of each chunk's rows in the store
        # (N,) a row's place among the rows of the split: how many of them come before it. Meaningless for other rows.
        self._slot = np.cumsum(table.split == table.wanted, dtype=np.int64) - 1
        self._copy_stream = CopyStream(device)
        with self._copy_stream.use():  # memory that no other stream still works on
            self._store = torch.empty((table.n_rows, *tensor_shape), dtype=torch.float16, device=device)
        self._loaded = np.zeros(len(table), bool)

    def has(self, index: int) -> bool:
        """Whether the rows of chunk number `index` of the table are here."""
        return bool(self._loaded[index])

    def put(self, index: int, chunk: Tensors) -> None:
        """Copy a chunk's rows to the device, and wait for that; for the thread that has read and checked them.

        Args:
            index: of the chunk in the table.
            chunk: (row, 3, band, frame), all its rows.
        """
        local = self._table.rows(index) - self._table.first_row[index]
        begin, end = self._begin[index], self._begin[index + 1]
        whole = int(local[-1]) - int(local[0]) + 1 == len(local)
        rows = chunk[local[0] : local[-1] + 1] if whole else chunk[local]
        with self._copy_stream.use():
            self._store[begin:end].copy_(torch.from_numpy(rows))
        self._copy_stream.synchronize()
        self._loaded[index] = True

    def gather(self, plan: BatchPlan, copy_stream: CopyStream) -> torch.Tensor:
        """The features (place, 3, band, frame) of a plan whose chunks are here, in new memory; queued on a copy stream."""
        if not plan.chunks:  # padding
            return self._store.new_zeros((plan.n_places, *self._store.shape[1:]))
        if plan.n_places == len(plan.rows):
            slot = self._slot[plan.in_places]  # (place,)
            return self._store.index_select(0, copy_stream.to_device(torch.from_numpy(slot)))
        slot = self._slot[np.maximum(plan.in_places, 0)]  # an empty place (-1) copies row 0, and is set to 0 below
        features = self._store.index_select(0, copy_stream.to_device(torch.from_numpy(slot)))
        return features.index_fill_(0, copy_stream.to_device(torch.from_numpy(np.flatnonzero(plan.in_places < 0))), 0)


class DeviceMemoryBudget:
    """How much of a device may be filled with rows: half of the memory that is free when the first split asks, for all splits.

    Args:
        device: which; one that is not `RESIDENT` has no budget.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._left_bytes: int | None = None

    def allocate(self, table: ChunkTable, tensor_shape: tuple[int, ...], *, always: bool) -> DeviceRows | None:
        """Memory for the rows of a table if they fit the budget; with `always`, if they fit all that is free.

        Raises:
            UsageError: when they do not fit, and must.
        """
        if self._device.type not in RESIDENT:
            return None
        free = free_bytes(self._device)
        if self._left_bytes is None:
            self._left_bytes = free // 2
        n_bytes = 2 * table.n_rows * math.prod(tensor_shape)
        if always and n_bytes > free:
            raise UsageError(
                f"{table.n_rows:,} rows take {n_bytes / 1e9:.1f} GB, but the GPU has {free / 1e9:.1f} GB free; use --cache auto"
            )
        if not always and n_bytes > self._left_bytes:
            return None
        self._left_bytes -= n_bytes
        return DeviceRows(table, tensor_shape, self._device)
