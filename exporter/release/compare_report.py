"""The report of a comparison of two releases: `releases compare --html`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from exporter.release.comparison import BATCHES, COLUMNS, Comparison, Paired
from featurestore.look.report.maps import to_plane
from featurestore.page.charts import both_sizes, map_axes, to_svg
from featurestore.page.page import Card, Chart, Html, Key, Page, Table
from featurestore.store.split import unique_sessions
from trainer.evaluate.charts import CASE, case_cells, cdf_figure, group_figure, receiver_groups
from trainer.evaluate.metrics import Predictions, sample_evenly, share_inside, snr_bands
from trainer.evaluate.plots import draw_coverage
from trainer.network.geometry import Float64

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LISTED = 12
MAX_ON_MAP = 500
COLOURS = ("blue", "orange")
LARGEST_MARK = 22.0


def describe_comparison(comparison: Comparison, paired: Paired) -> Page:
    """The report.

    Args:
        comparison: the comparison.
        paired: its rows.
    """
    a, b = comparison.a.release, comparison.b.release
    difference = paired.b.error_m - paired.a.error_m
    first, member = unique_sessions(np.ascontiguousarray(paired.session_id))
    by_session = np.bincount(member, difference) / np.bincount(member)
    names = {a: paired.a, b: paired.b} if a != b else {f"{a} (A)": paired.a, f"{b} (B)": paired.b}
    errors = {name: predictions.error_m for name, predictions in names.items()}
    sides = [(name, colour, values) for (name, values), colour in zip(errors.items(), COLOURS, strict=True)]
    return Page(
        "exporter.release/comparison.html",
        title=f"Release {b} compared with {a}",
        lead=(f"On {comparison.rows:,} rows of the {comparison.split} split of feature set {comparison.feature_set}.",),
        cards=_cards(comparison),
        data={
            "verdict": f"{comparison.verdict[:1].upper()}{comparison.verdict[1:]}.",
            "notes": comparison.notes,
            "difference": _difference(comparison, by_session),
            "side_by_side": _side_by_side(comparison),
            "errors": cdf_figure(errors),
            "coverage": _coverage(names),
            "map": _map(paired.a.position_true[first], by_session, (a, b)),
            "groups": [
                group_figure("Error by receiver", sides, receiver_groups(paired.a)),
                group_figure("Error by SNR", sides, list(snr_bands(paired.a.snr_db))),
            ],
            "largest": _largest(paired, difference, (a, b)),
        },
    )


def _cards(comparison: Comparison) -> list[Card]:
    difference = comparison.difference
    size = BATCHES[0]
    return [
        *(
            Card(
                f"mean error of {side.release}", f"{side.metrics['error_mean_m'] / 1000:,.2f} km", f"median {_median(side)} km"
            )
            for side in (comparison.a, comparison.b)
        ),
        Card(
            "difference",
            f"{difference.mean_m / 1000:+,.3f} km",
            f"{100 * difference.confidence:g}%: {_interval(comparison)} km",
        ),
        Card("rows", f"{comparison.rows:,}", f"{difference.sessions:,} sessions"),
        *(
            Card(
                f"one row on {side.release}",
                f"{side.latency_ms[size]:.2f} ms",
                f"{side.size_bytes / 1e6:.1f} MB, {side.precision}",
            )
            for side in (comparison.a, comparison.b)
        ),
    ]


def _median(side: Any) -> str:
    return f"{side.metrics['error_median_m'] / 1000:,.2f}"


def _interval(comparison: Comparison) -> str:
    return f"{comparison.difference.low_m / 1000:+,.3f} to {comparison.difference.high_m / 1000:+,.3f}"


def _difference(comparison: Comparison, by_session: Float64) -> dict[str, Any]:
    difference = comparison.difference
    a, b = comparison.a.release, comparison.b.release
    how = (
        f"Error of {b} less that of {a}, row by row: {difference.mean_m / 1000:+,.3f} km on average; the "
        f"{100 * difference.confidence:g}% interval is {_interval(comparison)} km, from a bootstrap over "
        f"{difference.sessions:,} "
        "sessions, since rows of one session are not independent. Where it holds 0, these rows cannot tell."
    )
    label = (
        f"Mean difference {difference.mean_m / 1000:+.3f} km, interval {_interval(comparison)} km, and the "
        "sessions' differences"
    )
    return {
        "told": how,
        "by_session": Chart(
            f"Difference of errors by session: left of 0, {b} errs less",
            both_sizes(lambda figure: _draw_difference(figure, comparison, by_session / 1000), label, (230, 230)),
            "Bars: sessions. Dot and line: mean of all rows and its interval.",
            large=True,
        ),
    }


def _draw_difference(figure: Figure, comparison: Comparison, by_session_km: Float64) -> None:
    axis: Any = figure.subplots()
    difference = comparison.difference
    count, edges = np.histogram(by_session_km, min(40, max(8, len(by_session_km) // 2)))
    axis.bar(edges[:-1], count, np.diff(edges) * 0.94, align="edge", color="tab:gray", alpha=0.6)
    height = max(float(count.max()), 1.0) * 1.15
    axis.hlines(height, difference.low_m / 1000, difference.high_m / 1000, color="tab:blue", linewidth=3)
    axis.plot([difference.mean_m / 1000], [height], "o", color="tab:blue", markersize=8)
    axis.axvline(0, color="black", linewidth=1, linestyle="--")
    axis.set_ylim(0, height * 1.12)
    axis.locator_params(axis="y", integer=True)
    axis.set_xlabel(f"error of {comparison.b.release} less that of {comparison.a.release}, km")
    axis.set_ylabel("sessions")


def _side_by_side(comparison: Comparison) -> Table:
    header, *rows = comparison.side_by_side()
    lower_is_better = {label for name, label, _, _ in COLUMNS if not name.startswith(("coverage", "expected"))}
    lower_is_better |= {f"ms at batch {size}" for size in BATCHES} | {"model.onnx, MB"}
    cells = [_mark(row) if row[0] in lower_is_better else row for row in rows]
    return Table("Measured on the same rows; the better one is bold", header, cells)


def _mark(row: list[str]) -> list[str]:
    """The lower of two numbers, bold; none where they are equal as they are written."""
    numbers = [float(cell.replace(",", "")) for cell in row[1:]]
    if numbers[0] == numbers[1]:
        return row
    better = 1 + int(numbers[1] < numbers[0])
    return [Html(f"<strong>{cell}</strong>") if place == better else cell for place, cell in enumerate(row)]


def _coverage(names: dict[str, Predictions]) -> Chart:
    """Whether the ellipses hold as many transmitters as they should, of both."""
    curves = [(name, predictions, f"tab:{colour}") for (name, predictions), colour in zip(names.items(), COLOURS, strict=True)]
    one = np.array([1.0])
    description = ", ".join(f"{name} {share_inside(predictions, one)[0]:.1%}" for name, predictions in names.items())
    keys = [Key(colour, name) for name, colour in zip(names, COLOURS, strict=True)]
    label = f"Share of transmitters in the ellipse of 1 σ: {description}; right: 39.3%"
    picture = to_svg(lambda figure: draw_coverage(figure.subplots(), curves), label, 280)
    return Chart("Coverage of the ellipses", picture, f"In 1 σ: {description}. Dashed: right.", keys)


def _map(position: Float64, by_session: Float64, names: tuple[str, str]) -> Chart:
    """Sessions where they are, coloured by who errs less there."""
    plane, centre = to_plane(position)
    drawn = sample_evenly(len(position), MAX_ON_MAP)
    drawn = drawn[np.argsort(-np.abs(by_session[drawn]), kind="stable")]  # the smaller above the larger
    layers = {"a-errs-less": drawn[by_session[drawn] > 0], "b-errs-less": drawn[by_session[drawn] <= 0]}
    largest = max(float(np.abs(by_session).max()), 1e-9)

    def draw(figure: Figure) -> None:
        axis: Any = figure.subplots()
        for (name, marks), colour, mark in zip(layers.items(), COLOURS, "os", strict=True):
            size = np.maximum(LARGEST_MARK**2 * np.abs(by_session[marks]) / largest, 10)
            where, how = plane[marks].T, {"edgecolors": "white", "linewidths": 0.8, "alpha": 0.85}
            axis.scatter(*where, s=size, marker=mark, color=f"tab:{colour}", gid=name, **how)
        axis.margins(0.1)
        map_axes(axis, fill=True)

    sample = f"{len(drawn):,} of {len(position):,} sessions, spread evenly. " if len(drawn) < len(position) else ""
    wins = [int((by_session > 0).sum()), int((by_session < 0).sum())]
    titles = {name: [f"{by_session[place] / 1000:+.2f} km" for place in marks] for name, marks in layers.items()}
    label = f"Map of {len(position):,} sessions: {names[0]} errs less in {wins[0]:,}, {names[1]} in {wins[1]:,}"
    return Chart(
        "Sessions, by the release that errs less",
        both_sizes(draw, label, (520, 360), titles),
        f"{sample}Size: by how much, at most {largest / 1000:,.2f} km. Distances from {centre[0]:.4f}°, {centre[1]:.4f}°.",
        (Key(COLOURS[0], f"{names[0]}: {wins[0]:,}", "●"), Key(COLOURS[1], f"{names[1]}: {wins[1]:,}", "■")),
        large=True,
    )


def _largest(paired: Paired, difference: Float64, names: tuple[str, str]) -> Table:
    order = np.argsort(-np.abs(difference), kind="stable")[:LISTED].tolist()
    header = (*CASE, f"error of {names[0]}, km", f"of {names[1]}, km", "difference, km")
    rows = [
        (
            *case_cells(paired.a, paired.capture_id, place),
            f"{paired.a.error_m[place] / 1000:,.2f}",
            f"{paired.b.error_m[place] / 1000:,.2f}",
            f"{difference[place] / 1000:+,.2f}",
        )
        for place in order
    ]
    return Table(f"The {len(rows)} rows in which they differ most", header, rows)
