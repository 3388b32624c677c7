"""Facts of a segment's rows: a column is rebuilt from the others by way of the catalog; the segment's name proves it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from featurestore.care.repair.context import RepairContext, UnrepairableError
from featurestore.care.repair.places import Place
from featurestore.errors import StoreError
from featurestore.store.chunks import read_array
from featurestore.store.read_segments import read_rejected
from featurestore.store.rows import RowFacts
from featurestore.store.segments import FACTS, Segment, column_layout

Columns = dict[str, npt.NDArray[Any]]
Index = npt.NDArray[np.int64]


def repair_reason(context: RepairContext, place: Place) -> str:
    """A chunk of `reason`, from the list of rejected rows in the marker."""
    segment = context.segment(place.segment)
    reason = np.zeros(segment.n_rows, np.uint8)
    for row, (code, _) in read_rejected(context.marker(place.segment)).items():
        reason[row] = code
    _write(context, place, reason)
    return "written again from the rejected rows in segment.json"


def repair_fact(context: RepairContext, place: Place) -> str:
    """A chunk of a fact, from the facts that are left."""
    segment = context.segment(place.segment)
    left = _readable(context, segment)
    lost = [name for name in FACTS if name not in left]
    if place.array not in lost:  # its other objects are what is damaged
        _write(context, place, left[place.array])
        return "written again"
    columns = {**left, **_rebuild(context, segment, left, lost)}
    if RowFacts(**columns).segment_id(context.spec.id) != segment.segment:
        raise UnrepairableError(
            f"what catalog and recordings say of {', '.join(lost)} now is not what it held, by the segment's name; "
            "restore it from a copy of the store"
        )
    _write(context, place, columns[place.array])
    return f"rebuilt from catalog and {', '.join(left)}; the segment's name proves it"


def _readable(context: RepairContext, segment: Segment) -> Columns:
    arrays = {}
    for name in FACTS:
        try:
            arrays[name] = read_array(context.objects, f"{segment.path}/{name}")
        except StoreError:
            continue
    return arrays


def _rebuild(context: RepairContext, segment: Segment, left: Columns, lost: list[str]) -> Columns:
    """The columns that are lost, as catalog and listing have them now."""
    if lost == ["window"]:
        return {"window": _count(left["capture_id"])}
    snapshot = context.captures
    capture = _locate(context, segment, left)
    if (capture < 0).any():
        raise UnrepairableError(f"{int((capture < 0).sum()):,} of its rows are of captures that the catalog no longer holds")
    rebuilt: Columns = {}
    for name in lost:
        if name == "window":
            rebuilt[name] = _count(capture)
        elif name == "source_digest":
            rebuilt[name] = context.listing(snapshot).source_digest[capture]
        else:
            rebuilt[name] = getattr(snapshot, name)[capture]
    return rebuilt


def _locate(context: RepairContext, segment: Segment, left: Columns) -> Index:
    """(n,) place of each row's capture in the catalog, by whatever of the row is left; -1 where there is none."""
    snapshot = context.captures
    if "capture_id" in left:
        return look_up(snapshot.capture_id, left["capture_id"])
    if {"session_id", "websdr_id"} <= left.keys():
        known, wanted = (_pairs(one["session_id"], one["websdr_id"]) for one in (vars(snapshot), left))
        return look_up(known, wanted)
    if "source_digest" in left:
        return look_up(
            context.listing(snapshot).source_digest.copy().view("V16")[:, 0], left["source_digest"].view("V16")[:, 0]
        )
    raise UnrepairableError(f"too little is left of the rows of segment {segment.segment}; restore one of its other facts")


def _pairs(session_id: npt.NDArray[np.uint8], websdr_id: npt.NDArray[np.int32]) -> npt.NDArray[Any]:
    both = np.empty(len(session_id), [("session_id", "V16"), ("websdr_id", "<i4")])
    both["session_id"], both["websdr_id"] = np.ascontiguousarray(session_id).view("V16")[:, 0], websdr_id
    return both


def look_up(known: npt.NDArray[Any], wanted: npt.NDArray[Any]) -> Index:
    """Place of each wanted value among those known; of several, the first; -1 where there is none."""
    places: dict[Any, int] = {}
    for place, value in enumerate(known.tolist()):
        places.setdefault(value, place)
    return np.fromiter((places.get(value, -1) for value in wanted.tolist()), np.int64, len(wanted))


def _count(capture: npt.NDArray[Any]) -> npt.NDArray[np.int16]:
    """Number of each row among those of its capture, which are neighbours."""
    new = np.flatnonzero(np.r_[True, capture[1:] != capture[:-1]])
    return (np.arange(len(capture)) - np.repeat(new, np.diff(np.r_[new, len(capture)]))).astype(np.int16)


def _write(context: RepairContext, place: Place, column: npt.NDArray[Any]) -> None:
    layout = column_layout(place.array, len(column))
    rows = layout.rows(place.chunk)
    context.write_chunk(place.path, layout, place.chunk, column[rows.start : rows.stop])
