"""How a network was trained, from MLflow: curves by epoch, and how long it waited for data; or why that is not known."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featurestore.errors import first_line
from featurestore.page.charts import to_svg
from featurestore.page.page import Chart, Html, Key, Table
from featurestore.redaction import without_credentials
from trainer.tracker_address import knock

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEIGHT = 240
METRICS = (
    "train/loss",
    "val/loss",
    "val/error_median_m",
    "val/error_mean_m",
    "val/expected_error_m",
    "data/wait_share",
    "data/rows_per_s",
    "data/mb_per_s",
    "data/cache_hits",
)


@dataclass(frozen=True)
class Curve:
    """One line of a chart: a metric, its colour and name, and what its values are divided by."""

    metric: str
    colour: str
    name: str
    unit: float = 1.0


CHARTS: tuple[tuple[str, str, tuple[Curve, ...]], ...] = (
    ("Loss", "loss", (Curve("train/loss", "gray", "train"), Curve("val/loss", "blue", "val"))),
    (
        "Error of the val split",
        "km",
        (
            Curve("val/error_mean_m", "orange", "mean", 1000),
            Curve("val/error_median_m", "blue", "median", 1000),
            Curve("val/expected_error_m", "gray", "mean expected from σ", 1000),
        ),
    ),
    ("Waiting for data", "% of the epoch", (Curve("data/wait_share", "blue", "share of time", 0.01),)),
    ("Throughput of training", "rows/s", (Curve("data/rows_per_s", "blue", "rows per second"),)),
)


@dataclass(frozen=True)
class Run:
    """What a tracked run says.

    Attributes:
        name: of the run.
        run_id: in MLflow.
        metrics: name → values by epoch, counted from 0; the last one of an epoch that was repeated.
    """

    name: str
    run_id: str
    metrics: Mapping[str, Mapping[int, float]]


def read_run(uri: str | None, run_id: str | None) -> Run | str:
    """The run in which a checkpoint was saved, or a sentence that says why it cannot be shown; never an error.

    Args:
        uri: of MLflow.
        run_id: that the checkpoint names.
    """
    if run_id is None:
        return "The training was not tracked: the checkpoint names no run of MLflow."
    if uri is None:
        return f"The checkpoint names run {run_id} of MLflow; give --tracking-uri to show how it went."
    path = uri.removeprefix("sqlite:///").partition("?")[0]
    where = without_credentials(uri)
    if path != uri and not Path(path).is_file():  # asking SQLite would make an empty one
        return f"The checkpoint names run {run_id} of MLflow, and there is no {where}; --tracking-uri says where it is."
    try:
        return _read(uri, run_id)
    except Exception as error:  # noqa: BLE001 - whatever MLflow's client raises: the report is worth having without this
        return f"MLflow at {where} does not show run {run_id} of this checkpoint ({first_line(error)}); check --tracking-uri."


def _read(uri: str, run_id: str) -> Run:
    from mlflow import MlflowClient

    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.ERROR)  # they tell of tables that they look at
    knock(uri)
    client = MlflowClient(tracking_uri=uri)
    run = client.get_run(run_id)
    epochs = {int(point.step): int(point.value) for point in client.get_metric_history(run_id, "epoch")}
    metrics = {}
    for name in METRICS:
        points = [(int(point.step), float(point.value)) for point in client.get_metric_history(run_id, name)]
        metrics[name] = {epochs[step]: value for step, value in points if step in epochs and np.isfinite(value)}
    return Run(str(run.info.run_name), run_id, metrics)


def training_section(run: Run | str, epoch: int) -> dict[str, Any]:
    """Curves and their numbers, or why there are none.

    Args:
        run: see `read_run`.
        epoch: of the checkpoint, from 0: marked in the curves.
    """
    if isinstance(run, str):
        return {"told": run, "charts": []}
    figures = []
    for title, unit, curves in CHARTS:
        drawn = [curve for curve in curves if run.metrics[curve.metric]]
        if drawn:
            keys = [Key("muted" if curve.colour == "gray" else curve.colour, curve.name) for curve in drawn]
            figures.append(Chart(title, _draw(run, title, unit, drawn, epoch), "", keys if len(keys) > 1 else ()))
    if not figures:
        return {"told": f"Run {run.name} ({run.run_id}) has no metrics by epoch yet.", "charts": []}
    said = f"Run {run.name} ({run.run_id}). The dotted line is epoch {epoch}, that of this checkpoint."
    return {"told": said, "charts": figures, "table": Table("Over the epochs", HEADER, _rows(run))}


HEADER = ("", "first", "last", "lowest", "highest", "epochs")


def _rows(run: Run) -> list[Sequence[str]]:
    rows: list[Sequence[str]] = []
    for _, unit, curves in CHARTS:
        for curve in curves:
            values = [value / curve.unit for _, value in sorted(run.metrics[curve.metric].items())]
            if values:
                numbers = (values[0], values[-1], min(values), max(values))
                rows.append((f"{curve.metric}, {unit}", *(f"{value:,.4g}" for value in numbers), f"{len(values):,}"))
    return rows


def _draw(run: Run, title: str, unit: str, curves: Sequence[Curve], epoch: int) -> Html:
    def draw(figure: Figure) -> None:
        from matplotlib.ticker import MaxNLocator

        axis: Any = figure.subplots()
        for curve in curves:
            points = sorted(run.metrics[curve.metric].items())
            axis.plot(
                [number for number, _ in points],
                [value / curve.unit for _, value in points],
                "o-" if len(points) < 30 else "-",
                color="gray" if curve.colour == "gray" else f"tab:{curve.colour}",
                markersize=3.5,
                linewidth=1.6,
            )
        axis.axvline(epoch, color="gray", linestyle=":", linewidth=1)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        if unit != "loss":
            axis.set_ylim(bottom=0)
        axis.set_xlabel("epoch, from 0")
        axis.set_ylabel(unit)
        axis.grid(alpha=0.5, linewidth=0.6)

    last = {curve.name: max(run.metrics[curve.metric].items())[1] / curve.unit for curve in curves}
    description = ", ".join(f"{name} {value:.4g}" for name, value in last.items())
    return to_svg(draw, f"{title} by epoch, {unit}; in the last epoch: {description}", HEIGHT)
