"""How much work a plan is: captures, rows, chunks, bytes, and about how long it takes by earlier builds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from featurestore.build.batch import Batch
from featurestore.build.plan import Plan
from featurestore.build.stages import TensorBuild
from featurestore.errors import ShortObjectError, StoreError, UsageError
from featurestore.objects.objects import Objects
from featurestore.source.captures import HEADER_GUESS_BYTES, Layout, parse_header
from featurestore.store.bases import Basis
from featurestore.store.manifest import Manifest
from featurestore.store.read_segments import read_features_crcs
from featurestore.store.segments import features_name
from featurestore.store.sets import read_manifest
from featurestore.tensor.rejection import Reason

BUILDS = 20
"""Builds looked at, from the latest back: enough to find one that computed something, few enough to read at once."""

COMPARABLE = 10
"""Of a build with less than a tenth of the rows to compute, start and planning would count as if they were work on rows."""

NORMALIZE_SHARE = 0.25
"""What fitting and normalizing a row from log-mel costs of computing it, at most: `bench/rebuild.py` holds a refit to it."""

LEAST_S = 0.1
"""No command of this package takes less."""

HEADERS_READ = 8
"""Sizes of captures of which one header is read, the most common first: captures of one size mostly have one layout."""


@dataclass(frozen=True)
class Work:
    """What is to be done, in rows, chunks and bytes.

    Attributes:
        captures_to_compute: captures with a row to compute.
        captures_reused: captures that are not rejected, and have none.
        reused: valid rows of complete segments.
        resumed: valid rows that an interrupted build left.
        to_compute: rows to compute; some may turn out to be rejected.
        chunks: chunks they are in.
        bytes_to_read: of raw captures for them; exact where the headers that were looked at speak for all of their size.
        rows_to_normalize: rows whose log-mel exists, and whose features do not. All, where a basis is to be fitted: unless
            that turns out to be the one they have.
        chunks_to_normalize: chunks they are in.
    """

    captures_to_compute: int
    captures_reused: int
    reused: int
    resumed: int
    to_compute: int
    chunks: int
    bytes_to_read: int
    rows_to_normalize: int
    chunks_to_normalize: int


def count_work(objects: Objects, raw: Objects, plan: Plan, build: TensorBuild, basis: Basis | None) -> Work:
    """Count what a build has to do.

    Args:
        objects: the store.
        raw: the captures, of which some headers are read.
        plan: of the build.
        build: the same, with what an interrupted build left.
        basis: that the build keeps; `None` when one is to be fitted.
    """
    computed, rejected = (np.zeros(len(plan.snapshot), bool) for _ in range(2))
    rejected[plan.capture_reason != Reason.VALID] = True
    to_read: list[npt.NDArray[np.int64]] = []
    resumed = to_compute = rows_to_normalize = chunks_to_normalize = 0
    for batch in build.batches:
        rejected[batch.use.capture[batch.use.wanted & (batch.reason != Reason.VALID)]] = True
        missing = _chunks_without_features(objects, batch, basis)
        chunks_to_normalize += len(missing)
        rows_to_normalize += sum(batch.rows(chunk).stop - batch.rows(chunk).start for chunk in missing)
        resumed += sum(int(batch.served[batch.rows(chunk)].sum()) for chunk in batch.found_parts)
        if batch.marker is not None:
            continue
        for chunk in range(batch.segment.n_chunks):
            capture = batch.use.capture[batch.rows(chunk)][batch.use.wanted[batch.rows(chunk)]]
            if chunk not in batch.found_parts:
                computed[capture] = True
                to_compute += len(capture)
                to_read.append(capture)
    return Work(
        captures_to_compute=int(computed.sum()),
        captures_reused=int((~computed & ~rejected).sum()),
        reused=plan.rows_reused,
        resumed=resumed,
        to_compute=to_compute,
        chunks=build.chunks_to_compute(),
        bytes_to_read=_bytes_to_read(plan, raw, to_read),
        rows_to_normalize=rows_to_normalize,
        chunks_to_normalize=chunks_to_normalize,
    )


def _chunks_without_features(objects: Objects, batch: Batch, basis: Basis | None) -> list[int]:
    """Chunks whose log-mel exists, and whose features do not: all of them under a basis that is still to be fitted."""
    chunks = range(batch.segment.n_chunks) if batch.marker is not None else sorted(batch.found_parts)
    if basis is None:
        return list(chunks)
    if batch.marker is not None:
        known = read_features_crcs(objects, batch.segment, basis.id, batch.marker) is not None
        return [] if known else list(chunks)
    return [chunk for chunk in chunks if features_name(basis.id) not in batch.parts[chunk].crc32c]


def _bytes_to_read(plan: Plan, raw: Objects, chunks: list[npt.NDArray[np.int64]]) -> int:
    """What the rows of chunks, given as captures, read: each its window, each capture its header once in a chunk."""
    if not chunks:
        return 0
    n_headers = sum(int(np.count_nonzero(np.diff(capture))) + 1 for capture in chunks if len(capture))
    rows = np.concatenate(chunks)
    sizes, first, counts = np.unique(plan.listing.size_bytes[rows], return_index=True, return_counts=True)
    # Not known from a listing: 16 bytes a sample, unless the object is too small for one window of these.
    sample_bytes = np.where(sizes >= 16 * plan.spec.span + HEADER_GUESS_BYTES, 16, 8)
    for place in np.argsort(-counts, kind="stable")[:HEADERS_READ].tolist():
        layout = _layout(raw, plan.snapshot.key(int(rows[first[place]])), int(sizes[place]), plan.spec.span)
        if layout is not None:
            sample_bytes[place] = layout.dtype.itemsize
    return int(counts @ sample_bytes) * plan.spec.span + n_headers * HEADER_GUESS_BYTES


def _layout(raw: Objects, key: str, size_bytes: int, span: int) -> Layout | None:
    """What the header of one capture says; `None` where it is none that a build would take."""
    try:
        [head] = raw.get_ranges(key, [0], [min(HEADER_GUESS_BYTES, size_bytes)])
    except (FileNotFoundError, ShortObjectError):
        return None
    found = parse_header(bytes(memoryview(head)), size_bytes, span)
    return found if isinstance(found, Layout) else None


@dataclass(frozen=True)
class Rate:
    """What a build that computed `rows` took, per row, all else included."""

    version: str
    rows: int
    seconds_per_row: float


def known_rates(objects: Objects, latest: Manifest | None) -> list[Rate]:
    """The rates of the latest set and those it descends from, newest first; sets that computed nothing have none."""
    rates = []
    manifest = latest
    for _ in range(BUILDS):
        if manifest is None:
            break
        if computed := manifest.counts["computed"]:
            rates.append(Rate(manifest.version, computed, manifest.seconds / computed))
        try:
            manifest = None if manifest.parent is None else read_manifest(objects, manifest.parent)
        except (UsageError, StoreError):  # swept, or damaged: an estimate does without
            break
    return rates


def estimate_seconds(
    rates: list[Rate], to_compute: int, to_normalize: int, planning_s: float
) -> tuple[float | None, str | None]:
    """About how long a build will take, and the version it is judged by.

    Args:
        rates: of earlier builds, newest first.
        to_compute: rows to compute.
        to_normalize: rows to normalize from log-mel that exists.
        planning_s: what planning it took just now: the build plans again.

    Returns:
        Seconds, at least `LEAST_S`, by the newest build large enough to compare, or else the largest; `None` when there is
        work and no rate. The version is `None` when there is no work.
    """
    if not to_compute and not to_normalize:
        return max(LEAST_S, round(planning_s, 1)), None
    if not rates:
        return None, None
    rows = to_compute + NORMALIZE_SHARE * to_normalize
    largest = max(rates, key=lambda rate: rate.rows)
    chosen = next((rate for rate in rates if COMPARABLE * rate.rows >= rows), largest)
    return max(LEAST_S, round(planning_s + rows * chosen.seconds_per_row, 1)), chosen.version
