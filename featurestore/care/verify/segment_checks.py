"""Checks of one segment: its facts, its markers, its metadata; and of its tensors, chunk by chunk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from featurestore.care.verify.inspection import DAMAGED, Inspector
from featurestore.errors import StoreError
from featurestore.store.chunks import ArrayLayout
from featurestore.store.manifest import Manifest, SegmentRef
from featurestore.store.read_segments import read_marker, read_rejected
from featurestore.store.rows import RowFacts
from featurestore.store.segments import COMPUTED, FACTS, complete_segment, features_name, segments_path
from featurestore.tensor.spec import FeatureSpec


@dataclass(frozen=True)
class TensorChunk:
    """A chunk of a tensor array, still to be checked.

    Attributes:
        path: of its array.
        layout: of its array.
        chunk: its number.
        crc: the checksum that a marker promises, if it is known.
        captures: ids of the captures whose tensors it holds, if they are known.
    """

    path: str
    layout: ArrayLayout
    chunk: int
    crc: int | None
    captures: tuple[int, ...]

    @property
    def key(self) -> str:
        """Of the object."""
        return f"{self.path}/{self.layout.key(self.chunk)}"


def check_chunk(inspector: Inspector, chunk: TensorChunk) -> int:
    """Check a chunk of tensors; returns its size in bytes, 0 where something is wrong."""
    rows = inspector.chunk(chunk.path, chunk.layout, chunk.chunk, chunk.crc, chunk.captures)
    return 0 if rows is None else rows.nbytes


def check_segment(inspector: Inspector, manifest: Manifest, spec: FeatureSpec | None, ref: SegmentRef) -> list[TensorChunk]:
    """Check everything of a segment but its tensors; returns the chunks of those that the set needs."""
    path = f"{segments_path(manifest.spec)}/{ref.segment}"
    copies = inspector.group(path)
    columns = {name: inspector.array(f"{path}/{name}", copies, ref.rows) for name in (*FACTS, "reason")}
    facts = {name: column for name, column in columns.items() if name in FACTS and column is not None}
    if len(facts) == len(FACTS):
        found = RowFacts(**facts).segment_id(manifest.spec)
        if found != ref.segment:
            inspector.note(DAMAGED, f"{path}/zarr.json", f"its rows are those of segment {found}, expected {ref.segment}")
    marker = _check_marker(inspector, manifest.spec, ref, columns["reason"])
    computed = COMPUTED if marker is None else [name for name in COMPUTED if name in marker["chunks"]]
    tensors = [(name, None if marker is None else marker["chunks"][name]) for name in computed]
    tensors.append((features_name(manifest.basis), _features_crcs(inspector, path, manifest.basis, marker)))
    chunks = []
    for name, crcs in tensors:
        layout = inspector.layout(f"{path}/{name}", copies)
        if spec is not None and marker is not None:
            segment = complete_segment(spec, marker)
            wanted = segment.layout(name)
            if layout is not None and _form(layout) != _form(wanted):
                inspector.note(DAMAGED, f"{path}/{name}/zarr.json", f"describes {_form(layout)}, expected {_form(wanted)}")
            layout = wanted  # the chunks can be checked without their metadata, too
        if layout is None:
            continue
        for chunk in range(layout.n_chunks):
            captures = _captures(facts.get("capture_id"), layout.rows(chunk))
            chunks.append(
                TensorChunk(
                    f"{path}/{name}", layout, chunk, crcs[chunk] if crcs and len(crcs) == layout.n_chunks else None, captures
                )
            )
    return chunks


def _form(layout: ArrayLayout) -> str:
    return f"shape {layout.shape} in chunks of {layout.chunk_rows} rows of {layout.dtype}"


def _captures(capture_id: npt.NDArray[Any] | None, rows: range) -> tuple[int, ...]:
    return () if capture_id is None else tuple(np.unique(capture_id[rows.start : rows.stop]).tolist())


def _check_marker(
    inspector: Inspector, spec_id: str, ref: SegmentRef, reason: npt.NDArray[Any] | None
) -> dict[str, Any] | None:
    """`segment.json`, if it is the marker of this segment."""
    key = f"{segments_path(spec_id)}/{ref.segment}/segment.json"
    if inspector.document(key) is None:
        return None
    try:
        marker = read_marker(inspector.objects, spec_id, ref.segment)
        for name, wanted in (("spec", spec_id), ("segment", ref.segment), ("rows", ref.rows)):
            if marker[name] != wanted:
                raise ValueError(f"{name} is {marker[name]!r}, expected {wanted!r}")
        n_chunks = -(-ref.rows // marker["chunk_rows"])
        for name, crcs in marker["chunks"].items():
            if len(crcs) != n_chunks or not all(isinstance(crc, int) for crc in crcs):
                raise ValueError(f"it has no {n_chunks} checksums of {name}")
        marker["chunks"]["logmel"]
        rejected = read_rejected(marker)
        if reason is not None and set(rejected) != set(np.flatnonzero(reason).tolist()):
            raise ValueError(f"it rejects {len(rejected)} rows, the array reason {np.count_nonzero(reason)}")
    except (StoreError, KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        inspector.note(DAMAGED, key, f"is no marker of this segment ({error})")
        return None
    return marker


def _features_crcs(inspector: Inspector, path: str, basis: str, marker: dict[str, Any] | None) -> list[int] | None:
    """The checksums of the features of a basis: in the segment's marker, or, of a later basis, beside it."""
    name = features_name(basis)
    if marker is None or name in marker["chunks"]:
        return None if marker is None else list(marker["chunks"][name])
    content = inspector.document(f"{path}/{name}.json")
    if content is None:
        return None
    try:
        crcs = [int(crc) for crc in content["chunks"]]
        if len(crcs) != len(marker["chunks"]["logmel"]):
            raise ValueError(f"{len(crcs)} for {len(marker['chunks']['logmel'])} chunks")
        return crcs
    except (KeyError, TypeError, ValueError) as error:
        inspector.note(DAMAGED, f"{path}/{name}.json", f"does not hold the checksums of the chunks ({error!r})")
        return None
