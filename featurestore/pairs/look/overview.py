"""What is in one pair set: `features show --pairs`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from featurestore.look.overview import head_lines, names_of_sets, rejected_lines, spec_line
from featurestore.pairs.look.served_pairs import ServedPairs, silent_pairs
from featurestore.pairs.pair_set import PairSet, open_pair_set
from featurestore.store.split import SPLITS

QUANTILES = (0.1, 0.5, 0.9)
LIKELY_CHANCE = 0.5


def show_pairs(store: str, version: str) -> dict[str, Any]:
    """Everything about one pair set but its pairs.

    Args:
        store: `s3://bucket/prefix`, `file:///dir` or a directory.
        version: a version, a tag, or `latest`.

    Returns:
        The manifest's entries; `url`, `names`, `spec` in full, `sessions` by split, `receivers` (pairs of each),
        `rejected_captures`, `without_delay` (why pairs say nothing, and how many) and `quantiles`: of each measure the values
        that 10%, 50% and 90% of the pairs stay below.
    """
    opened = open_pair_set(store, version)
    return describe(opened, ServedPairs.read(opened))


def describe(opened: PairSet, pairs: ServedPairs) -> dict[str, Any]:
    """The same of a set that is open, and whose pairs were read."""
    receivers = Counter(pairs.websdr.ravel().tolist())
    return {
        **opened.manifest.to_json(),
        "url": opened.url,
        "names": names_of_sets(opened.objects).get(opened.version, []),
        "spec_id": opened.manifest.spec,
        "spec": opened.spec.to_json(),
        "sessions": {name: pairs.sessions_of(code) for code, name in enumerate(SPLITS)},
        "receivers": {str(receiver): receivers[receiver] for receiver in sorted(receivers)},
        "rejected_captures": [entry.__dict__ for entry in opened.rejected],
        "without_delay": {kind: count for kind, (count, _) in silent_pairs(opened).items()},
        "quantiles": {
            "peak_db": _quantiles(pairs.peak_db),
            "sigma_us": _quantiles(1e6 * pairs.column("sigma_s")),
            "clock_sigma_us": _quantiles(1e6 * pairs.clock_sigma_s.ravel()),
            "seconds": _quantiles(pairs.column("seconds")),
        },
        "likely_chance": int((pairs.column("wrong") > LIKELY_CHANCE).sum()),
        "clock_unknown": int(np.isnan(pairs.clock_sigma_s).any(axis=1).sum()),
    }


def _quantiles(values: npt.NDArray[np.float64]) -> list[float] | None:
    known = values[np.isfinite(values)]
    return np.quantile(known, QUANTILES).tolist() if len(known) else None


def show_lines(shown: dict[str, Any]) -> Iterator[str]:
    """The same, for people."""
    counts = shown["counts"]
    yield from head_lines("pair set", shown)
    silent = counts["pairs"] - counts["rows"]
    yield f"pairs: {counts['rows']:,} of {counts['sessions']:,} sessions, and {silent:,} without a delay"
    for name in SPLITS:
        yield f"  {name:5} {counts[name]:>9,} pairs of {shown['sessions'][name]:,} sessions"
    yield f"captures: {counts['timed']:,} of {counts['captures']:,} have a time"
    yield "  pairs by receiver: " + ", ".join(f"{receiver}: {pairs:,}" for receiver, pairs in shown["receivers"].items())
    yield spec_line(shown)
    yield "measured (of 10%, 50% and 90% of the pairs, at most):"
    names = {"peak_db": "peak, dB", "sigma_us": "sigma, µs", "clock_sigma_us": "clock sigma, µs", "seconds": "seconds"}
    for name, title in names.items():
        values = shown["quantiles"][name]
        yield f"  {title:16}" + ("unknown" if values is None else "".join(f"{value:12.4g}" for value in values))
    chance, unknown = shown["likely_chance"], shown["clock_unknown"]
    yield f"  {chance:,} peaks are more likely chance than not; a clock of {unknown:,} pairs is unknown"
    for kind, count in shown["without_delay"].items():
        yield f"  without a delay {count:>6,}  {kind}"
    yield from rejected_lines(counts["rejected"], shown["rejected_captures"])
