"""What the latest steps gave, left on the device until it is worth looking: which had no finite loss, and the epoch's means.

A look in every step would make the host wait for the device in every step. So losses and gradient norms stay where they are
for `LOOK_EVERY` steps, are then copied to the host at once, and read at the next look, when they have long arrived. Nothing is
lost by looking late: the device itself skips a step without finite gradients, see `trainer.fitting.guard`.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from featurestore.errors import HeimdallError

MAX_BAD_STEPS = 5
"""So many steps in a row without a finite loss, and there is no way back: the weights are lost."""
LOOK_EVERY = 32
NAMED = 10
"""Rows that a message names."""


@dataclass
class StepSums:
    """Of an epoch so far: finite losses and their rows, finite gradient norms and their steps."""

    loss: float = 0.0
    rows: float = 0.0
    norm: float = 0.0
    steps: float = 0.0

    @property
    def mean_loss(self) -> float:
        """Per row; NaN when no row had one."""
        return self.loss / self.rows if self.rows else math.nan

    @property
    def mean_norm(self) -> float:
        """Per step; NaN when no step had one."""
        return self.norm / self.steps if self.steps else math.nan


@dataclass(frozen=True)
class _Copied:
    """Steps on their way to the host: (step, row) losses and (step,) norms there, once `done` has happened."""

    rows: list[Tensor]
    losses: Tensor
    norms: Tensor
    done: torch.cuda.Event | None

    @classmethod
    def of(cls, rows: list[Tensor], losses: Sequence[Tensor], norms: Sequence[Tensor]) -> _Copied:
        """Queue the copy of some steps."""
        on_device = torch.stack(tuple(losses)), torch.stack(tuple(norms))
        on_host = [part.to("cpu", non_blocking=True) for part in on_device]
        done = torch.cuda.current_stream(on_device[0].device).record_event() if on_device[0].is_cuda else None
        return cls(rows, on_host[0], on_host[1], done)


class StepLog:
    """Watches the steps of a training, see the module.

    Args:
        version: of the feature set, for messages.
        scaled: a gradient scaler is at work: gradients that overflow now and then are its business.

    Attributes:
        scaled: see above.
    """

    def __init__(self, version: str, *, scaled: bool = False) -> None:
        self.scaled = scaled
        self._version = version
        self._sums = StepSums()
        self._bad_steps = 0
        self._rows: list[Tensor] = []
        self._losses: list[Tensor] = []
        self._norms: list[Tensor] = []
        self._copied: _Copied | None = None

    def begin_epoch(self) -> None:
        """Forget the means of the epoch before."""
        self.look()
        self.look()
        self._sums = StepSums()

    def add_losses(self, row: Tensor, losses: Tensor) -> None:
        """Keep what a forward pass gave.

        Args:
            row: (b,) int64 that were in the batch.
            losses: (b,) of each; detached, in memory of their own.
        """
        self._rows.append(row)
        self._losses.append(losses)

    def add_norm(self, norm: Tensor) -> None:
        """Keep the norm () of the step's gradients, which ends the step; look, if it is time.

        Raises:
            HeimdallError: when too many steps in a row had no finite gradients.
        """
        self._norms.append(norm)
        if len(self._norms) >= LOOK_EVERY:
            self.look()

    def sums(self) -> StepSums:
        """The epoch so far, up to the last step; waits for the device.

        Raises:
            HeimdallError: see `add_norm`.
        """
        self.look()
        self.look()  # the first one has sent off what the second one reads
        return self._sums

    def resume(self, sums: StepSums) -> None:
        """Go on in the middle of an epoch."""
        self._sums = sums

    def look(self) -> None:
        """Read the steps that are on the host, and send the next ones there.

        Raises:
            HeimdallError: see `add_norm`.
        """
        copied, self._copied = self._copied, None
        if self._norms:
            n_steps = len(self._norms)  # a step whose forward pass alone is done comes with the next ones
            self._copied = _Copied.of(self._rows[:n_steps], self._losses[:n_steps], self._norms)
            del self._rows[:n_steps], self._losses[:n_steps]
            self._norms = []
        if copied is not None:
            self._read(copied)

    def _read(self, copied: _Copied) -> None:
        if copied.done is not None:
            copied.done.synchronize()
        sums = self._sums
        # One after the other, so that means do not depend on where a run was interrupted.
        for row, losses, norm in zip(copied.rows, copied.losses.numpy(), copied.norms.tolist(), strict=True):
            finite = np.isfinite(losses)
            sums.loss += float(losses.sum(where=finite, dtype=np.float64))
            sums.rows += int(finite.sum())
            if math.isfinite(norm):
                sums.norm += norm
                sums.steps += 1
                self._bad_steps = 0
            else:
                self._tell_bad(row.cpu()[torch.from_numpy(~finite)].tolist(), int(row[0]))

    def _tell_bad(self, bad: list[int], first: int) -> None:
        if not bad and self.scaled:
            return  # the gradient scaler was too bold; it lowers its scale
        named = f"rows {', '.join(map(str, bad[:NAMED]))}" if bad else f"a batch with row {first}"
        problem = f"no finite {'loss' if bad else 'gradient'} for {named} of feature set {self._version}"
        self._bad_steps += 1
        if self._bad_steps >= MAX_BAD_STEPS:
            raise HeimdallError(
                f"{MAX_BAD_STEPS} steps in a row had to be skipped, the last one with {problem}; lower "
                "--learning-rate, or go on "
                "from an earlier checkpoint with --resume PATH"
            )
        print(f"warning: {problem}; the step is skipped", file=sys.stderr)
