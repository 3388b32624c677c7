"""What a row of a pair segment is: two captures of a session; and how sessions are packed into chunks."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from featurestore.tensor.spec import ID_DIGITS

CHUNK_ROWS = 512
"""Rows per chunk, unless one session has more pairs."""

NOBODY = -1
"""Capture of a row that only fills a chunk, so that no session is torn."""

FACTS = {
    "session_id": ("u1", "session, a UUID's 16 bytes"),
    "session_digest": ("u1", "of all that the session's pairs were computed from: captures, objects, rates, starts"),
    "capture_a": ("<i8", "id of the first capture in the catalog; -1: the row only fills its chunk"),
    "capture_b": ("<i8", "id of the second"),
    "websdr_a": ("<i4", "receiver of the first capture"),
    "websdr_b": ("<i4", "receiver of the second"),
}
DIGESTS = ("session_id", "session_digest")


@dataclass(frozen=True)
class PairRows:
    """The facts of n rows, as columns; stored in a segment under these names.

    Attributes:
        session_id: (n, 16) uint8.
        session_digest: (n, 16) uint8; all rows of a session stand together, and share it.
        capture_a: (n,) int64, `NOBODY` where the row only fills its chunk.
        capture_b: (n,) int64.
        websdr_a: (n,) int32.
        websdr_b: (n,) int32.
    """

    session_id: npt.NDArray[np.uint8]
    session_digest: npt.NDArray[np.uint8]
    capture_a: npt.NDArray[np.int64]
    capture_b: npt.NDArray[np.int64]
    websdr_a: npt.NDArray[np.int32]
    websdr_b: npt.NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.capture_a)

    @classmethod
    def empty(cls, n_rows: int) -> PairRows:
        """Rows that only fill."""
        columns: dict[str, npt.NDArray[Any]] = {}
        for name, (dtype, _) in FACTS.items():
            shape = (n_rows, 16) if name in DIGESTS else (n_rows,)
            columns[name] = np.full(shape, 0 if name in DIGESTS else NOBODY, dtype)
        return cls(**columns)

    def part(self, rows: slice) -> PairRows:
        """Some rows."""
        return PairRows(*(getattr(self, field.name)[rows] for field in fields(self)))

    def sessions(self) -> list[tuple[bytes, int, int]]:
        """Digest, first row and end of each session."""
        filled = np.flatnonzero(self.capture_a != NOBODY)
        if not len(filled):
            return []
        digest = self.session_digest[filled]
        borders = np.flatnonzero((np.diff(digest.astype(np.int16), axis=0) != 0).any(axis=1) | (np.diff(filled) != 1)) + 1
        groups = np.split(filled, borders)
        return [(self.session_digest[group[0]].tobytes(), int(group[0]), int(group[-1]) + 1) for group in groups]

    def segment_id(self, spec_id: str, chunk_rows: int) -> str:
        """The name of the segment that holds these rows, cut like this, under a spec."""
        content = hashlib.sha256(f"{spec_id} {chunk_rows}".encode())
        for field in fields(self):
            column = getattr(self, field.name)
            content.update(np.ascontiguousarray(column, column.dtype.newbyteorder("<")).tobytes())
        return content.hexdigest()[:ID_DIGITS]


def pack(n_pairs: Sequence[int]) -> tuple[list[int], int]:
    """Where each session's rows begin, so that none is torn by the border of a chunk; and the rows of a chunk."""
    chunk_rows = max(CHUNK_ROWS, *n_pairs)
    starts, end = [], 0
    for count in n_pairs:
        if end % chunk_rows + count > chunk_rows:
            end += -end % chunk_rows
        starts.append(end)
        end += count
    return starts, min(chunk_rows, end)
