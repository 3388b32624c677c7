"""The build: catalog and raw captures → a feature set. Plans, makes the tensors exist, publishes a view of them."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from featurestore import catalog, sets
from featurestore.bases import Basis, current_basis
from featurestore.cluster import open_runner
from featurestore.errors import DataQualityError
from featurestore.listing import read_listing
from featurestore.manifest import Manifest, SegmentRef
from featurestore.mel import taper
from featurestore.objects import Location, Objects, open_objects
from featurestore.plan import Plan, SegmentUse, make_plan
from featurestore.progress import Progress, format_seconds
from featurestore.quality import Quality
from featurestore.segments import Rejected as RejectedRows
from featurestore.segments import read_holdings
from featurestore.sets import Labels
from featurestore.snapshot import NO_TIMESTAMP
from featurestore.software import versions
from featurestore.spec import ID_DIGITS, FeatureSpec, SplitSpec, canonical_json
from featurestore.split import Split, count_splits
from featurestore.tensors import TensorBuild, needs_fit


@dataclass(frozen=True)
class BuildRequest:
    """What to build from what.

    Attributes:
        catalog: PostgreSQL connection string.
        raw: where the captures are.
        store: where features go.
        spec: of the tensors.
        split: of the set.
        query: SQL for a catalog with another schema.
        limit: take only the first captures by id.
        max_rejected_fraction: fail when a larger share of the captures is rejected.
        refit: `auto`, `always` or `never`: when to fit a new basis.
        tag: name to give the set.
        workers: processes on this machine; 0 works in this process, `None` decides by the amount of work.
        scheduler: address of a Dask scheduler to use instead.
    """

    catalog: str
    raw: Location
    store: Location
    spec: FeatureSpec
    split: SplitSpec
    query: str | None = None
    limit: int | None = None
    max_rejected_fraction: float = 0.05
    refit: str = "auto"
    tag: str | None = None
    workers: int | None = None
    scheduler: str | None = None


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


def build(request: BuildRequest, progress: Progress) -> BuildReport:
    """Bring the store up to date with catalog and captures, and publish the feature set that this gives.

    Nothing can be read as a feature set before all of it is written; what an interrupted build has computed is found by
    the next one.

    Raises:
        UsageError: when something that was asked for cannot be.
        DataQualityError: when too many captures are rejected; nothing is published then.
        StoreError: when an object store refuses, or something in the store is damaged.
        ServiceUnavailableError: when catalog, object store or scheduler do not answer.
    """
    began = time.monotonic()
    if request.tag is not None:
        sets.check_tag(request.tag)
    plan = prepare(request, progress)
    quality = Quality(plan, request.max_rejected_fraction)
    quality.check()
    if not plan.segments:
        raise DataQualityError(
            "no approved capture is usable, so there is nothing to build; correct the captures, or approve others"
        )
    objects = open_objects(request.store.url)
    if plan.rows_to_compute:
        sets.write_spec(objects, plan.spec)
    work = TensorBuild(plan, request.raw.url, objects, progress)
    for batch in work.batches:
        quality.add(batch.use, batch.rejected)
    basis = _make_tensors(request, plan, work, quality, progress)
    outcome = _Outcome(plan, work, quality, basis, version_id(plan, basis.id), began)
    up_to_date = sets.has_set(objects, outcome.version)
    if not up_to_date:
        _publish(objects, outcome)
    if sets.read_pointer(objects, f"{sets.LATEST}.json") != outcome.version:
        sets.point(objects, outcome.version)
    if request.tag is not None:
        sets.point(objects, outcome.version, request.tag)
    return outcome.report(request.store, up_to_date=up_to_date)


def prepare(request: BuildRequest, progress: Progress) -> Plan:
    """Read catalog, raw listing and what the store holds, and plan; writes nothing.

    Raises:
        DataQualityError: when no capture is approved.
    """
    raw, objects = open_objects(request.raw.url), open_objects(request.store.url)
    raw.check()
    if not request.store.is_local:
        objects.check()
    snapshot = catalog.read_snapshot(request.catalog, request.query, request.limit)
    if not len(snapshot):
        raise DataQualityError(
            f"{catalog.describe(request.catalog)} holds no approved capture; set approved for some, "
            "or bring some in with ingest or simulate"
        )
    progress.say(f"catalog: {len(snapshot):,} approved captures")
    listing = read_listing(raw, snapshot, progress)
    plan = make_plan(request.spec, request.split, snapshot, listing, read_holdings(objects, request.spec))
    if plan.rows_to_compute:
        taper(plan.spec)  # does scipy know the window? Better asked here than by every worker
    progress.say(
        f"plan: {plan.rows_reused:,} rows reused, {plan.rows_to_compute:,} to compute in {plan.chunks_to_compute:,} chunks "
        f"(about {plan.bytes_to_read / 1e6:,.0f} MB to read)"
    )
    return plan


def _make_tensors(request: BuildRequest, plan: Plan, work: TensorBuild, quality: Quality, progress: Progress) -> Basis:
    basis = current_basis(open_objects(request.store.url), plan.spec.id)
    # Computing can only find fewer rows than planned: a basis that does for all of them does for those that are left.
    at_once = None if needs_fit(request.refit, basis, work.train_rows()) else basis

    def on_part(use: SegmentUse, rejected: RejectedRows) -> None:
        quality.add(use, rejected)
        quality.check()

    n_tasks = work.chunks_to_compute() + work.chunks_to_normalize(at_once)
    with open_runner(request.workers, request.scheduler, progress, n_tasks) as runner:
        work.compute(runner, at_once, on_part)
        train_rows = work.train_rows()
        if basis is None or needs_fit(request.refit, basis, train_rows):
            if not train_rows:
                raise DataQualityError(
                    "no valid capture is in the train split, so there is nothing to normalize by; "
                    "approve more sessions, or choose another --split-seed, --val-fraction or --test-fraction"
                )
            fitted = work.fit(runner)
            if basis is not None and fitted.id != basis.id:
                progress.say(f"new basis {fitted.id} from {train_rows:,} train rows; {basis.id} came from {basis.rows:,}")
            basis = fitted
        work.normalize(runner, basis)
    work.complete(basis)
    return basis


@dataclass(frozen=True)
class _Outcome:
    """All that a build knows when its tensors exist."""

    plan: Plan
    work: TensorBuild
    quality: Quality
    basis: Basis
    version: str
    began: float

    @property
    def seconds(self) -> float:
        return round(time.monotonic() - self.began, 3)

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
        )

    def counts(self, splits: dict[str, int]) -> dict[str, Any]:
        """The manifest's counts."""
        rows = sum(splits.values())
        computed = sum(batch.rows_computed for batch in self.work.batches)
        return {
            "captures": len(self.plan.snapshot),
            "rows": rows,
            **splits,
            "rejected": self.quality.counts(),
            "reused": rows - computed,
            "computed": computed,
        }

    def report(self, store: Location, *, up_to_date: bool) -> BuildReport:
        """What to tell the user."""
        splits = count_splits(self.labels().split)
        counts = self.counts(splits)
        seconds = self.seconds
        return BuildReport(
            version=self.version,
            store=store.url,
            url=f"{store.url}/{sets.set_path(self.version)}",
            captures=counts["captures"],
            rows=counts["rows"],
            splits=splits,
            rejected=counts["rejected"],
            reused=counts["reused"],
            computed=counts["computed"],
            bytes_read=self.work.n_bytes,
            seconds=seconds,
            captures_per_second=round(len(self.plan.snapshot) / max(seconds, 1e-9), 1),
            up_to_date=up_to_date,
        )


def _publish(objects: Objects, outcome: _Outcome) -> None:
    plan, labels = outcome.plan, outcome.labels()
    parent = sets.read_pointer(objects, f"{sets.LATEST}.json")
    crcs, metadata = sets.write_labels(objects, outcome.version, labels)
    manifest = Manifest(
        version=outcome.version,
        spec=plan.spec.id,
        basis=outcome.basis.id,
        segments=tuple(SegmentRef(use.segment, len(use.rows)) for use in plan.segments),
        split=plan.split.to_json(),
        snapshot={"captures": len(plan.snapshot), "query": plan.snapshot.query},
        counts=outcome.counts(count_splits(labels.split)),
        labels=crcs,
        parent=parent,
        software=versions(),
        created=datetime.now(UTC).isoformat(timespec="microseconds"),
        seconds=outcome.seconds,
    )
    sets.publish(objects, manifest, metadata, outcome.quality.entries())


def version_id(plan: Plan, basis: str) -> str:
    """The name of a feature set: spec, basis, split, and every capture with its object and all its labels.

    The segments are part of it, since the label arrays follow their order: two builders that find the same rows in other
    segments must not write under one name.
    """
    segments = sorted(use.segment for use in plan.segments)
    head = {"spec": plan.spec.id, "basis": basis, "segments": segments, "split": plan.split.to_json()}
    content = hashlib.sha256(canonical_json(head).encode())
    snapshot = plan.snapshot
    columns = (
        snapshot.capture_id,
        plan.listing.source_digest,
        snapshot.session_id,
        snapshot.websdr_id,
        snapshot.position,
        snapshot.frequency_mhz,
        snapshot.sample_rate_hz,
        snapshot.snr_db,
        snapshot.timestamp,
    )
    for column in columns:
        content.update(np.ascontiguousarray(column, column.dtype.newbyteorder("<")).tobytes())
    return content.hexdigest()[:ID_DIGITS]
