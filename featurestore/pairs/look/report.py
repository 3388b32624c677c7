"""The report of a pair set: `features report --pairs`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featurestore.look.report.distributions import draw_by_split
from featurestore.look.report.set_pictures import SPLIT_LEGEND
from featurestore.look.report.set_report import ReportRequest, builds, lead, rejections, tables, title
from featurestore.option import options_in
from featurestore.page.charts import require_matplotlib, to_svg
from featurestore.page.page import Card, Chart, Page, Table, require_place
from featurestore.page.pictures import save_pictures
from featurestore.pairs.look.overview import describe
from featurestore.pairs.look.served_pairs import ServedPairs, silent_pairs
from featurestore.pairs.pair_set import PairSet, open_pair_set
from featurestore.pairs.spec import PairSpec
from featurestore.store.split import SPLITS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EXAMPLES = 6
QUANTILE_ROWS = (
    ("peak over unrelated noise, dB", "peak_db"),
    ("sigma of the delay, µs", "sigma_us"),
    ("sigma of a clock, µs", "clock_sigma_us"),
    ("seconds that both heard", "seconds"),
)


def write_pair_report(request: ReportRequest) -> list[Path]:
    """Write the report of a pair set as one HTML file, and its pictures as files of their own if they are wanted.

    Returns:
        The files written: the page first.

    Raises:
        UsageError: when there is no such set, a file cannot be written, or Matplotlib is not installed.
        StoreError: when the set is damaged.
    """
    require_place(request.path)
    require_matplotlib()
    document = describe_pairs(open_pair_set(request.store, request.version)).save(request.path)
    return [request.path, *(() if request.pictures is None else save_pictures(document, request.pictures))]


def describe_pairs(opened: PairSet) -> Page:
    """The report."""
    pairs = ServedPairs.read(opened)
    shown = describe(opened, pairs)
    return Page(
        "featurestore.pairs.look/pairs.html",
        title=title("Pair set", shown),
        lead=lead(shown),
        cards=_cards(opened, shown),
        data={
            "what": _identity(opened, shown),
            "measures": _measures(pairs, shown),
            "examples": [_example(opened, pairs, index) for index in _spread(pairs)],
            "receivers": _receivers(pairs),
            "silent": _silent(opened),
            "rejected": rejections(shown),
            "builds": builds(opened.objects, opened.manifest),
        },
    )


def _cards(opened: PairSet, shown: dict[str, Any]) -> list[Card]:
    counts, sessions = shown["counts"], shown["sessions"]
    rejected = sum(counts["rejected"].values())
    return [
        Card("pairs", f"{counts['rows']:,}", f"and {counts['pairs'] - counts['rows']:,} without a delay"),
        Card("sessions", f"{counts['sessions']:,}", f"{len(shown['receivers']):,} receivers"),
        *(Card(name, f"{counts[name]:,}", f"pairs of {sessions[name]:,} sessions") for name in SPLITS),
        Card("captures with a time", f"{counts['timed']:,}", f"of {counts['captures']:,}"),
        Card("rejected", f"{rejected:,}", "captures"),
        Card("lags", f"{opened.spec.n_lags:,}", f"to ±{opened.spec.max_lag_us:g} µs"),
    ]


def _identity(opened: PairSet, shown: dict[str, Any]) -> dict[str, Any]:
    meaning = {field.name: option.text for field, option in options_in(PairSpec)}
    n_bytes = 4 * opened.spec.n_lags * shown["counts"]["rows"]
    return {
        "pairs": f"Each row is a pair of receivers of one session: how their recordings correlate over {opened.spec.n_lags:,} "
        f"lags, and the delay that this gives. Correlations take {n_bytes / 1e6:,.1f} MB.",
        **tables("Parameters of the pairs (spec)", meaning, shown),
    }


def _measures(pairs: ServedPairs, shown: dict[str, Any]) -> dict[str, Any]:
    clocks = pairs.clock_sigma_s.ravel()
    with np.errstate(divide="ignore"):  # a perfect clock is minus infinity, and left out
        drawn = [
            ("Peaks", pairs.peak_db, pairs.split, "peak", "dB"),
            ("Sigmas of delays", np.log10(1e6 * pairs.column("sigma_s")), pairs.split, "sigma of the delay", "log₁₀ µs"),
            ("Sigmas of clocks", np.log10(1e6 * clocks), np.repeat(pairs.split, 2), "sigma of a clock", "log₁₀ µs"),
        ]
    quantiles = shown["quantiles"]
    rows = [
        (text, *(["unknown"] if quantiles[name] is None else [f"{value:.4g}" for value in quantiles[name]]))
        for text, name in QUANTILE_ROWS
    ]
    return {
        "charts": [
            Chart(name, draw_by_split(values, split, what, unit), legend=SPLIT_LEGEND)
            for name, values, split, what, unit in drawn
        ],
        "quantiles": Table("What was measured", ("of the pairs, at most", "10%", "50%", "90%"), rows),
        "doubtful": f"{shown['likely_chance']:,} peaks are more likely chance than not. Of {shown['clock_unknown']:,} pairs a "
        "clock's sigma is unknown; such pairs say nothing of a place.",
    }


def _spread(pairs: ServedPairs) -> list[int]:
    """Some pairs from the lowest peak to the highest."""
    order = np.argsort(pairs.column("peak"), kind="stable")
    return order[np.unique(np.linspace(0, len(order) - 1, EXAMPLES).round().astype(int))].tolist() if len(order) else []


def _example(opened: PairSet, pairs: ServedPairs, index: int) -> Chart:
    lag_us, delay_us = 1e6 * opened.spec.lag_s, 1e6 * float(pairs.column("delay_s")[index])
    power = np.abs(pairs.correlation(opened, index)) ** 2
    peak_db, sigma_us = float(pairs.peak_db[index]), 1e6 * float(pairs.column("sigma_s")[index])

    def draw(figure: Figure) -> None:
        axis: Any = figure.subplots()
        axis.plot(lag_us, power, color="tab:blue", linewidth=1.2)
        axis.axvline(delay_us, color="tab:orange", linewidth=1.2)
        axis.set_xlabel("lag, µs")
        axis.set_ylabel("|correlation|²")
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.5, linewidth=0.6)

    what = f"delay {delay_us:.2f} ± {sigma_us:.2g} µs, peak {peak_db:.1f} dB"
    return Chart(what, to_svg(draw, f"Correlation of {pairs.name(index)}: {what}", 200), pairs.name(index))


def _receivers(pairs: ServedPairs) -> Table:
    rows = []
    for receiver in np.unique(pairs.websdr).tolist():
        mine = pairs.websdr == receiver  # (pair, side)
        sigma_us = 1e6 * pairs.clock_sigma_s[mine]
        known = sigma_us[np.isfinite(sigma_us)]
        has = mine.any(axis=1)
        clock = f"{np.median(known):.3g}" if len(known) else "unknown"
        sessions = len(np.unique(pairs.session[has]))
        rows.append((str(receiver), f"{has.sum():,}", f"{sessions:,}", f"{np.median(pairs.peak_db[has]):.1f}", clock))
    header = ("receiver", "pairs", "sessions", "median peak, dB", "median clock sigma, µs")
    return Table("Receivers", header, rows)


def _silent(opened: PairSet) -> Table | None:
    found = silent_pairs(opened)
    rows = [(example, f"{count:,}") for count, example in found.values()]
    caption = "Pairs of its segments, those of sessions included that it does not serve, by what was found"
    return Table(caption, ("for example", "pairs"), rows, text=(0,), long=(0,)) if found else None
