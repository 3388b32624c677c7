"""A pool of reused buffers for batches: two threads gather rows into a buffer, and the copy to the device reads from it."""

from __future__ import annotations

import math
from concurrent.futures import Executor

import numpy as np
import torch

from trainer.stream.device import CopyEvent, CopyStream
from trainer.stream.order import BatchPlan
from trainer.stream.source import Tensors, huge_empty


class BufferPool:
    """Buffers for batches, used in turn, pinned where there is a GPU.

    Args:
        shape: of the largest batch.
        n_buffers: how many.
        copy_stream: copies each batch to its device; a CPU gets the buffers themselves.
    """

    def __init__(self, shape: tuple[int, ...], n_buffers: int, copy_stream: CopyStream) -> None:
        self._memory = [_batch_memory(shape) for _ in range(n_buffers)]
        self._buffers = [tensor.numpy() for tensor in self._memory]
        self._copied: list[CopyEvent] = [None] * n_buffers
        self._copy_stream = copy_stream

    def gather(self, plan: BatchPlan, chunks: list[Tensors], number: int, second: Executor) -> torch.Tensor:
        """The features (place, 3, band, frame) of a plan; no chunks are for padding. A second thread gathers half of them."""
        slot = number % len(self._buffers)
        copied = self._copied[slot]
        if copied is not None:
            copied.synchronize()  # the copy out of this buffer; over long ago unless the device lags behind
        buffer = self._buffers[slot]
        other = second.submit(plan.copy_to, buffer, chunks, 0, 2)
        plan.copy_to(buffer, chunks, 1, 2)
        other.result()
        features = self._copy_stream.to_device(self._memory[slot][: plan.n_places])
        self._copied[slot] = self._copy_stream.record_event()
        return features


def _batch_memory(shape: tuple[int, ...]) -> torch.Tensor:
    if torch.cuda.is_available():
        return torch.empty(shape, dtype=torch.float16, pin_memory=True)
    return torch.from_numpy(huge_empty(2 * math.prod(shape)).view(np.float16).reshape(shape))
