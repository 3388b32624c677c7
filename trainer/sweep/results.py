"""What a sweep has found, as records: its trials, the best first, and which hyperparameters mattered."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from featurestore.text_table import text_table
from trainer.sweep.study import FAILURE, RUN_ID, STATES

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial


SHOWN = 10


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
