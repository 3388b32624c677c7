"""A study that several processes share: what they agreed on, which trial is next, and trials whose process is gone."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from featurestore.errors import ServiceUnavailableError, UsageError
from featurestore.objects.patience import insist
from trainer.sweep.plan import StudyPlan
from trainer.sweep.storage import StudyStorage

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

MAX_LOST = 2
"""A trial is begun again after so many processes were lost with it; perhaps it is what kills them."""
TELL_S = 120.0
"""How long a storage that does not answer is tried again with a result."""
STATES = {"complete": "COMPLETE", "pruned": "PRUNED", "failed": "FAIL", "running": "RUNNING", "waiting": "WAITING"}
"""How a trial is, here and in Optuna."""
AGREEMENT, COMBINATION, LOST, FAILURE, RUN_ID = "agreement", "combination", "lost", "failure", "run_id"
"""Names of what is kept with a study, or with a trial."""


class SharedStudy:
    """A study in its storage, begun or joined.

    Args:
        url: of the storage.
        plan: how to search.
        heartbeat_s: see `StudyStorage`.

    Raises:
        UsageError: when the storage cannot be used.
        ServiceUnavailableError: when it does not answer.
    """

    def __init__(self, url: str, plan: StudyPlan, heartbeat_s: int) -> None:
        import optuna

        self.plan = plan
        self._heartbeat_s = heartbeat_s
        self.storage = StudyStorage(url, heartbeat_s, _begin_again_if_lost)
        with self.storage.explained(), self.storage.locked():
            self.study = optuna.create_study(
                storage=self.storage.optuna,
                study_name=plan.name,
                direction="minimize",
                pruner=plan.make_pruner(),
                load_if_exists=True,
            )

    def agreed(self) -> dict[str, Any] | None:
        """What the process that began the study wants all to keep to; `None` when this one begins it."""
        with self.storage.explained():
            found: dict[str, Any] | None = self.study.user_attrs.get(AGREEMENT)
            return found

    def agree(self, wanted: Mapping[str, Any]) -> None:
        """Begin the study with these settings, or find that it has the same.

        Raises:
            UsageError: naming what differs.
        """
        with self.storage.explained(), self.storage.locked():
            agreed = self.agreed()
            if agreed is None:
                self.study.set_user_attr(AGREEMENT, dict(wanted))
                return
        odd = [name for name in sorted({*agreed, *wanted}) if agreed.get(name) != wanted.get(name)]
        if odd:
            named = "; ".join(f"{name} is {agreed.get(name)} there and {wanted.get(name)} here" for name in odd)
            raise UsageError(
                f"study {self.plan.name!r} was begun with other settings: {named}. Give the same, or another --study"
            )

    def once(self, name: str, make: Callable[[], str]) -> str:
        """What is kept with the study under a name; the first process makes it."""
        with self.storage.explained(), self.storage.locked():
            found: str | None = self.study.user_attrs.get(name)
            if found is None:
                found = make()
                self.study.set_user_attr(name, found)
            return found

    def exchange(self, name: str, value: str) -> str | None:
        """Keep another value with the study, and return the one before."""
        with self.storage.explained(), self.storage.locked():
            before: str | None = self.study.user_attrs.get(name)
            self.study.set_user_attr(name, value)
            return before

    def trials(self) -> list[FrozenTrial]:
        """Of all processes, as they are now; without those that were begun again under another number."""
        with self.storage.explained():
            found = self.study.get_trials(deepcopy=False)
        gone = {number for trial in found for number in trial.system_attrs.get("retry_history", ())}
        return [trial for trial in found if trial.number not in gone]

    def running(self) -> set[int]:
        """Numbers of trials that somebody works on."""
        return {trial.number for trial in self.trials() if trial.state.name == STATES["running"]}

    def abandoned_runs(self) -> list[str]:
        """MLflow runs of trials that were broken off, or lost, and began again in another run."""
        with self.storage.explained():
            found = self.study.get_trials(deepcopy=False)
        known = {trial.number for trial in self.trials()}
        return [trial.user_attrs[RUN_ID] for trial in found if trial.number not in known and RUN_ID in trial.user_attrs]

    def next_trial(self) -> optuna.Trial | None:
        """The next one, which runs from now on; `None` when the study has no more."""
        import optuna

        with self.storage.explained(), self.storage.locked(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # heartbeats outside of Optuna's own loop, and that they are experimental
            optuna.storages.fail_stale_trials(self.study)
            trials = self.trials()
            if not any(trial.state == optuna.trial.TrialState.WAITING for trial in trials):
                if self.plan.trials is not None and len(trials) >= self.plan.trials:
                    return None
                if self.plan.sampler == "grid" and not self._enqueue_combination(trials):
                    return None
            self.study.sampler = self.plan.make_sampler(len(self.study.get_trials(deepcopy=False)))
            trial = self.study.ask(self.plan.space.distributions)
            self.storage.optuna.record_heartbeat(self._id(trial.number))
            return trial

    @contextmanager
    def alive(self, trial: optuna.Trial) -> Iterator[None]:
        """Tell the other processes that this one lives."""
        over = threading.Event()
        trial_id = self._id(trial.number)

        def beat() -> None:
            while not over.wait(self._heartbeat_s):
                try:
                    self.storage.optuna.record_heartbeat(trial_id)
                except Exception:  # noqa: BLE001, S112 - a database that is away for a moment is no reason to stop
                    continue

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def tell(self, trial: optuna.Trial, state: str, value: float | None, facts: Mapping[str, Any]) -> bool:
        """End a trial; with patience, for it may have taken hours.

        Args:
            trial: that ran here.
            state: `complete`, `pruned` or `failed`.
            value: of the objective, of a complete one.
            facts: to be kept with it; empty ones are not.

        Returns:
            Whether it is the best one so far.

        Raises:
            optuna.exceptions.UpdateFinishedTrialError: when it counted as lost, and another process has begun it again.
            ServiceUnavailableError: when the storage stays away.
        """
        return insist(lambda: self._tell(trial, state, value, facts), TELL_S, ServiceUnavailableError)

    def _tell(self, trial: optuna.Trial, state: str, value: float | None, facts: Mapping[str, Any]) -> bool:
        with self.storage.explained():
            for name, fact in facts.items():
                if fact:
                    trial.set_user_attr(name, fact)
            complete = state == "complete"
            self.study.tell(trial, value if complete else None, _state(STATES[state]))
            return complete and self.study.best_trial.number == trial.number

    def requeue(self, trial: optuna.Trial) -> None:
        """Let a trial that was broken off begin anew, here or elsewhere, unless that has happened already."""
        from optuna.exceptions import UpdateFinishedTrialError

        with self.storage.explained(), self.storage.locked(), suppress(UpdateFinishedTrialError):
            frozen = self.study.tell(trial, state=_state("FAIL"))
            _begin_again(self.study, frozen, {})

    def _enqueue_combination(self, trials: list[FrozenTrial]) -> bool:
        taken = {trial.user_attrs.get(COMBINATION) for trial in trials}
        for index, values in enumerate(self.plan.space.combinations(self.plan.seed)):
            if index not in taken:
                self.study.enqueue_trial(values, user_attrs={COMBINATION: index})
                return True
        return False

    def _id(self, number: int) -> int:
        storage = self.storage.optuna
        return storage.get_trial_id_from_study_id_trial_number(storage.get_study_id_from_name(self.plan.name), number)


def _state(name: str) -> optuna.trial.TrialState:
    from optuna.trial import TrialState

    return TrialState[name]


def _begin_again_if_lost(study: optuna.Study, trial: FrozenTrial) -> None:
    lost = trial.user_attrs.get(LOST, 0) + 1
    if lost <= MAX_LOST:
        _begin_again(study, trial, {LOST: lost})


def _begin_again(study: optuna.Study, trial: FrozenTrial, more: Mapping[str, Any]) -> None:
    from optuna.trial import create_trial

    kept = {name: value for name, value in trial.user_attrs.items() if name in (COMBINATION, LOST)}
    history = [*trial.system_attrs.get("retry_history", ()), trial.number]
    fixed = {name: value for name, value in trial.system_attrs.items() if name == "fixed_params"}
    study.add_trial(
        create_trial(
            state=_state("WAITING"),
            params=trial.params,
            distributions=trial.distributions,
            user_attrs={**kept, **more},
            system_attrs={**fixed, "retry_history": history},
        )
    )
