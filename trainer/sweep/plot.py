"""The files of a sweep: its report, and a picture of the loss, trial by trial and against each hyperparameter."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featurestore.page.charts import require_matplotlib
from featurestore.whole_file import make_directory, whole_file
from trainer.evaluate.plots import DPI, IDEAL, NETWORK, WIDTH
from trainer.sweep.report import SweepReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PRUNED, BEST = "tab:orange", "tab:red"
COLUMNS = 2
PANEL_HEIGHT = 3.6
"""Inches."""


def save(report: SweepReport, directory: Path) -> list[Path]:
    """Write `sweep.json`, and once a trial is complete `sweep.png`.

    Raises:
        UsageError: when matplotlib is not installed, or the directory cannot be written to.
    """
    paths = [make_directory(directory) / "sweep.json"]
    with whole_file(paths[0]) as file:
        file.write(json.dumps(report.to_json(), indent=1, allow_nan=False).encode())
    if report.best is not None:
        paths.append(directory / "sweep.png")
        with whole_file(paths[1]) as file:
            _draw(report).savefig(file, dpi=DPI, format="png")
    return paths


def _draw(report: SweepReport) -> Figure:
    """The loss trial by trial, then against each hyperparameter."""
    names = list(report.trials[0].parameters)
    n_rows = -(-(1 + len(names)) // COLUMNS)
    figure = require_matplotlib()(figsize=(WIDTH, PANEL_HEIGHT * n_rows))
    figure.set_layout_engine("constrained", h_pad=0.1, w_pad=0.1)
    panels: Any = figure.subplots(n_rows, COLUMNS, squeeze=False)
    _draw_history(panels.flat[0], report)
    for axis, name in itertools.zip_longest(panels.flat[1:], names):
        if name is None:
            axis.set_axis_off()
        else:
            _draw_parameter(axis, report, name)
    for axis in panels[:, 0]:
        axis.set_ylabel(report.objective)
    figure.suptitle(f"Study {report.study}: {report.describe_counts()}; feature set {report.version}")
    return figure


def _draw_history(axis: Axes, report: SweepReport) -> None:
    for state, colour, label in (("complete", NETWORK, "complete"), ("pruned", PRUNED, "pruned, at its last epoch")):
        trials = [trial for trial in report.trials if trial.state == state]
        numbers, losses = [each.number for each in trials], [float(each.value or 0) for each in trials]
        axis.plot(numbers, losses, "o", color=colour, alpha=0.7, label=label)
    complete = sorted((each for each in report.trials if each.state == "complete"), key=lambda each: each.number)
    best = np.minimum.accumulate([float(each.value or 0) for each in complete])
    axis.step([each.number for each in complete], best, where="post", color=IDEAL, linewidth=1, label="best so far")
    axis.set_xlabel("trial")
    axis.locator_params(axis="x", integer=True)
    axis.grid(alpha=0.25)
    axis.legend(fontsize=9)


def _draw_parameter(axis: Axes, report: SweepReport, name: str) -> None:
    trials = [trial for trial in report.trials if trial.state in ("complete", "pruned")]
    values: list[Any] = [trial.parameters[name] for trial in trials]
    if ".." in report.space[name]:
        axis.set_xscale("log" if "=log:" in report.space[name] else "linear")
    else:  # values of a list stand side by side, however far apart they are
        known = sorted(set(values))
        values = [known.index(value) for value in values]
        axis.set_xticks(range(len(known)), [f"{value:g}" if isinstance(value, float) else str(value) for value in known])
        axis.set_xlim(-0.5, len(known) - 0.5)
    for trial, value in reversed(list(zip(trials, values, strict=True))):  # the best one last, on top
        colour = BEST if trial is report.best else NETWORK if trial.state == "complete" else PRUNED
        axis.plot([value], [float(trial.value or 0)], "o", color=colour, alpha=0.7)
    axis.set_xlabel(name)
    axis.grid(alpha=0.25)
