"""MLflow: refused clearly before the first epoch when it cannot be reached, and never in the way of training afterwards."""

from __future__ import annotations

import logging
from typing import Any

from featurestore.errors import ServiceUnavailableError
from trainer.engine import loggers


class ForgivingLogger(loggers.MLFlowLogger):
    """Lightning's logger, but a tracker that fails later is a warning, once, and no end of training."""

    _warned = False

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        """See `MLFlowLogger.log_metrics`."""
        try:
            super().log_metrics(metrics, step)
        except Exception as error:  # noqa: BLE001 - whatever the tracker's client raises, the epochs are worth more
            self._warn(error)

    def finalize(self, status: str = "success") -> None:
        """See `MLFlowLogger.finalize`."""
        try:
            super().finalize(status)
        except Exception as error:  # noqa: BLE001 - as above
            self._warn(error)

    def _warn(self, error: Exception) -> None:
        if not self._warned:
            print(f"warning: MLflow does not take metrics any more ({str(error).splitlines()[0]}); training goes on without it")
            self._warned = True


def open_tracker(uri: str, experiment: str, run_name: str | None, tags: dict[str, str]) -> ForgivingLogger:
    """A logger whose tracker has answered.

    Raises:
        ServiceUnavailableError: when it does not.
    """
    logging.getLogger("alembic").setLevel(logging.WARNING)  # it tells of every table it creates
    try:
        tracker = ForgivingLogger(experiment_name=experiment, run_name=run_name, tracking_uri=uri, tags=tags)
        _ = tracker.run_id  # begins the run
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ServiceUnavailableError(
            f"MLflow at {_without_password(uri)} does not answer ({reason}); check --tracking-uri, or leave tracking out "
            "with --no-tracking"
        ) from error
    return tracker


def _without_password(uri: str) -> str:
    scheme, _, rest = uri.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"
