"""Where MLflow is: whether somebody is there, and how to name the place in an error; without Lightning."""

from __future__ import annotations

import os

from featurestore.errors import UsageError
from featurestore.redaction import without_credentials

PATIENCE_S = 5
"""For the first answer of a tracker."""


def knock(uri: str, option: str = "--tracking-uri") -> None:
    """Find out without MLflow's patience, which is minutes, whether somebody is there.

    Args:
        uri: of MLflow.
        option: by which the user gave it.

    Raises:
        UsageError: when MLflow knows no such kind of address.
        Exception: whatever its client raises when nobody answers.
    """
    from mlflow.environment_variables import MLFLOW_HTTP_REQUEST_MAX_RETRIES, MLFLOW_HTTP_REQUEST_TIMEOUT

    scheme = uri.partition(":")[0]
    if scheme in ("http", "https"):
        import requests

        for variable, value in ((MLFLOW_HTTP_REQUEST_MAX_RETRIES, 2), (MLFLOW_HTTP_REQUEST_TIMEOUT, 4 * PATIENCE_S)):
            if variable.name not in os.environ:  # it would hold training up for minutes
                os.environ[variable.name] = str(value)
        requests.get(uri, timeout=PATIENCE_S)
    elif scheme == "postgresql":
        raise UsageError(f"{option} {without_credentials(uri)} names no driver; write postgresql+psycopg://…")
    elif scheme.partition("+")[0] in ("sqlite", "postgresql", "mysql", "mssql"):
        import sqlalchemy

        engine = sqlalchemy.create_engine(uri, connect_args={"connect_timeout": PATIENCE_S} if "psycopg" in scheme else {})
        try:
            engine.connect().close()
        finally:
            engine.dispose()
    elif scheme not in ("databricks", "uc"):
        raise UsageError(
            f"{option} {without_credentials(uri)} is not an address that MLflow accepts; expected sqlite:///FILE, "
            "postgresql+psycopg://USER@HOST/DATABASE or http://HOST:PORT"
        )
