"""What a sweep has found: its trials, the best first, and how to train the best one in full."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from optuna.trial import FrozenTrial

from featurestore.text_table import text_table
from trainer.fitting.hyperparameters import train_command, with_values
from trainer.fitting.request import TrainRequest
from trainer.sweep.study import CHECKPOINT, FAILURE, RUN_ID, STATES, SharedStudy

OBJECTIVE = "validation loss, nats"
SHOWN = 10


@dataclass(frozen=True)
class TrialRow:
    """One trial.

    Attributes:
        state: one of `STATES`.
        value: lowest validation loss; of a pruned one, that after its last epoch.
        history: objective by epoch, from 1.
        checkpoint: of a complete one, on the machine that trained it; only the best one's is kept.
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
        return cls(
            number=trial.number,
            state=state,
            value=trial.value if state == "complete" else [*history.values()][-1] if state == "pruned" else None,
            epochs=max(history, default=0),
            parameters=dict(trial.params),
            history=history,
            checkpoint=known.get(CHECKPOINT),
            run_id=known.get(RUN_ID),
            reason=known.get(FAILURE) or ("its process ended without a word" if state == "failed" else ""),
        )


@dataclass(frozen=True)
class SweepReport:
    """A study so far.

    Attributes:
        storage: where it is, for people.
        version: of the feature set.
        objective: what is minimized, and its unit.
        space: what was searched, by hyperparameter.
        trials: complete ones first, the best at the top.
        command: that trains with the best hyperparameters.
    """

    study: str
    storage: str
    version: str
    objective: str
    space: dict[str, str]
    trials: list[TrialRow]
    counts: dict[str, int]
    command: str

    @property
    def best(self) -> TrialRow | None:
        """The best trial."""
        return self.trials[0] if self.trials and self.trials[0].state == "complete" else None

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
        if self.best is not None:
            found += [f"best: trial {self.best.number}, {self.best.checkpoint}", f"train it in full: {self.command}"]
        return found


def _table(trials: list[TrialRow]) -> list[str]:
    names = list(dict.fromkeys(name for trial in trials for name in trial.parameters))
    rows = [["trial", "state", "objective", "epochs", *names]]
    for trial in trials:
        value = "" if trial.value is None else f"{trial.value:.4f}"
        rows.append(
            [str(trial.number), trial.state, value, str(trial.epochs), *(_short(trial.parameters.get(name)) for name in names)]
        )
    return [f"  {line}" for line in text_table(rows)]


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)


def describe(values: dict[str, Any]) -> str:
    """Hyperparameters in one line."""
    return ", ".join(f"{name} {_short(value)}" for name, value in values.items())


def make_report(shared: SharedStudy, base: TrainRequest) -> SweepReport:
    """What the study holds now."""
    order = list(STATES)
    rows = sorted(map(TrialRow.of, shared.trials()), key=lambda row: (order.index(row.state), row.value or 0.0, row.number))
    counts = {state: sum(row.state == state for row in rows) for state in STATES}
    return SweepReport(
        study=shared.plan.name,
        storage=shared.storage.name,
        version=base.version,
        objective=OBJECTIVE,
        space={parameter.name: str(parameter) for parameter in shared.plan.parameters},
        trials=rows,
        counts=counts,
        command=train_command(with_values(base, rows[0].parameters)) if counts["complete"] else "",
    )
