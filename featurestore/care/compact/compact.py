"""`features compact`: merge the segments of a feature set into the one that a build from nothing would write."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from featurestore.care.compact.merged_segment import Compaction
from featurestore.care.compact.merged_set import publish_compacted, version_after
from featurestore.errors import StoreError
from featurestore.progress import Progress, Silent, format_seconds
from featurestore.store import sets
from featurestore.store.feature_set import open_set
from featurestore.store.naming import follow
from featurestore.store.presence import require_segments


@dataclass(frozen=True)
class CompactRequest:
    """What to merge, and where to work.

    Attributes:
        store: `s3://bucket/prefix`, `file:///dir` or a directory.
        version: a version, a tag, or `latest`.
        workers: processes on this machine; 0 works in this process, `None` decides by the amount of work.
        scheduler: address of a Dask scheduler to use instead.
        dry_run: only say what would be done.
    """

    store: str
    version: str = sets.LATEST
    workers: int | None = None
    scheduler: str | None = None
    dry_run: bool = False


@dataclass(frozen=True)
class CompactReport:
    """What `compact` did, or would do; the JSON that `features compact --json` prints.

    Attributes:
        version: of the set that the merged segment serves.
        compacted: version of the set that was merged.
        url: of the set.
        segment: name of the merged segment.
        merged: segments that it was merged from.
        rows: that it holds, of which
        rejected: are rejected.
        left_out: rows of the old segments that the set has no use for.
        chunks: chunks of its tensor arrays.
        bytes_to_read: of the old segments, each chunk once.
        bytes_read: that were read; chunks for which memory was short are read more than once.
        bytes_written: of tensors.
        seconds: how long it took.
        up_to_date: nothing was to be done.
        dry_run: nothing was done.
    """

    version: str
    compacted: str
    url: str
    segment: str
    merged: int
    rows: int
    rejected: int
    left_out: int
    chunks: int
    bytes_to_read: int
    bytes_read: int
    bytes_written: int
    seconds: float
    up_to_date: bool
    dry_run: bool

    def to_json(self) -> dict[str, Any]:
        """All fields."""
        return asdict(self)

    def lines(self) -> Iterator[str]:
        """For people."""
        if self.up_to_date:
            yield f"feature set {self.compacted} has nothing to merge: {self.version} has its {self.rows:,} rows in one segment"
            return
        would = "would become" if self.dry_run else "is now"
        yield f"feature set {self.compacted} {would} {self.version}: {self.merged:,} segments in one, {self.segment}"
        yield (
            f"  {self.rows:,} rows in {self.chunks:,} chunks, {self.rejected:,} of them rejected; "
            f"{self.left_out:,} rows are not wanted any more"
        )
        if self.dry_run:
            megabytes = f"{self.bytes_to_read / 1e6:,.1f} MB to read, {self.bytes_written / 1e6:,.1f} MB to write"
            yield f"  {megabytes}; nothing is written"
            return
        yield (
            f"  {self.bytes_read / 1e6:,.1f} MB read, {self.bytes_written / 1e6:,.1f} MB written "
            f"in {format_seconds(self.seconds)}"
        )
        yield f"  {self.url}; {self.compacted} keeps its own segments until 'features gc' removes it"


def compact(request: CompactRequest, progress: Progress | None = None) -> CompactReport:
    """Merge the segments of a feature set into one, and publish a set of the same rows and labels that is a view of it.

    `latest` moves to it if it stood for the old set; tags stay. The old set and its segments stay as they are.

    Raises:
        UsageError: when there is no such set.
        StoreError: when something that it is made of is missing or damaged, or the store refuses.
        ServiceUnavailableError: when store or scheduler do not answer, or `features gc` removes what is needed.
    """
    began, progress = time.monotonic(), progress or Silent()
    opened = open_set(request.store, request.version)
    work = Compaction(opened)
    new_version = version_after(opened, work.facts, work.served, work.segment.segment)
    up_to_date = sets.has_set(opened.objects, new_version)
    if not up_to_date:
        progress.say(
            f"plan: {work.n_rows:,} rows of {len(work.sources):,} segments → {work.segment.n_rows:,} rows in "
            f"{work.segment.n_chunks:,} chunks of one segment (about {work.bytes_to_read / 1e6:,.0f} MB to read, "
            f"{work.bytes_to_write / 1e6:,.0f} MB to write)"
        )
    n_bytes = 0
    if not up_to_date and not request.dry_run:
        try:
            n_bytes = work.run(progress, request.workers, request.scheduler)
        except StoreError:
            require_segments(opened.objects, opened.spec.id, [source.segment for source in work.sources])
            raise
        publish_compacted(opened, new_version, work.segment, work.index, began)
    if not request.dry_run:
        follow(opened.objects, opened.version, new_version)
    return CompactReport(
        version=new_version,
        compacted=opened.version,
        url=f"{opened.objects.location}/{sets.set_path(new_version)}",
        segment=work.segment.segment,
        merged=len(work.sources),
        rows=work.segment.n_rows,
        rejected=len(work.rejected),
        left_out=work.n_rows - work.segment.n_rows,
        chunks=work.segment.n_chunks,
        bytes_to_read=0 if up_to_date else work.bytes_to_read,
        bytes_read=n_bytes,
        bytes_written=0 if up_to_date else work.bytes_to_write,
        seconds=round(time.monotonic() - began, 3),
        up_to_date=up_to_date,
        dry_run=request.dry_run,
    )
