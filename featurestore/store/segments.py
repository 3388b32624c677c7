"""Segments on disk: immutable batches of rows under `specs/{spec}/segments/{segment}`.

The facts of the rows come first, then chunks (each with a note of what was written, for a build that resumes), and
`segment.json` last: without it there is no segment, only work to be finished.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np

from featurestore.errors import StoreError
from featurestore.objects.objects import Objects, as_json
from featurestore.objects.together import at_once, get_all, put_all, together
from featurestore.software import versions
from featurestore.store.chunks import ArrayLayout, KeyAndBytes, array_objects, read_arrays, read_layout
from featurestore.store.gc_notices import gone, require_stored, require_unannounced
from featurestore.store.rows import Holding, RowFacts, chunk_rows
from featurestore.tensor.rejection import Reason, RejectedRows
from featurestore.tensor.spec import FeatureSpec

SCHEMA = 1
FACT_CHUNK_ROWS = 131_072
DIGEST_BYTES = 16
READERS = 8
"""Threads that read segments' markers and facts: small objects, where only the round trips count."""

FACTS = {
    "capture_id": ("<i8", "id of the capture in the catalog"),
    "window": ("<i2", "number of the window in its capture"),
    "session_id": ("u1", "session, a UUID's 16 bytes"),
    "websdr_id": ("<i4", "receiver"),
    "source_digest": ("u1", "of key, size and ETag or modification time of the capture's object"),
}

DIGESTS = ("session_id", "source_digest")
"""Facts of `DIGEST_BYTES` bytes each."""

REASON = "reason"

COMPUTED = ("logmel", "content")
"""Arrays that computing a chunk writes, whatever the basis."""


@dataclass(frozen=True)
class Part:
    """What one task wrote, noted beside the chunk until the segment is complete.

    Attributes:
        crc32c: checksum of the chunk in each array that was written.
        rejected: rows of this chunk that hold NaN.
    """

    crc32c: dict[str, int]
    rejected: RejectedRows

    def to_json(self) -> dict[str, Any]:
        """As written to `parts/`."""
        return {"crc32c": self.crc32c, "rejected": _rejected_to_json(self.rejected)}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Part:
        """As read from there."""
        return cls(content["crc32c"], _rejected_from_json(content["rejected"]))


@dataclass(frozen=True)
class Segment:
    """A segment's place in a store, and how it is cut into chunks."""

    spec: FeatureSpec
    segment: str
    n_rows: int
    chunk_rows: int

    def __reduce__(self) -> tuple[Any, ...]:  # without the layouts, which are made in a moment
        return Segment, (self.spec, self.segment, self.n_rows, self.chunk_rows)

    @cached_property
    def path(self) -> str:
        """Its prefix in the store."""
        return f"{segments_path(self.spec.id)}/{self.segment}"

    @property
    def n_chunks(self) -> int:
        """Chunks of its tensor arrays."""
        return math.ceil(self.n_rows / self.chunk_rows)

    @cached_property
    def logmel(self) -> ArrayLayout:
        """The array of log-mel tensors in dBFS."""
        shape = (self.n_rows, 3, self.spec.n_mels, self.spec.n_frames)
        attributes = {"units": "dBFS", "long_name": "log-mel spectrogram of I, Q and magnitude"}
        return self._tensors(shape, "<f4", "mel", attributes)

    @cached_property
    def content(self) -> ArrayLayout:
        """The array that tells rows of equal content."""
        attributes = {"long_name": "XXH3-128 of the row's logmel, canonical; zeros: it is rejected"}
        return ArrayLayout((self.n_rows, DIGEST_BYTES), self.chunk_rows, np.dtype("u1"), 0, ("row", "byte"), attributes)

    def features(self, basis: str) -> ArrayLayout:
        """The array of tensors normalized by `basis`."""
        kind, axis = ("mel-frequency cepstrum", "coefficient") if self.spec.n_mfcc else ("log-mel spectrogram", "mel")
        attributes = {"units": "1", "long_name": f"normalized {kind} of I, Q and magnitude", "basis": basis}
        return self._tensors((self.n_rows, *self.spec.tensor_shape), "<f2", axis, attributes)

    def layout(self, name: str) -> ArrayLayout:
        """The array that has this name: `logmel`, `content` or `features-{basis}`."""
        if name in COMPUTED:
            return self.logmel if name == "logmel" else self.content
        return self.features(name.removeprefix("features-"))

    def _tensors(self, shape: tuple[int, ...], dtype: str, band: str, attributes: dict[str, str]) -> ArrayLayout:
        names = ("row", "channel", band, "frame")
        return ArrayLayout(shape, self.chunk_rows, np.dtype(dtype), math.nan, names, attributes)

    def part_path(self, chunk: int) -> str:
        """Where the note of a written chunk is."""
        return f"{self.path}/parts/{chunk:06d}.json"


def segments_path(spec_id: str) -> str:
    """Where the segments of a spec are."""
    return f"specs/{spec_id}/segments"


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


def complete_segment(spec: FeatureSpec, marker: dict[str, Any]) -> Segment:
    """The segment that a marker completes."""
    return Segment(spec, marker["segment"], marker["rows"], marker["chunk_rows"])


def features_name(basis: str) -> str:
    """The name of the array normalized by a basis."""
    return f"features-{basis}"


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
    rejected = {row: found for chunk in sorted(parts) for row, found in parts[chunk].rejected.items()}
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
        "rejected": _rejected_to_json(rejected),
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
    return _rejected_from_json(marker["rejected"])


def read_holdings(objects: Objects, spec: FeatureSpec) -> list[Holding]:
    """All segments of a spec, complete or begun; what was not even begun properly is left out."""
    path = segments_path(spec.id)
    found = together(objects, lambda name: _read_holding(objects, f"{path}/{name}", name), objects.names(path))
    return [holding for holding in found if holding is not None]


def read_parts(objects: Objects, segment: Segment) -> dict[int, Part]:
    """The notes that an interrupted build left, by chunk."""
    return _usable(_read_notes(objects, segment.path), segment)


def _read_notes(objects: Objects, path: str) -> dict[int, Part]:
    parts = {}
    names = objects.names(f"{path}/parts")
    for name, found in zip(names, get_all(objects, [f"{path}/parts/{name}" for name in names]), strict=True):
        try:
            parts[int(name.removesuffix(".json"))] = Part.from_json(json.loads(found or b""))
        except ValueError:  # half a note, or one that a second builder swept: the chunk is done again
            continue
    return parts


def _usable(parts: dict[int, Part], segment: Segment) -> dict[int, Part]:
    return {chunk: part for chunk, part in parts.items() if chunk < segment.n_chunks and part.crc32c.keys() >= {*COMPUTED}}


def _read_holding(objects: Objects, path: str, name: str) -> Holding | None:
    complete = get_all(objects, [f"{path}/segment.json"]) != [None]
    names = [field.name for field in fields(RowFacts)]
    try:
        columns = read_arrays(objects, [f"{path}/{name}" for name in [*names, *([REASON] if complete else [])]])
    except StoreError:
        if complete and "segment.json" in objects.names(path):
            raise
        return None  # interrupted before its facts were written, or removed meanwhile
    return Holding(name, RowFacts(*columns[: len(names)]), columns[-1] if complete else None)


def column_layout(name: str, n_rows: int) -> ArrayLayout:
    """The array of a fact of the rows, or of `reason`."""
    dtype, long_name = FACTS.get(name, ("u1", "why the row was rejected; 0: it is valid"))
    shape = (n_rows, DIGEST_BYTES) if name in DIGESTS else (n_rows,)
    dimensions = ("row", "byte")[: len(shape)]
    return ArrayLayout(shape, min(FACT_CHUNK_ROWS, n_rows), np.dtype(dtype), 0, dimensions, {"long_name": long_name})


def write_group(objects: Objects, segment: Segment, tensors: Iterable[str]) -> None:
    """Write the Zarr metadata of the segment as a group, with that of its arrays inside: one request opens it."""
    objects.put_json(f"{segment.path}/zarr.json", _read_group(objects, segment, tensors))


def _read_group(objects: Objects, segment: Segment, tensors: Iterable[str]) -> dict[str, Any]:
    """The group's metadata, with that of its arrays as they are stored; `reason` may still be missing."""
    arrays = {}
    names = [*FACTS, *tensors]
    keys = [f"{segment.path}/{name}/zarr.json" for name in names]
    for name, key, found in zip(names, keys, get_all(objects, keys), strict=True):
        if found is None:
            raise gone(objects, key)
        arrays[name] = json.loads(found)
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


def _rejected_to_json(rejected: RejectedRows) -> list[list[Any]]:
    return [[row, reason.label, detail] for row, (reason, detail) in sorted(rejected.items())]


def _rejected_from_json(content: list[Any]) -> RejectedRows:
    return {row: (Reason[label.upper()], detail) for row, label, detail in content}
