"""What a row of a segment is, before and apart from its tensor; the order of rows, and the name that they give a segment."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
import numpy.typing as npt

from featurestore.store.split import hash_sessions
from featurestore.tensor.spec import ID_DIGITS

CHUNK_ROWS = 512
"""Rows per chunk of a tensor array, at most."""


@dataclass(frozen=True)
class RowFacts:
    """The facts of n rows, as columns; stored in a segment under these names.

    Attributes:
        capture_id: (n,) int64.
        window: (n,) int16, number of the window in its capture.
        session_id: (n, 16) uint8, the UUID's bytes.
        websdr_id: (n,) int32.
        source_digest: (n, 16) uint8, see `listing.source_digest`.
    """

    capture_id: npt.NDArray[np.int64]
    window: npt.NDArray[np.int16]
    session_id: npt.NDArray[np.uint8]
    websdr_id: npt.NDArray[np.int32]
    source_digest: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.capture_id)

    def take(self, index: npt.NDArray[np.int64]) -> Self:
        """The rows at `index`, in that order."""
        return type(self)(*(getattr(self, field.name)[index] for field in fields(self)))

    def in_order(self) -> npt.NDArray[np.int64]:
        """The permutation that sorts by (h of session, session id, websdr id, capture id, window).

        Sessions stay together, in an order that is already shuffled; every split by session is one or two ranges of it.
        """
        high, low = self.session_id.view(">u8").T
        h = hash_sessions(self.session_id)
        return np.lexsort((self.window, self.capture_id, self.websdr_id, low, high, h))

    def segment_id(self, spec_id: str) -> str:
        """The name of the segment that holds these rows, in this order, under a spec."""
        content = hashlib.sha256(spec_id.encode())
        for field in fields(self):
            column = getattr(self, field.name)
            content.update(np.ascontiguousarray(column, column.dtype.newbyteorder("<")).tobytes())
        return content.hexdigest()[:ID_DIGITS]


def chunk_rows(n_rows: int) -> int:
    """Rows per chunk of a segment of `n_rows`: as few chunks as `CHUNK_ROWS` allows, all of nearly the same size."""
    n_chunks = max(1, -(-n_rows // CHUNK_ROWS))
    return max(1, -(-n_rows // n_chunks))


@dataclass(frozen=True)
class StoredSegment:
    """A segment that the store holds.

    Attributes:
        segment: its name.
        rows: what it holds.
        reason: (n,) uint8 `Reason` of each row, or `None` while it is not complete.
    """

    segment: str
    rows: RowFacts
    reason: npt.NDArray[np.uint8] | None
