"""Segments on disk: immutable batches of rows under `specs/{spec}/segments/{segment}`.

The facts of the rows come first, then chunks (each with a note of what was written, for a build that resumes), and
`segment.json` last: without it there is no segment, only work to be finished.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from featurestore.chunks import ArrayLayout, read_array, read_layout, write_array
from featurestore.errors import StoreError
from featurestore.objects import Objects
from featurestore.rejection import Reason
from featurestore.rows import Holding, RowFacts, chunk_rows
from featurestore.software import versions
from featurestore.spec import FeatureSpec

SCHEMA = 1
FACT_CHUNK_ROWS = 131_072
READERS = 8
"""Threads that read segments' markers and facts: small objects, where only the round trips count."""

FACTS = {
    "capture_id": ("<i8", "id of the capture in the catalog"),
    "window": ("<i2", "number of the window in its capture"),
    "session_id": ("u1", "session, a UUID's 16 bytes"),
    "websdr_id": ("<i4", "receiver"),
    "source_digest": ("u1", "of key, size and ETag or modification time of the capture's object"),
}

Rejected = dict[int, tuple[Reason, str]]
"""Rejected rows of a segment: row → reason and detail."""


@dataclass(frozen=True)
class Part:
    """What one task wrote, noted beside the chunk until the segment is complete.

    Attributes:
        crc32c: checksum of the chunk in each array that was written.
        rejected: rows of this chunk that hold NaN.
    """

    crc32c: dict[str, int]
    rejected: Rejected

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

    @property
    def path(self) -> str:
        """Its prefix in the store."""
        return f"{segments_path(self.spec.id)}/{self.segment}"

    @property
    def n_chunks(self) -> int:
        """Chunks of its tensor arrays."""
        return math.ceil(self.n_rows / self.chunk_rows)

    def logmel(self) -> ArrayLayout:
        """The array of log-mel tensors in dBFS."""
        shape = (self.n_rows, 3, self.spec.n_mels, self.spec.n_frames)
        attributes = {"units": "dBFS", "long_name": "log-mel spectrogram of I, Q and magnitude"}
        return self._tensors(shape, "<f4", "mel", attributes)

    def features(self, basis: str) -> ArrayLayout:
        """The array of tensors normalized by `basis`."""
        kind, axis = ("mel-frequency cepstrum", "coefficient") if self.spec.n_mfcc else ("log-mel spectrogram", "mel")
        attributes = {"units": "1", "long_name": f"normalized {kind} of I, Q and magnitude", "basis": basis}
        return self._tensors((self.n_rows, *self.spec.tensor_shape), "<f2", axis, attributes)

    def _tensors(self, shape: tuple[int, ...], dtype: str, band: str, attributes: dict[str, str]) -> ArrayLayout:
        names = ("row", "channel", band, "frame")
        return ArrayLayout(shape, self.chunk_rows, np.dtype(dtype), math.nan, names, attributes)

    def part_path(self, chunk: int) -> str:
        """Where the note of a written chunk is."""
        return f"{self.path}/parts/{chunk:06d}.json"


def segments_path(spec_id: str) -> str:
    """Where the segments of a spec are."""
    return f"specs/{spec_id}/segments"


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


def begin(objects: Objects, segment: Segment, rows: RowFacts) -> None:
    """Write the facts of the rows, and the metadata of `logmel`."""
    for name in FACTS:
        write_array(objects, f"{segment.path}/{name}", getattr(rows, name), _fact_layout(name, getattr(rows, name)))
    objects.put_json(f"{segment.path}/logmel/zarr.json", segment.logmel().metadata())


def declare_features(objects: Objects, segment: Segment, basis: str) -> None:
    """Write the metadata of the features of a basis; the chunks follow."""
    objects.put_json(f"{segment.path}/{features_name(basis)}/zarr.json", segment.features(basis).metadata())


def finish(objects: Objects, segment: Segment, parts: dict[int, Part]) -> dict[str, Any]:
    """Complete a segment whose chunks are all written; returns its marker, which is written last.

    Args:
        objects: the store.
        segment: which.
        parts: of all chunks, with the checksums of the same arrays in each.
    """
    rejected = {row: found for chunk in sorted(parts) for row, found in parts[chunk].rejected.items()}
    reason = np.zeros(segment.n_rows, np.uint8)
    for row, (code, _) in rejected.items():
        reason[row] = code
    layout = _vector_layout(reason, "why the row was rejected; 0: it is valid")
    write_array(objects, f"{segment.path}/reason", reason, layout)
    arrays = sorted(parts[0].crc32c)
    marker = {
        "schema": SCHEMA,
        "spec": segment.spec.id,
        "segment": segment.segment,
        "rows": segment.n_rows,
        "chunk_rows": segment.chunk_rows,
        "chunks": {name: [parts[chunk].crc32c[name] for chunk in range(segment.n_chunks)] for name in arrays},
        "rejected": _rejected_to_json(rejected),
        "software": versions(),
    }
    objects.put_json(f"{segment.path}/zarr.json", _group(objects, segment, arrays))
    objects.put_json(f"{segment.path}/segment.json", marker)
    objects.delete([segment.part_path(chunk) for chunk in parts])
    return marker


def add_features(objects: Objects, segment: Segment, basis: str, crcs: list[int]) -> None:
    """Note that a complete segment has features of one more basis."""
    marker = {"schema": SCHEMA, "basis": basis, "chunks": crcs, "software": versions()}
    objects.put_json(f"{segment.path}/{features_name(basis)}.json", marker)


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


def read_rejected(marker: dict[str, Any]) -> Rejected:
    """Which rows a complete segment rejects, and why."""
    return _rejected_from_json(marker["rejected"])


def read_holdings(objects: Objects, spec: FeatureSpec) -> list[Holding]:
    """All segments of a spec, complete or begun; what was not even begun properly is left out."""
    path = segments_path(spec.id)
    with ThreadPoolExecutor(READERS) as pool:
        found = pool.map(lambda name: _read_holding(objects, f"{path}/{name}", name), objects.names(path))
        return [holding for holding in found if holding is not None]


def read_parts(objects: Objects, segment: Segment) -> dict[int, Part]:
    """The notes that an interrupted build left, by chunk."""
    parts = {}
    for name in objects.names(f"{segment.path}/parts"):
        try:
            parts[int(name.removesuffix(".json"))] = Part.from_json(objects.get_json(f"{segment.path}/parts/{name}"))
        except (StoreError, FileNotFoundError):  # half a note, or one that a second builder swept: the chunk is done again
            continue
    return {chunk: part for chunk, part in parts.items() if chunk < segment.n_chunks}


def _read_holding(objects: Objects, path: str, name: str) -> Holding | None:
    try:
        objects.get(f"{path}/segment.json")
        complete = True
    except FileNotFoundError:
        complete = False
    try:
        rows = RowFacts(*(read_array(objects, f"{path}/{field.name}") for field in fields(RowFacts)))
        reason = read_array(objects, f"{path}/reason") if complete else None
    except StoreError:
        if complete:
            raise
        return None  # interrupted before its facts were written
    return Holding(name, rows, reason)


def _fact_layout(name: str, column: npt.NDArray[Any]) -> ArrayLayout:
    dtype, long_name = FACTS[name]
    dimensions = ("row", "byte")[: column.ndim]
    return ArrayLayout(
        column.shape, min(FACT_CHUNK_ROWS, len(column)), np.dtype(dtype), 0, dimensions, {"long_name": long_name}
    )


def _vector_layout(column: npt.NDArray[Any], long_name: str) -> ArrayLayout:
    return ArrayLayout(column.shape, min(FACT_CHUNK_ROWS, len(column)), column.dtype, 0, ("row",), {"long_name": long_name})


def _group(objects: Objects, segment: Segment, tensors: Iterable[str]) -> dict[str, Any]:
    """Zarr metadata of the segment as a group, with that of its arrays inside: one request opens it."""
    names = [*FACTS, "reason", *tensors]
    return group_metadata(
        {"spec": segment.spec.id, "segment": segment.segment},
        {name: json.loads(objects.get(f"{segment.path}/{name}/zarr.json")) for name in names},
    )


def group_metadata(attributes: dict[str, Any], arrays: dict[str, Any]) -> dict[str, Any]:
    """The `zarr.json` of a group that holds `arrays` (name → their metadata), consolidated."""
    return {
        "zarr_format": 3,
        "node_type": "group",
        "attributes": attributes,
        "consolidated_metadata": {"kind": "inline", "must_understand": False, "metadata": arrays},
    }


def _rejected_to_json(rejected: Rejected) -> list[list[Any]]:
    return [[row, reason.label, detail] for row, (reason, detail) in sorted(rejected.items())]


def _rejected_from_json(content: list[Any]) -> Rejected:
    return {row: (Reason[label.upper()], detail) for row, label, detail in content}
