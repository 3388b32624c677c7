"""Pair segments on disk, under `specs/{spec}/segments/{segment}` of the pair store: facts first, the marker last."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from featurestore.errors import ServiceUnavailableError, StoreError
from featurestore.objects.objects import Objects, open_objects
from featurestore.pairs.plan import StoredPairSegment
from featurestore.pairs.rows import DIGESTS, FACTS, PairRows
from featurestore.pairs.spec import PairSpec
from featurestore.software import versions
from featurestore.store.chunks import ArrayLayout, read_array, read_layout, write_array
from featurestore.store.gc_notices import require_stored, require_unannounced
from featurestore.store.read_segments import READERS
from featurestore.store.segments import SCHEMA, segments_path
from featurestore.store.write_segments import group_metadata

PAIRS = "pairs"
"""Prefix of the pair store within a store."""

FACT_CHUNK_ROWS = 131_072
MEASURED = ("delay_s", "sigma_s", "peak", "wrong", "offset_hz", "seconds")
"""Columns of the array `measured`; see `delay.pairs.Pairs`."""

COMPUTED = ("correlation", "measured")
REASON = "reason"
VALID, UNUSABLE, NO_DELAY, FILLER = 0, 1, 2, 255
"""What `reason` holds: a delay; one of the captures cannot be used; they say nothing together; the row only fills its chunk."""

Details = dict[int, tuple[int, str]]
"""Rows without a delay: row → reason and, in words, why."""

Unusable = dict[int, tuple[str, str]]
"""Captures that cannot be used: id → rejection reason, and in words what was found."""


@dataclass(frozen=True)
class PairSegment:
    """A segment's place in the pair store, and how it is cut into chunks."""

    spec: PairSpec
    segment: str
    n_rows: int
    chunk_rows: int

    @property
    def path(self) -> str:
        """Its prefix."""
        return f"{segments_path(self.spec.id)}/{self.segment}"

    @property
    def n_chunks(self) -> int:
        """Chunks of its tensors."""
        return math.ceil(self.n_rows / self.chunk_rows)

    def layout(self, name: str) -> ArrayLayout:
        """The array of this name."""
        if name == "correlation":
            text = "correlation of two receivers over lags, real and imaginary part; 1 where all of the band agrees"
            attributes: dict[str, Any] = {"units": "1", "long_name": text}
            tensors = (self.n_rows, 2, self.spec.n_lags)
            return ArrayLayout(tensors, self.chunk_rows, np.dtype("<f2"), math.nan, ("row", "part", "lag"), attributes)
        if name == "measured":
            attributes = {"columns": list(MEASURED), "long_name": "what the correlation says; clocks are not in sigma_s"}
            table = (self.n_rows, len(MEASURED))
            return ArrayLayout(table, self.chunk_rows, np.dtype("<f8"), math.nan, ("row", "column"), attributes)
        if name == "lag_s":
            attributes = {"units": "s", "long_name": "how much later receiver a hears than b"}
            return ArrayLayout((self.spec.n_lags,), self.spec.n_lags, np.dtype("<f8"), 0, ("lag",), attributes)
        dtype, long_name = FACTS.get(name, ("u1", "0: has a delay; 1: a capture is unusable; 2: none was found; 255: filler"))
        shape = (self.n_rows, 16) if name in DIGESTS else (self.n_rows,)
        names = ("row", "byte")[: len(shape)]
        return ArrayLayout(shape, min(FACT_CHUNK_ROWS, self.n_rows), np.dtype(dtype), 0, names, {"long_name": long_name})

    def part_path(self, chunk: int) -> str:
        """Where the note of a written chunk is."""
        return f"{self.path}/parts/{chunk:06d}.json"


@dataclass(frozen=True)
class PairPart:
    """What one task wrote, noted beside the chunk until the segment is complete.

    Attributes:
        crc32c: checksum of the chunk in each array.
        details: rows of this chunk without a delay.
        unusable: captures of this chunk that cannot be used.
    """

    crc32c: dict[str, int]
    details: Details
    unusable: Unusable

    def to_json(self) -> dict[str, Any]:
        """As written to `parts/`."""
        return {"crc32c": self.crc32c, **notes_to_json(self.details, self.unusable)}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> PairPart:
        """As read from there."""
        return cls(content["crc32c"], *notes_from_json(content))


def notes_to_json(details: Details, unusable: Unusable) -> dict[str, Any]:
    """For a part or a marker."""
    return {
        "rejected": [[row, reason, text] for row, (reason, text) in sorted(details.items())],
        "captures": [[capture, reason, text] for capture, (reason, text) in sorted(unusable.items())],
    }


def notes_from_json(content: Mapping[str, Any]) -> tuple[Details, Unusable]:
    """From a part or a marker."""
    return (
        {row: (reason, text) for row, reason, text in content["rejected"]},
        {capture: (reason, text) for capture, reason, text in content["captures"]},
    )


def open_pair_store(store_url: str) -> Objects:
    """The pair store of a store."""
    return open_objects(f"{store_url}/{PAIRS}")


def begin(objects: Objects, segment: PairSegment, rows: PairRows) -> None:
    """Write the facts of the rows, the lags, and the metadata of what is to be computed.

    Raises:
        ServiceUnavailableError: when `features gc` is removing a segment of that name.
    """
    paths = [segment.path, f"specs/{segment.spec.id}"]
    require_unannounced(objects, paths)
    for name in FACTS:
        write_array(objects, f"{segment.path}/{name}", getattr(rows, name), segment.layout(name))
    write_array(objects, f"{segment.path}/lag_s", segment.spec.lag_s, segment.layout("lag_s"))
    for name in COMPUTED:
        objects.put_json(f"{segment.path}/{name}/zarr.json", segment.layout(name).metadata())
    require_unannounced(objects, paths)  # see gc_notices: it may have begun meanwhile


def finish(objects: Objects, segment: PairSegment, rows: PairRows, parts: Mapping[int, PairPart]) -> dict[str, Any]:
    """Complete a segment whose chunks are all written; returns its marker, which is written last.

    Raises:
        StoreError: when another build completed it with other values.
        ServiceUnavailableError: when `features gc` took something of it meanwhile.
    """
    details = {row: reason for part in parts.values() for row, reason in part.details.items()}
    unusable = {capture: reason for part in parts.values() for capture, reason in part.unusable.items()}
    write_array(objects, f"{segment.path}/{REASON}", reasons_of(rows, details), segment.layout(REASON))
    names = [*FACTS, "lag_s", REASON, *COMPUTED]
    try:
        arrays = {name: json.loads(objects.get(f"{segment.path}/{name}/zarr.json")) for name in names}
    except FileNotFoundError as error:
        raise ServiceUnavailableError(f"{error}: features gc removed it meanwhile; run the same command again") from error
    objects.put_json(f"{segment.path}/zarr.json", group_metadata({"spec": segment.spec.id, "segment": segment.segment}, arrays))
    marker = {
        "schema": SCHEMA,
        "spec": segment.spec.id,
        "segment": segment.segment,
        "rows": segment.n_rows,
        "chunk_rows": segment.chunk_rows,
        "chunks": {name: [parts[chunk].crc32c[name] for chunk in range(segment.n_chunks)] for name in COMPUTED},
        **notes_to_json(details, unusable),
        "software": versions(),
    }
    if not objects.put_json(f"{segment.path}/segment.json", marker, create=True):
        there: dict[str, Any] = objects.get_json(f"{segment.path}/segment.json")
        if there["chunks"] != marker["chunks"]:
            raise StoreError(
                f"{objects.location}/{segment.path} was computed by two builds at once, with different values; run "
                "'features verify --pairs', remove that segment, and build again"
            )
        marker = there
    objects.delete([segment.part_path(chunk) for chunk in parts])
    wanted = {f"{segment.path}/{name}/zarr.json" for name in names}
    for name in names:
        layout = segment.layout(name)
        wanted |= {f"{segment.path}/{name}/{layout.key(chunk)}" for chunk in range(layout.n_chunks)}
    require_stored(objects, [segment.path], wanted, f"{segment.path}/segment.json")
    return marker


def reasons_of(rows: PairRows, details: Details) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    """(n,) the array `reason`."""
    reason = np.where(rows.capture_a < 0, FILLER, VALID).astype(np.uint8)
    for row, (code, _) in details.items():
        reason[row] = code
    return reason


def read_stored_pair_segments(objects: Objects, spec: PairSpec) -> list[StoredPairSegment]:
    """All pair segments of a spec, complete or begun; what was not even begun properly is left out."""
    path = segments_path(spec.id)
    with ThreadPoolExecutor(READERS) as pool:
        segments = pool.map(lambda name: _read_stored_segment(objects, f"{path}/{name}", name), objects.names(path))
        return [segment for segment in segments if segment is not None]


def _read_stored_segment(objects: Objects, path: str, name: str) -> StoredPairSegment | None:
    complete = "segment.json" in objects.names(path)
    try:
        rows = PairRows(*(read_array(objects, f"{path}/{field.name}") for field in fields(PairRows)))
        chunk_rows = read_layout(objects, f"{path}/correlation").chunk_rows
        reason = read_array(objects, f"{path}/{REASON}") if complete else None
    except StoreError:
        if complete and "segment.json" in objects.names(path):
            raise
        return None  # interrupted before its facts were written, or removed meanwhile
    return StoredPairSegment(name, rows, chunk_rows, reason)


def read_pair_parts(objects: Objects, segment: PairSegment) -> dict[int, PairPart]:
    """The notes that an interrupted build left, by chunk."""
    parts = {}
    for name in objects.names(f"{segment.path}/parts"):
        try:
            parts[int(name.removesuffix(".json"))] = PairPart.from_json(objects.get_json(f"{segment.path}/parts/{name}"))
        except (StoreError, FileNotFoundError):  # half a note: the chunk is done again
            continue
    return {chunk: part for chunk, part in parts.items() if chunk < segment.n_chunks and part.crc32c.keys() >= {*COMPUTED}}
