"""A study that several processes share: what they agreed on, which trial is next, and trials whose process is gone."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, TrialState

from featurestore.errors import ServiceUnavailableError, UsageError
from featurestore.objects.retries import insist
from trainer.sweep.plan import StudyPlan
from trainer.sweep.storage import HEARTBEAT_S, StudyStorage
from trainer.sweep.trial import TrialRun

TELL_S = 120.0
"""How long a storage that does not answer is tried again with a result."""
STATES = {"complete": "COMPLETE", "pruned": "PRUNED", "failed": "FAIL", "running": "RUNNING", "waiting": "WAITING"}
"""How a trial is, here and in Optuna."""
AGREEMENT, COMBINATION, CHECKPOINT, FAILURE, RUN_ID = "agreement", "combination", "checkpoint", "failure", "run_id"
"""Names of what is kept with a study, or with a trial."""


class SharedStudy:
    """A study in its storage, begun or joined.

    Args:
        url: of the storage.
        plan: how to search.

    Raises:
        UsageError: when the storage cannot be used.
        ServiceUnavailableError: when it does not answer.
    """

    def __init__(self, url: str, plan: StudyPlan) -> None:
        self.plan = plan
        self.storage = StudyStorage(url)
        with self.storage.explained(), self.storage.locked():
            self.study = optuna.create_study(
                storage=self.storage.optuna, study_name=plan.name, pruner=plan.make_pruner(), load_if_exists=True
            )

    def agreed(self) -> dict[str, Any] | None:
        """What the process that began the study wants all to keep to; `None` when this one begins it."""
        with self.storage.explained():
            found: dict[str, Any] | None = self.study.user_attrs.get(AGREEMENT)
            return found

    def agree(self, wanted: Mapping[str, Any]) -> None:
        """Begin the study with these settings, or find that it has the same; `UsageError` names what differs."""
        agreed = self.once(AGREEMENT, lambda: dict(wanted))
        odd = [name for name in sorted({*agreed, *wanted}) if agreed.get(name) != wanted.get(name)]
        if odd:
            named = "; ".join(f"{name} is {agreed.get(name)} there and {wanted.get(name)} here" for name in odd)
            raise UsageError(
                f"study {self.plan.name!r} was begun with other settings: {named}. Give the same, or another --study"
            )

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """What is kept with the study under a name; the first process makes it."""
        with self.storage.explained(), self.storage.locked():
            found = self.study.user_attrs.get(name)
            if found is None:
                found = make()
                self.study.set_user_attr(name, found)
            return found

    def trials(self) -> list[FrozenTrial]:
        """Of all processes, as they are now; without those that were begun again under another number."""
        with self.storage.explained():
            found = self.study.get_trials(deepcopy=False)
        again = {number for trial in found for number in trial.system_attrs.get("retry_history", ())}
        return [trial for trial in found if trial.number not in again]

    def next_trial(self) -> optuna.Trial | None:
        """The next one, which runs from now on; `None` when the study has no more."""
        with self.storage.explained(), self.storage.locked(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # heartbeats outside of Optuna's own loop, and that they are experimental
            optuna.storages.fail_stale_trials(self.study)
            trials = self.trials()
            if not any(trial.state == TrialState.WAITING for trial in trials):
                if self.plan.trials is not None and len(trials) >= self.plan.trials:
                    return None
                if self.plan.sampler == "grid" and not self._enqueue_combination(trials):
                    return None
            self.study.sampler = self.plan.make_sampler(len(self.study.get_trials(deepcopy=False)))
            trial = self.study.ask({parameter.name: parameter.distribution for parameter in self.plan.parameters})
            self.storage.optuna.record_heartbeat(self._id(trial.number))
            return trial

    @contextmanager
    def alive(self, trial: optuna.Trial) -> Iterator[None]:
        """Tell the other processes that this one lives."""
        over = threading.Event()
        trial_id = self._id(trial.number)

        def beat() -> None:
            while not over.wait(HEARTBEAT_S):
                with suppress(Exception):  # a database that is away for a moment is no reason to stop
                    self.storage.optuna.record_heartbeat(trial_id)

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def tell(self, run: TrialRun, checkpoint: Path) -> bool:
        """End a trial; with patience, for it may have taken hours.

        Args:
            run: of the trial, which has ended.
            checkpoint: where its network will be, if it is complete.

        Returns:
            Whether it is the best one so far.

        Raises:
            optuna.exceptions.UpdateFinishedTrialError: when it counted as lost, and another process has begun it again.
            ServiceUnavailableError: when the storage stays away.
        """
        complete = run.state == "complete"
        kept, run_id = str(checkpoint) if complete else None, None if run.tracker is None else run.tracker.run_id

        def end() -> bool:
            with self.storage.explained():
                for name, fact in ((FAILURE, run.reason), (RUN_ID, run_id), (CHECKPOINT, kept)):
                    run.trial.set_user_attr(name, fact)
                self.study.tell(run.trial, run.value if complete else None, TrialState[STATES[run.state]])
                return complete and self.study.best_trial.number == run.trial.number

        return insist(end, TELL_S, ServiceUnavailableError)

    def requeue(self, trial: optuna.Trial) -> None:
        """Let a trial that was broken off begin anew, here or elsewhere, unless that has happened already."""
        with self.storage.explained(), self.storage.locked(), suppress(UpdateFinishedTrialError), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # experimental
            RetryHeartbeatStaleTrialCallback()(self.study, self.study.tell(trial, state=TrialState.FAIL))

    def _enqueue_combination(self, trials: list[FrozenTrial]) -> bool:
        """The next of the grid's; Optuna's own grid sampler lets parallel processes try the same combination."""
        taken = {trial.user_attrs.get(COMBINATION) for trial in trials}
        for index, values in enumerate(self.plan.combinations()):
            if index not in taken:
                self.study.enqueue_trial(values, user_attrs={COMBINATION: index})
                return True
        return False

    def _id(self, number: int) -> int:
        storage = self.storage.optuna
        return storage.get_trial_id_from_study_id_trial_number(storage.get_study_id_from_name(self.plan.name), number)
