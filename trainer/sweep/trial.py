"""One trial of a sweep: a training that reports every epoch, and ends early when it is not worth going on."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import optuna
import torch
from optuna.exceptions import UpdateFinishedTrialError

from featurestore.errors import HeimdallError, ServiceUnavailableError, StoreError, UsageError, first_line
from featurestore.progress import Progress
from trainer.fitting.engine import callbacks, lightning
from trainer.fitting.interrupt import InterruptedTrainingError
from trainer.fitting.request import TrainRequest
from trainer.fitting.run import fit
from trainer.fitting.tracking import Tracker
from trainer.sweep.study import RUN_ID

OBJECTIVES = {"loss": ("val/loss", 1.0, "validation loss, nats"), "error": ("val/error_mean_m", 1e-3, "mean error, km")}
"""What is minimized: Lightning's metric, the factor to the unit, and how it is called."""
CONCERN_ALL = (UsageError, StoreError, ServiceUnavailableError, InterruptedTrainingError)
"""Errors that the next trial would meet as well, or that are no trial's fault."""


@dataclass(frozen=True)
class Outcome:
    """How a trial ended.

    Attributes:
        state: `complete`, `pruned` or `failed`.
        value: of the objective at the epoch with the lowest validation loss, whose checkpoint is kept.
        epochs: that it ran.
        checkpoint: the best one; `None` unless complete.
        run_id: of its MLflow run.
        reason: why it failed.
    """

    state: str
    value: float | None
    epochs: int
    checkpoint: Path | None = None
    run_id: str | None = None
    reason: str = ""


class ReportEpochs(callbacks.Callback):
    """Tells the study each epoch's objective, and ends a training that the pruner gives up.

    Args:
        trial: of the study.
        objective: one of `OBJECTIVES`.
        say: prints a line for the user.
    """

    def __init__(self, trial: optuna.Trial, objective: str, say: Callable[[str], None]) -> None:
        self._say = say
        self._trial = trial
        self._metric, self._factor, _ = OBJECTIVES[objective]
        self._best_loss = math.inf
        self.value: float | None = None
        self.epochs = 0
        self.pruned = False
        self.run_id: str | None = None

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:  # noqa: ARG002
        """Learn the run's id, also of a training that fails later."""
        if isinstance(trainer.logger, Tracker):
            self.run_id = trainer.logger.run_id
            self._forgive(lambda: self._trial.set_user_attr(RUN_ID, self.run_id))

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:  # noqa: ARG002
        """Report, and perhaps stop.

        Raises:
            HeimdallError: when the objective is no number any more.
        """
        found = {name: float(value) for name, value in trainer.callback_metrics.items()}
        loss, value = found["val/loss"], found[self._metric] * self._factor
        self.epochs = trainer.current_epoch + 1
        if not (math.isfinite(loss) and math.isfinite(value)):
            raise HeimdallError(f"{self._metric} is {found[self._metric]} and val/loss {loss} after epoch {self.epochs}")
        if loss < self._best_loss:
            self._best_loss, self.value = loss, value
        self._forgive(lambda: self._report(value))
        if self.pruned:
            trainer.should_stop = True

    def _report(self, value: float) -> None:
        self._trial.report(value, self.epochs)
        self.pruned = self._trial.should_prune()

    def _forgive(self, act: Callable[[], object]) -> None:
        try:
            act()
        except UpdateFinishedTrialError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever the database's driver raises, the epochs are worth more
            self._say(f"warning: the study cannot be told of epoch {self.epochs} ({first_line(error)}); training goes on")


class TrialProgress:
    """Says which trial a line is about.

    Args:
        progress: where to.
        number: of the trial.
    """

    def __init__(self, progress: Progress, number: int) -> None:
        self._progress = progress
        self._name = f"trial {number}"

    def start(self, stage: str, total: int, unit: str) -> None:
        """See `Progress`."""
        self._progress.start(f"{self._name}: {stage}", total, unit)

    def advance(self, units: int, n_bytes: int = 0) -> None:
        """See `Progress`."""
        self._progress.advance(units, n_bytes)

    def say(self, line: str) -> None:
        """See `Progress`."""
        self._progress.say(f"{self._name}: {line}")


def run_trial(trial: optuna.Trial, request: TrainRequest, objective: str, progress: Progress) -> Outcome:
    """Train one network of a sweep.

    A loss that is no number, or too little memory, is a result of the trial.

    Raises:
        HeimdallError: what concerns all trials: store, options, an interruption.
        KeyboardInterrupt: on SIGINT while it does not train.
    """
    own_progress = TrialProgress(progress, trial.number)
    watch = ReportEpochs(trial, objective, own_progress.say)
    try:
        report = fit(request, own_progress, [watch])
    except CONCERN_ALL:
        raise
    except (HeimdallError, torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not isinstance(error, HeimdallError) and not _is_out_of_memory(error):
            raise
        torch.cuda.empty_cache()
        return Outcome("failed", None, watch.epochs, run_id=watch.run_id, reason=first_line(error))
    if report is None or watch.value is None:
        raise UsageError(
            "a sweep trains on one device in each process; run the command once for each GPU (CUDA_VISIBLE_DEVICES)"
        )
    if watch.pruned:
        return Outcome("pruned", watch.value, watch.epochs, run_id=watch.run_id)
    return Outcome("complete", watch.value, watch.epochs, Path(report.best), watch.run_id)


def _is_out_of_memory(error: BaseException) -> bool:
    """On a CPU, torch has no class of its own for that."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def describe(values: Mapping[str, object]) -> str:
    """Hyperparameters in one line."""
    return ", ".join(f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}" for name, value in values.items())
