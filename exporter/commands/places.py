"""Options that several commands have: where releases are, and which registry knows them."""

from __future__ import annotations

from typing import Any

from featurestore.commands.shell import Place, option
from featurestore.option import DATA, TRACKING

MODELS = option(
    "--models",
    heading=DATA,
    cls=Place,
    required=True,
    metavar="URL",
    help="Where releases are: s3://BUCKET/PREFIX, file:///DIR or a directory.",
)
REGISTRY = option(
    "--registry-uri",
    heading=TRACKING,
    envvar="MLFLOW_TRACKING_URI",
    default="sqlite:///mlflow.db",
    show_default=True,
    help="Address of MLflow, which registers releases.",
)
MODEL_NAME = option(
    "--model-name", heading=TRACKING, default="heimdall", show_default=True, help="Name of the registered model in MLflow."
)
NO_REGISTRY = option("--no-registry", heading=TRACKING, is_flag=True, help="Do not register anything in MLflow.")


def open_registry(uri: str, model: str, without: bool) -> Any:
    """MLflow's, which has answered; or none."""
    if without:
        return None
    from exporter.release import registry

    return registry.open_registry(registry.RegistryRequest(uri, model))
