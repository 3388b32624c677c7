"""The command `evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from featurestore.commands.record_options import options_of
from featurestore.commands.shell import RECEIVERS, STORE, Sections, file_option, option, reported, split_option
from featurestore.option import DATA, HARDWARE, NETWORK, OUTPUT, TRACKING
from trainer.evaluate.request import EvaluateRequest

if TYPE_CHECKING:
    from featurestore.progress import Progress


@click.command(cls=Sections)
@click.argument("checkpoint")
@STORE
@option(
    "--features",
    "version",
    heading=DATA,
    help="Feature set to measure on: a version or a tag.  [default: the one that the network was trained on]",
)
@split_option("val")
@option(
    "--out",
    heading=OUTPUT,
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Directory for plots and metrics.json. It is created when absent.",
)
@file_option("--predictions", "File for one row per prediction, as .parquet or .csv.")
@file_option("--html", "File for a report as one HTML page: errors, calibration, map, worst cases, training curves.")
@option(
    "--tracking-uri",
    heading=TRACKING,
    envvar="MLFLOW_TRACKING_URI",
    default="sqlite:///mlflow.db",
    show_default=True,
    help="Address of MLflow, which has the training curves of the report. It need not answer.",
)
@RECEIVERS
@options_of(EvaluateRequest)
@option(
    "--against", heading=NETWORK, metavar="CHECKPOINT", help="Another network to measure beside it, for sessions or captures."
)
@option("--batch-size", heading=HARDWARE, default=256, show_default=True, help="Number of rows at a time.")
@option(
    "--k",
    heading=NETWORK,
    default=5,
    show_default=True,
    help="Number of neighbours of the k-nearest baseline. 0 leaves it out.",
)
@option("--threads", heading=HARDWARE, default=4, show_default=True, help="Number of threads that fetch chunks.")
@reported
def evaluate(progress: Progress, **options: Any) -> Any:
    """Measure a trained network on a split of a feature set, beside what knowing nothing achieves.

    CHECKPOINT is a file, or s3://BUCKET/…/NAME.ckpt. Errors are in km on the ground; likelihood, calibration and coverage
    say whether the network's σ can be believed. The set must be of the spec and basis that the network was trained on.
    Networks for sessions are measured by session, with random subsets of the receivers, too; with --pairs by levels, by the
    delays of pairs (time), and by both, side by side.

    \b
    Examples:
      heimdall evaluate checkpoints/last.ckpt --store ./features
      heimdall evaluate checkpoints/last.ckpt --store s3://features --split test --out evaluation
      heimdall evaluate checkpoints/last.ckpt --store ./features --html evaluation.html --receivers receivers.csv
      heimdall evaluate checkpoints/last.ckpt --store ./features --against capture/last.ckpt
      heimdall evaluate checkpoints/last.ckpt --store ./features --pairs latest
      heimdall evaluate checkpoints/last.ckpt --store ./features --fusion time
      heimdall evaluate s3://models/run/last.ckpt --store s3://features --predictions test.parquet --json
    """
    from trainer.evaluate.run import evaluate as run_evaluation

    return run_evaluation(EvaluateRequest(**options), progress)
