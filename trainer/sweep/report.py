"""What a sweep has found: its trials, the best first, which hyperparameters mattered, and how to train the best one in full."""

from __future__ import annotations

import json
import math
import shlex
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featurestore.errors import UsageError
from trainer.fitting.request import TrainRequest
from trainer.sweep.space import ALIASES, searchable
from trainer.sweep.study import FAILURE, RUN_ID, STATES, SharedStudy
from trainer.sweep.trial import OBJECTIVES

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

SHOWN = 10
LEAST_FOR_IMPORTANCE = 8
"""Complete trials; among fewer, chance decides which hyperparameter looks important."""
OPTION = {field: option for option, field in ALIASES.items()}


@dataclass(frozen=True)
class TrialRow:
    """One trial.

    Attributes:
        number: in the study.
        state: one of `STATES`.
        value: of the objective; of a pruned one, after its last epoch.
        epochs: that it ran.
        parameters: that were searched.
        history: objective by epoch, from 1.
        checkpoint: of a complete one, on the machine that trained it; only the best one's is kept.
        run_id: of its MLflow run.
        reason: why it failed.
    """

    number: int
    state: str
    value: float | None
    epochs: int
    parameters: dict[str, Any]
    history: dict[int, float]
    checkpoint: str | None
    run_id: str | None
    reason: str

    @classmethod
    def of(cls, trial: FrozenTrial) -> TrialRow:
        """A trial of Optuna's."""
        known = trial.user_attrs
        state = {theirs: ours for ours, theirs in STATES.items()}[trial.state.name]
        history = dict(sorted(trial.intermediate_values.items()))
        value = trial.value if state == "complete" else next(reversed(history.values()), None) if state == "pruned" else None
        reason = known.get(FAILURE) or ("its process ended without a word" if state == "failed" else "")
        epochs = max(history, default=0)
        return cls(
            trial.number,
            state,
            value,
            epochs,
            dict(trial.params),
            history,
            known.get("checkpoint"),
            known.get(RUN_ID),
            reason,
        )


@dataclass(frozen=True)
class SweepReport:
    """A study so far.

    Attributes:
        study: its name.
        storage: where it is, for people.
        version: of the feature set.
        objective: what is minimized, and its unit.
        space: what was searched, by hyperparameter.
        trials: complete ones first, the best at the top.
        counts: of trials by state.
        importances: share of the objective's variation that each hyperparameter explains (PED-ANOVA); empty when too few
            trials are complete.
        command: that trains with the best hyperparameters.
    """

    study: str
    storage: str
    version: str
    objective: str
    space: dict[str, str]
    trials: list[TrialRow]
    counts: dict[str, int]
    importances: dict[str, float]
    command: str

    @property
    def best(self) -> TrialRow | None:
        """The best trial."""
        return self.trials[0] if self.trials and self.trials[0].state == "complete" else None

    @property
    def last_failure(self) -> str:
        """Why the last of the failed trials failed."""
        return next((trial.reason for trial in reversed(self.trials) if trial.reason), "none")

    def describe_counts(self) -> str:
        """How many trials there are, for people."""
        return ", ".join(f"{count} {state}" for state, count in self.counts.items() if count) or "no trials"

    def to_json(self) -> dict[str, Any]:
        """All fields."""
        return {**asdict(self), "best": None if self.best is None else asdict(self.best)}

    def lines(self) -> list[str]:
        """For people."""
        found = [
            f"study {self.study} in {self.storage}: {self.describe_counts()}; feature set {self.version}",
            f"objective: {self.objective}, the lower the better",
            *_table(self.trials[:SHOWN]),
        ]
        if len(self.trials) > SHOWN:
            found.append(f"  and {len(self.trials) - SHOWN} more; --json lists all")
        if self.importances:
            found.append("importance: " + ", ".join(f"{name} {share:.0%}" for name, share in self.importances.items()))
        if self.best is not None:
            found += [f"best: trial {self.best.number}, {self.best.checkpoint}", f"train it in full: {self.command}"]
        return found


def make_report(shared: SharedStudy, objective: str, base: TrainRequest) -> SweepReport:
    """What the study holds now."""
    frozen = shared.trials()
    rows = sorted(map(TrialRow.of, frozen), key=_rank)
    counts = {state: sum(row.state == state for row in rows) for state in STATES}
    best = rows[0].parameters if counts["complete"] else {}
    return SweepReport(
        study=shared.plan.name,
        storage=shared.storage.name,
        version=base.version,
        objective=OBJECTIVES[objective][2],
        space={parameter.name: str(parameter) for parameter in shared.plan.space.parameters},
        trials=rows,
        counts=counts,
        importances=_importances(shared, counts["complete"]),
        command=train_command(base, best) if best else "",
    )


def train_command(base: TrainRequest, parameters: dict[str, Any]) -> str:
    """What one would type: the store, the set, and every hyperparameter that is not the default."""
    default, known = TrainRequest(base.store), searchable()
    words = ["heimdall", "train", "--store", base.store, "--features", base.version]
    fixed = {name.rpartition(".")[2]: value for name, value in base.training.flat().items()} | {"batch_size": base.batch_size}
    usual = {name.rpartition(".")[2]: value for name, value in default.training.flat().items()} | {
        "batch_size": default.batch_size
    }
    for name in known:
        value = parameters.get(name, fixed[name])
        if value != usual[name]:
            option = f"--{OPTION.get(name, name).replace('_', '-')}"
            words += [option] if value is True else [option, str(value)]
    return shlex.join(words)


def save(report: SweepReport, directory: Path) -> list[Path]:
    """Write `sweep.json`, and once a trial is complete `sweep.png`; `UsageError` when the directory cannot be written to."""
    from trainer.sweep.plot import draw

    path = directory / "sweep.json"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(report.to_json(), indent=1, allow_nan=False) + "\n")
    except OSError as error:
        raise UsageError(f"{path} cannot be written ({error.strerror}); choose another --out") from error
    return [path] if report.best is None else [path, draw(report, directory)]


def _rank(row: TrialRow) -> tuple[int, float, int]:
    order = list(STATES).index(row.state)
    return order, row.value if row.value is not None else 0.0, row.number


def _table(trials: list[TrialRow]) -> list[str]:
    names = list(dict.fromkeys(name for trial in trials for name in trial.parameters))
    rows = [["trial", "state", "objective", "epochs", *names]]
    for trial in trials:
        value = "" if trial.value is None else f"{trial.value:.4f}"
        rows.append(
            [str(trial.number), trial.state, value, str(trial.epochs), *(_short(trial.parameters.get(name)) for name in names)]
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)


def _importances(shared: SharedStudy, complete: int) -> dict[str, float]:
    if complete < LEAST_FOR_IMPORTANCE or len(shared.plan.space.parameters) < 2:
        return {}
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    with shared.storage.explained(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is called experimental
        found = get_param_importances(shared.study, evaluator=PedAnovaImportanceEvaluator())
    return found if all(map(math.isfinite, found.values())) else {}  # there are none where all trials are equally good
