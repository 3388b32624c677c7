"""The pair build: catalog and raw captures with times → a pair set. Plans, makes the pairs exist, publishes a view of them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from featurestore.cluster.runner import open_runner
from featurestore.errors import DataQualityError
from featurestore.objects.objects import Location, Objects, open_objects
from featurestore.pairs import segments as on_disk
from featurestore.pairs.chunk_tasks import PairChunk, SessionTask, compute_pair_chunk
from featurestore.pairs.plan import NOT_WANTED, PairPlan, PairUse, make_pair_plan
from featurestore.pairs.publish import Outcome, PairBuildReport, counts_of, publish, version_id
from featurestore.pairs.reach import largest_delay_us
from featurestore.pairs.segments import PairPart, PairSegment, Unusable, open_pair_store
from featurestore.pairs.spec import PairSpec
from featurestore.place.delays import clock_margin_s
from featurestore.progress import Progress
from featurestore.source.catalog import read_snapshot
from featurestore.source.catalog_connection import describe
from featurestore.source.listing import RawListing
from featurestore.source.snapshot import Snapshot
from featurestore.store import sets
from featurestore.store.naming import Names, name_set, read_latest
from featurestore.store.read_segments import read_marker
from featurestore.store.split import SPLITS
from featurestore.tensor.spec import SplitSpec


@dataclass(frozen=True)
class PairBuildRequest:
    """What to build from what; see `build.BuildRequest`, whose fields mean the same.

    `lag_of_region`: the catalog's receivers say how large the largest lag is, and not `spec.max_lag_us`.
    """

    catalog: str = field(repr=False)  # it may hold a password
    raw: Location
    store: Location
    spec: PairSpec = field(default_factory=PairSpec)
    split: SplitSpec = field(default_factory=SplitSpec)
    query: str | None = None
    limit: int | None = None
    max_rejected_fraction: float = 0.05
    tag: str | None = None
    workers: int | None = None
    scheduler: str | None = None
    lag_of_region: bool = False


@dataclass(frozen=True)
class PairPreview:
    """The plan of a pair build, in figures: what `build-pairs --dry-run` prints."""

    version: str
    captures: int
    timed: int
    sessions: int
    sessions_reused: int
    sessions_to_compute: int
    pairs_to_compute: int
    chunks: int
    bytes_at_most: int
    up_to_date: bool

    def to_json(self) -> dict[str, Any]:
        """All fields."""
        return asdict(self)

    def lines(self) -> Iterator[str]:
        """For people."""
        yield f"pair set {self.version}" + (" exists already" if self.up_to_date else " would be built")
        yield f"  {self.timed:,} of {self.captures:,} captures have a time, in {self.sessions:,} sessions of two or more"
        yield f"  {self.sessions_reused:,} sessions reused, {self.sessions_to_compute:,} to compute: "
        yield f"  {self.pairs_to_compute:,} pairs in {self.chunks:,} chunks, at most {self.bytes_at_most / 1e6:,.0f} MB to read"


def build_pairs(request: PairBuildRequest, progress: Progress) -> PairBuildReport:
    """Bring the pair store up to date with catalog and captures, and publish the pair set that this gives.

    Raises:
        UsageError: when something that was asked for cannot be.
        DataQualityError: when no two captures of a session have a time, or too many are rejected; nothing is published then.
        StoreError: when an object store refuses, or something in the store is damaged.
        ServiceUnavailableError: when catalog, object store or scheduler do not answer.
    """
    began = time.monotonic()
    if request.tag is not None:
        sets.check_tag(request.tag)
    plan = prepare(request, progress)
    objects = open_pair_store(request.store.url)
    objects.put_if_changed(f"specs/{plan.spec.id}/spec.json", plan.spec.canonical().encode())
    latest = read_latest(objects)
    outcome = _compute(request, plan, objects, progress, began)
    outcome.require_quality(request.max_rejected_fraction)
    version = version_id(plan)
    up_to_date = sets.has_set(objects, version)
    counts = counts_of(outcome, outcome.labels()["split"]) if up_to_date else publish(objects, outcome, version)
    name_set(objects, version, Names(latest, request.tag), outcome.seconds, progress)
    return PairBuildReport(
        version=version,
        store=request.store.url,
        url=f"{objects.location}/{sets.set_path(version)}",
        captures=len(plan.snapshot),
        timed=plan.timed,
        sessions=len(plan.sessions),
        rows=counts["rows"],
        without_delay=counts["pairs"] - counts["rows"],
        splits={name: counts[name] for name in SPLITS},
        rejected=counts["rejected"],
        sessions_reused=plan.count_sessions([use for use in plan.uses if use.reason is not None]),
        sessions_computed=plan.count_sessions(plan.to_compute),
        bytes_read=outcome.n_bytes,
        seconds=outcome.seconds,
        up_to_date=up_to_date,
    )


def preview_pairs(request: PairBuildRequest, progress: Progress) -> PairPreview:
    """What `build_pairs` would do; writes nothing."""
    plan = prepare(request, progress)
    version, new = version_id(plan), plan.to_compute
    wanted = [np.unique(use.session[use.session != NOT_WANTED]) for use in new]
    captures = [plan.sessions[place].capture for places in wanted for place in places.tolist()]
    return PairPreview(
        version=version,
        captures=len(plan.snapshot),
        timed=plan.timed,
        sessions=len(plan.sessions),
        sessions_reused=plan.count_sessions([use for use in plan.uses if use.reason is not None]),
        sessions_to_compute=plan.count_sessions(new),
        pairs_to_compute=sum(int((use.session != NOT_WANTED).sum()) for use in new),
        chunks=sum(-(-len(use.rows) // use.chunk_rows) for use in new),
        bytes_at_most=sum(int(plan.listing.size_bytes[capture].sum()) for capture in captures),
        up_to_date=sets.has_set(open_pair_store(request.store.url), version),
    )


def prepare(request: PairBuildRequest, progress: Progress) -> PairPlan:
    """Read catalog, raw listing and what the pair store holds, and plan; writes nothing.

    Raises:
        DataQualityError: when no session has two usable captures whose start is known.
    """
    raw, objects = open_objects(request.raw.url), open_pair_store(request.store.url)
    raw.check()
    if not request.store.is_local:
        objects.check()
    with RawListing(raw) as listed:
        snapshot = read_snapshot(request.catalog, request.query, request.limit)
        progress.say(f"catalog: {len(snapshot):,} approved captures")
        listing = listed.join(snapshot, progress)
    spec = _with_lag(request, snapshot, progress)
    stored = on_disk.read_stored_pair_segments(objects, spec)
    plan = make_pair_plan(spec, request.split, snapshot, listing, stored)
    if not plan.sessions:
        raise DataQualityError(
            f"{describe(request.catalog)} holds no session with two usable captures whose start_time_ns is known "
            f"({plan.timed:,} of {len(snapshot):,} approved captures have one); ingest recordings with GPS stamps, or simulate "
            "with --clock gps"
        )
    sigma = snapshot.time_sigma_s[np.concatenate([session.capture for session in plan.sessions])]
    wide = clock_margin_s(1.0) * sigma[np.isfinite(sigma)] > spec.max_lag_us * 1e-6 / 2
    if wide.any():
        progress.say(
            f"{int(wide.sum()):,} captures have clocks so uncertain that their delays may lie beyond "
            f"--max-lag-us {spec.max_lag_us:g}; they will say little"
        )
    progress.say(f"plan: {len(plan.sessions):,} sessions, {plan.count_sessions(plan.to_compute):,} of them to correlate")
    return plan


def _with_lag(request: PairBuildRequest, snapshot: Snapshot, progress: Progress) -> PairSpec:
    """The spec as it is recorded: with the number that the catalog gives now, where the request leaves it to the catalog."""
    found = largest_delay_us(snapshot) if request.lag_of_region else None
    if found is None:
        if request.lag_of_region:
            progress.say(f"nobody said where the receivers stand: --max-lag-us {request.spec.max_lag_us:g}")
        return request.spec
    progress.say(f"the catalog's receivers and clocks want --max-lag-us {found:g}")
    return replace(request.spec, max_lag_us=found)


def _compute(request: PairBuildRequest, plan: PairPlan, objects: Objects, progress: Progress, began: float) -> Outcome:
    """Make all segments complete."""
    opened = [_open(objects, plan, use) for use in plan.to_compute]
    for use, segment, parts in opened:
        if not parts:
            on_disk.begin(objects, segment, use.rows)
    tasks = [task for use, segment, parts in opened for task in _tasks(request, plan, use, segment, parts)]
    unusable: Unusable = {}
    n_bytes = 0
    if tasks:
        progress.start("correlate pairs", sum(len(task.sessions) for task in tasks), "sessions")
    by_name = {segment.segment: parts for _, segment, parts in opened}
    with open_runner(request.workers, request.scheduler, progress, len(tasks)) as runner:
        for done in runner.run(compute_pair_chunk, tasks):
            by_name[done.segment][done.chunk] = done.part
            n_bytes += done.n_bytes
            progress.advance(done.sessions, done.n_bytes)
    uses = []
    for use, segment, parts in opened:
        details, rejected = on_disk.notes_from_json(on_disk.finish(objects, segment, use.rows, parts))
        unusable.update(rejected)
        uses.append(replace(use, reason=on_disk.reasons_of(use.rows, details)))
    for use in plan.uses:
        if use.reason is not None:
            unusable.update(on_disk.notes_from_json(read_marker(objects, plan.spec.id, use.segment))[1])
            uses.append(use)
    uses.sort(key=lambda use: (-len(use.rows), use.segment))
    return Outcome(plan, uses, unusable, n_bytes, began)


def _open(objects: Objects, plan: PairPlan, use: PairUse) -> tuple[PairUse, PairSegment, dict[int, PairPart]]:
    segment = PairSegment(plan.spec, use.segment, len(use.rows), use.chunk_rows)
    return use, segment, on_disk.read_pair_parts(objects, segment)


def _tasks(
    request: PairBuildRequest, plan: PairPlan, use: PairUse, segment: PairSegment, parts: dict[int, PairPart]
) -> Iterator[PairChunk]:
    by_chunk: dict[int, list[SessionTask]] = {chunk: [] for chunk in range(segment.n_chunks)}
    for _, begin, end in use.rows.sessions():
        place = int(use.session[begin])
        recordings = () if place == NOT_WANTED else tuple(plan.recordings(place))
        by_chunk[begin // use.chunk_rows].append(SessionTask(begin, end - begin, recordings))
    for chunk, sessions in by_chunk.items():
        if chunk not in parts:
            yield PairChunk(request.raw.url, request.store.url, segment, chunk, tuple(sessions))
