"""One trial of a sweep: a training that reports every epoch, and ends early when it is not worth going on."""

from __future__ import annotations

import math
from pathlib import Path

import optuna
import torch
from optuna.exceptions import UpdateFinishedTrialError

from featurestore.errors import HeimdallError, ServiceUnavailableError, StoreError, UsageError, first_line
from featurestore.progress import Named, Progress
from trainer.fitting.engine import callbacks, lightning
from trainer.fitting.interrupt import InterruptedTrainingError
from trainer.fitting.request import TrainRequest
from trainer.fitting.run import fit
from trainer.fitting.tracking import Tracker

CONCERN_ALL = (UsageError, StoreError, ServiceUnavailableError, InterruptedTrainingError)
"""Errors that the next trial would meet as well, or that are no trial's fault."""


class TrialRun(callbacks.Callback):
    """A trial that is trained here, and how it ended.

    Attributes:
        trial: of the study.
        state: `complete`, `pruned` or `failed`.
        value: lowest validation loss, whose checkpoint is kept.
        epochs: that it ran.
        checkpoint: the best one; `None` unless complete.
        tracker: of its MLflow run, if there is one.
        reason: why it failed.
    """

    def __init__(self, trial: optuna.Trial, progress: Progress) -> None:
        self.trial = trial
        self.state = "failed"
        self.value: float | None = None
        self.epochs = 0
        self.checkpoint: Path | None = None
        self.tracker: Tracker | None = None
        self.reason = ""
        self._progress = Named(progress, f"trial {trial.number}")

    def train(self, request: TrainRequest) -> None:
        """Train the network. A loss that is no number, or too little memory, is a result of the trial.

        Raises:
            HeimdallError: what concerns all trials: store, options, an interruption.
            KeyboardInterrupt: on SIGINT while it does not train.
        """
        try:
            report = fit(request, self._progress, [self])
        except CONCERN_ALL:
            raise
        except (HeimdallError, torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            known = isinstance(error, HeimdallError | torch.OutOfMemoryError | MemoryError)
            if not known and "can't allocate memory" not in str(error):  # on a CPU, torch has no class of its own for that
                raise
            torch.cuda.empty_cache()
            self.value, self.reason = None, first_line(error)
            return
        if report is None or self.value is None:
            raise UsageError(
                "a sweep trains on one device in each process; run the command once for each GPU (CUDA_VISIBLE_DEVICES)"
            )
        if self.state != "pruned":
            self.state, self.checkpoint = "complete", Path(report.best)

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:  # noqa: ARG002
        """Learn the run, also of a training that fails later."""
        self.tracker = trainer.logger if isinstance(trainer.logger, Tracker) else None

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:  # noqa: ARG002
        """Report, and perhaps stop.

        Raises:
            HeimdallError: when the loss is no number any more.
        """
        loss = float(trainer.callback_metrics["val/loss"])
        self.epochs = trainer.current_epoch + 1
        if not math.isfinite(loss):
            raise HeimdallError(f"val/loss is {loss} after epoch {self.epochs}")
        self.value = loss if self.value is None else min(self.value, loss)
        if self._should_prune(loss):
            self.state = "pruned"
            trainer.should_stop = True

    def _should_prune(self, loss: float) -> bool:
        try:
            self.trial.report(loss, self.epochs)
            return self.trial.should_prune()
        except UpdateFinishedTrialError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever the database's driver raises, the epochs are worth more
            self._progress.say(
                f"warning: the study cannot be told of epoch {self.epochs} ({first_line(error)}); training goes on"
            )
            return False
