"""Segments on disk: immutable batches of rows under `specs/{spec}/segments/{segment}`.

The facts of the rows come first, then chunks (each with a note of what was written, for a build that resumes), and
`segment.json` last: without it there is no segment, only work to be finished.
Here is what a segment is and where its parts are; `read_segments` and `write_segments` do the reading and writing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from featurestore.store.chunks import ArrayLayout
from featurestore.tensor.rejection import Reason, RejectedRows
from featurestore.tensor.spec import FeatureSpec

SCHEMA = 1
FACT_CHUNK_ROWS = 131_072
DIGEST_BYTES = 16

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
        return {"crc32c": self.crc32c, "rejected": rejected_to_json(self.rejected)}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Part:
        """As read from there."""
        return cls(content["crc32c"], rejected_from_json(content["rejected"]))


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


def complete_segment(spec: FeatureSpec, marker: dict[str, Any]) -> Segment:
    """The segment that a marker completes."""
    return Segment(spec, marker["segment"], marker["rows"], marker["chunk_rows"])


def features_name(basis: str) -> str:
    """The name of the array normalized by a basis."""
    return f"features-{basis}"


def column_layout(name: str, n_rows: int) -> ArrayLayout:
    """The array of a fact of the rows, or of `reason`."""
    dtype, long_name = FACTS.get(name, ("u1", "why the row was rejected; 0: it is valid"))
    shape = (n_rows, DIGEST_BYTES) if name in DIGESTS else (n_rows,)
    dimensions = ("row", "byte")[: len(shape)]
    return ArrayLayout(shape, min(FACT_CHUNK_ROWS, n_rows), np.dtype(dtype), 0, dimensions, {"long_name": long_name})


def rejected_to_json(rejected: RejectedRows) -> list[list[Any]]:
    """Rejected rows as a marker or note lists them: row, reason and detail each."""
    return [[row, reason.label, detail] for row, (reason, detail) in sorted(rejected.items())]


def rejected_from_json(content: list[Any]) -> RejectedRows:
    """Rejected rows from such a list."""
    return {row: (Reason[label.upper()], detail) for row, label, detail in content}
