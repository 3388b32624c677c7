"""The answer of `locate` as one HTML page: map with regions and hyperbolas, correlations, tables."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from featurestore.delay.crosscorrelation import correlation
from featurestore.locate.locate import Located
from featurestore.page.charts import both_sizes, map_axes, to_svg
from featurestore.page.page import Card, Chart, Html, Key, Page, Table
from featurestore.place.delays import SPEED_OF_LIGHT_M_PER_S, Views, hyperbola
from featurestore.place.geodesic import distance_m
from featurestore.place.grid import Grid
from featurestore.place.posterior import LEVELS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Float64 = npt.NDArray[np.float64]

MOST_PAIRS_DRAWN = 28
"""Hyperbolas and correlations of more pairs, of eight receivers, would hide each other."""
COLOURS = ("tab:blue", "tab:orange", "tab:green", "tab:red", "tab:purple")
CLOSE_UP = 4.0
"""The second map is so much wider than the region."""
LAGS = 401
PLACES = {"left": 0.13, "right": 0.97, "bottom": 0.23, "top": 0.96}
"""Of the axes of a correlation, as shares of its chart."""
KM = 1e-3


def save_page(located: Located, path: Path) -> None:
    """Write the page, whole or not at all.

    Raises:
        UsageError: when Matplotlib is not installed, or the file cannot be written.
    """
    make_page(located).save(path)


def make_page(located: Located) -> Page:
    """The page."""
    latitude, longitude = located.posterior.point.tolist()
    lead = [
        f"From {len(located.receivers)} receivers and nothing but when each of them heard the transmission.",
        *located.notes,
    ]
    east, north = (np.sqrt(np.diag(located.posterior.covariance_m2)) * KM).tolist()
    figures = (
        Card("Place", f"{latitude:.4f}, {longitude:.4f}", "latitude, longitude: the point of least expected distance"),
        Card(
            "86.5% region", f"{located.posterior.area_km2(LEVELS[1]):,.0f} km²", "it holds the transmitter in 86.5 of 100 cases"
        ),
        Card("Standard deviation", f"{east:.1f} × {north:.1f} km", "east × north"),
        Card("Pairs", f"{int(located.pairs.usable.sum())} of {len(located.pairs)}", "that could be correlated"),
    )
    data = {**_maps(located), **_pairs(located), **_recordings(located)}
    return Page("featurestore.locate/locate.html", "Where the transmitter is", lead, figures, data)


def _maps(located: Located) -> dict[str, Chart]:
    legend = (Key("black", "receivers", "✚"), Key("red", "the answer, and its regions of 39.3% and 86.5%", "●"))
    whole = _frame(located, np.vstack([located.position, located.posterior.point]), 0.15)
    ring = [part for part in located.posterior.contours(LEVELS[1]) if len(part)]
    close = _frame(located, np.vstack([located.posterior.point[None], *ring]), (CLOSE_UP - 1) / 2)
    caption = "Each line holds the places from which a transmission reaches two receivers with the delay that was measured."
    title = "Receivers, hyperbolas, and where they meet"
    return {
        "whole": Chart(title, _map(located, whole), caption, legend, large=True),
        "close": Chart("The region", _map(located, close), "The same, closer.", legend, large=True),
    }


def _frame(located: Located, positions: Float64, share: float) -> Grid:
    """A grid for a map of some places, with a margin of a share of their extent."""
    plane = located.posterior.grid.plane
    metres = plane.to_plane(positions)
    low, high = metres.min(axis=0), metres.max(axis=0)
    half = max(float((high - low).max()) * (0.5 + share), 500.0)
    middle = (low + high) / 2
    return Grid.within(plane, middle - half, middle + half, 2 * half / 160)


def _map(located: Located, frame: Grid) -> Html:
    latitude, longitude = located.posterior.point.tolist()
    label = (
        f"Map: {len(located.receivers)} receivers, the answer {latitude:.4f}, {longitude:.4f}, its 86.5% region of "
        f"{located.posterior.area_km2(LEVELS[1]):,.0f} km²"
    )
    titles = {
        "receivers": [f"receiver {each.websdr_id}: {each.latitude:.4f}°, {each.longitude:.4f}°" for each in located.receivers],
        "answer": [f"{latitude:.4f}°, {longitude:.4f}°"],
    }
    return both_sizes(lambda drawing: _draw_map(drawing, located, frame), label, (620, 380), titles)


def _draw_map(drawing: Figure, located: Located, frame: Grid) -> None:
    """East and north in km of the answer, to scale: degrees are in the tables."""
    axis: Any = drawing.subplots()
    plane = frame.plane
    views = Views.of(frame, located.position)
    here = located.posterior.point_m

    def km(degrees: Float64) -> Float64:
        return np.asarray((plane.to_plane(degrees) - here) * KM)

    for index in _drawn(located):
        a, b = int(located.pairs.a[index]), int(located.pairs.b[index])
        for line in hyperbola(views, a, b, float(located.pairs.delay_s[index])):
            axis.plot(*km(line).T, color=COLOURS[index % len(COLOURS)], linewidth=1.0, alpha=0.8)
    for level, width in zip(LEVELS, (2.2, 1.4), strict=True):
        for ring in located.posterior.contours(level):
            axis.plot(*km(ring).T, color="tab:red", linewidth=width)
    axis.scatter(*km(located.position).T, s=64, marker="P", color="black", edgecolors="white", linewidths=0.8, gid="receivers")
    axis.scatter([0], [0], s=40, color="tab:red", edgecolors="white", linewidths=0.8, gid="answer")
    inside = km(located.position)
    low, high = ((border - here) * KM for border in (frame.low_m, frame.high_m))
    for receiver, (east, north) in zip(located.receivers, inside.tolist(), strict=True):
        if low[0] < east < high[0] and low[1] < north < high[1]:
            axis.annotate(str(receiver.websdr_id), (east, north), (6, 5), textcoords="offset points", weight="bold")
    axis.set_xlim(low[0], high[0])
    axis.set_ylim(low[1], high[1])
    map_axes(axis, " of the answer")


def _drawn(located: Located) -> list[int]:
    """The pairs that are drawn: the surest ones."""
    usable = np.flatnonzero(located.pairs.usable)
    surest = usable[np.argsort(located.sigma_s[usable] + located.pairs.wrong[usable], kind="stable")]
    return sorted(surest[:MOST_PAIRS_DRAWN].tolist())


def _pairs(located: Located) -> dict[str, Any]:
    number = [each.websdr_id for each in located.receivers]
    rows = []
    for index, reason in enumerate(located.pairs.reason):
        name = f"{number[located.pairs.a[index]]} − {number[located.pairs.b[index]]}"
        if reason:
            rows.append([name, reason])
            continue
        rows.append(
            [
                name,
                f"{located.pairs.delay_s[index] * 1e6:.2f}",
                f"{located.sigma_s[index] * 1e6:.2f}",
                f"{located.residual_s[index] * 1e6:.2f}",
                f"{located.residual_s[index] * SPEED_OF_LIGHT_M_PER_S * KM:.2f}",
                f"{located.peak_db[index]:.1f}",
                f"{located.pairs.offset_hz[index]:.4f}",
                f"{located.pairs.seconds[index]:.1f}",
            ]
        )
    header = ("pair", "delay, µs", "sigma, µs", "residual, µs", "residual, km", "peak, dB", "offset, Hz", "overlap, s")
    return {
        "pairs": Table("How much later the first receiver hears than the second", header, rows),
        "correlations": [_correlation(located, index, number) for index in _drawn(located)],
    }


def _correlation(located: Located, index: int, number: list[int]) -> Chart:
    delay_s = float(located.pairs.delay_s[index])
    name = f"{number[located.pairs.a[index]]} − {number[located.pairs.b[index]]}"
    used = np.abs(located.pairs.weights[index]) > 0
    reach_s = 6 / max(float(np.ptp(located.pairs.frequency_hz[used])), 1.0)
    lag_s = delay_s + np.linspace(-reach_s, reach_s, LAGS)
    height = np.abs(correlation(located.pairs.weights[index], located.pairs.frequency_hz, lag_s))

    def draw(drawing: Figure) -> None:
        axis: Any = drawing.subplots(gridspec_kw=PLACES)
        axis.plot(lag_s * 1e6, height, color="tab:blue", linewidth=1.4)
        axis.axvline(delay_s * 1e6, color="tab:red", linewidth=1.0)
        axis.axvline((delay_s - located.residual_s[index]) * 1e6, color="black", linewidth=1.0, linestyle="--")
        axis.set_ylim(0, 1.05)
        axis.set_xlabel("lag, µs")
        axis.set_ylabel("|correlation|")

    label = f"Correlation of pair {name} over lag: its peak at {delay_s * 1e6:.2f} µs"
    legend = (Key("red", "measured", "│"), Key("black", "of the answer", "┆"))
    return Chart(f"Pair {name}", to_svg(draw, label, 200, placed=True), legend=legend)


def _recordings(located: Located) -> dict[str, Table]:
    metres = distance_m(located.position, located.posterior.point)
    rows = [
        [str(each.websdr_id), each.file, f"{each.latitude:.5f}", f"{each.longitude:.5f}", f"{far * KM:.1f}"]
        for each, far in zip(located.receivers, metres.tolist(), strict=True)
    ]
    skipped = [[remark.file, remark.text] for remark in located.skipped]
    return {
        "receivers": Table("Receivers", ("receiver", "file", "latitude, °", "longitude, °", "to the answer, km"), rows, (0, 1)),
        "skipped": Table("Recordings that did not take part", ("file", "reason"), skipped, (0, 1), (1,)),
    }
