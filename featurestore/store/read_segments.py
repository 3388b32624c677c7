"""Read segments: their markers and facts, and the notes of chunks that an interrupted build left."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

from featurestore.errors import StoreError
from featurestore.objects.concurrently import at_once, get_all, map_concurrently
from featurestore.objects.objects import Objects
from featurestore.store.chunks import read_arrays, read_layout
from featurestore.store.rows import RowFacts, StoredSegment, chunk_rows
from featurestore.store.segments import (
    COMPUTED,
    REASON,
    SCHEMA,
    Part,
    Segment,
    features_name,
    rejected_from_json,
    segments_path,
)
from featurestore.tensor.rejection import RejectedRows
from featurestore.tensor.spec import FeatureSpec

READERS = 8
"""Threads that read segments' markers and facts: small objects, where only the round trips count."""


def open_begun(objects: Objects, spec: FeatureSpec, segment: str, n_rows: int) -> tuple[Segment, dict[int, Part]]:
    """A segment to be computed, and the notes of its chunks that an interrupted build left; both are empty of a new one."""
    begun, notes = at_once(
        objects,
        lambda: begun_segment(objects, spec, segment, n_rows),
        lambda: _read_notes(objects, f"{segments_path(spec.id)}/{segment}"),
    )
    return begun, _usable(notes, begun)


def begun_segment(objects: Objects, spec: FeatureSpec, segment: str, n_rows: int) -> Segment:
    """A segment to be computed: cut as an interrupted build began it, or as is usual now."""
    try:
        layout = read_layout(objects, f"{segments_path(spec.id)}/{segment}/logmel")
    except StoreError:  # not begun
        return Segment(spec, segment, n_rows, chunk_rows(n_rows))
    return Segment(spec, segment, n_rows, layout.chunk_rows)


def read_marker(objects: Objects, spec_id: str, segment: str) -> dict[str, Any]:
    """`segment.json` of a complete segment, checked.

    Raises:
        FileNotFoundError: when the segment is not complete.
        StoreError: when the marker is not what it should be.
    """
    key = f"{segments_path(spec_id)}/{segment}/segment.json"
    marker = objects.get_json(key)
    schema = marker.get("schema") if isinstance(marker, dict) else None
    if schema != SCHEMA:
        raise StoreError(f"{objects.location}/{key} has schema {schema}; this version reads {SCHEMA}: use a matching version")
    checked: dict[str, Any] = marker
    return checked


def read_features_crcs(objects: Objects, segment: Segment, basis: str, marker: dict[str, Any]) -> list[int] | None:
    """The checksums of a complete segment's features of a basis; `None` when it has none."""
    crcs: list[int] | None = marker["chunks"].get(features_name(basis))
    if crcs is None:
        try:
            crcs = objects.get_json(f"{segment.path}/{features_name(basis)}.json")["chunks"]
        except FileNotFoundError:
            return None
    return crcs


def read_rejected(marker: dict[str, Any]) -> RejectedRows:
    """Which rows a complete segment rejects, and why."""
    return rejected_from_json(marker["rejected"])


def read_stored_segments(objects: Objects, spec: FeatureSpec) -> list[StoredSegment]:
    """All segments of a spec, complete or begun; what was not even begun properly is left out."""
    path = segments_path(spec.id)
    segments = map_concurrently(
        objects, lambda name: _read_stored_segment(objects, f"{path}/{name}", name), objects.names(path)
    )
    return [segment for segment in segments if segment is not None]


def read_parts(objects: Objects, segment: Segment) -> dict[int, Part]:
    """The notes that an interrupted build left, by chunk."""
    return _usable(_read_notes(objects, segment.path), segment)


def _read_notes(objects: Objects, path: str) -> dict[int, Part]:
    parts = {}
    names = objects.names(f"{path}/parts")
    for name, note in zip(names, get_all(objects, [f"{path}/parts/{name}" for name in names]), strict=True):
        try:
            parts[int(name.removesuffix(".json"))] = Part.from_json(json.loads(note or b""))
        except ValueError:  # half a note, or one that a second builder swept: the chunk is done again
            continue
    return parts


def _usable(parts: dict[int, Part], segment: Segment) -> dict[int, Part]:
    return {chunk: part for chunk, part in parts.items() if chunk < segment.n_chunks and part.crc32c.keys() >= {*COMPUTED}}


def _read_stored_segment(objects: Objects, path: str, name: str) -> StoredSegment | None:
    complete = get_all(objects, [f"{path}/segment.json"]) != [None]
    names = [field.name for field in fields(RowFacts)]
    try:
        columns = read_arrays(objects, [f"{path}/{name}" for name in [*names, *([REASON] if complete else [])]])
    except StoreError:
        if complete and "segment.json" in objects.names(path):
            raise
        return None  # interrupted before its facts were written, or removed meanwhile
    return StoredSegment(name, RowFacts(*columns[: len(names)]), columns[-1] if complete else None)
