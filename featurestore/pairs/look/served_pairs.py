"""The pairs that a pair set serves, as columns; and why the others of its segments have no delay."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from featurestore.pairs.pair_set import PairSet
from featurestore.pairs.segments import COMPUTED, MEASURED, notes_from_json
from featurestore.source.snapshot import format_session
from featurestore.store.split import SPLITS, unique_sessions

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ServedPairs:
    """Labels, facts and what was measured of n pairs, in the order of the set.

    Attributes:
        row: (n,) index in the set.
        split: (n,) 0 train, 1 val, 2 test.
        session: (n,) number of the session, from 0.
        session_id: (n, 16).
        websdr: (n, 2) receivers.
        clock_sigma_s: (n, 2) of their clocks; NaN where unknown.
        measured: (n, 6), see `segments.MEASURED`.
    """

    row: npt.NDArray[np.int64]
    split: npt.NDArray[np.uint8]
    session: npt.NDArray[np.int64]
    session_id: npt.NDArray[np.uint8]
    websdr: npt.NDArray[np.int32]
    clock_sigma_s: Float64
    measured: Float64

    @classmethod
    def read(cls, opened: PairSet) -> Self:
        """Those of a set.

        Raises:
            StoreError: when something of it is damaged.
        """
        split = opened.label("split")
        row = np.flatnonzero(split < len(SPLITS))
        session_id = np.ascontiguousarray(opened.fact("session_id")[row])
        return cls(
            row=row,
            split=split[row],
            session=unique_sessions(session_id)[1],
            session_id=session_id,
            websdr=np.stack([opened.fact(f"websdr_{side}")[row] for side in "ab"], axis=1),
            clock_sigma_s=opened.label("clock_sigma_s")[row],
            measured=opened.read_all("measured")[row],
        )

    def __len__(self) -> int:
        return len(self.row)

    def column(self, name: str) -> Float64:
        """(n,) `delay_s`, `sigma_s`, `peak`, `wrong`, `offset_hz` or `seconds`."""
        return np.asarray(self.measured[:, MEASURED.index(name)])

    @property
    def peak_db(self) -> Float64:
        """(n,) power of the peak over that of unrelated noise."""
        return np.asarray(10 * np.log10(np.maximum(self.column("peak"), 1e-3)))

    def sessions_of(self, split: int) -> int:
        """How many sessions a split has."""
        return len(np.unique(self.session[self.split == split]))

    def name(self, index: int) -> str:
        """Session and receivers of one pair."""
        a, b = self.websdr[index].tolist()
        return f"session {format_session(self.session_id[index].tobytes())}, receivers {a} and {b}"

    def correlation(self, opened: PairSet, index: int) -> npt.NDArray[np.complex64]:
        """(lags,) of one pair; one chunk is read."""
        row = int(self.row[index])
        for segment in opened.segments:
            if row < segment.n_rows:
                part = opened.read(COMPUTED[0], segment, row // segment.chunk_rows)[row % segment.chunk_rows]
                return np.asarray(part[0].astype(np.float32) + 1j * part[1].astype(np.float32), np.complex64)
            row -= segment.n_rows
        raise IndexError(f"row {self.row[index]} of {opened!r}")


def silent_pairs(opened: PairSet) -> dict[str, tuple[int, str]]:
    """Why pairs of a set's segments have no delay: what was found, without its numbers → how many, and one of them in full."""
    texts = [text for marker in opened.markers for _, text in notes_from_json(marker)[0].values()]
    kinds = [re.sub(r"-?\d[\d.,]*", "…", text) for text in texts]
    examples: dict[str, Any] = dict(zip(reversed(kinds), reversed(texts), strict=True))
    return {kind: (count, examples[kind]) for kind, count in Counter(kinds).most_common()}
