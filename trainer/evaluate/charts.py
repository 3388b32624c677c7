"""Charts of errors for reports: what `plots` draws, without titles, and errors by group as lines of quantiles."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from featurestore.page.charts import Draw, both_sizes, to_svg
from featurestore.page.page import Chart, Key
from trainer.evaluate import plots
from trainer.evaluate.metrics import Predictions, squared_deviations
from trainer.network.geometry import Float64

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EARTH_KM = 6371.0
DISTANCE_EDGES_KM = (0.1, 1.0, 3.0, 10.0, 30.0, 100.0)
MAX_GROUPS = 24
"""Lines of a chart; its table has all groups."""
COLOURS = ("blue", "orange", "gray")
HEIGHT = 280

Groups = Sequence[tuple[str, npt.NDArray[np.bool_]]]


def cdf_figure(curves: Mapping[str, Float64]) -> Chart:
    """How many rows err how little: errors in metres by name, of up to three."""
    median_km = {name: float(np.median(errors)) / 1000 for name, errors in curves.items()}
    drawn = [(name, errors, _tab(colour)) for (name, errors), colour in zip(curves.items(), COLOURS, strict=False)]
    description = ", ".join(f"{name} {value:.3g} km" for name, value in median_km.items())

    def draw(figure: Figure) -> None:
        plots.draw_cdf(figure.subplots(), drawn)

    keys = [
        Key(_key(colour), f"{name}: median {value:.3g} km")
        for (name, value), colour in zip(median_km.items(), COLOURS, strict=False)
    ]
    return Chart("Distribution of errors", to_svg(draw, f"Distribution of errors; medians: {description}", HEIGHT), "", keys)


def calibration_figures(predictions: Predictions) -> dict[str, Chart]:
    """Whether σ is right: expected and found errors, and how many transmitters the ellipses hold."""
    squared = squared_deviations(predictions)
    inside = ", ".join(f"{(squared <= k * k).mean():.1%} in {k} σ (right: {1 - np.exp(-k * k / 2):.1%})" for k in (1, 2))

    def draw_coverage(axis: Any) -> None:
        plots.draw_coverage(axis, [("found", predictions, plots.NETWORK)])
        axis.set_box_aspect(1)

    return {
        "expected": Chart(
            "Error expected and found",
            to_svg(
                _bare(lambda axis: plots.draw_expected(axis, predictions)), "Mean error found by error expected from σ", 330
            ),
            "Each mark: rows of similar σ, with the standard error of their mean. On the dashed line, σ is right.",
        ),
        "coverage": Chart(
            "Coverage of the ellipses",
            to_svg(_bare(draw_coverage), f"Share of transmitters: {inside}", 330),
            f"Found: {inside}. Dashed: right.",
        ),
    }


def _bare(draw: Callable[[Any], None]) -> Draw:
    """A chart without title and legend, which the page has."""

    def fill(figure: Figure) -> None:
        axis: Any = figure.subplots()
        draw(axis)
        axis.set_title("")
        if axis.get_legend() is not None:
            axis.get_legend().set_visible(False)

    return fill


def map_figure(picture: plots.Picture) -> Chart:
    """Truth and prediction with ellipses."""

    def draw(figure: Figure) -> None:
        plots.draw_map(figure, picture)
        for legend in list(figure.legends):
            legend.remove()
        figure.axes[0].set_title("")

    count, drawn = len(picture.predictions), min(len(picture.predictions), plots.MAX_ON_MAP)
    centre = f"{picture.region.latitude:.4f}°, {picture.region.longitude:.4f}°"
    label = f"Map of {drawn:,} of {count:,} rows: transmitters, predictions and 1 σ ellipses around them"
    sample = f"{drawn:,} of {count:,} rows, spread evenly. " if drawn < count else ""
    how = f"{sample}Lines join a transmitter with where it was predicted. Dotted: the region that the network knows"
    legend = [Key("red", "transmitter", "▲"), Key("blue", "predicted, with its 1 σ ellipse", "●")]
    if picture.receivers is not None:
        legend.append(Key("ink", "receiver", "✚"))
        label += "; receivers, too"
    picture_of_map = both_sizes(draw, label, (700, 360))
    return Chart("Transmitters and predictions", picture_of_map, f"{how}, around {centre}.", legend, large=True)


def group_figure(title: str, errors: Sequence[tuple[str, str, Float64]], groups: Groups, caption: str = "") -> Chart:
    """Quantiles of errors by group, one line for each group, and within it one for each of the compared.

    Args:
        title: of the figure.
        errors: (name, colour, (n,) metres) of each that is compared: a network, or two releases.
        groups: name → mask of the rows.
        caption: what to know besides.
    """
    shown = groups[:MAX_GROUPS]
    left_out = f" {len(groups) - len(shown)} more are in the table only." if len(shown) < len(groups) else ""

    def draw(figure: Figure) -> None:
        axis, everything = figure.subplots(), []
        for line, (_, rows) in enumerate(shown):
            for number, (_, colour, values) in enumerate(errors):
                quantiles = np.maximum(np.quantile(values[rows], [0.05, 0.25, 0.5, 0.75, 0.95]) / 1000, plots.LEAST_KM)
                place = line + (number - (len(errors) - 1) / 2) * 0.36
                axis.hlines(place, quantiles[0], quantiles[4], color=_tab(colour), linewidth=1.2)
                axis.hlines(place, quantiles[1], quantiles[3], color=_tab(colour), linewidth=7, alpha=0.45)
                axis.plot([quantiles[2]], [place], "o", color=_tab(colour), markersize=5)
                everything.append(quantiles)
        axis.set_yticks(np.arange(len(shown)), [name for name, _ in shown])
        axis.set_ylim(len(shown) - 0.4, -0.6)
        plots.logarithmic_km(axis, np.concatenate(everything), "x")
        axis.set_xlabel("error, km")
        axis.grid(axis="x", alpha=0.5, linewidth=0.6)

    description = "; ".join(
        f"{name}: " + ", ".join(f"{who} median {np.median(values[rows]) / 1000:.3g} km" for who, _, values in errors)
        for name, rows in shown
    )
    keys = [Key(_key(colour), name) for name, colour, _ in errors] if len(errors) > 1 else []
    how = f"Dot: median; bar: half of the rows; line: 5% to 95%. {caption}{left_out}".strip()
    return Chart(title, to_svg(draw, f"{title}: {description}", 70 + (22 + 10 * len(errors)) * len(shown)), how, keys)


CASE = ("capture", "receiver", "SNR, dB", "true position")
"""Columns that tell which row it is, of lists of the worst."""


def case_cells(predictions: Predictions, capture: npt.NDArray[np.int64], place: int) -> tuple[str, ...]:
    """What is in the columns of `CASE`."""
    snr = predictions.snr_db[place]
    snr_text = f"{snr:.1f}" if np.isfinite(snr) else "unknown"
    return str(capture[place]), str(predictions.websdr_id[place]), snr_text, in_degrees(predictions.position_true[place])


def in_degrees(position: Float64) -> str:
    """Latitude and longitude, for people."""
    return f"{position[0]:.4f}°, {position[1]:.4f}°"


def receiver_groups(predictions: Predictions) -> Groups:
    """Rows by receiver, the busiest first."""
    receivers, counts = np.unique(predictions.websdr_id, return_counts=True)
    order = receivers[np.argsort(-counts, kind="stable")].tolist()
    return [(str(receiver), predictions.websdr_id == receiver) for receiver in order]


def distance_groups(distance_km: Float64) -> Iterator[tuple[str, npt.NDArray[np.bool_]]]:
    """Rows by distance, the nearest first; bands without rows are left out."""
    edges = (0.0, *DISTANCE_EDGES_KM, np.inf)
    for low, high in pairwise(edges):
        rows = (distance_km >= low) & (distance_km < high)
        if rows.any():  # NaN is in none
            yield (f"{low:g} to {high:g} km" if np.isfinite(high) else f"over {low:g} km"), rows


def nearest_km(position: Float64, known: Float64) -> Float64:
    """(n,) distance to the nearest of the known positions, on a sphere: within 0.5% of the ellipsoid's.

    Args:
        position: (n, 2) latitude, longitude in degrees.
        known: (m, 2) likewise, m at least 1.
    """
    from scipy.spatial import cKDTree

    chord = cKDTree(_unit(known)).query(_unit(position))[0]
    return np.asarray(2 * EARTH_KM * np.arcsin(np.minimum(chord / 2, 1)))


def _unit(position: Float64) -> Float64:
    latitude, longitude = np.radians(position).T
    return np.stack([np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude), np.sin(latitude)], axis=1)


def _tab(colour: str) -> str:
    return "gray" if colour == "gray" else f"tab:{colour}"


def _key(colour: str) -> str:
    return "muted" if colour == "gray" else colour
