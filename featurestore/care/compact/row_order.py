"""Which rows of a feature set a build from nothing would hold, in its order: pure arithmetic on arrays."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from featurestore.build.quality import describe_windows
from featurestore.source.snapshot import default_key
from featurestore.store.rows import RowFacts
from featurestore.tensor.rejection import Reason, RejectedCapture

WITHOUT_ROWS = (Reason.MISSING_OBJECT, Reason.SAMPLE_RATE_MISMATCH, Reason.BAD_POSITION)
"""Captures rejected by catalog or listing have no rows. (A row whose object vanished before it was read is no row either.)"""

Index = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Recording = tuple[bytes, bytes, int]
"""What a row was computed from: source digest, session, receiver."""


@dataclass(frozen=True)
class SetRows:
    """All rows of the segments of a feature set, one segment after the other, as columns of length N.

    Attributes:
        facts: what they are.
        reason: (N,) uint8 `Reason` of each.
        served: (N,) those that the set serves.
        found: reason and detail of each row that is rejected.
        rejected: the set's rejected captures.
        n_windows: windows per capture.
    """

    facts: RowFacts
    reason: npt.NDArray[np.uint8]
    served: Mask
    found: Mapping[int, tuple[Reason, str]]
    rejected: Sequence[RejectedCapture]
    n_windows: int

    def merged(self) -> Index:
        """Rows that a build from nothing of the same captures would hold, in the order of a segment.

        These are the rows served and, of the same captures, those that are rejected. Which recording a capture was rejected
        for is not stored; where a set has rows of several, it is the one that has the reason, detail and key of its entry in
        `rejected.json`, and all that have when even they do not decide.
        """
        chosen = self.served.copy()
        bad = np.flatnonzero((self.reason != Reason.VALID) & ~np.isin(self.reason, WITHOUT_ROWS) & ~self.served)
        is_sibling = self._is_sibling(bad)
        chosen[self._distinct(np.concatenate([bad[is_sibling], self._of_rejected(bad[~is_sibling])]))] = True
        index = np.flatnonzero(chosen)
        return index[self.facts.take(index).in_order()]

    def _is_sibling(self, bad: Index) -> Mask:
        """(n,) which of some rejected rows are other windows of a recording that is served."""
        served = np.flatnonzero(self.served)
        ids, first = np.unique(self.facts.capture_id[served], return_index=True)
        if not len(ids):
            return np.zeros(len(bad), bool)
        place = np.minimum(np.searchsorted(ids, self.facts.capture_id[bad]), len(ids) - 1)
        other = self.facts.take(served[first][place])
        these = self.facts.take(bad)
        same: Mask = (
            (these.capture_id == other.capture_id)
            & (these.websdr_id == other.websdr_id)
            & (these.session_id == other.session_id).all(axis=1)
            & (these.source_digest == other.source_digest).all(axis=1)
        )
        return same

    def _of_rejected(self, bad: Index) -> Index:
        """Those of some rejected rows whose capture is rejected as a whole, for this very recording."""
        serves = set(np.unique(self.facts.capture_id[self.served]).tolist())
        entries = {
            entry.capture_id: entry
            for entry in self.rejected
            if entry.capture_id not in serves and Reason[entry.reason.upper()] not in WITHOUT_ROWS
        }
        rows: dict[int, dict[Recording, list[int]]] = defaultdict(lambda: defaultdict(list))
        for row in bad[np.isin(self.facts.capture_id[bad], list(entries))].tolist():
            rows[int(self.facts.capture_id[row])][self._recording(row)].append(row)
        chosen: list[int] = []
        for capture, recordings in rows.items():
            scores = {recording: self._score(entries[capture], recording, its) for recording, its in recordings.items()}
            best = max(scores.values())
            for recording, its in recordings.items():
                chosen += its if scores[recording] == best else []
        return np.array(chosen, np.int64)

    def _score(self, entry: RejectedCapture, recording: Recording, rows: Sequence[int]) -> tuple[bool, bool, bool]:
        """How well rows of a recording fit the entry of their capture."""
        _, session, receiver = recording
        windows = {int(self.facts.window[row]): self.found[row] for row in reversed(rows)}
        reason = windows[min(windows)][0].label == entry.reason
        detail = describe_windows(windows, self.n_windows) == entry.detail
        return detail, reason, default_key(session, receiver) == entry.iq_key

    def _recording(self, row: int) -> Recording:
        facts = self.facts
        return facts.source_digest[row].tobytes(), facts.session_id[row].tobytes(), int(facts.websdr_id[row])

    def _distinct(self, rows: Index) -> Index:
        """Of several segments that hold the same rejected row, the first speaks for it."""
        facts = self.facts
        first_of = {
            (int(facts.capture_id[row]), int(facts.window[row]), self._recording(row)): row
            for row in sorted(rows, reverse=True)
        }
        return np.array(list(first_of.values()), np.int64)
