"""SIGINT and SIGTERM: training stops after the current step, with a checkpoint from which it goes on exactly."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from featurestore.errors import HeimdallError
from trainer.fitting.engine import callbacks, lightning

SIGNALS = (signal.SIGINT, signal.SIGTERM)
RANKS_AGREE_EVERY = 10
"""Steps after which several ranks ask each other whether one was told to stop: saving needs all of them at the same step."""


class InterruptedTrainingError(HeimdallError):
    """Training was told to stop, and has saved its state; `exit_code` is 128 + the signal's number, as shells have it."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


class StopOnSignal(callbacks.Callback):
    """Saves `last.ckpt` when a signal arrives, and ends training.

    The state is saved behind a step in the middle of an epoch. At its end, validation has to come first, whose checkpoint is
    taken then; a second signal stops at once, and saves nothing.

    Args:
        path: of the checkpoint to be written.
        say: prints a line for the user.
    """

    def __init__(self, path: Path, say: Callable[[str], None]) -> None:
        self._path = path
        self._say = say
        self._received = 0
        self._before: dict[int, Any] = {}

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:  # noqa: ARG002
        """Take the signals over, from Lightning too."""
        if threading.current_thread() is threading.main_thread():  # Python sets handlers nowhere else
            self._before = {number: signal.signal(number, self._receive) for number in SIGNALS}

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:  # noqa: ARG002
        """Give them back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _receive(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - as signal wants it
        if self._received:
            raise InterruptedTrainingError(f"stopped at once; {self._path}, if it is there, is of an earlier step", number)
        self._received = number
        self._say(f"{signal.Signals(number).name}: saving after this step (or this validation); once more stops at once")

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,  # noqa: ARG002 - Lightning's signature
        outputs: Any,  # noqa: ARG002
        batch: Any,  # noqa: ARG002
        batch_idx: int,
    ) -> None:
        """Save and stop behind a step, unless it is the epoch's last."""
        if batch_idx + 1 < trainer.num_training_batches and self._told(trainer, (batch_idx + 1) % RANKS_AGREE_EVERY == 0):
            trainer.save_checkpoint(self._path)
            self._stop(f"of epoch {trainer.current_epoch}, step {trainer.global_step}")

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:  # noqa: ARG002
        """Stop between two epochs: the checkpoint behind the epoch is there."""
        if self._told(trainer, agree=True) and self._path.is_file():
            self._stop(f"of epoch {trainer.current_epoch - 1}, which is complete")

    def _told(self, trainer: lightning.Trainer, agree: bool) -> bool:
        if trainer.world_size == 1:
            return bool(self._received)
        if not agree or not trainer.strategy.reduce_boolean_decision(bool(self._received), all=False):
            return False
        self._received = self._received or signal.SIGTERM  # another rank got it
        return True

    def _stop(self, place: str) -> None:
        raise InterruptedTrainingError(
            f"interrupted; {self._path} is {place}: the same command with --resume last goes on exactly there", self._received
        )
