"""The picture of a sweep: the objective trial by trial, its course over the epochs, and against each hyperparameter."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featurestore.errors import UsageError
from featurestore.page.charts import require_matplotlib
from trainer.evaluate.plots import DPI, IDEAL, NETWORK, WIDTH
from trainer.sweep.results import SweepReport, TrialRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.ticker import Locator

PRUNED, BEST = "tab:orange", "tab:red"
COLUMNS = 2
PANEL_HEIGHT = 3.6
"""Inches."""


def draw(report: SweepReport, directory: Path) -> Path:
    """Write `sweep.png`.

    Args:
        report: with at least one complete trial.
        directory: that exists.

    Raises:
        UsageError: when matplotlib is not installed, or the directory cannot be written to.
    """
    names = list(report.trials[0].parameters)
    panels = 2 + len(names)
    n_rows = -(-panels // COLUMNS)
    figure = require_matplotlib()(figsize=(WIDTH, PANEL_HEIGHT * n_rows))
    figure.set_layout_engine("constrained", h_pad=0.1, w_pad=0.1)
    axes: Any = figure.subplots(n_rows, COLUMNS, squeeze=False)
    flat: list[Axes] = list(axes.flat)
    for axis in flat[panels:]:
        axis.set_axis_off()
    _draw_history(flat[0], report)
    _draw_courses(flat[1], report)
    for axis, name in zip(flat[2:], names, strict=False):
        _draw_parameter(axis, report, name)
    for axis in flat[:panels:COLUMNS]:
        axis.set_ylabel(report.objective)
    figure.suptitle(f"Study {report.study}: {report.describe_counts()}; feature set {report.version}")
    path = directory / "sweep.png"
    try:
        figure.savefig(path, dpi=DPI)
    except OSError as error:
        raise UsageError(f"{path} cannot be written ({error.strerror}); choose another --out") from error
    return path


def _of(report: SweepReport, state: str) -> list[TrialRow]:
    return [trial for trial in report.trials if trial.state == state and trial.value is not None]


def _draw_history(axis: Axes, report: SweepReport) -> None:
    complete = sorted(_of(report, "complete"), key=lambda trial: trial.number)
    _scatter(axis, complete, [trial.number for trial in complete], NETWORK, "complete")
    pruned = _of(report, "pruned")
    _scatter(axis, pruned, [trial.number for trial in pruned], PRUNED, "pruned, at its last epoch")
    best = np.minimum.accumulate([float(trial.value or 0) for trial in complete])
    axis.step([trial.number for trial in complete], best, where="post", color=IDEAL, linewidth=1, label="best so far")
    axis.set_xlabel("trial")
    axis.xaxis.set_major_locator(_whole_numbers())
    axis.grid(alpha=0.25)
    axis.legend(fontsize=9)


def _draw_courses(axis: Axes, report: SweepReport) -> None:
    for trial in reversed(report.trials):  # the best one last, on top
        is_best = trial is report.best
        colour = BEST if is_best else PRUNED if trial.state == "pruned" else NETWORK
        label = f"trial {trial.number}, the best" if is_best else None
        axis.plot(
            list(trial.history),
            list(trial.history.values()),
            "-" if len(trial.history) > 1 else ".",
            color=colour,
            alpha=1 if is_best else 0.4,
            linewidth=2 if is_best else 1,
            label=label,
        )
    axis.set_xlabel("epoch")
    axis.xaxis.set_major_locator(_whole_numbers())
    axis.grid(alpha=0.25)
    axis.legend(fontsize=9)


def _draw_parameter(axis: Axes, report: SweepReport, name: str) -> None:
    trials = _of(report, "complete") + _of(report, "pruned")
    values = [trial.parameters[name] for trial in trials]
    if ".." in report.space[name]:
        places = values
        axis.set_xscale("log" if "=log:" in report.space[name] else "linear")
    else:  # values of a list stand side by side, however far apart they are
        known = sorted(set(values))
        places = [known.index(value) for value in values]
        axis.set_xticks(range(len(known)), [f"{value:g}" if isinstance(value, float) else str(value) for value in known])
        axis.set_xlim(-0.5, len(known) - 0.5)
    for state, colour in (("pruned", PRUNED), ("complete", NETWORK)):
        chosen = [index for index, trial in enumerate(trials) if trial.state == state]
        _scatter(axis, [trials[index] for index in chosen], [places[index] for index in chosen], colour, None)
    axis.plot([places[0]], [float(trials[0].value or 0)], "o", color=BEST, markersize=8)
    share = f" (importance {report.importances[name]:.0%})" if name in report.importances else ""
    axis.set_xlabel(f"{name}{share}")
    axis.grid(alpha=0.25)


def _whole_numbers() -> Locator:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(integer=True)


def _scatter(axis: Axes, trials: list[TrialRow], places: list[Any], colour: str, label: str | None) -> None:
    if trials:
        axis.plot(places, [float(trial.value or 0) for trial in trials], "o", color=colour, alpha=0.7, label=label)
