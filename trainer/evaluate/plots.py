"""Pictures of predictions: how large errors are, whether σ is right, where they lie on the map, and what SNR does to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featurestore.errors import UsageError
from featurestore.page.charts import map_axes, require_matplotlib
from featurestore.source.receivers import Receivers
from trainer.evaluate.metrics import Predictions, expected_error_m, sample_evenly, share_inside, snr_bands
from trainer.network.geometry import MAX_HALF_EXTENT_M, Float64, Region, geodesic_m

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 128
WIDTH = 10
"""Inches: pictures are 1280 pixels wide."""
LEAST_KM = 1e-3
"""A logarithmic axis has no place for 0: what is nearer than a metre is drawn at a metre."""
CURVE_POINTS = 1000
MAX_ON_MAP = 100
SPARSE = 50
"""So few rows are drawn one by one, or larger."""
LEAST_FOR_BOX = 5
BINS = 10
ROWS_PER_BIN = 10
NETWORK, BASELINES, IDEAL = "tab:blue", ("tab:orange", "tab:gray"), "black"


@dataclass(frozen=True)
class Picture:
    """What is drawn.

    Attributes:
        predictions: at least one, everything finite but the SNR.
        region: whose plane the map shows.
        baselines: errors in metres by name.
        title: of which rows, for people.
        receivers: where they stand, for the map; `None` when nobody said.
    """

    predictions: Predictions
    region: Region
    baselines: Mapping[str, Float64]
    title: str
    receivers: Receivers | None = None


def draw(picture: Picture, directory: Path) -> list[Path]:
    """Write `error_cdf.png`, `calibration.png`, `map.png` and `error_by_snr.png`.

    Args:
        picture: what to draw.
        directory: that exists.

    Returns:
        The files written.

    Raises:
        UsageError: when matplotlib is not installed, or the directory cannot be written to.
    """
    figure_class = require_matplotlib()
    files = []
    for name, height, fill in (
        ("error_cdf", 6.5, _draw_cdf),
        ("calibration", 5.5, _draw_calibration),
        ("map", 10.4, draw_map),
        ("error_by_snr", 6.5, _draw_by_snr),
    ):
        figure = figure_class(figsize=(WIDTH, height))
        figure.set_layout_engine("constrained", h_pad=0.1, w_pad=0.1)
        fill(figure, picture)
        files.append(directory / f"{name}.png")
        try:
            figure.savefig(files[-1], dpi=DPI)
        except OSError as error:
            raise UsageError(f"{files[-1]} cannot be written ({error.strerror}); choose another directory") from error
    return files


def _km(metres: Float64) -> Float64:
    """For a logarithmic axis."""
    return np.maximum(metres / 1000, LEAST_KM)


def _draw_cdf(figure: Figure, picture: Picture) -> None:
    axis = figure.subplots()
    named = [("network", picture.predictions.error_m), *picture.baselines.items()]
    draw_cdf(axis, [(name, errors, colour) for (name, errors), colour in zip(named, (NETWORK, *BASELINES), strict=False)])
    axis.legend(loc="upper left")
    axis.set_title(f"Errors, {picture.title}: {_rows(len(picture.predictions))}")


def draw_cdf(axis: Axes, curves: Sequence[tuple[str, Float64, str]]) -> None:
    """Shares of rows by error: name, errors in metres and colour of each curve, whose label tells its median."""
    share = np.linspace(0, 1, CURVE_POINTS)
    for name, errors, colour in curves:
        median = float(_km(np.quantile(errors, [0.5]))[0])
        axis.plot(_km(np.quantile(errors, share)), share, color=colour, label=f"{name}: median {median:.3g} km")
        axis.plot([median], [0.5], "o", color=colour)
    axis.axhline(0.5, color=IDEAL, linewidth=0.8, linestyle=":")
    logarithmic_km(axis, np.concatenate([_km(np.quantile(errors, [0.01, 1])) for _, errors, _ in curves]), "x")
    axis.set_xlabel("error, km")
    axis.set_ylabel("share of rows with at most this error")
    axis.set_ylim(0, 1.01)
    axis.grid(which="both", alpha=0.25)


def _draw_calibration(figure: Figure, picture: Picture) -> None:
    axes: Any = figure.subplots(1, 2)
    draw_expected(axes[0], picture.predictions)
    draw_coverage(axes[1], [("found", picture.predictions, NETWORK)])
    axes[1].set_box_aspect(1)
    axes[1].set_title("Coverage of the ellipses", fontsize=11)
    axes[1].legend(loc="lower right", fontsize=9)
    figure.suptitle(f"Is σ right? {picture.title}: {_rows(len(picture.predictions))}")


def draw_expected(axis: Axes, predictions: Predictions) -> None:
    """The error that σ promises against the error found, in bins of equally many rows."""
    expected = expected_error_m(predictions.sigma_east_m, predictions.sigma_north_m)
    bins = np.array_split(np.argsort(expected, kind="stable"), np.clip(len(expected) // ROWS_PER_BIN, 1, BINS))
    mean_expected = _km(np.array([expected[rows].mean() for rows in bins]))
    mean_error_km = np.array([predictions.error_m[rows].mean() for rows in bins]) / 1000
    standard_error = np.array([predictions.error_m[rows].std() / np.sqrt(len(rows)) for rows in bins]) / 1000
    low, high = _km((mean_error_km - standard_error) * 1000), _km((mean_error_km + standard_error) * 1000)
    everything = np.concatenate([mean_expected, low, high])
    limits = float(everything.min()) / 1.3, float(everything.max()) * 1.3
    axis.plot(limits, limits, "--", color=IDEAL, linewidth=1, label="right")
    axis.vlines(mean_expected, low, high, color=NETWORK, linewidth=1.5)
    axis.plot(mean_expected, _km(mean_error_km * 1000), "o", color=NETWORK, label="mean of a bin ± its standard error")
    for which in ("x", "y"):
        logarithmic_km(axis, np.array(limits), which, margin=1.0)
    axis.set_box_aspect(1)
    axis.set_xlabel("error expected from σ, km")
    axis.set_ylabel("mean error found, km")
    axis.set_title(f"{len(bins)} bins of equally many rows" if len(bins) > 1 else "all rows in one bin", fontsize=11)
    axis.grid(which="both", alpha=0.25)
    axis.legend(loc="best", fontsize=9)


def draw_coverage(axis: Axes, curves: Sequence[tuple[str, Predictions, str]]) -> None:
    """The share of transmitters inside the ellipse of k σ, beside what is right: name, predictions and colour of each curve.

    A single curve is marked at 1 and 2 σ.
    """
    k = np.linspace(0, 3.5, 351)
    axis.plot(k, 1 - np.exp(-(k**2) / 2), "--", color=IDEAL, linewidth=1, label="right: 1 − exp(−k²/2)")
    for name, predictions, colour in curves:
        axis.plot(k, share_inside(predictions, k), color=colour, label=name)
        for mark in (1, 2) if len(curves) == 1 else ():
            share = float(share_inside(predictions, np.array([mark]))[0])
            right = 1 - np.exp(-(mark**2) / 2)
            axis.plot([mark], [share], "o", color=colour, label=f"{mark} σ: {share:.1%}, right is {right:.1%}")
    axis.set_xlim(0, 3.5)
    axis.set_ylim(0, 1.01)
    axis.set_xlabel("k, size of the ellipse in σ")
    axis.set_ylabel("share of transmitters inside it")
    axis.grid(alpha=0.25)


def draw_map(figure: Figure, picture: Picture) -> None:
    """Truth and prediction of a sample of rows on the region's plane, with 1 σ ellipses."""
    axis, predictions, region = figure.subplots(), picture.predictions, picture.region
    chosen = np.zeros(len(predictions), bool)
    chosen[sample_evenly(len(predictions), MAX_ON_MAP)] = True
    drawn = predictions.select(chosen)
    truth = region.to_plane(drawn.position_true) / 1000  # (row, east and north)
    predicted = truth + np.stack([drawn.east_error_m, drawn.north_error_m], axis=1) / 1000
    reach = region.half_extent_m / 1000
    axis.plot(*(reach * np.array([[-1, 1, 1, -1, -1], [-1, -1, 1, 1, -1]])), ":", color=IDEAL, linewidth=0.8, label="region")
    _draw_rows(axis, truth, predicted, np.stack([drawn.sigma_east_m, drawn.sigma_north_m], axis=1) / 1000)
    if picture.receivers is not None:
        _draw_receivers(axis, region, picture.receivers.select(predictions.websdr_id))
    # Wide enough for all transmitters; a prediction far out must not shrink them to a dot.
    wanted = 1.05 * max(reach, float(np.abs(truth).max()))
    limit = float(np.clip(1.05 * np.abs(predicted).max(), wanted, 1.5 * wanted))
    axis.set_xlim(-limit, limit)
    axis.set_ylim(-limit, limit)
    map_axes(axis, " of the region's centre")
    figure.legend(loc="outside lower center", ncols=3)
    beyond = int((np.abs(predicted) > limit).any(axis=1).sum())
    shown = f"{len(drawn)} of {_rows(len(predictions))}" if len(drawn) < len(predictions) else _rows(len(drawn))
    cut = f", {beyond} predicted beyond the edge" if beyond else ""
    centre = f"centre {region.latitude:.4f}°, {region.longitude:.4f}°"
    axis.set_title(f"Transmitters and predictions, {picture.title}: {shown}{cut}\n{centre}", fontsize=11)


def _draw_rows(axis: Axes, truth: Float64, predicted: Float64, sigma: Float64) -> None:
    """A line from each transmitter to where it was predicted, with an ellipse there; all (n, 2), in km."""
    from matplotlib.collections import EllipseCollection, LineCollection

    count = len(truth)
    size = 9 if count <= SPARSE else 5
    lines = LineCollection(list(np.stack([truth, predicted], axis=1)), colors="gray", alpha=0.5, linewidths=0.8)
    widths, heights = 2 * sigma.T
    ellipses = EllipseCollection(
        widths, heights, np.zeros(count), units="xy", offsets=predicted, offset_transform=axis.transData
    )
    ellipses.set(facecolor="none", edgecolor=NETWORK, alpha=float(np.clip(20 / count, 0.2, 0.6)))
    axis.add_collection(ellipses)
    axis.add_collection(lines)
    axis.plot(*predicted.T, ".", color=NETWORK, markersize=size, label="predicted, with its 1 σ ellipse")
    axis.plot(*truth.T, "^", color="tab:red", markersize=size, label="transmitter")


def _draw_receivers(axis: Axes, region: Region, receivers: Receivers) -> None:
    """Crosses with names, of those that lie on the map."""
    centre = np.array([region.latitude, region.longitude])
    near = receivers.select(receivers.websdr_id[geodesic_m(receivers.position, centre) < MAX_HALF_EXTENT_M])
    plane = region.to_plane(near.position) / 1000
    axis.plot(*plane.T, "P", color=IDEAL, markeredgecolor="white", markersize=9, label="receiver")
    labels = near.labels()
    for places in near.sharing():
        names = ", ".join(labels[place] for place in places)
        axis.annotate(names, plane[places[0]].tolist(), (6, -9), textcoords="offset points", fontsize=9, annotation_clip=True)


def _draw_by_snr(figure: Figure, picture: Picture) -> None:
    axis = figure.subplots()
    bands = [(name, _km(picture.predictions.error_m[rows])) for name, rows in snr_bands(picture.predictions.snr_db)]
    values = []
    for place, (_, errors) in enumerate(bands):
        quantiles = np.quantile(errors, [0.05, 0.25, 0.5, 0.75, 0.95])
        values += [quantiles, errors] if len(errors) <= SPARSE else [quantiles]
        if len(errors) <= SPARSE:
            axis.plot(np.full(len(errors), place), errors, "o", color=NETWORK, markersize=4)
        if len(errors) >= LEAST_FOR_BOX:
            _draw_box(axis, place, quantiles)
    for (name, errors), colour in zip(picture.baselines.items(), BASELINES, strict=False):
        values.append(_km(np.quantile(errors, [0.5])))
        axis.axhline(values[-1][0], color=colour, linestyle="--", label=f"{name}: median of all rows {values[-1][0]:.3g} km")
    axis.set_xticks(np.arange(len(bands)), [f"{name}\n{_rows(len(errors))}" for name, errors in bands])
    axis.set_xlim(-0.6, len(bands) - 0.4)
    logarithmic_km(axis, np.concatenate(values), "y")
    axis.set_xlabel("signal-to-noise ratio")
    axis.set_ylabel("error, km")
    axis.grid(axis="y", alpha=0.25)
    if picture.baselines:
        figure.legend(loc="outside lower center", ncols=2)
    how_to_read = "box: half of the rows, line: median, whiskers: 5% and 95%, dots: each row where they are few"
    axis.set_title(f"Error by SNR, {picture.title}\n{how_to_read}", fontsize=11)


def _draw_box(axis: Axes, place: int, quantiles: Float64) -> None:
    box = dict(zip(("whislo", "q1", "med", "q3", "whishi"), quantiles.tolist(), strict=True))
    face, middle = {"facecolor": NETWORK, "alpha": 0.5}, {"color": IDEAL, "linewidth": 2}
    axis.bxp(
        [box], [place], widths=0.5, showfliers=False, patch_artist=True, manage_ticks=False, boxprops=face, medianprops=middle
    )


def _rows(count: int) -> str:
    return f"{count:,} row" if count == 1 else f"{count:,} rows"


def logarithmic_km(axis: Axes, values: Float64, which: str, margin: float = 1.2) -> None:
    """A logarithmic axis around values in km, labelled 1, 2, 5, 10 and not 10⁰: few readers know what 10^0.7 km is."""
    from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator, StrMethodFormatter

    low, high = float(values.min()) / margin, float(values.max()) * margin
    if high < 3 * low:  # one value, or nearly: leave room for ticks on both sides
        low, high = low / 2, high * 2
    decades = 10.0 ** np.arange(-4, 6)
    steps = (1, 1.5, 2, 3, 4, 5, 7) if high < 10 * low else (1, 2, 5) if high < 1000 * low else (1,)
    ticks = sorted(float(decade) * step for decade in decades for step in steps)
    part = axis.xaxis if which == "x" else axis.yaxis
    getattr(axis, f"set_{which}scale")("log")
    getattr(axis, f"set_{which}lim")(low, high)
    part.set_major_locator(FixedLocator(ticks))
    part.set_minor_locator(NullLocator())
    part.set_major_formatter(StrMethodFormatter("{x:g}"))
    part.set_minor_formatter(NullFormatter())
