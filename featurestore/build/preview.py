"""What a build would do, without doing any of it: `build-features --dry-run`."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from featurestore.build.build import BuildRequest, prepare, require_train_rows, require_usable
from featurestore.build.plan import Plan
from featurestore.build.publish import version_id
from featurestore.build.quality import Quality
from featurestore.build.stages import REFIT_GROWTH, TensorBuild, needs_fit
from featurestore.build.workload import Work, count_work, estimate_seconds, known_rates
from featurestore.objects.objects import Objects, open_objects
from featurestore.progress import Progress, format_seconds
from featurestore.store import sets
from featurestore.store.bases import Basis, current_basis
from featurestore.store.manifest import Manifest
from featurestore.store.set_receivers import RECEIVERS, receivers_id
from featurestore.tensor.rejection import Reason

SHOWN_LENGTH = 60
"""Characters of a parameter's value in a line: a catalog query may be long."""


@dataclass(frozen=True)
class Preview:
    """The plan of a build, in figures.

    Attributes:
        version: the set's name, where it is known before the build: not when a basis is to be fitted, and only if no row
            turns out to be rejected in a way that lets the basis grow.
        captures: approved captures.
        captures_before: those of the latest set; `None` when there is none.
        rejected_by_listing: captures rejected by catalog and listing alone, by reason.
        rejected_before: captures rejected by what earlier builds, complete or interrupted, found in them, by reason.
        work: what is to be done.
        fits_basis: whether mean and std are fitted anew.
        basis: in words, which mean and std, and why.
        seconds: about how long it will take; `None` when no build has computed anything yet.
        rate_from: version whose build that is judged by; `None` where only the planning counts.
        parent: version that is the latest now.
        changes: parameters of spec and split, and the query, that differ from its: name → [there, here].
        limit: as `--limit`.
        up_to_date: whether the set exists already.
    """

    version: str | None
    captures: int
    captures_before: int | None
    rejected_by_listing: dict[str, int]
    rejected_before: dict[str, int]
    work: Work
    fits_basis: bool
    basis: str
    seconds: float | None
    rate_from: str | None
    parent: str | None
    changes: dict[str, list[Any]]
    limit: int | None
    up_to_date: bool

    def to_json(self) -> dict[str, Any]:
        """All fields, those of `work` among them, and `dry_run`."""
        fields = asdict(self)
        return {"dry_run": True, **fields.pop("work"), **fields}

    def lines(self) -> Iterator[str]:
        """For people."""
        work = self.work
        before = "" if self.captures_before is None else f" (the latest set: of {self.captures_before:,})"
        yield f"would build {self.version or 'a feature set'} of {self.captures:,} captures{before}; nothing is written"
        if self.up_to_date:
            yield "  it exists already: nothing to do"
        limited = "" if self.limit is None else f" (the first {self.limit:,} by id at most, --limit)"
        yield f"  captures: {work.captures_reused:,} reused, {work.captures_to_compute:,} to compute{limited}"
        yield f"  rejected by catalog and listing: {_counts(self.rejected_by_listing)}"
        yield f"  rejected by earlier builds: {_counts(self.rejected_before)}"
        resumed = f", {work.resumed:,} found from an interrupted build" if work.resumed else ""
        yield f"  rows: {work.reused:,} reused{resumed}, {work.to_compute:,} to compute"
        yield f"  chunks to compute: {work.chunks:,}, with about {work.bytes_to_read / 1e6:,.1f} MB to read"
        if work.rows_to_normalize:
            yield f"  to normalize, without IQ: {work.rows_to_normalize:,} rows (chunks: {work.chunks_to_normalize:,})"
        yield f"  mean and std: {self.basis}"
        if self.seconds is None:
            yield "  time: not known, as no build of this store has computed anything yet"
        else:
            source = "planning alone" if self.rate_from is None else f"by the rate of the build of {self.rate_from}"
            yield f"  time: about {format_seconds(self.seconds)}, {source}"
        if self.parent is None:
            yield "  the store holds no feature set yet"
        elif not self.changes:
            yield f"  parameters: those of the latest set {self.parent}"
        for name, (before, now) in self.changes.items():
            yield f"  {name}: {_short(before)} in the latest set {self.parent}, {_short(now)} here"


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
    fits = needs_fit(request.refit, basis, train_rows)
    if fits:
        require_train_rows(train_rows)
    kept = None if fits else basis
    version = None if kept is None else version_id(plan, kept.id)
    latest = sets.read_pointer(objects, f"{sets.LATEST}.json")
    parent = None if latest is None else sets.read_manifest(objects, latest)
    by_listing = Counter(Reason(code).label for code in plan.capture_reason[plan.capture_reason != Reason.VALID].tolist())
    to_do = count_work(objects, raw, plan, work, kept)
    rates = known_rates(objects, parent)
    seconds, rate_from = estimate_seconds(rates, to_do.to_compute, to_do.rows_to_normalize, time.monotonic() - began)
    return Preview(
        version=version,
        captures=len(plan.snapshot),
        captures_before=None if parent is None else parent.snapshot["captures"],
        rejected_by_listing=dict(by_listing),
        rejected_before=dict(Counter(quality.counts()) - by_listing),
        work=to_do,
        fits_basis=fits,
        basis=_describe_basis(request.refit, basis, train_rows, fits=fits),
        seconds=seconds,
        rate_from=rate_from,
        parent=latest,
        changes={} if parent is None else _changes(objects, plan, parent),
        limit=request.limit,
        up_to_date=version is not None and sets.has_set(objects, version),
    )


def _describe_basis(refit: str, basis: Basis | None, train_rows: int, *, fits: bool) -> str:
    if basis is None:
        return f"fitted to {train_rows:,} train rows, the first of this spec"
    origin = f"basis {basis.id} of {basis.rows:,} train rows"
    if not fits:
        return f"kept, {origin}"
    why = "--refit always" if refit == "always" else f"more than {REFIT_GROWTH} times as many"
    return f"fitted anew to {train_rows:,} train rows, in place of {origin} ({why})"


def _changes(objects: Objects, plan: Plan, parent: Manifest) -> dict[str, list[Any]]:
    before = {
        **sets.read_spec(objects, parent.spec).to_json(),
        **{f"split_{name}": value for name, value in parent.split.items()},
        "query": parent.snapshot["query"],
        RECEIVERS: parent.snapshot.get(RECEIVERS),
    }
    now = {
        **plan.spec.to_json(),
        **{f"split_{name}": value for name, value in plan.split.to_json().items()},
        "query": plan.snapshot.query,
        RECEIVERS: receivers_id(plan.snapshot.receivers),
    }
    return {name: [before.get(name), now[name]] for name in now if before.get(name) != now[name]}


def _counts(by_reason: dict[str, int]) -> str:
    return ", ".join(f"{reason} {count:,}" for reason, count in by_reason.items()) or "none"


def _short(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= SHOWN_LENGTH else text[: SHOWN_LENGTH - 1] + "…"
