"""The command `evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from featurestore.commands.shell import RECEIVERS, STORE, reported

if TYPE_CHECKING:
    from featurestore.progress import Progress


@click.command()
@click.argument("checkpoint")
@STORE
@click.option(
    "--features", "version", help="Feature set: a version or a tag.  [default: the one that the network was trained on]"
)
@click.option("--split", type=click.Choice(["train", "val", "test"]), default="val", show_default=True, help="Which rows.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Draw plots there, and write metrics.json; created when absent.",
)
@click.option(
    "--predictions",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write one row for each prediction, as .parquet or .csv.",
)
@click.option(
    "--html",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write a report as one HTML page: errors, calibration, map, worst cases, training curves.",
)
@click.option(
    "--tracking-uri",
    envvar="MLFLOW_TRACKING_URI",
    default="sqlite:///mlflow.db",
    show_default=True,
    help="Of MLflow, for the report's training curves; it need not answer.",
)
@RECEIVERS
@click.option("--against", metavar="CHECKPOINT", help="Another network beside it, for sessions or captures.")
@click.option("--batch-size", default=256, show_default=True, help="Rows at a time.")
@click.option("--k", default=5, show_default=True, help="Neighbours of the k-nearest baseline; 0 leaves it out.")
@click.option("--threads", default=4, show_default=True, help="Threads that fetch chunks.")
@reported
def evaluate(progress: Progress, **options: Any) -> Any:
    """Measure a trained network on a split of a feature set, beside what knowing nothing achieves.

    CHECKPOINT is a file, or s3://BUCKET/…/NAME.ckpt. Errors are in km on the ground; likelihood, calibration and coverage
    say whether the network's σ can be believed. The set must be of the spec and basis that the network was trained on.
    Networks for sessions are measured by session, with random subsets of the receivers, too.

    \b
    Examples:
      heimdall evaluate checkpoints/last.ckpt --store ./features
      heimdall evaluate checkpoints/last.ckpt --store s3://features --split test --out evaluation
      heimdall evaluate checkpoints/last.ckpt --store ./features --html evaluation.html --receivers receivers.csv
      heimdall evaluate checkpoints/last.ckpt --store ./features --against capture/last.ckpt
      heimdall evaluate s3://models/run/last.ckpt --store s3://features --predictions test.parquet --json
    """
    from trainer.evaluate.request import EvaluateRequest
    from trainer.evaluate.run import evaluate as run_evaluation

    return run_evaluation(EvaluateRequest(**options), progress)
