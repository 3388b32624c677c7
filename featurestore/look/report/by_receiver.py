"""Captures of each receiver over time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from featurestore.look.report.labelled_rows import LabelledRows
from featurestore.page.charts import both_sizes
from featurestore.page.page import Html

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_DRAWN = 12
"""Receivers with a line of their own; the others are told in the table."""
UNITS = (("h", "hour", 72), ("D", "day", 120), ("M", "month", 120), ("Y", "year", 10_000))
"""numpy's name, ours, and the longest span that is drawn in it."""


@dataclass(frozen=True)
class Timeline:
    """Captures counted by receiver and time.

    Attributes:
        receivers: (r,) ids, the busiest first.
        starts: (bin,) when each bin begins.
        counts: (r, bin) captures.
        unit: hour, day, month or year.
        unknown: captures without a time.
    """

    receivers: npt.NDArray[np.int32]
    starts: npt.NDArray[np.datetime64]
    counts: npt.NDArray[np.int64]
    unit: str
    unknown: int

    @classmethod
    def of(cls, captures: LabelledRows) -> Timeline:
        """Of captures (`LabelledRows.captures`); bins as fine as fits a picture."""
        known = ~np.isnat(captures.timestamp)
        when, receiver = captures.timestamp[known], captures.websdr_id[known]
        receivers, line = np.unique(receiver, return_inverse=True)
        if not len(when):
            nothing = np.zeros((0, 0), np.int64)
            return cls(receivers, np.empty(0, "datetime64[D]"), nothing, "day", int((~known).sum()))
        first, last = when.min(), when.max()
        code, unit = next((code, unit) for code, unit, longest in UNITS if _n_bins(first, last, code) <= longest)
        start, n_bins = first.astype(f"datetime64[{code}]"), _n_bins(first, last, code)
        index = (when.astype(f"datetime64[{code}]") - start).astype(np.int64)
        flat = np.bincount(line.reshape(-1) * n_bins + index, minlength=len(receivers) * n_bins)
        counts = flat.reshape(len(receivers), n_bins)
        order = np.argsort(-counts.sum(axis=1), kind="stable")
        return cls(receivers[order], start + np.arange(n_bins), counts[order], unit, int((~known).sum()))


def _n_bins(first: np.datetime64, last: np.datetime64, code: str) -> int:
    return int((last.astype(f"datetime64[{code}]") - first.astype(f"datetime64[{code}]")).astype(int)) + 1


def draw_timeline(timeline: Timeline) -> Html:
    """One line of bars for each receiver, on one axis of time and one scale."""
    drawn = min(len(timeline.receivers), MAX_DRAWN)
    height = 60 + 44 * drawn
    label = (
        f"Captures per {timeline.unit} of {drawn} receivers, from {timeline.starts[0]} to {timeline.starts[-1]}: "
        f"{int(timeline.counts[:drawn].sum()):,} captures"
    )
    return both_sizes(lambda figure: _draw(figure, timeline, drawn), label, (height, height))


def _draw(figure: Figure, timeline: Timeline, drawn: int) -> None:
    axes: Any = figure.subplots(drawn, 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    places = np.arange(len(timeline.starts))
    for axis, receiver, counts in zip(axes, timeline.receivers, timeline.counts, strict=False):
        axis.bar(places, counts, color="tab:blue", width=0.9 if len(places) < 40 else 1.0)
        axis.set_ylabel(str(receiver), rotation=0, ha="right", va="center")
        axis.grid(axis="y", alpha=0.5, linewidth=0.6)
        axis.locator_params(axis="y", nbins=2, integer=True)
        axis.tick_params(axis="y", labelsize=9)
    wanted = 9 if figure.get_figwidth() > 8 else 4
    ticks = places[:: max(1, -(-len(places) // wanted))]
    axes[-1].set_xticks(ticks, [_when(timeline, place) for place in ticks.tolist()])
    axes[-1].set_xlim(-0.6, len(places) - 0.4)


def _when(timeline: Timeline, place: int) -> str:
    return str(timeline.starts[place]).replace("T", "\n") + (":00" if timeline.unit == "hour" else "")
