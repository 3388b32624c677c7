"""From tensors to a feature set: its name, its labels, its manifest, and what to tell the user."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from featurestore.build.plan import Plan
from featurestore.build.quality import Quality
from featurestore.build.stages import TensorBuild
from featurestore.objects.objects import Location, Objects
from featurestore.progress import format_seconds
from featurestore.software import versions
from featurestore.source.snapshot import NO_TIMESTAMP
from featurestore.store import sets
from featurestore.store.bases import Basis
from featurestore.store.manifest import Manifest, SegmentRef
from featurestore.store.set_receivers import named_receivers, receivers_id
from featurestore.store.sets import Labels
from featurestore.store.split import Split, count_splits
from featurestore.tensor.spec import ID_DIGITS, canonical_json


@dataclass(frozen=True)
class BuildReport:
    """What a build did; the JSON that `build-features --json` prints."""

    version: str
    store: str
    url: str
    captures: int
    rows: int
    splits: dict[str, int]
    rejected: dict[str, int]
    reused: int
    computed: int
    bytes_read: int
    seconds: float
    captures_per_second: float
    up_to_date: bool

    def to_json(self) -> dict[str, Any]:
        """All fields."""
        return asdict(self)

    def lines(self) -> Iterator[str]:
        """For people."""
        state = "is up to date" if self.up_to_date else "is built"
        yield f"feature set {self.version} {state}: {self.rows:,} rows of {self.captures:,} captures"
        yield "  " + ", ".join(f"{name} {count:,}" for name, count in self.splits.items())
        if self.rejected:
            yield "  rejected: " + ", ".join(f"{reason} {count:,}" for reason, count in self.rejected.items())
        rate = self.captures_per_second
        yield (
            f"  {self.computed:,} computed, {self.reused:,} reused, {self.bytes_read / 1e6:,.1f} MB read "
            f"in {format_seconds(self.seconds)} ({rate:,.0f} captures/s)"
        )
        yield f"  {self.url}"


@dataclass(frozen=True)
class Outcome:
    """All that a build knows when its tensors exist; `latest` is the version that had this name then."""

    plan: Plan
    work: TensorBuild
    quality: Quality
    basis: Basis
    version: str
    latest: str | None
    began: float

    @property
    def seconds(self) -> float:
        """Since the build began."""
        return round(time.monotonic() - self.began, 3)

    @cached_property
    def labels(self) -> Labels:
        """The labels of all rows of all segments; unknown where a row is not served."""
        snapshot = self.plan.snapshot
        capture = np.concatenate([batch.use.capture for batch in self.work.batches])
        served = np.concatenate([batch.served for batch in self.work.batches])
        return Labels(
            split=np.where(served, self.plan.capture_split[capture], Split.ABSENT).astype(np.uint8),
            position=np.where(served[:, None], snapshot.position[capture], np.nan),
            snr_db=np.where(served, snapshot.snr_db[capture], np.float32(np.nan)),
            frequency_mhz=np.where(served, snapshot.frequency_mhz[capture], np.float32(np.nan)),
            timestamp=np.where(served, snapshot.timestamp[capture], NO_TIMESTAMP),
            start_time_ns=np.where(served, snapshot.start_time_ns[capture], NO_TIMESTAMP),
            time_sigma_s=np.where(served, snapshot.time_sigma_s[capture], np.nan),
        )

    @cached_property
    def splits(self) -> dict[str, int]:
        """Rows in each split."""
        return count_splits(self.labels.split)

    @cached_property
    def counts(self) -> dict[str, Any]:
        """The manifest's counts."""
        rows = sum(self.splits.values())
        computed = sum(batch.rows_computed for batch in self.work.batches)
        return {
            "captures": len(self.plan.snapshot),
            "rows": rows,
            **self.splits,
            "rejected": self.quality.counts(),
            "reused": rows - computed,
            "computed": computed,
        }

    def report(self, store: Location, *, up_to_date: bool) -> BuildReport:
        """What to tell the user."""
        counts, seconds = self.counts, self.seconds
        return BuildReport(
            version=self.version,
            store=store.url,
            url=f"{store.url}/{sets.set_path(self.version)}",
            captures=counts["captures"],
            rows=counts["rows"],
            splits=self.splits,
            rejected=counts["rejected"],
            reused=counts["reused"],
            computed=counts["computed"],
            bytes_read=self.work.n_bytes,
            seconds=seconds,
            captures_per_second=round(len(self.plan.snapshot) / max(seconds, 1e-9), 1),
            up_to_date=up_to_date,
        )


def publish(objects: Objects, outcome: Outcome) -> None:
    """Write the labels, the list of rejected captures and, last, the manifest of a set."""
    plan, latest = outcome.plan, outcome.latest
    named = named_receivers(receivers_id(plan.snapshot.receivers))
    manifest = Manifest(
        version=outcome.version,
        spec=plan.spec.id,
        basis=outcome.basis.id,
        segments=tuple(SegmentRef(use.segment, len(use.rows)) for use in plan.segments),
        split=plan.split.to_json(),
        snapshot={"captures": len(plan.snapshot), "query": plan.snapshot.query, **named},
        counts=outcome.counts,
        labels={},
        parent=None if latest == outcome.version else latest,  # its manifest was damaged, and is written again
        software=versions(),
        created=datetime.now(UTC).isoformat(timespec="microseconds"),
        seconds=outcome.seconds,
    )
    sets.publish(objects, manifest, outcome.labels, outcome.quality.entries(), plan.snapshot.receivers)


def version_id(plan: Plan, basis: str) -> str:
    """The name of a feature set, by what its plan knows of receivers; see `version_with`."""
    return version_with(plan, basis, receivers_id(plan.snapshot.receivers))


def version_with(plan: Plan, basis: str, receivers: str | None) -> str:
    """The name of a feature set: spec, basis, split, receivers, and every capture with its object and all its labels.

    The segments are part of it, since the label arrays follow their order: two builders that find the same rows in other
    segments must not write under one name.

    Args:
        plan: of the build.
        basis: its name.
        receivers: digest of the table of receivers; `None` where there is none.
    """
    segments = sorted(use.segment for use in plan.segments)
    head = {"spec": plan.spec.id, "basis": basis, "segments": segments, "split": plan.split.to_json()}
    head |= named_receivers(receivers)
    snapshot = plan.snapshot
    columns: tuple[npt.NDArray[Any], ...] = (
        snapshot.capture_id,
        plan.listing.source_digest,
        snapshot.session_id,
        snapshot.websdr_id,
        snapshot.position,
        snapshot.frequency_mhz,
        snapshot.sample_rate_hz,
        snapshot.snr_db,
        snapshot.timestamp,
        *sets.with_times(snapshot.start_time_ns, snapshot.time_sigma_s),
    )
    return version_of(head, columns)


def version_of(head: dict[str, Any], columns: Iterable[npt.NDArray[Any]]) -> str:
    """The digest behind `version_id`: of parameters, and of columns with one entry per capture, in their order there."""
    content = hashlib.sha256(canonical_json(head).encode())
    for column in columns:
        content.update(np.ascontiguousarray(column, column.dtype.newbyteorder("<")).tobytes())
    return content.hexdigest()[:ID_DIGITS]
