"""What a build would do, without doing any of it: `build-features --dry-run`."""

from __future__ import annotations

import textwrap
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from featurestore.build.build import BuildRequest, prepare, require_train_rows, require_usable
from featurestore.build.plan import Plan
from featurestore.build.publish import version_id
from featurestore.build.quality import Quality
from featurestore.build.stages import REFIT_GROWTH, TensorBuild, needs_fit
from featurestore.objects.objects import Objects, open_objects
from featurestore.progress import Progress, format_seconds
from featurestore.store import sets
from featurestore.store.bases import Basis, current_basis
from featurestore.store.manifest import Manifest
from featurestore.store.naming import read_latest
from featurestore.store.set_receivers import RECEIVERS, receivers_id
from featurestore.tensor.rejection import Reason

SHOWN_LENGTH = 60
"""Characters of a parameter's value in a line: a catalog query may be long."""

COMPARABLE = 10
"""A build of less than a tenth of the rows says little: its start and planning would count as if they were work on rows."""

NORMALIZE_SHARE = 0.25
"""What fitting and normalizing a row from log-mel costs of computing it, at most: `bench/rebuild.py` holds a refit to it."""


@dataclass(frozen=True)
class Preview:
    """The plan of a build, in figures.

    Attributes:
        version: the set's name, where it is known before the build: not when a basis is to be fitted.
        captures: approved captures.
        captures_before: those of the latest set; `None` when there is none.
        captures_to_compute: captures with a row to compute.
        captures_reused: captures that are not rejected, and have none.
        rejected_by_listing: captures rejected by catalog and listing alone, by reason.
        rejected_before: captures rejected by what earlier builds, complete or interrupted, found in them, by reason.
        reused: valid rows of complete segments.
        resumed: valid rows that an interrupted build left.
        to_compute: rows to compute; some may turn out to be rejected.
        chunks: chunks they are in.
        bytes_to_read: of raw captures, at most; what an interrupted build has read already counts, too.
        rows_to_normalize: rows whose log-mel exists, and whose features do not; all, where a basis is to be fitted.
        chunks_to_normalize: chunks they are in.
        fits_basis: whether mean and std are fitted anew.
        basis: in words, which mean and std, and why.
        seconds: about how long it will take; `None` when the latest build computed too little to say.
        parent: version that is the latest now.
        changes: parameters of spec and split, and the query, that differ from its: name → [there, here].
        limit: as `--limit`.
        up_to_date: whether the set exists already.
    """

    version: str | None
    captures: int
    captures_before: int | None
    captures_to_compute: int
    captures_reused: int
    rejected_by_listing: dict[str, int]
    rejected_before: dict[str, int]
    reused: int
    resumed: int
    to_compute: int
    chunks: int
    bytes_to_read: int
    rows_to_normalize: int
    chunks_to_normalize: int
    fits_basis: bool
    basis: str
    seconds: float | None
    parent: str | None
    changes: dict[str, list[Any]]
    limit: int | None
    up_to_date: bool

    def to_json(self) -> dict[str, Any]:
        """All fields, and `dry_run`."""
        return {"dry_run": True, **asdict(self)}

    def lines(self) -> Iterator[str]:
        """For people."""
        before = "" if self.captures_before is None else f" (the latest set: of {self.captures_before:,})"
        yield f"would build {self.version or 'a feature set'} of {self.captures:,} captures{before}; nothing is written"
        if self.up_to_date:
            yield "  it exists already: nothing to do"
        limited = "" if self.limit is None else f" (the first {self.limit:,} by id at most, --limit)"
        yield f"  captures: {self.captures_reused:,} reused, {self.captures_to_compute:,} to compute{limited}"
        yield f"  rejected by catalog and listing: {_counts(self.rejected_by_listing)}"
        yield f"  rejected by earlier builds: {_counts(self.rejected_before)}"
        resumed = f", {self.resumed:,} found from an interrupted build" if self.resumed else ""
        yield f"  rows: {self.reused:,} reused{resumed}, {self.to_compute:,} to compute"
        yield f"  chunks to compute: {self.chunks:,}, with at most {self.bytes_to_read / 1e6:,.1f} MB to read"
        if self.rows_to_normalize:
            yield f"  to normalize, without IQ: {self.rows_to_normalize:,} rows (chunks: {self.chunks_to_normalize:,})"
        yield f"  mean and std: {self.basis}"
        known = "not known, as the latest build computed too little to compare"
        yield f"  time: {known if self.seconds is None else f'about {format_seconds(self.seconds)}'}"
        if self.parent is None:
            yield "  the store holds no feature set yet"
        elif not self.changes:
            yield f"  parameters: those of the latest set {self.parent}"
        for name, (there, here) in self.changes.items():
            was, now = (textwrap.shorten(str(value), SHOWN_LENGTH, placeholder="…") for value in (there, here))
            yield f"  {name}: {was} in the latest set {self.parent}, {now} here"


def preview(request: BuildRequest, progress: Progress) -> Preview:
    """Plan a build and say what it would do; writes nothing.

    Raises:
        UsageError, DataQualityError, StoreError, ServiceUnavailableError: as `build` would.
    """
    began = time.monotonic()
    if request.tag is not None:
        sets.check_tag(request.tag)
    raw, objects = open_objects(request.raw.url), open_objects(request.store.url)
    plan = prepare(request, raw, objects, progress)
    work = TensorBuild(plan, request.raw.url, objects, progress)
    quality = Quality(plan, request.max_rejected_fraction)
    for batch in work.batches:
        quality.add(batch.use, batch.rejected)
    quality.check()
    require_usable(plan)
    basis, train_rows = current_basis(objects, plan.spec.id), work.train_rows()
    if fits := needs_fit(request.refit, basis, train_rows):
        require_train_rows(train_rows)
    kept = None if fits else basis
    version = None if kept is None else version_id(plan, kept.id)
    latest = read_latest(objects)
    parent = None if latest is None else sets.read_manifest(objects, latest)
    by_listing = Counter(Reason(code).label for code in plan.capture_reason[plan.capture_reason != Reason.VALID].tolist())
    to_compute = np.concatenate([np.empty(0, np.int64), *(batch.captures_to_compute for batch in work.batches)])
    to_normalize = [batch.rows(chunk) for batch, chunk in work.chunks_to_normalize(kept)]
    return Preview(
        version=version,
        captures=len(plan.snapshot),
        captures_before=None if parent is None else parent.snapshot["captures"],
        captures_to_compute=(n_to_compute := len(np.unique(to_compute))),
        captures_reused=len(plan.snapshot) - n_to_compute - sum(quality.counts().values()),
        rejected_by_listing=dict(by_listing),
        rejected_before=dict(Counter(quality.counts()) - by_listing),
        reused=plan.rows_reused,
        resumed=sum(batch.rows_found for batch in work.batches),
        to_compute=len(to_compute),
        chunks=work.chunks_to_compute(),
        bytes_to_read=plan.bytes_to_read if len(to_compute) else 0,
        rows_to_normalize=(n_to_normalize := sum(rows.stop - rows.start for rows in to_normalize)),
        chunks_to_normalize=len(to_normalize),
        fits_basis=fits,
        basis=_describe_basis(request.refit, basis, train_rows, fits=fits),
        seconds=estimate_seconds(len(to_compute) + NORMALIZE_SHARE * n_to_normalize, parent, time.monotonic() - began),
        parent=latest,
        changes={} if parent is None else _changes(objects, plan, parent),
        limit=request.limit,
        up_to_date=version is not None and sets.has_set(objects, version),
    )


def estimate_seconds(rows: float, latest: Manifest | None, planning_s: float) -> float | None:
    """Planning again, then rows at the latest build's rate; `None` when that computed too little to compare."""
    work_s = 0.0
    if rows:
        computed = 0 if latest is None else latest.counts["computed"]
        if latest is None or rows > COMPARABLE * computed:
            return None
        work_s = rows * latest.seconds / computed
    return max(0.1, round(planning_s + work_s, 1))  # no command takes less


def _describe_basis(refit: str, basis: Basis | None, train_rows: int, *, fits: bool) -> str:
    if basis is None:
        return f"fitted to {train_rows:,} train rows, the first of this spec"
    origin = f"basis {basis.id} of {basis.rows:,} train rows"
    if not fits:
        return f"kept, {origin}"
    why = "--refit always" if refit == "always" else f"more than {REFIT_GROWTH} times as many"
    return f"fitted anew to {train_rows:,} train rows, in place of {origin} ({why})"


def _changes(objects: Objects, plan: Plan, parent: Manifest) -> dict[str, list[Any]]:
    there = {**sets.read_spec(objects, parent.spec).to_json(), **{f"split_{name}": to for name, to in parent.split.items()}}
    there |= {"query": parent.snapshot["query"], RECEIVERS: parent.snapshot.get(RECEIVERS)}
    here = {**plan.spec.to_json(), **{f"split_{name}": to for name, to in plan.split.to_json().items()}}
    here |= {"query": plan.snapshot.query, RECEIVERS: receivers_id(plan.snapshot.receivers)}
    return {name: [there.get(name), value] for name, value in here.items() if there.get(name) != value}


def _counts(by_reason: dict[str, int]) -> str:
    return ", ".join(f"{reason} {count:,}" for reason, count in by_reason.items()) or "none"
