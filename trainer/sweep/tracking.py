"""A sweep in MLflow: one run for the study, shared by all processes, and one below it for each trial."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Self

from featurestore.store.feature_set import FeatureSet
from trainer.fitting.request import TrackingRequest
from trainer.fitting.tracking import Tracker, open_tracker
from trainer.sweep.study import SharedStudy
from trainer.sweep.trial import Outcome

if TYPE_CHECKING:
    from trainer.sweep.results import SweepReport

PARENT_RUN, BEST_RUN, BEST_TAG = "mlflow_run_id", "best_run_id", "sweep.best"


class SweepRun:
    """The study's run.

    Args:
        tracker: of that run.
        request: where it is tracked.
        shared: the study.
        say: prints a line for the user.
    """

    def __init__(self, tracker: Tracker, request: TrackingRequest, shared: SharedStudy, say: Callable[[str], None]) -> None:
        self._tracker = tracker
        self._request = request
        self._shared = shared
        self._say = say

    @classmethod
    def begin(
        cls, shared: SharedStudy, request: TrackingRequest | None, feature_set: FeatureSet, say: Callable[[str], None]
    ) -> Self | None:
        """The run that the first process began, or a new one; `None` without tracking.

        Raises:
            UsageError: when the address is none that MLflow knows.
            ServiceUnavailableError: when it does not answer.
        """
        if request is None:
            return None
        plan = shared.plan
        named = replace(request, run_name=request.run_name or plan.name)

        def make() -> str:
            tracker = open_tracker(named, None, say)
            searched = {f"search.{parameter.name}": str(parameter) for parameter in plan.space.parameters}
            tracker.describe({"sampler": plan.sampler, "pruner": plan.pruner, **searched}, feature_set)
            tracker.set_tags({"sweep.study": plan.name, "sweep.storage": shared.storage.name})
            return str(tracker.run_id)

        return cls(open_tracker(named, shared.once(PARENT_RUN, make), say), request, shared, say)

    def of_trial(self, number: int) -> TrackingRequest:
        """Where one trial is tracked: without its files, of which only the sweep's best are worth their space."""
        name = f"{self._shared.plan.name}-{number:04d}"
        return replace(self._request, run_name=name, parent=self._tracker.run_id, files=False)

    def close_trial(self, outcome: Outcome) -> None:
        """Note with a trial's own run how it ended."""
        run = self._of(outcome.run_id)
        run.set_tags({"sweep.study": self._shared.plan.name, "sweep.state": outcome.state, "sweep.reason": outcome.reason})
        if outcome.value is not None:
            run.log_metrics({"objective": outcome.value})

    def sum_up(self, report: SweepReport) -> None:
        """Mark the best trial's run, and end the study's own once no process works on it any more."""
        best = report.best
        if best is not None and best.run_id is not None:
            before = self._shared.exchange(BEST_RUN, best.run_id)
            if before not in (None, best.run_id):
                self._of(before).set_tags({BEST_TAG: "false"})
            self._of(best.run_id).set_tags({BEST_TAG: "true"})
            self._tracker.set_tags({"sweep.best_run": best.run_id, "sweep.best_trial": str(best.number)})
            self._tracker.log_metrics({"best_objective": float(best.value or 0)})
        for run_id in self._shared.abandoned_runs():
            self._end_if_lost(run_id)
        if not report.counts["running"] and not report.counts["waiting"]:
            self._tracker.finalize("success")

    def _end_if_lost(self, run_id: str) -> None:
        """A process that was killed could not end its run, which would seem to go on for ever."""
        from mlflow.exceptions import MlflowException

        try:
            if self._tracker.experiment.get_run(run_id).info.status != "RUNNING":
                return
        except MlflowException:  # of another tracker, or gone
            return
        run = self._of(run_id)
        run.set_tags({"sweep.study": self._shared.plan.name, "sweep.state": "lost"})
        run.finalize("KILLED")

    def _of(self, run_id: str | None) -> Tracker:
        return Tracker(self._request, run_id, self._say)
