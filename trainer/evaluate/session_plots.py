"""Pictures of located sessions: posteriors and what is true, radio maps and how sure they are, errors by receivers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from featurestore.errors import UsageError
from featurestore.page.charts import require_matplotlib
from featurestore.place.posterior import LEVELS, Posterior
from trainer.evaluate.plots import BASELINES, DPI, NETWORK, WIDTH, draw_cdf
from trainer.evaluate.session_evaluation import SessionEvaluation
from trainer.network.session.nets import RadioMapNet

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHOWN = 6
MAP_COLOURS = "viridis"
SPREAD_COLOURS = "magma"

Floats = npt.NDArray[np.float64]


def chosen_sessions(error_m: Floats) -> list[tuple[str, int]]:
    """Two good sessions, two of the median, two of the worst twentieth: what it is, and its number."""
    order = np.argsort(error_m, kind="stable")
    places = (("good", 0.05), ("good", 0.2), ("median", 0.5), ("median", 0.55), ("bad", 0.95), ("worst", 1.0))
    return [(name, int(order[round(share * (len(order) - 1))])) for name, share in places]


def draw_posterior(axis: Axes, evaluation: SessionEvaluation, number: int, posterior: Posterior) -> None:
    """Contours of 39.3% and 86.5%, the true place, the point, and the receivers that took part; kilometres."""
    grid, predictions = posterior.grid, evaluation.predictions
    for level, width in zip(LEVELS, (2.0, 1.0), strict=True):
        for ring in posterior.contours_m(level):
            axis.plot(*(ring.T / 1000), color=NETWORK, linewidth=width)
    receiver = evaluation.encoded.table.receiver[number]
    stands = evaluation.receivers.select(receiver[receiver >= 0]).position
    truth, point = grid.plane.to_plane(predictions.position_true[[number]]), grid.plane.to_plane(predictions.position[[number]])
    if len(stands):
        axis.plot(*(grid.plane.to_plane(stands).T / 1000), "^", color="black", markersize=5)
    axis.plot(*(truth.T / 1000), "x", color="tab:red", markersize=9, markeredgewidth=2)
    axis.plot(*(point.T / 1000), "o", color=NETWORK, markersize=5)
    _frame(axis, grid.east_m, grid.north_m)


def draw_level_map(axis: Axes, evaluation: SessionEvaluation, column: int, *, spread: bool) -> Any:
    """One receiver's map in dB, or its standard deviation; returns the picture, for a scale beside it."""
    net, grid = evaluation.encoded.net, evaluation.encoded.place.grid
    if not isinstance(net, RadioMapNet):
        raise TypeError("only a radio map has maps")
    values = net.variance[column].sqrt() if spread else net.mean[column]
    extent = tuple(float(x) / 1000 for axis_m in (grid.east_m, grid.north_m) for x in _edges(axis_m, grid.cell_m))
    picture = axis.imshow(
        values.cpu().numpy().reshape(grid.shape),
        origin="lower",
        extent=extent,  # type: ignore[arg-type]  # four numbers
        cmap=SPREAD_COLOURS if spread else MAP_COLOURS,
    )
    stands = evaluation.encoded.place.position[[column]]
    if np.isfinite(stands).all():
        axis.plot(*(grid.plane.to_plane(stands).T / 1000), "^", color="tab:red", markersize=6)
    _frame(axis, grid.east_m, grid.north_m)
    return picture


def draw_by_receivers(axis: Axes, evaluation: SessionEvaluation) -> None:
    """Mean and median error by number of receivers present, and what posteriors expect."""
    groups = evaluation.metrics["by_receivers_present"]
    count = [int(name) for name in groups]
    for key, label, style in (
        ("error_mean_m", "mean", "o-"),
        ("error_median_m", "median", "s-"),
        ("expected_error_m", "mean that posteriors expect", ":"),
    ):
        colour = BASELINES[0] if key == "expected_error_m" else NETWORK
        axis.plot(count, [group[key] / 1000 for group in groups.values()], style, color=colour, label=label)
    axis.set_xticks(count)
    axis.set_xlabel("receivers present")
    axis.set_ylabel("error, km")
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.25)
    axis.legend()


def draw_sessions(evaluation: SessionEvaluation, directory: Path) -> list[Path]:
    """Write `error_cdf.png`, `by_receivers.png`, `posteriors.png`; and `radio_map.png`, if there is one.

    Args:
        evaluation: what to draw.
        directory: that exists.

    Returns:
        The files written.

    Raises:
        UsageError: when matplotlib is not installed, or the directory cannot be written to.
    """
    pictures: list[tuple[str, float, Callable[[Figure], None]]] = [
        ("error_cdf", 6.5, lambda figure: draw_cdf(figure.subplots(), curves(evaluation))),
        ("by_receivers", 5.5, lambda figure: draw_by_receivers(figure.subplots(), evaluation)),
        ("posteriors", 7.5, lambda figure: _draw_posteriors(figure, evaluation)),
    ]
    if isinstance(evaluation.encoded.net, RadioMapNet):
        n_receivers = len(evaluation.encoded.place.websdr_id)
        pictures.append(("radio_map", 2.6 * n_receivers, lambda figure: _draw_maps(figure, evaluation)))
    figure_class = require_matplotlib()
    files = []
    for name, height, fill in pictures:
        figure = figure_class(figsize=(WIDTH, height))
        figure.set_layout_engine("constrained", h_pad=0.1, w_pad=0.1)
        fill(figure)
        files.append(directory / f"{name}.png")
        try:
            figure.savefig(files[-1], dpi=DPI)
        except OSError as error:
            raise UsageError(f"{files[-1]} cannot be written ({error.strerror}); choose another directory") from error
    return files


def curves(evaluation: SessionEvaluation) -> list[tuple[str, Floats, str]]:
    """Errors of the network and of the baselines, with colours."""
    named = [
        ("network", evaluation.predictions.error_m),
        *((each.label, each.error_m) for each in evaluation.baselines.values()),
    ]
    return [(name, errors, colour) for (name, errors), colour in zip(named, (NETWORK, *BASELINES), strict=False)]


def _draw_posteriors(figure: Figure, evaluation: SessionEvaluation) -> None:
    shown = chosen_sessions(evaluation.predictions.error_m)
    axes: Any = figure.subplots(2, 3)
    for axis, (name, number) in zip(axes.T.flat, shown, strict=True):
        draw_posterior(axis, evaluation, number, evaluation.posterior(number))
        axis.set_title(f"{name}: {evaluation.predictions.error_m[number] / 1000:.1f} km off", fontsize=10)


def _draw_maps(figure: Figure, evaluation: SessionEvaluation) -> None:
    numbers = evaluation.encoded.place.websdr_id.tolist()
    axes: Any = figure.subplots(len(numbers), 2, squeeze=False)
    for column, number in enumerate(numbers):
        for axis, spread in zip(axes[column], (False, True), strict=True):
            picture = draw_level_map(axis, evaluation, column, spread=spread)
            axis.set_title(f"receiver {number}: {'σ of the map' if spread else 'level'}, dB", fontsize=10)
            figure.colorbar(picture, ax=axis)


def _edges(axis_m: Floats, cell_m: float) -> tuple[float, float]:
    return float(axis_m[0]) - cell_m / 2, float(axis_m[-1]) + cell_m / 2


def _frame(axis: Axes, east_m: Floats, north_m: Floats) -> None:
    axis.set_xlim(float(east_m[0]) / 1000, float(east_m[-1]) / 1000)
    axis.set_ylim(float(north_m[0]) / 1000, float(north_m[-1]) / 1000)
    axis.set_aspect("equal")
    axis.set_xlabel("km east")
    axis.set_ylabel("km north")
