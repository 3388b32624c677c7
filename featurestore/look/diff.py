"""How one feature set differs from another: parameters, captures, labels, splits, counts and statistics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from featurestore.progress import Progress, Silent
from featurestore.store.feature_set import FeatureSet, open_set
from featurestore.store.sets import Labels
from featurestore.store.split import SPLITS, Split
from featurestore.tensor.spec import CHANNELS

COUNTS = ("captures", "rows", *SPLITS)
SHOWN_IDS = 10

Columns = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Difference:
    """What `features diff A B --json` prints; of every pair the first is of A, the second of B.

    Attributes:
        a: version of A.
        b: version of B.
        parameters: `spec.NAME`, `split.NAME`, `query` and `receiver.NUMBER`, its place, where they differ.
        counts: captures, rows, rows of each split, and `rejected.REASON`, where they differ.
        added: ids of captures that only B serves, sorted.
        removed: ids of captures that only A serves.
        changed: ids of captures that both serve, from another recording: key, size, ETag or time of the object differ.
        relabelled: ids of captures whose label differs, by label; those changed included.
        moved: ids of captures that are in another split, by `FROM → TO`.
        statistics: of mean and std, the largest difference and where it is; `None` when both have one basis, and without
            differences when their bands are not the same.
    """

    a: str
    b: str
    parameters: dict[str, tuple[Any, Any]]
    counts: dict[str, tuple[int, int]]
    added: list[int]
    removed: list[int]
    changed: list[int]
    relabelled: dict[str, list[int]]
    moved: dict[str, list[int]]
    statistics: dict[str, Any] | None

    def to_json(self) -> dict[str, Any]:
        """All fields."""
        return asdict(self)

    def lines(self) -> Iterator[str]:
        """For people."""
        yield f"A {self.a}, B {self.b}"
        if self.a == self.b:
            yield "  one and the same feature set"
            return
        yield "parameters:" + ("" if self.parameters else " the same")
        for name, (before, after) in self.parameters.items():
            yield f"  {name:24} {before} → {after}"
        yield "counts:" + ("" if self.counts else " the same")
        for name, (before, after) in self.counts.items():
            yield f"  {name:24} {before:,} → {after:,} ({after - before:+,})"
        yield "captures:" + ("" if self.added or self.removed or self.changed else " the same")
        for name, ids in (("added", self.added), ("removed", self.removed), ("another recording", self.changed)):
            yield from _ids_lines(name, ids)
        yield "labels:" + ("" if self.relabelled else " the same")
        for name, ids in self.relabelled.items():
            yield from _ids_lines(name, ids)
        yield "splits:" + ("" if self.moved else " the same")
        for name, ids in self.moved.items():
            yield from _ids_lines(name, ids)
        yield from _statistics_lines(self.statistics)


def difference(store: str, a: str, b: str, progress: Progress | None = None) -> Difference:
    """Compare two feature sets of a store.

    Args:
        store: `s3://bucket/prefix`, `file:///dir` or a directory.
        a: a version, a tag, or `latest`.
        b: likewise.
        progress: where to report.

    Raises:
        UsageError: when there is no such set.
        StoreError: when one is damaged.
        ServiceUnavailableError: when the store does not answer.
    """
    first, second = open_set(store, a), open_set(store, b)
    progress = progress or Silent()
    progress.start("read labels and facts", 2, "feature sets")
    left, right = (_captures(opened, progress) for opened in (first, second))
    in_both, at_left, at_right = np.intersect1d(left["id"], right["id"], assume_unique=True, return_indices=True)

    def differing(name: str) -> npt.NDArray[np.bool_]:
        one, other = left[name][at_left], right[name][at_right]
        unequal: npt.NDArray[np.bool_] = one != other
        if one.dtype.kind == "f":
            unequal &= ~(np.isnan(one) & np.isnan(other))  # unknown in both
        return np.asarray(unequal if unequal.ndim == 1 else unequal.any(axis=1), bool)

    labels = [name for name in left if name not in ("id", "source_digest", "split")]
    relabelled = {name: in_both[differing(name)].tolist() for name in labels}
    return Difference(
        first.version,
        second.version,
        _unequal(_parameters(first), _parameters(second)),
        _unequal(_counts(first), _counts(second), absent=0),
        np.setdiff1d(right["id"], left["id"], assume_unique=True).tolist(),
        np.setdiff1d(left["id"], right["id"], assume_unique=True).tolist(),
        in_both[differing("source_digest")].tolist(),
        {name: ids for name, ids in relabelled.items() if ids},
        _moved(in_both, left["split"][at_left], right["split"][at_right]),
        _statistics(first, second),
    )


def _captures(opened: FeatureSet, progress: Progress) -> Columns:
    """The captures that a set serves, in order of their id, each with its recording, session, receiver and labels."""
    labels = opened.labels
    served = np.flatnonzero(labels.split != Split.ABSENT)
    ids, first = np.unique(opened.fact("capture_id")[served], return_index=True)
    rows = served[first]  # one window speaks for all of a capture
    columns = {
        "id": ids,
        **{name: opened.fact(name)[rows] for name in ("source_digest", "session_id", "websdr_id")},
        **{field.name: getattr(labels, field.name)[rows] for field in fields(Labels)},
    }
    progress.advance(1)
    return columns


def _parameters(opened: FeatureSet) -> dict[str, Any]:
    return {
        **{f"spec.{name}": value for name, value in opened.spec.to_json().items()},
        **{f"split.{name}": value for name, value in opened.manifest.split.items()},
        "query": opened.manifest.snapshot["query"],
        **{f"receiver.{row[0]}": _place(row) for row in opened.receivers.rows()},
    }


def _place(row: tuple[int, float, float, str, float | None]) -> str:
    _, latitude, longitude, name, altitude_m = row
    height = "" if altitude_m is None else f", {altitude_m:g} m"
    return f"{latitude:.5f} {longitude:.5f}{height}" + (f" ({name})" if name else "")


def _counts(opened: FeatureSet) -> dict[str, int]:
    counts = opened.manifest.counts
    rejected = {f"rejected.{reason}": count for reason, count in counts["rejected"].items()}
    return {**{name: counts[name] for name in COUNTS}, **rejected}


def _unequal(one: Mapping[str, Any], other: Mapping[str, Any], absent: Any = None) -> dict[str, tuple[Any, Any]]:
    pairs = {name: (one.get(name, absent), other.get(name, absent)) for name in {**one, **other}}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _moved(ids: npt.NDArray[Any], before: npt.NDArray[Any], after: npt.NDArray[Any]) -> dict[str, list[int]]:
    moved: dict[str, list[int]] = {}
    for one in (Split.TRAIN, Split.VAL, Split.TEST):
        for other in (Split.TRAIN, Split.VAL, Split.TEST):
            there = ids[(before == one) & (after == other)].tolist()
            if one is not other and there:
                moved[f"{one.name.lower()} → {other.name.lower()}"] = there
    return moved


def _statistics(first: FeatureSet, second: FeatureSet) -> dict[str, Any] | None:
    one, other = first.basis, second.basis
    if one.id == other.id:
        return None
    difference: dict[str, Any] = {"basis": (one.id, other.id), "train_rows": (one.rows, other.rows)}
    bands = ("n_mels", "n_mfcc", "f_min_hz", "f_max_hz", "sample_rate_hz")
    if any(getattr(first.spec, name) != getattr(second.spec, name) for name in bands):
        return {**difference, "comparable": False}
    difference |= {"comparable": True, "units": "1" if first.spec.n_mfcc else "dB"}
    for name in ("mean", "std"):
        change = getattr(other, name).astype(np.float64) - getattr(one, name)  # (channel, band)
        channel, band = np.unravel_index(np.abs(change).argmax(), change.shape)
        difference[name] = {"largest": float(change[channel, band]), "channel": CHANNELS[channel], "band": int(band)}
    return difference


def _statistics_lines(statistics: dict[str, Any] | None) -> Iterator[str]:
    if statistics is None:
        yield "statistics: one basis"
        return
    bases, rows = statistics["basis"], statistics["train_rows"]
    yield f"statistics: basis {bases[0]} → {bases[1]}, from {rows[0]:,} → {rows[1]:,} train rows"
    if not statistics["comparable"]:
        yield "  their bands are not the same, so mean and std cannot be compared"
        return
    units = "" if statistics["units"] == "1" else " " + statistics["units"]
    for name in ("mean", "std"):
        difference = statistics[name]
        yield (
            f"  {name:24} differs most by {difference['largest']:+.2f}{units}, in band {difference['band']} of "
            f"{difference['channel']}"
        )


def _ids_lines(name: str, ids: list[int]) -> Iterator[str]:
    if ids:
        some = ", ".join(map(str, ids[:SHOWN_IDS])) + (", …" if len(ids) > SHOWN_IDS else "")
        yield f"  {name:24} {len(ids):,}: {some}"
