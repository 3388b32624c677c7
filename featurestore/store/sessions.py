"""The sessions of a set: which rows were recorded of one transmission, wherever in its segments they lie. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from featurestore.source.snapshot import format_sessions
from featurestore.store.split import hash_sessions, unique_sessions

if TYPE_CHECKING:
    from featurestore.store.sets import Labels

Index = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Sessions:
    """S sessions of one split, in the order of the circle (h of the session, session id), with their R rows.

    The rows of session s are `rows[begin[s] : begin[s + 1]]`, by (receiver, row): windows of one capture are neighbours.

    Attributes:
        session_id: (S, 16) uint8, the UUID's bytes.
        begin: (S + 1,) where the rows of each session begin.
        rows: (R,) indices in the set.
        websdr_id: (R,) int32, the receiver of each row.
        timestamp: (R,) int64, ns since 1970 UTC of each row; `NO_TIMESTAMP` where unknown.
        start_time_ns: (R,) int64, of the first sample of each row's capture, likewise.
        time_sigma_s: (R,) float64, one standard deviation of that; NaN where unknown.
        position: (S, 2) latitude, longitude of the transmitter in degrees: as its first row has it.
    """

    session_id: npt.NDArray[np.uint8]
    begin: Index
    rows: Index = field(repr=False)
    websdr_id: npt.NDArray[np.int32] = field(repr=False)
    timestamp: npt.NDArray[np.int64] = field(repr=False)
    start_time_ns: npt.NDArray[np.int64] = field(repr=False)
    time_sigma_s: npt.NDArray[np.float64] = field(repr=False)
    position: npt.NDArray[np.float64] = field(repr=False)

    @classmethod
    def of(
        cls,
        rows: Index,
        session_id: npt.NDArray[np.uint8],
        websdr_id: npt.NDArray[np.int32],
        labels: Labels,
    ) -> Sessions:
        """Gather the rows of each session.

        Args:
            rows: (R,) indices in the set of the rows that count.
            session_id: (N, 16) of all rows of the set.
            websdr_id: (N,) likewise.
            labels: of all rows of the set.
        """
        of_rows = session_id[rows]
        first, inverse = unique_sessions(of_rows)
        high, low = of_rows[first].view(">u8").T
        circle = np.lexsort((low, high, hash_sessions(of_rows[first])))
        place = np.empty(len(first), np.int64)  # of each unique session on the circle
        place[circle] = np.arange(len(first))
        session = place[inverse]
        order = np.lexsort((rows, websdr_id[rows], session))
        taken = rows[order]
        begin = np.concatenate([[0], np.cumsum(np.bincount(session, minlength=len(first)))]).astype(np.int64)
        return cls(
            session_id=of_rows[first[circle]],
            begin=begin,
            rows=taken,
            websdr_id=websdr_id[taken],
            timestamp=labels.timestamp[taken],
            start_time_ns=labels.start_time_ns[taken],
            time_sigma_s=labels.time_sigma_s[taken],
            position=labels.position[taken[begin[:-1]]],
        )

    def __len__(self) -> int:
        return len(self.session_id)

    @cached_property
    def n_rows(self) -> Index:
        """(S,) rows of each session."""
        return np.diff(self.begin)

    @property
    def largest(self) -> int:
        """Rows of the largest session; 0 when there is none."""
        return int(self.n_rows.max(initial=0))

    def names(self) -> list[str]:
        """The id of each session as it is usually written."""
        return format_sessions(self.session_id)

    def of_row(self) -> Index:
        """(R,) the number of the session of each of `rows`."""
        return np.repeat(np.arange(len(self)), self.n_rows)
