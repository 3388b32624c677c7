"""The command `doctor`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from featurestore.commands.shell import JSON, QUIET, Place, emit_report, share_cores


@click.command()
@click.option("--catalog", metavar="URL", help="postgresql://USER@HOST/DATABASE.  [default: what PGHOST, PGDATABASE, ... say]")
@click.option(
    "--query-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="SQL for a catalog with another schema.",
)
@click.option("--raw", cls=Place, metavar="URL", help="Where captures are; only read.")
@click.option("--store", cls=Place, metavar="URL", help="Where features are; an object is written there, and deleted again.")
@click.option("--models", cls=Place, metavar="URL", help="Where checkpoints or releases go; likewise.")
@click.option("--scheduler", envvar="DASK_SCHEDULER_ADDRESS", metavar="ADDR", help="Dask scheduler, as tcp://HOST:8786.")
@click.option("--tracking-uri", envvar="MLFLOW_TRACKING_URI", help="Of MLflow.")
@click.option(
    "--dir",
    "checkpoints",
    type=click.Path(file_okay=False, path_type=Path),
    default="checkpoints",
    show_default=True,
    help="Where training writes checkpoints.",
)
@JSON
@QUIET
def doctor(
    *,
    catalog: str | None,
    query_file: Path | None,
    tracking_uri: str | None,
    checkpoints: Path,
    as_json: bool,
    quiet: bool,
    **places: Any,
) -> None:
    """Look whether everything is there that the commands need, and say what to do about what is not.

    Software, PostgreSQL, raw captures, stores, Dask, MLflow, GPU, clocks and disk are looked at side by side; what is not
    given is left out. Exit code: 0 when nothing failed, 75 when all that failed is services that do not answer, else 1.

    \b
    Examples:
      heimdall doctor
      heimdall doctor --catalog postgresql://me@db/radio --raw s3://captures --store s3://features
      heimdall doctor --store ./features --tracking-uri sqlite:///mlflow.db --json
    """
    share_cores()
    from featurestore.doctor.services import Places
    from featurestore.progress import on_stderr
    from featurestore.source.catalog import read_query
    from trainer.doctor import DoctorRequest, diagnose

    if catalog is None and any(os.environ.get(name) for name in ("PGHOST", "PGHOSTADDR", "PGDATABASE", "PGSERVICE")):
        catalog = ""
    query = None if query_file is None else read_query(query_file)
    with on_stderr(quiet) as progress:
        diagnosis = diagnose(DoctorRequest(Places(catalog, query, **places), tracking_uri, checkpoints), progress)
    emit_report(diagnosis, as_json)
    sys.exit(diagnosis.exit_code)
