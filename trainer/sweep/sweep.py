"""Search hyperparameters: many trainings on one feature set, shared out among processes and machines by a study."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError

from featurestore.errors import HeimdallError, UsageError
from featurestore.progress import Progress, Silent
from featurestore.store.feature_set import FeatureSet, open_set
from featurestore.store.sets import LATEST
from trainer.fitting.interrupt import InterruptedTrainingError
from trainer.fitting.request import TrainRequest
from trainer.sweep.plan import StudyPlan
from trainer.sweep.report import make_report
from trainer.sweep.results import SweepReport
from trainer.sweep.space import parse_space, with_values
from trainer.sweep.study import FAILURE, SharedStudy
from trainer.sweep.tracking import SweepRun
from trainer.sweep.trial import OBJECTIVES, Outcome, describe, run_trial

HEARTBEAT_S = 30
TRIALS = 50
"""Where nothing else sets an end."""


@dataclass(frozen=True)
class SweepRequest:
    """What to search, on what, and where results go.

    Attributes:
        base: the training whose hyperparameters are replaced; its directory is where results go.
        plan: how to search.
        storage: of the study: `sqlite:///FILE` or `postgresql://…`.
        objective: one of `trainer.sweep.trial.OBJECTIVES`.
        heartbeat_s: how often a trial says that it lives.
    """

    base: TrainRequest
    plan: StudyPlan
    storage: str = "sqlite:///sweep.db"
    objective: str = "loss"
    heartbeat_s: int = HEARTBEAT_S

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise UsageError(f"--objective is {self.objective!r}; wanted one of {', '.join(OBJECTIVES)}")


def plan_study(
    name: str, base: TrainRequest, preset: str | None, searches: Iterable[str], *, sampler: str | None = None, **more: Any
) -> StudyPlan:
    """The plan that the options of the command describe; what they leave open follows from what they say.

    Raises:
        UsageError: when a hyperparameter or a number cannot be.
    """
    searches = list(searches)
    if preset is None and not searches:
        preset = "standard" if sampler in (None, "grid") else "ranges"
    space = parse_space(preset, searches, base)
    sampler = sampler or ("grid" if space.is_grid else "tpe")
    if more.get("trials") is None and sampler != "grid":
        more["trials"] = TRIALS
    if more.get("prune_after") is None:
        more["prune_after"] = max(1, base.training.optimizer.warmup_epochs)
    searched = [parameter for parameter in space.parameters if parameter.name == "max_epochs"]
    max_epochs = max((max(each.values or (each.high,)) for each in searched), default=base.training.optimizer.max_epochs)
    return StudyPlan(name, space, sampler, max_epochs=int(max_epochs), seed=base.training.seed, **more)


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
    shared = SharedStudy(request.storage, request.plan, request.heartbeat_s)
    try:
        feature_set = _agree(shared, request, say)
        run = SweepRun.begin(shared, request.base.tracking, feature_set, say)
        # Lightning would take all GPUs there are, and start this command again for each of them.
        hardware = replace(request.base.hardware, devices="1", num_nodes=1, strategy="auto")
        base = replace(request.base, version=feature_set.version, hardware=hardware)
        worker = _Worker(replace(request, base=base), shared, run, progress or Silent())
        while (trial := shared.next_trial()) is not None:
            worker.work_on(trial)
        report = make_report(shared, request.objective, base)
        if run is not None:
            run.sum_up(report)
    finally:
        shared.storage.close()
    if report.best is None and not report.counts["running"]:
        raise HeimdallError(
            f"no trial of study {request.plan.name!r} came to an end ({report.describe_counts()}; the last failure: "
            f"{report.last_failure}); search another space in another --study"
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
    sizes = [parameter for parameter in request.plan.space.parameters if parameter.name == "batch_size"]
    largest = max((max(each.values or (each.high,)) for each in sizes), default=base.batch_size)
    if largest > train_rows:
        raise UsageError(f"the train split of {feature_set.url} has {train_rows} rows; wanted at least a batch, {largest}")
    shared.agree(settings(request, feature_set.version))
    return feature_set


def settings(request: SweepRequest, version: str) -> dict[str, Any]:
    """What all processes of a study must have the same; how many trials there are may change, and each has its hardware."""
    base, plan = request.base, request.plan
    fixed = {name: value for name, value in base.training.flat().items() if name.rpartition(".")[2] not in plan.space.names}
    if "batch_size" not in plan.space.names:
        fixed["batch_size"] = base.batch_size
    found = {
        "features": version,
        "objective": request.objective,
        "sampler": plan.sampler,
        "pruner": plan.pruner and f"{plan.pruner} from epoch {plan.prune_after}, {plan.startup_trials} trials",
        **{f"search {parameter.name}": str(parameter) for parameter in plan.space.parameters},
        **fixed,
        "patience": base.patience,
        "pretrained": base.pretrained,
        "weights": None if base.weights is None else hashlib.sha256(base.weights.read_bytes()).hexdigest()[:12],
    }
    return dict(json.loads(json.dumps(found)))


class _Worker:
    """Runs trials, one after the other, and keeps the best one's checkpoint."""

    def __init__(self, request: SweepRequest, shared: SharedStudy, run: SweepRun | None, progress: Progress) -> None:
        self._request = request
        self._shared = shared
        self._run = run
        self._progress = progress
        self._out = request.base.directory.absolute()
        self._prefix = f"{request.plan.name}-trial-"
        try:
            self._out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"--out {self._out} cannot be made ({error.strerror}); choose another directory") from error

    def work_on(self, trial: optuna.Trial) -> None:
        """Train it, and tell the study how that went."""
        self._progress.say(f"trial {trial.number}: {describe(trial.params)}")
        self._clear()
        directory = Path(tempfile.mkdtemp(prefix=f"{self._prefix}{trial.number:04d}-", dir=self._out))
        base = with_values(self._request.base, trial.params)
        tracking = None if self._run is None else self._run.of_trial(trial.number)
        try:
            with self._shared.alive(trial):
                outcome = run_trial(
                    trial, replace(base, directory=directory, tracking=tracking), self._request.objective, self._progress
                )
            self._tell(trial, outcome)
        except UpdateFinishedTrialError:
            self._progress.say(
                f"warning: trial {trial.number} was taken for lost, and began again elsewhere; it is left to them"
            )
        except BaseException as error:
            self._shared.requeue(trial)
            if isinstance(error, InterruptedTrainingError):
                raise InterruptedTrainingError(
                    f"interrupted; trial {trial.number} begins anew when the same command goes on with study "
                    f"{self._request.plan.name!r}",
                    error.exit_code - 128,
                ) from error
            raise
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    def _clear(self) -> None:
        """Remove what processes that were killed left behind: large networks leave gigabytes."""
        running = self._shared.running()
        for directory in self._out.glob(f"{self._prefix}[0-9]*-*/"):
            if int(directory.name.removeprefix(self._prefix).partition("-")[0]) not in running:
                shutil.rmtree(directory, ignore_errors=True)

    def _tell(self, trial: optuna.Trial, outcome: Outcome) -> None:
        kept = self._out / f"{self._prefix}{trial.number:04d}.ckpt"
        facts = {FAILURE: outcome.reason}
        if outcome.checkpoint is not None:
            facts["checkpoint"] = str(kept)
        is_best = self._shared.tell(trial, outcome.state, outcome.value, facts)
        if is_best and outcome.checkpoint is not None:
            # Several processes may share the directory: of this study only the best network so far stays in it.
            outcome.checkpoint.replace(kept)
            for older in self._out.glob(f"{self._prefix}*.ckpt"):
                if older != kept:
                    older.unlink(missing_ok=True)
        if self._run is not None and outcome.run_id is not None:
            self._run.close_trial(outcome)
        unit = OBJECTIVES[self._request.objective][2]
        value = "" if outcome.value is None else f", {unit} {outcome.value:.4f}"
        reason = f": {outcome.reason}" if outcome.reason else ""
        self._progress.say(f"trial {trial.number} {outcome.state} after epoch {outcome.epochs}{value}{reason}")
