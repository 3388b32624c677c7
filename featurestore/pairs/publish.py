"""From pairs to a pair set: its name, its labels, its manifest, and what to tell the user."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from featurestore.build.publish import version_of
from featurestore.errors import DataQualityError
from featurestore.objects.objects import Objects
from featurestore.pairs.plan import NOT_WANTED, PairPlan, PairUse
from featurestore.pairs.rows import NOBODY
from featurestore.pairs.segments import VALID, Unusable
from featurestore.progress import format_seconds
from featurestore.software import versions
from featurestore.store import sets
from featurestore.store.manifest import Manifest, SegmentRef
from featurestore.store.naming import read_latest
from featurestore.store.split import Split, count_splits
from featurestore.tensor.rejection import Reason, RejectedCapture

LABELS = ("split", "position", "clock_sigma_s")


@dataclass(frozen=True)
class PairBuildReport:
    """What a pair build did; the JSON that `build-pairs --json` prints. Rows are pairs with a delay."""

    version: str
    store: str
    url: str
    captures: int
    timed: int
    sessions: int
    rows: int
    without_delay: int
    splits: dict[str, int]
    rejected: dict[str, int]
    sessions_reused: int
    sessions_computed: int
    bytes_read: int
    seconds: float
    up_to_date: bool

    def to_json(self) -> dict[str, Any]:
        """All fields."""
        return asdict(self)

    def lines(self) -> Iterator[str]:
        """For people."""
        state = "is up to date" if self.up_to_date else "is built"
        yield f"pair set {self.version} {state}: {self.rows:,} pairs of {self.sessions:,} sessions"
        yield "  " + ", ".join(f"{name} {count:,}" for name, count in self.splits.items())
        yield f"  {self.timed:,} of {self.captures:,} captures have a time; {self.without_delay:,} pairs say nothing"
        if self.rejected:
            yield "  rejected: " + ", ".join(f"{reason} {count:,}" for reason, count in self.rejected.items())
        yield (
            f"  {self.sessions_computed:,} sessions computed, {self.sessions_reused:,} reused, "
            f"{self.bytes_read / 1e6:,.1f} MB read in {format_seconds(self.seconds)}"
        )
        yield f"  {self.url}"


@dataclass(frozen=True)
class Outcome:
    """All that a pair build knows when its segments are complete.

    Attributes:
        plan: what was planned.
        uses: the plan's, with the reason of every row.
        unusable: captures that cannot be used, by what was read of them.
        n_bytes: read.
        began: `time.monotonic` when the build began.
    """

    plan: PairPlan
    uses: Sequence[PairUse]
    unusable: Unusable
    n_bytes: int
    began: float

    @property
    def seconds(self) -> float:
        """Since the build began."""
        return round(time.monotonic() - self.began, 3)

    def rejected(self) -> list[RejectedCapture]:
        """One entry per rejected capture, in order of id."""
        snapshot, found = self.plan.snapshot, []
        place = {int(capture): index for index, capture in enumerate(snapshot.capture_id.tolist())}
        for index in np.flatnonzero(self.plan.capture_reason).tolist():
            reason = Reason(int(self.plan.capture_reason[index])).label
            text = "by catalog and listing"
            found.append(RejectedCapture(int(snapshot.capture_id[index]), snapshot.key(index), reason, text))
        for capture, (reason, text) in self.unusable.items():
            if capture in place:
                found.append(RejectedCapture(capture, snapshot.key(place[capture]), reason, text))
        return sorted(found, key=lambda entry: entry.capture_id)

    def require_quality(self, max_fraction: float) -> None:
        """Raise `DataQualityError` when more of the captures with a time are rejected than may be."""
        rejected = self.rejected()
        if len(rejected) > max_fraction * self.plan.timed:
            counts = Counter(entry.reason for entry in rejected)
            by_reason = ", ".join(f"{reason} {count:,}" for reason, count in sorted(counts.items()))
            raise DataQualityError(
                f"{len(rejected):,} of {self.plan.timed:,} captures with a time are rejected ({by_reason}), more than "
                f"--max-rejected-fraction {max_fraction:g}; nothing was published. For example capture "
                f"{rejected[0].capture_id}: {rejected[0].reason}, {rejected[0].detail}. Correct the captures, withdraw their "
                "approval, or raise the fraction, and run this again: what is computed is kept"
            )

    def labels(self) -> dict[str, npt.NDArray[Any]]:
        """The labels of all rows of all segments; unknown where a row is not served."""
        snapshot, sessions = self.plan.snapshot, self.plan.sessions
        columns: list[tuple[npt.NDArray[Any], ...]] = []
        for use in self.uses:
            served = (use.session != NOT_WANTED) & (np.asarray(use.reason) == VALID) & (use.rows.capture_a != NOBODY)
            first = np.array([sessions[place].capture[0] for place in use.session[served].tolist()], np.int64)
            split = np.full(len(served), Split.ABSENT, np.uint8)
            position, sigma = (np.full((len(served), 2), np.nan) for _ in range(2))
            split[served] = self.plan.capture_split[first]
            position[served] = snapshot.position[first]
            for side, name in enumerate("ab"):
                ids = getattr(use.rows, f"capture_{name}")[served]
                sigma[served, side] = snapshot.time_sigma_s[np.searchsorted(snapshot.capture_id, ids)]
            columns.append((split, position, sigma))
        return {name: np.concatenate(parts) for name, parts in zip(LABELS, zip(*columns, strict=True), strict=True)}


def version_id(plan: PairPlan) -> str:
    """The name of a pair set: spec, split, segments, and every session's captures with their labels."""
    segments = sorted(use.segment for use in plan.uses)
    head = {"spec": plan.spec.id, "segments": segments, "split": plan.split.to_json()}
    capture = np.concatenate([session.capture for session in plan.sessions])
    digests = np.frombuffer(b"".join(session.digest for session in plan.sessions), np.uint8)
    snapshot = plan.snapshot
    columns = (digests, snapshot.capture_id, snapshot.position, snapshot.time_sigma_s)
    return version_of(head, (column if column is digests else column[capture] for column in columns))


def publish(objects: Objects, outcome: Outcome, version: str) -> Mapping[str, Any]:
    """Write the labels, the rejected captures and, last, the manifest; returns its counts."""
    plan = outcome.plan
    latest = read_latest(objects)
    labels = outcome.labels()
    counts = counts_of(outcome, labels["split"])
    manifest = Manifest(
        version=version,
        spec=plan.spec.id,
        basis="",
        segments=tuple(SegmentRef(use.segment, len(use.rows)) for use in outcome.uses),
        split=plan.split.to_json(),
        snapshot={"captures": len(plan.snapshot), "query": plan.snapshot.query},
        counts=counts,
        labels={},
        parent=None if latest == version else latest,
        software=versions(),
        created=datetime.now(UTC).isoformat(timespec="microseconds"),
        seconds=outcome.seconds,
    )
    sets.publish(objects, manifest, labels, outcome.rejected())
    return counts


def counts_of(outcome: Outcome, split: npt.NDArray[np.uint8]) -> dict[str, Any]:
    """The manifest's counts; `computed` and `reused` are pairs."""
    plan = outcome.plan
    splits = count_splits(split)
    rows, new = sum(splits.values()), {use.segment for use in plan.to_compute}
    start, computed, pairs = 0, 0, 0
    for use in outcome.uses:
        served = split[start : start + len(use.rows)] != Split.ABSENT
        start += len(use.rows)
        computed += int(served.sum()) if use.segment in new else 0
        pairs += int((use.session != NOT_WANTED).sum())
    return {
        "captures": len(plan.snapshot),
        "timed": plan.timed,
        "sessions": len(plan.sessions),
        "pairs": pairs,
        "rows": rows,
        **splits,
        "rejected": dict(sorted(Counter(entry.reason for entry in outcome.rejected()).items())),
        "reused": rows - computed,
        "computed": computed,
    }
