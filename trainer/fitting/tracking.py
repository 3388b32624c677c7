"""MLflow: refused clearly before the first epoch when it cannot be reached, and never in the way of training afterwards."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from featurestore.errors import ServiceUnavailableError, UsageError, first_line
from featurestore.redaction import without_credentials
from featurestore.software import versions
from featurestore.store.feature_set import FeatureSet
from trainer.fitting.engine import callbacks, lightning, loggers
from trainer.fitting.request import TrackingRequest
from trainer.tracker_address import knock

PAUSE_S = 60.0
"""A tracker that failed is left alone so long: each attempt may hold training up."""
SOFTWARE = ("heimdall-featurestore", "torch", "timm", "lightning", "numpy", "mlflow")


class Tracker(loggers.MLFlowLogger):
    """Lightning's logger, but a tracker that fails later is a warning, and no end of training.

    Args:
        request: where to.
        run_id: of a run to go on with; `None` begins one.
        say: prints a line for the user.
    """

    def __init__(self, request: TrackingRequest, run_id: str | None, say: Callable[[str], None]) -> None:
        super().__init__(
            experiment_name=request.experiment,
            run_name=request.run_name,
            tracking_uri=request.uri,
            run_id=run_id,
            artifact_location=request.artifact_location,
            tags=None if request.parent is None else {"mlflow.parentRunId": request.parent},
        )
        self.keeps_files = request.files
        self._say = say
        self._quiet_until = 0.0

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """See `MLFlowLogger.log_metrics`."""
        if time.monotonic() >= self._quiet_until:
            self._forgive(lambda: super(Tracker, self).log_metrics(metrics, step))

    def finalize(self, status: str = "success") -> None:
        """See `MLFlowLogger.finalize`."""
        self._forgive(lambda: super(Tracker, self).finalize(status))

    def log_files(self, paths: Iterable[Path], folder: str) -> None:
        """Keep files with the run."""
        for path in paths:
            self._forgive(lambda path=path: self.experiment.log_artifact(self.run_id, str(path), folder))  # type: ignore[misc]

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Say more about the run."""
        for name, value in tags.items():
            self._forgive(lambda name=name, value=value: self.experiment.set_tag(self.run_id, name, value))  # type: ignore[misc]

    def describe(self, parameters: Mapping[str, Any], feature_set: FeatureSet) -> None:
        """Tell the run's parameters, its feature set as a dataset, and the software."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        self.log_hyperparams(dict(parameters))
        manifest = feature_set.manifest
        dataset = Dataset(
            name="features",
            digest=feature_set.version,
            source_type="heimdall",
            source=json.dumps({"store": feature_set.objects.location.url, "version": feature_set.version}),
            profile=json.dumps({"rows": manifest.counts["rows"], "basis": manifest.basis, "spec": feature_set.spec.to_json()}),
        )
        self.experiment.log_inputs(self.run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])
        tags = {"feature_set": feature_set.version, "store": feature_set.objects.location.url}
        for name, value in {**tags, **{f"software.{name}": version for name, version in versions(SOFTWARE).items()}}.items():
            self.experiment.set_tag(self.run_id, name, value)

    def _forgive(self, act: Callable[[], object]) -> None:
        try:
            act()
        except Exception as error:  # noqa: BLE001 - whatever the tracker's client raises, the epochs are worth more
            if not self._quiet_until:
                self._say(
                    f"warning: MLflow does not take everything any more ({first_line(error)}); training goes on without it"
                )
            self._quiet_until = time.monotonic() + PAUSE_S


class KeepRunId(callbacks.Callback):
    """Writes the run's id into checkpoints, so that a resumed training goes on in the same run."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker

    def on_save_checkpoint(
        self,
        trainer: lightning.Trainer,  # noqa: ARG002 - Lightning's signature
        pl_module: lightning.LightningModule,  # noqa: ARG002
        checkpoint: dict[str, Any],
    ) -> None:
        """Once per checkpoint."""
        checkpoint["run_id"] = self._tracker.run_id


def open_tracker(request: TrackingRequest, run_id: str | None, say: Callable[[str], None]) -> Tracker:
    """A logger whose tracker has answered, and whose run has begun, or goes on if it has `run_id`.

    Raises:
        UsageError: when MLflow knows no such kind of address.
        ServiceUnavailableError: when it does not answer.
    """
    from mlflow.exceptions import MlflowException

    for name in ("alembic", "mlflow", "lightning.pytorch.loggers.mlflow"):
        logging.getLogger(name).setLevel(logging.ERROR)  # they tell of every table and experiment that they create
    where = without_credentials(request.uri)
    try:
        knock(request.uri)
        tracker = Tracker(request, run_id, say)
        if run_id is not None:
            try:
                tracker.experiment.update_run(run_id, status="RUNNING")
            except MlflowException:  # a run of another tracker
                say(f"MLflow at {where} has no run {run_id} to go on with; a new one begins")
                tracker = Tracker(request, None, say)
        _ = tracker.run_id  # begins it
    except UsageError:
        raise
    except Exception as error:
        raise ServiceUnavailableError(
            f"MLflow at {where} does not answer ({first_line(error)}); check --tracking-uri, or use --no-tracking"
        ) from error
    return tracker
