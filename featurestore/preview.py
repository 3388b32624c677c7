"""What a build would do, without doing any of it: `build-features --dry-run`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from featurestore import sets
from featurestore.bases import current_basis
from featurestore.build import BuildRequest, prepare
from featurestore.manifest import Manifest
from featurestore.objects import open_objects
from featurestore.progress import Progress, format_seconds
from featurestore.publish import version_id
from featurestore.quality import Quality
from featurestore.tensors import TensorBuild, needs_fit


@dataclass(frozen=True)
class Preview:
    """The plan of a build, in figures.

    Attributes:
        version: the set's name, where it is known before the build: not when a basis is to be fitted, and only if no row
            turns out to be rejected in a way that lets the basis grow.
        captures: approved captures.
        rejected: captures rejected by catalog and listing, or known from earlier builds, by reason.
        reused: valid rows whose tensors exist.
        to_compute: rows whose tensors do not.
        resumed: of these, rows in chunks that an interrupted build has written.
        chunks: chunks to be written.
        bytes_to_read: of raw captures, about.
        fits_basis: whether mean and std are fitted anew.
        seconds: how long it will take, by the rate of the latest set's build; `None` when there is none to go by.
        changes: parameters that differ from the latest set's: name → [there, here].
        up_to_date: whether the set exists already.
    """

    version: str | None
    captures: int
    rejected: dict[str, int]
    reused: int
    to_compute: int
    resumed: int
    chunks: int
    bytes_to_read: int
    fits_basis: bool
    seconds: float | None
    changes: dict[str, list[Any]]
    up_to_date: bool

    def to_json(self) -> dict[str, Any]:
        """All fields, and `dry_run`."""
        return {"dry_run": True, **asdict(self)}

    def lines(self) -> Iterator[str]:
        """For people."""
        yield f"would build {self.version or 'a feature set'} of {self.captures:,} captures; nothing is written"
        if self.up_to_date:
            yield "  it exists already: nothing to do"
        resumed = f" ({self.resumed:,} of them found from an interrupted build)" if self.resumed else ""
        yield (
            f"  {self.reused:,} rows reused, {self.to_compute:,} to compute{resumed} in {self.chunks:,} chunks, "
            f"about {self.bytes_to_read / 1e6:,.1f} MB to read"
        )
        if self.rejected:
            yield "  rejected already: " + ", ".join(f"{reason} {count:,}" for reason, count in self.rejected.items())
        yield "  mean and std: " + ("fitted anew" if self.fits_basis else "kept")
        if self.seconds is not None:
            yield f"  about {format_seconds(self.seconds)}, at the rate of the latest build"
        for name, (before, now) in self.changes.items():
            yield f"  {name}: {before} in the latest set, {now} here"


def preview(request: BuildRequest, progress: Progress) -> Preview:
    """Plan a build and say what it would do; writes nothing.

    Raises:
        UsageError, DataQualityError, StoreError, ServiceUnavailableError: as `build` would.
    """
    if request.tag is not None:
        sets.check_tag(request.tag)
    plan = prepare(request, progress)
    objects = open_objects(request.store.url)
    quality = Quality(plan, request.max_rejected_fraction)
    quality.check()
    work = TensorBuild(plan, request.raw.url, objects, progress)
    resumed = sum(int(batch.use.wanted[batch.rows(chunk)].sum()) for batch in work.batches for chunk in batch.parts)
    basis = current_basis(objects, plan.spec.id)
    fits = needs_fit(request.refit, basis, work.train_rows())
    version = None if basis is None or fits else version_id(plan, basis.id)
    latest = sets.read_pointer(objects, f"{sets.LATEST}.json")
    parent = None if latest is None else sets.read_manifest(objects, latest)
    to_compute = plan.rows_to_compute
    return Preview(
        version=version,
        captures=len(plan.snapshot),
        rejected=quality.counts(),
        reused=plan.rows_reused,
        to_compute=to_compute,
        resumed=resumed,
        chunks=work.chunks_to_compute(),
        bytes_to_read=plan.bytes_to_read,
        fits_basis=fits,
        seconds=None if parent is None else _estimate(parent, to_compute - resumed),
        changes={} if parent is None else _changes(request, sets.read_spec(objects, parent.spec).to_json(), parent),
        up_to_date=version is not None and sets.has_set(objects, version),
    )


def _estimate(parent: Manifest, to_compute: int) -> float | None:
    computed = parent.counts["computed"]
    return round(to_compute * parent.seconds / computed, 1) if computed else None


def _changes(request: BuildRequest, parent_spec: dict[str, Any], parent: Manifest) -> dict[str, list[Any]]:
    before = {**parent_spec, **{f"split_{name}": value for name, value in parent.split.items()}}
    now = {**request.spec.to_json(), **{f"split_{name}": value for name, value in request.split.to_json().items()}}
    return {name: [before.get(name), now[name]] for name in now if before.get(name) != now[name]}
