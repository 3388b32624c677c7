"""Markers: the checksums that chunks carry themselves, and the rejected rows that `reason` still knows."""

from __future__ import annotations

import numpy as np

from featurestore.build.chunk_tasks import content_digest
from featurestore.care.repair.context import RepairContext, UnrepairableError
from featurestore.care.repair.places import Place
from featurestore.errors import StoreError
from featurestore.store.chunks import read_chunk
from featurestore.store.segments import COMPUTED, Segment
from featurestore.store.write_segments import add_features, write_marker
from featurestore.tensor.rejection import Reason, RejectedRows

LOST = "unknown: it was lost with the segment's marker"


def repair_marker(context: RepairContext, place: Place) -> str:
    """`segment.json`, from chunks and `reason`."""
    segment = context.segment(place.segment)
    reason = context.reason(place.segment)
    names = [*COMPUTED, *_features_inside(context, segment)]
    try:
        crcs = {name: _checksums(context, segment, name) for name in sorted(names)}
        _compare(context, segment, reason)
    except (StoreError, FileNotFoundError) as error:
        raise UnrepairableError(
            f"it would hold the checksums of chunks that are not whole ({str(error).partition(';')[0]}); "
            "delete segment.json, and build-features computes the segment again"
        ) from error
    rejected: RejectedRows = {int(row): (Reason(int(reason[row])), LOST) for row in np.flatnonzero(reason)}
    write_marker(context.objects, segment, crcs, rejected)
    lost = ", and why its rows are rejected, but not the details of that" if rejected else ""
    return f"written again; it holds the checksums that the chunks carry, the software of now{lost}"


def repair_features_marker(context: RepairContext, place: Place) -> str:
    """`features-{basis}.json` of features that were added to a complete segment, from their chunks."""
    segment = context.segment(place.segment)
    context.marker(place.segment)
    crcs = _checksums(context, segment, place.array)
    add_features(context.objects, segment, place.array.removeprefix("features-"), crcs)
    return "written again; it holds the checksums that the chunks carry, and the software of now"


def _features_inside(context: RepairContext, segment: Segment) -> list[str]:
    """The features that the segment was completed with: those without a marker of their own."""
    names = context.objects.names(segment.path)
    return [
        name for name in names if name.startswith("features-") and not name.endswith(".json") and f"{name}.json" not in names
    ]


def _checksums(context: RepairContext, segment: Segment, name: str) -> list[int]:
    layout = segment.layout(name)
    return [context.checksum(f"{segment.path}/{name}", layout, chunk) for chunk in range(segment.n_chunks)]


def _compare(context: RepairContext, segment: Segment, reason: np.ndarray[tuple[int], np.dtype[np.uint8]]) -> None:
    """Whether log-mel and the digests of its content belong together, and NaN to rejected rows.

    Raises:
        StoreError: when not.
    """
    for chunk in range(segment.n_chunks):
        logmel = read_chunk(context.objects, f"{segment.path}/logmel", segment.logmel, chunk)
        content = read_chunk(context.objects, f"{segment.path}/content", segment.content, chunk)
        start = segment.logmel.rows(chunk).start
        for row, tensor in enumerate(logmel):
            valid = reason[start + row] == Reason.VALID
            if (content_digest(tensor) != content[row]).any() if valid else not np.isnan(tensor).all():
                raise StoreError(f"{segment.path}: log-mel, content and reason of row {start + row} do not belong together")
