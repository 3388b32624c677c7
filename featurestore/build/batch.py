"""A segment while a build works on it: what of it is written, and which of its rows the set serves."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from featurestore.build.plan import SegmentUse
from featurestore.store.read_segments import read_rejected
from featurestore.store.segments import Part, Segment
from featurestore.tensor.moments import Moments
from featurestore.tensor.rejection import Reason, RejectedRows


@dataclass
class Batch:
    """A segment while a build works on it.

    Attributes:
        use: what the plan wants of it.
        segment: its place in the store.
        marker: `segment.json`, once it is complete.
        parts: chunks that are written, while it is not.
        crcs: checksums of the features of the basis in question, by chunk, as far as they are known.
        moments: of the train rows of chunks computed by this build.
        found_parts: chunks that an interrupted build had written.
        is_normalized: whether a complete segment had features of the basis in question before.
    """

    use: SegmentUse
    segment: Segment
    marker: dict[str, Any] | None = None
    parts: dict[int, Part] = field(default_factory=dict)
    crcs: dict[int, int] = field(default_factory=dict)
    moments: dict[int, Moments] = field(default_factory=dict)
    found_parts: frozenset[int] = frozenset()
    is_normalized: bool = False

    @property
    def rejected(self) -> RejectedRows:
        """Rows known to be rejected, and why."""
        if self.marker is not None:
            return read_rejected(self.marker)
        return {row: rejection for part in self.parts.values() for row, rejection in part.rejected.items()}

    @property
    def reason(self) -> npt.NDArray[np.uint8]:
        """(n,) `Reason` of each row, as far as known."""
        if self.use.reason is not None:
            return self.use.reason
        reason = np.zeros(self.segment.n_rows, np.uint8)
        for row, (code, _) in self.rejected.items():
            reason[row] = code
        return reason

    @property
    def served(self) -> npt.NDArray[np.bool_]:
        """(n,) rows that the set serves: wanted and valid."""
        served: npt.NDArray[np.bool_] = self.use.wanted & (self.reason == Reason.VALID)
        return served

    @property
    def written_chunks(self) -> list[int]:
        """Chunks whose log-mel an earlier build wrote."""
        return list(range(self.segment.n_chunks)) if self.marker is not None else sorted(self.found_parts)

    @property
    def missing_chunks(self) -> list[int]:
        """Chunks that no build has written yet."""
        written = set(self.written_chunks)
        return [chunk for chunk in range(self.segment.n_chunks) if chunk not in written]

    @property
    def captures_to_compute(self) -> npt.NDArray[np.int64]:
        """(rows to compute,) the capture of each."""
        missing = np.zeros(self.segment.n_rows, bool)
        for chunk in self.missing_chunks:
            missing[self.rows(chunk)] = True
        captures: npt.NDArray[np.int64] = self.use.capture[missing & self.use.wanted]
        return captures

    @property
    def rows_found(self) -> int:
        """Rows that it serves, and an interrupted build computed."""
        served = self.served
        return sum(int(served[self.rows(chunk)].sum()) for chunk in self.found_parts)

    @property
    def rows_computed(self) -> int:
        """Rows that it serves, and this build computed."""
        return 0 if self.use.reason is not None else int(self.served.sum()) - self.rows_found

    def logmel_crc(self, chunk: int) -> int:
        """The checksum of a chunk of log-mel."""
        return int(self.marker["chunks"]["logmel"][chunk] if self.marker is not None else self.parts[chunk].crc32c["logmel"])

    def rows(self, chunk: int) -> slice:
        """The rows of a chunk."""
        rows = self.segment.logmel.rows(chunk)
        return slice(rows.start, rows.stop)
