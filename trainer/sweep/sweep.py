"""Search hyperparameters: many trainings on one feature set, shared out among processes and machines by a study."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from featurestore.errors import HeimdallError, UsageError
from featurestore.progress import Progress, Silent
from featurestore.store.feature_set import FeatureSet, open_set
from featurestore.store.sets import LATEST
from featurestore.whole_file import make_directory
from trainer.fitting.hyperparameters import with_values
from trainer.fitting.interrupt import InterruptedTrainingError
from trainer.fitting.request import TrackingRequest, TrainRequest
from trainer.fitting.tracking import Tracker, open_tracker
from trainer.sweep.plan import StudyPlan
from trainer.sweep.report import OBJECTIVE, SweepReport, describe, make_report
from trainer.sweep.study import SharedStudy
from trainer.sweep.trial import TrialRun

PARENT_RUN = "mlflow_run_id"


@dataclass(frozen=True)
class SweepRequest:
    """What to search, on what, and where results go.

    Attributes:
        base: the training whose hyperparameters are replaced; its directory is where results go.
        plan: how to search.
        storage: of the study: `sqlite:///FILE` or `postgresql://…`.
    """

    base: TrainRequest
    plan: StudyPlan
    storage: str = "sqlite:///sweep.db"


def sweep(request: SweepRequest, progress: Progress | None = None) -> SweepReport:
    """Run trials of a study until it has no more; other processes may do so at the same time.

    Args:
        request: what and how.
        progress: told of trials, epochs and steps; silent without.

    Returns:
        What all processes have found so far.

    Raises:
        UsageError: when an option, the set or the storage cannot be used, or the study was begun with other settings.
        StoreError: when the set is damaged.
        ServiceUnavailableError: when store, storage or tracker do not answer.
        InterruptedTrainingError: on SIGINT or SIGTERM; the trial is given back to the study.
        HeimdallError: when no trial came to an end.
    """
    say = (progress or Silent()).say
    shared = SharedStudy(request.storage, request.plan)
    try:
        feature_set = _agree(shared, request, say)
        tracking = request.base.tracking
        run = None if tracking is None else _begin_run(shared, tracking, feature_set, say)
        # Lightning would take all GPUs there are, and start this command again for each of them.
        hardware = replace(request.base.hardware, devices="1", num_nodes=1, strategy="auto")
        base = replace(request.base, version=feature_set.version, hardware=hardware)
        worker = _Worker(replace(request, base=base), shared, run, progress or Silent())
        while (trial := shared.next_trial()) is not None:
            worker.work_on(trial)
        report = make_report(shared, base)
        if run is not None:
            _close_run(run, report)
    finally:
        shared.storage.close()
    if report.best is None and not report.counts["running"]:
        reason = next((trial.reason for trial in reversed(report.trials) if trial.reason), "none")
        raise HeimdallError(
            f"no trial of study {request.plan.name!r} came to an end ({report.describe_counts()}; the last failure: "
            f"{reason}); search another space in another --study"
        )
    return report


def _agree(shared: SharedStudy, request: SweepRequest, say: Any) -> FeatureSet:
    """The set that the study is about, once it is clear that this process wants the same as the others."""
    base, agreed = request.base, shared.agreed()
    version = base.version
    if agreed is not None and version == LATEST:
        version = agreed["features"]  # the latest when the study began
        say(f"study {request.plan.name!r} goes on, with feature set {version}")
    feature_set = open_set(base.store, version)
    train_rows = feature_set.manifest.counts["train"]
    largest = request.plan.highest("batch_size", base.batch_size)
    if largest > train_rows:
        raise UsageError(f"the train split of {feature_set.url} has {train_rows} rows; expected at least a batch, {largest}")
    shared.agree(settings(request, feature_set.version))
    return feature_set


def settings(request: SweepRequest, version: str) -> dict[str, Any]:
    """What all processes of a study must have the same; how many trials there are may change, and each has its hardware."""
    base, plan = request.base, request.plan
    searched = {parameter.name: str(parameter) for parameter in plan.parameters}
    fixed = {**base.training.flat(), "batch_size": base.batch_size, "patience": base.patience, "pretrained": base.pretrained}
    found = {
        "features": version,
        "sampler": plan.sampler,
        "pruning from epoch": plan.prune_after,
        **{f"search {name}": text for name, text in searched.items()},
        **{name: value for name, value in fixed.items() if name.rpartition(".")[2] not in searched},
        "weights": None if base.weights is None else hashlib.sha256(base.weights.read_bytes()).hexdigest()[:12],
    }
    return dict(json.loads(json.dumps(found)))


def _begin_run(shared: SharedStudy, request: TrackingRequest, feature_set: FeatureSet, say: Callable[[str], None]) -> Tracker:
    """The study's run in MLflow, which the first process begins and the others join; those of its trials are below it."""
    plan = shared.plan
    named = replace(request, run_name=request.run_name or plan.name)

    def make() -> str:
        tracker = open_tracker(named, None, say)
        searched = {f"search.{parameter.name}": str(parameter) for parameter in plan.parameters}
        tracker.describe({"sampler": plan.sampler, "prune_after": plan.prune_after, **searched}, feature_set)
        tracker.set_tags({"sweep.study": plan.name, "sweep.storage": shared.storage.name})
        return str(tracker.run_id)

    return open_tracker(named, shared.once(PARENT_RUN, make), say)


def _close_run(run: Tracker, report: SweepReport) -> None:
    """Name the best trial's run, and end the study's own once no process works on it any more."""
    best = report.best
    if best is not None and best.run_id is not None:
        run.set_tags({"sweep.best_run": best.run_id, "sweep.best_trial": str(best.number)})
        run.log_metrics({"best_objective": float(best.value or 0)})
    if not report.counts["running"] and not report.counts["waiting"]:
        run.finalize("success")


class _Worker:
    """Runs trials, one after the other, and keeps the best one's checkpoint."""

    def __init__(self, request: SweepRequest, shared: SharedStudy, run: Tracker | None, progress: Progress) -> None:
        self._request = request
        self._shared = shared
        self._run = run
        self._progress = progress
        self._prefix = f"{request.plan.name}-trial-"
        self._out = make_directory(request.base.directory)

    def work_on(self, trial: optuna.Trial) -> None:
        """Train it, and tell the study how that went."""
        self._progress.say(f"trial {trial.number}: {describe(trial.params)}")
        self._clear()
        directory = Path(tempfile.mkdtemp(prefix=f"{self._prefix}{trial.number:04d}-", dir=self._out))
        base, study = replace(with_values(self._request.base, trial.params), directory=directory), self._request.plan.name
        if self._run is not None and base.tracking is not None:
            # Without files: of these, only the sweep's best are worth their space.
            name = f"{study}-{trial.number:04d}"
            base = replace(base, tracking=replace(base.tracking, run_name=name, parent=self._run.run_id, files=False))
        run = TrialRun(trial, self._progress)
        try:
            with self._shared.alive(trial):
                run.train(base)
            self._tell(run)
        except UpdateFinishedTrialError:
            self._progress.say(
                f"warning: trial {trial.number} was taken for lost, and began again elsewhere; it is left to them"
            )
        except BaseException as error:
            self._shared.requeue(trial)
            if isinstance(error, InterruptedTrainingError):
                message = f"interrupted; trial {trial.number} begins anew when the same command goes on with study {study!r}"
                raise InterruptedTrainingError(message, error.exit_code - 128) from error
            raise
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    def _clear(self) -> None:
        """Remove what processes that were killed left behind: large networks leave gigabytes."""
        running = {trial.number for trial in self._shared.trials() if trial.state == TrialState.RUNNING}
        for directory in self._out.glob(f"{self._prefix}[0-9]*-*/"):
            if int(directory.name.removeprefix(self._prefix).partition("-")[0]) not in running:
                shutil.rmtree(directory, ignore_errors=True)

    def _tell(self, run: TrialRun) -> None:
        kept = self._out / f"{self._prefix}{run.trial.number:04d}.ckpt"
        if self._shared.tell(run, kept) and run.checkpoint is not None:
            # Several processes may share the directory: of this study only the best network so far stays in it.
            run.checkpoint.replace(kept)
            for older in set(self._out.glob(f"{self._prefix}*.ckpt")) - {kept}:
                older.unlink(missing_ok=True)
        if run.tracker is not None:
            study = self._request.plan.name
            run.tracker.set_tags({"sweep.study": study, "sweep.state": run.state, "sweep.reason": run.reason})
            run.tracker.log_metrics({} if run.value is None else {"objective": run.value})
        ending = "" if run.value is None else f", {OBJECTIVE} {run.value:.4f}"
        ending += f": {run.reason}" if run.reason else ""
        self._progress.say(f"trial {run.trial.number} {run.state} after epoch {run.epochs}{ending}")
