"""The build: catalog and raw captures → a feature set. Plans, makes the tensors exist, publishes a view of them."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from featurestore.build.plan import Plan, SegmentUse, make_plan
from featurestore.build.publish import BuildReport, Outcome, publish, version_id
from featurestore.build.quality import Quality
from featurestore.build.stages import TensorBuild, needs_fit
from featurestore.cluster.runner import open_runner
from featurestore.errors import DataQualityError, StoreError
from featurestore.objects.concurrently import at_once, check_all
from featurestore.objects.objects import Location, Objects, open_objects
from featurestore.progress import Progress
from featurestore.source.catalog import read_snapshot
from featurestore.source.catalog_connection import describe
from featurestore.source.listing import RawListing
from featurestore.source.receivers import Receivers, read_receivers
from featurestore.source.snapshot import Snapshot
from featurestore.store import sets
from featurestore.store.bases import Basis, current_basis
from featurestore.store.naming import Names, name_set, read_latest
from featurestore.store.presence import require_segments
from featurestore.store.read_segments import read_stored_segments
from featurestore.tensor.mel import taper
from featurestore.tensor.rejection import RejectedRows
from featurestore.tensor.spec import FeatureSpec, SplitSpec

SHOWN_RECEIVERS = 10


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
        receivers: CSV of where receivers stand, before what the catalog says: a file or `s3://…`.
    """

    catalog: str = field(repr=False)  # it may hold a password
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
    receivers: str | None = None


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
    raw, objects = open_objects(request.raw.url), open_objects(request.store.url)
    plan = prepare(request, raw, objects, progress)
    quality = Quality(plan, request.max_rejected_fraction)
    quality.check()
    require_usable(plan)
    latest_before = partial(read_latest, objects)
    latest, (work, kept) = at_once(objects, latest_before, partial(_open, request, plan, objects, progress))
    for batch in work.batches:
        quality.add(batch.use, batch.rejected)
    try:
        basis = _make_tensors(request, work, kept, quality, progress)
        version = version_id(plan, basis.id)
        _, up_to_date, parent = at_once(
            objects, partial(work.complete, basis), partial(sets.has_set, objects, version), latest_before
        )
    except StoreError:
        require_segments(objects, plan.spec.id, [use.segment for use in plan.segments])
        raise
    outcome = Outcome(plan, work, quality, basis, version, parent, began)
    if not up_to_date:
        publish(objects, outcome)
    name_set(objects, outcome.version, Names(latest, request.tag), outcome.seconds, progress)
    return outcome.report(request.store, up_to_date=up_to_date)


def _open(request: BuildRequest, plan: Plan, objects: Objects, progress: Progress) -> tuple[TensorBuild, Basis | None]:
    """The segments of a plan as they are in the store, and the basis that builds keep; `spec.json` is there, or will be."""
    work, basis, _ = at_once(
        objects,
        lambda: TensorBuild(plan, request.raw.url, objects, progress),
        lambda: current_basis(objects, plan.spec.id),
        lambda: None if plan.to_compute else sets.write_spec(objects, plan.spec),  # segments that begin bring it
    )
    return work, basis


def prepare(request: BuildRequest, raw: Objects, objects: Objects, progress: Progress) -> Plan:
    """Read catalog, raw listing and what the store holds, and plan; writes nothing.

    Args:
        request: what to build.
        raw: its raw location, open.
        objects: its store, open.
        progress: is told.

    Raises:
        DataQualityError: when no capture is approved.
    """
    given = None if request.receivers is None else read_receivers(request.receivers)
    check_all([raw] if request.store.is_local else [raw, objects])
    with RawListing(raw) as listed, ThreadPoolExecutor(1, "read holdings") as pool:
        stored = pool.submit(read_stored_segments, objects, request.spec)
        snapshot = read_snapshot(request.catalog, request.query, request.limit)
        if not len(snapshot):
            raise DataQualityError(
                f"{describe(request.catalog)} holds no approved capture; set approved for some, "
                "or bring some in with ingest or simulate"
            )
        progress.say(f"catalog: {len(snapshot):,} approved captures")
        snapshot = _place_receivers(snapshot, given, progress)
        listing = listed.join(snapshot, progress)
    plan = make_plan(request.spec, request.split, snapshot, listing, stored.result())
    if plan.rows_to_compute:
        taper(plan.spec)  # does scipy know the window? Better asked here than by every worker
    progress.say(
        f"plan: {plan.rows_reused:,} rows reused, {plan.rows_to_compute:,} to compute in {plan.chunks_to_compute:,} chunks "
        f"(at most {plan.bytes_to_read / 1e6:,.0f} MB to read)"
    )
    return plan


def _place_receivers(snapshot: Snapshot, given: Receivers | None, progress: Progress) -> Snapshot:
    """Let a table that was given come before the catalog's, and say which receivers neither knows."""
    if given is not None:
        given = given.select(snapshot.websdr_id)
        snapshot = replace(snapshot, receivers=given if snapshot.receivers is None else given.or_else(snapshot.receivers))
    if snapshot.receivers is not None:
        heard = np.unique(snapshot.websdr_id)
        lacking = np.setdiff1d(heard, snapshot.receivers.websdr_id).tolist()
        unknown = f"; not known: {', '.join(map(str, lacking[:SHOWN_RECEIVERS]))}" if lacking else ""
        more = ", …" if len(lacking) > SHOWN_RECEIVERS else ""
        progress.say(f"receivers: {len(snapshot.receivers):,} of {len(heard):,} known by their place{unknown}{more}")
    return snapshot


def _make_tensors(request: BuildRequest, work: TensorBuild, basis: Basis | None, quality: Quality, progress: Progress) -> Basis:
    """Compute, fit where need be, normalize; `basis` is that which builds keep."""
    # Computing can only find fewer rows than planned: a basis that does for all of them does for those that are left.
    planned_rows = work.train_rows()
    at_once = None if needs_fit(request.refit, basis, planned_rows) else basis
    if at_once is None:
        require_train_rows(planned_rows)

    def on_part(use: SegmentUse, rejected: RejectedRows) -> None:
        quality.add(use, rejected)
        quality.check()

    n_tasks = work.chunks_to_compute() + len(work.chunks_to_normalize(at_once))
    with open_runner(request.workers, request.scheduler, progress, n_tasks) as runner:
        work.compute(runner, at_once, on_part)
        train_rows = work.train_rows()
        basis = basis or work.current_basis()  # another build may have been faster
        if basis is None or needs_fit(request.refit, basis, train_rows):
            require_train_rows(train_rows)
            fitted = work.fit(runner)
            if basis is not None and fitted.id != basis.id:
                progress.say(f"new basis {fitted.id} from {train_rows:,} train rows; {basis.id} came from {basis.rows:,}")
            basis = fitted
        work.normalize(runner, basis)
    return basis


def require_usable(plan: Plan) -> None:
    """Refuse to build a set of no row (`DataQualityError`)."""
    if not plan.segments:
        raise DataQualityError(
            "no approved capture is usable, so there is nothing to build; correct the captures, or approve others"
        )


def require_train_rows(train_rows: int) -> None:
    """Refuse to fit a basis to nothing (`DataQualityError`)."""
    if not train_rows:
        raise DataQualityError(
            "no valid capture is in the train split, so there is nothing to normalize by; "
            "approve more sessions, or choose another --split-seed, --val-fraction or --test-fraction"
        )
