"""Options that several commands have: where releases are, and which registry knows them."""

from __future__ import annotations

from typing import Any

import click

from featurestore.commands.shell import Place

MODELS = click.option(
    "--models",
    cls=Place,
    required=True,
    metavar="URL",
    help="Where releases are: s3://BUCKET/PREFIX, file:///DIR or a directory.",
)
REGISTRY = click.option(
    "--registry-uri", envvar="MLFLOW_TRACKING_URI", default="sqlite:///mlflow.db", show_default=True, help="Of MLflow."
)
MODEL_NAME = click.option("--model-name", default="heimdall", show_default=True, help="Of the registered model.")
NO_REGISTRY = click.option("--no-registry", is_flag=True, help="Without MLflow.")


def open_registry(uri: str, model: str, without: bool) -> Any:
    """MLflow's, which has answered; or none."""
    if without:
        return None
    from exporter.release import registry

    return registry.open_registry(registry.RegistryRequest(uri, model))
