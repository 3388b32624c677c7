"""Write segments, step by step: `begin`, then the chunks (by workers), and `finish`, which writes the marker last."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

import numpy as np

from featurestore.errors import StoreError
from featurestore.objects.concurrently import at_once, get_all, put_all
from featurestore.objects.objects import Objects, as_json
from featurestore.software import versions
from featurestore.store.chunks import KeyAndBytes, array_objects
from featurestore.store.gc_notices import gone, require_stored, require_unannounced
from featurestore.store.read_segments import read_marker, read_rejected
from featurestore.store.rows import RowFacts
from featurestore.store.segments import (
    COMPUTED,
    FACTS,
    REASON,
    SCHEMA,
    Part,
    Segment,
    column_layout,
    features_name,
    rejected_to_json,
)
from featurestore.tensor.rejection import RejectedRows


def begin(objects: Objects, segment: Segment, rows: RowFacts, basis: str | None = None) -> None:
    """Write the spec, the facts of the rows, and the metadata of `logmel`, of `content`, and of the features of a basis.

    Raises:
        ServiceUnavailableError: when `features gc` is removing a segment of that name.
    """
    tensors = [*COMPUTED, *([] if basis is None else [features_name(basis)])]
    spec = (f"specs/{segment.spec.id}/spec.json", segment.spec.canonical().encode())
    _write_unless_announced(objects, segment, tensors, chain([spec], _fact_objects(segment, rows)))


def declare_features(objects: Objects, segment: Segment, basis: str) -> None:
    """Write the metadata of the features of a basis; the chunks follow.

    Raises:
        ServiceUnavailableError: when `features gc` is removing them.
    """
    _write_unless_announced(objects, segment, [features_name(basis)])


def _write_unless_announced(objects: Objects, segment: Segment, tensors: list[str], facts: Iterable[KeyAndBytes] = ()) -> None:
    """Write facts and the metadata of tensors while gc's notices are read: what began since is noticed behind the marker."""
    metadata = [(f"{segment.path}/{name}/zarr.json", as_json(segment.layout(name).metadata())) for name in tensors]
    doomed = [f"specs/{segment.spec.id}", segment.path, *(f"{segment.path}/{name}" for name in tensors)]
    at_once(objects, lambda: require_unannounced(objects, doomed), lambda: put_all(objects, chain(facts, metadata)))


def _fact_objects(segment: Segment, rows: RowFacts) -> Iterator[KeyAndBytes]:
    for name in FACTS:
        yield from array_objects(f"{segment.path}/{name}", getattr(rows, name), column_layout(name, segment.n_rows))


def finish(objects: Objects, segment: Segment, parts: dict[int, Part]) -> dict[str, Any]:
    """Complete a segment whose chunks are all written; returns its marker, which is written last.

    When another build has completed it meanwhile, that marker stands, and is returned.

    Args:
        objects: the store.
        segment: which.
        parts: of all chunks, with the checksums of the same arrays in each.

    Raises:
        StoreError: when the other build wrote other tensors.
    """
    arrays = sorted(parts[0].crc32c)
    marker, group = at_once(
        objects,
        lambda: _marker_of_another(objects, segment, parts),
        lambda: _read_group(objects, segment, arrays),
    )
    if marker is not None:
        objects.delete([segment.part_path(chunk) for chunk in parts])
        return marker
    rejected = {row: rejection for chunk in sorted(parts) for row, rejection in parts[chunk].rejected.items()}
    put_all(objects, [*_reason_objects(segment, rejected), (f"{segment.path}/zarr.json", as_json(group))])
    crcs = {name: [parts[chunk].crc32c[name] for chunk in range(segment.n_chunks)] for name in arrays}
    marker = _marker(segment, crcs, rejected)
    if not objects.put_json(f"{segment.path}/segment.json", marker, create=True):
        # Another build completed it at this moment: what was written before the marker must agree with the one that stands.
        marker = _marker_of_another(objects, segment, parts) or marker
        write_reason(objects, segment, read_rejected(marker))
        write_group(objects, segment, sorted(marker["chunks"]))
    promised = [*FACTS, REASON, *marker["chunks"]]
    at_once(  # notes of chunks that are not there after all must not stay
        objects,
        lambda: objects.delete([segment.part_path(chunk) for chunk in parts]),
        lambda: _require_stored(objects, segment, promised, "segment.json"),
    )
    return marker


def _marker_of_another(objects: Objects, segment: Segment, parts: dict[int, Part]) -> dict[str, Any] | None:
    """The marker of a segment that somebody else completed, if so."""
    try:
        marker = read_marker(objects, segment.spec.id, segment.segment)
    except FileNotFoundError:
        return None
    theirs, ours = marker["chunks"]["logmel"], [parts[chunk].crc32c["logmel"] for chunk in range(segment.n_chunks)]
    if theirs != ours:
        raise StoreError(
            f"{objects.location}/{segment.path} was computed by two builds at once, with different values; run 'features "
            "verify', then 'features repair', and build again"
        )
    return marker


def write_reason(objects: Objects, segment: Segment, rejected: RejectedRows) -> None:
    """Write the array `reason`."""
    put_all(objects, _reason_objects(segment, rejected))


def _reason_objects(segment: Segment, rejected: RejectedRows) -> Iterator[KeyAndBytes]:
    reason = np.zeros(segment.n_rows, np.uint8)
    for row, (code, _) in rejected.items():
        reason[row] = code
    return array_objects(f"{segment.path}/{REASON}", reason, column_layout(REASON, segment.n_rows))


def write_marker(objects: Objects, segment: Segment, crcs: dict[str, list[int]], rejected: RejectedRows) -> None:
    """Write `segment.json`.

    Args:
        objects: the store.
        segment: which.
        crcs: array → checksum of each of its chunks.
        rejected: its rejected rows.
    """
    objects.put_json(f"{segment.path}/segment.json", _marker(segment, crcs, rejected))


def _marker(segment: Segment, crcs: dict[str, list[int]], rejected: RejectedRows) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "spec": segment.spec.id,
        "segment": segment.segment,
        "rows": segment.n_rows,
        "chunk_rows": segment.chunk_rows,
        "chunks": crcs,
        "rejected": rejected_to_json(rejected),
        "software": versions(),
    }


def add_features(objects: Objects, segment: Segment, basis: str, crcs: list[int]) -> None:
    """Note that a complete segment has features of one more basis."""
    marker = {"schema": SCHEMA, "basis": basis, "chunks": crcs, "software": versions()}
    objects.put_json(f"{segment.path}/{features_name(basis)}.json", marker)
    _require_stored(objects, segment, [features_name(basis)], f"{features_name(basis)}.json")


def _require_stored(objects: Objects, segment: Segment, arrays: Iterable[str], marker: str) -> None:
    """Check that all that a marker promises is there, now that it is written.

    Raises:
        ServiceUnavailableError: when `features gc` took something, or is at it; the marker is taken back.
    """
    wanted = set()
    for name in arrays:
        layout = column_layout(name, segment.n_rows) if name in (*FACTS, REASON) else segment.layout(name)
        wanted |= {f"{segment.path}/{name}/{layout.key(chunk)}" for chunk in range(layout.n_chunks)}
        wanted.add(f"{segment.path}/{name}/zarr.json")
    things = [segment.path, *(f"{segment.path}/{name}" for name in arrays)]
    require_stored(objects, things, wanted, f"{segment.path}/{marker}")


def write_group(objects: Objects, segment: Segment, tensors: Iterable[str]) -> None:
    """Write the Zarr metadata of the segment as a group, with that of its arrays inside: one request opens it."""
    objects.put_json(f"{segment.path}/zarr.json", _read_group(objects, segment, tensors))


def _read_group(objects: Objects, segment: Segment, tensors: Iterable[str]) -> dict[str, Any]:
    """The group's metadata, with that of its arrays as they are stored; `reason` may still be missing."""
    arrays = {}
    names = [*FACTS, *tensors]
    keys = [f"{segment.path}/{name}/zarr.json" for name in names]
    for name, key, metadata in zip(names, keys, get_all(objects, keys), strict=True):
        if metadata is None:
            raise gone(objects, key)
        arrays[name] = json.loads(metadata)
    arrays[REASON] = column_layout(REASON, segment.n_rows).metadata()
    return group_metadata({"spec": segment.spec.id, "segment": segment.segment}, arrays)


def group_metadata(attributes: dict[str, Any], arrays: dict[str, Any]) -> dict[str, Any]:
    """The `zarr.json` of a group that holds `arrays` (name → their metadata), consolidated."""
    return {
        "zarr_format": 3,
        "node_type": "group",
        "attributes": attributes,
        "consolidated_metadata": {"kind": "inline", "must_understand": False, "metadata": arrays},
    }
