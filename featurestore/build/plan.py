"""The plan of a build: which rows a set has, which of them are stored already, and which must be computed.

It works on arrays in memory, and reads and writes nothing. As an example, six approved captures with one window each. The
store has segment A with captures 1, 2, 3, 5 and 9, and segment B with 3 and 4.

    stored            wanted (snapshot, listing)     result
    ----------------  -----------------------------  ---------------------------------------------------------
    A: capture 1      1, the same object             served by A
    A: capture 2      2, the same object             served by A
    A, B: capture 3   3, the same object             served by A, of which the set wants more rows than of B
    B: capture 4      4, the same object             served by B
    A: capture 5      5, its object was overwritten  computed, as a capture that was never seen before would be
    -                 6, at 48 kHz instead of 192    rejected before anything is read
    A: capture 9      -                              stays in A; the set does not use it

    segments of the plan    their rows       capture (index into the snapshot, which counts from 0)
    A                       1, 2, 3, 5, 9    0, 1, 2, NOT_WANTED, NOT_WANTED
    B                       3, 4             NOT_WANTED, 3
    a new one               5                4

A row that a set may want is numbered `capture * windows_per_capture + window`. `_RowAllocator` has a flag for each number:
true until a segment claims the row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from featurestore.build.align import SESSION, Alignment, align_sessions
from featurestore.source.snapshot import MISSING, Listing, Snapshot
from featurestore.store.rows import RowFacts, StoredSegment, chunk_rows
from featurestore.store.split import assign, on_earth
from featurestore.tensor.rejection import Reason
from featurestore.tensor.spec import FeatureSpec, SplitSpec

FINISH_SHARE = 0.5
"""An interrupted segment is finished when at least this share of its rows is still wanted; else they are planned afresh."""

NOT_WANTED = -1

SAMPLE_RATE_TOLERANCE = 1e-9

Index = npt.NDArray[np.int64]


@dataclass(frozen=True)
class SegmentUse:
    """A segment's part in a feature set.

    Attributes:
        segment: its name.
        rows: what it holds, or will hold.
        capture: (n,) index into the snapshot, or `NOT_WANTED`.
        reason: (n,) uint8 `Reason` of each row, or `None` when it is to be computed.
    """

    segment: str
    rows: RowFacts
    capture: Index
    reason: npt.NDArray[np.uint8] | None

    @cached_property  # it is asked for once per chunk
    def wanted(self) -> npt.NDArray[np.bool_]:
        """(n,) which rows the set wants."""
        return np.not_equal(self.capture, NOT_WANTED)


@dataclass(frozen=True)
class Plan:
    """What a build will do.

    Attributes:
        spec: of the tensors.
        split: of the set.
        snapshot: every approved capture.
        listing: what the raw location says of them.
        capture_reason: (n,) uint8: captures rejected by catalog or listing alone; 0 for all others.
        capture_split: (n,) uint8.
        segments: those that the set is a view of, complete or to be computed; most rows first (the name decides between
            equals), so that planning again gives the same order.
        alignment: which captures' windows begin together; `None` where none do.
    """

    spec: FeatureSpec
    split: SplitSpec
    snapshot: Snapshot
    listing: Listing
    capture_reason: npt.NDArray[np.uint8]
    capture_split: npt.NDArray[np.uint8]
    segments: tuple[SegmentUse, ...]
    alignment: Alignment | None = None

    @property
    def to_compute(self) -> list[SegmentUse]:
        """The segments that are not complete yet."""
        return [use for use in self.segments if use.reason is None]

    @property
    def rows_to_compute(self) -> int:
        """Rows whose tensors do not exist."""
        return sum(int(use.wanted.sum()) for use in self.to_compute)

    @property
    def rows_reused(self) -> int:
        """Valid rows whose tensors exist."""
        return sum(int((use.wanted & (use.reason == Reason.VALID)).sum()) for use in self.segments if use.reason is not None)

    @property
    def chunks_to_compute(self) -> int:
        """Chunks to be written, hence tasks."""
        return sum(-(-len(use.rows) // chunk_rows(len(use.rows))) for use in self.to_compute)

    @property
    def bytes_to_read(self) -> int:
        """How many bytes of raw captures the rows to compute need, at most."""
        total = 0
        for use in self.to_compute:
            size = self.listing.size_bytes[use.capture[use.wanted]]
            # A window's share of its capture is not known before the header is read: 16 bytes a sample, unless it is less.
            total += int(np.minimum(size, 16 * self.spec.span + 128).sum())
        return total


def make_plan(
    spec: FeatureSpec, split: SplitSpec, snapshot: Snapshot, listing: Listing, stored: Sequence[StoredSegment]
) -> Plan:
    """Plan a build.

    Of two segments that hold the same row, the one of which more rows are wanted serves it; then the one with fewer others
    (the name decides between equals). So a compacted segment takes the place of those it came from.

    Args:
        spec: of the tensors.
        split: of the set.
        snapshot: every approved capture.
        listing: the raw location, joined to it.
        stored: what the store holds of this spec.
    """
    reasons = prefilter(spec, snapshot, listing)
    alignment = align_sessions(snapshot, listing, reasons == Reason.VALID) if spec.align == SESSION else None
    if alignment is not None:
        listing = replace(listing, source_digest=alignment.source_digest)
    allocator = _RowAllocator(spec.windows_per_capture, snapshot, listing, reasons == Reason.VALID)
    candidates = [(segment, allocator.find(segment)) for segment in stored]
    candidates.sort(key=lambda pair: (-np.count_nonzero(pair[1] != NOT_WANTED), len(pair[0].rows), pair[0].segment))
    uses = [allocator.claim(*pair) for pair in candidates if pair[0].reason is not None]
    unfinished = [pair for pair in candidates if pair[0].reason is None]
    uses += [allocator.claim(*pair) for pair in unfinished if np.mean(allocator.free(*pair) != NOT_WANTED) >= FINISH_SHARE]
    uses.append(allocator.new_segment(spec))
    uses.sort(key=lambda use: (-len(use.rows), use.segment))
    return Plan(
        spec,
        split,
        snapshot,
        listing,
        reasons,
        assign(split, snapshot.session_id, snapshot.position),
        tuple(use for use in uses if use.wanted.any()),
        alignment,
    )


class _RowAllocator:
    """Assigns each row that a set wants to one segment: the first that claims it."""

    def __init__(self, n_windows: int, snapshot: Snapshot, listing: Listing, usable: npt.NDArray[np.bool_]) -> None:
        self._n_windows = n_windows
        self._snapshot = snapshot
        self._digest = listing.source_digest
        self._free = np.repeat(usable, n_windows)  # (capture · window,) whether nobody has claimed the row

    def _locate(self, rows: RowFacts) -> Index:
        """The capture of each row: same id, same object, same session and receiver; `NOT_WANTED` where there is none."""
        index = np.searchsorted(self._snapshot.capture_id, rows.capture_id)  # (n,) capture ids ascend
        index = np.minimum(index, len(self._snapshot) - 1)  # past the end: any capture; the comparison below fails
        same = (
            (self._snapshot.capture_id[index] == rows.capture_id)
            & (self._snapshot.websdr_id[index] == rows.websdr_id)
            & (self._snapshot.session_id[index] == rows.session_id).all(axis=1)
            & (self._digest[index] == rows.source_digest).all(axis=1)
            & (rows.window < self._n_windows)
        )
        return np.where(same, index, NOT_WANTED)

    def find(self, segment: StoredSegment) -> Index:
        """(n,) the capture of each row of a segment that the set wants and nobody has claimed; else `NOT_WANTED`."""
        capture = self._locate(segment.rows)
        if segment.reason is not None:  # its object had vanished: compute it now that it is back
            capture[segment.reason == Reason.MISSING_OBJECT] = NOT_WANTED
        return self.free(segment, capture)

    def free(self, segment: StoredSegment, capture: Index) -> Index:
        """The result of `find`, without the rows that another segment has claimed since."""
        still = np.not_equal(capture, NOT_WANTED)
        # Row number = capture * n_windows + window. Both sides have one entry for each row that was wanted.
        still[still] = self._free[capture[still] * self._n_windows + segment.rows.window[still]]
        return np.where(still, capture, NOT_WANTED)

    def claim(self, segment: StoredSegment, capture: Index) -> SegmentUse:
        """Claim what is still free of the rows that `find` returned."""
        capture = self.free(segment, capture)
        wanted = np.not_equal(capture, NOT_WANTED)
        self._free[capture[wanted] * self._n_windows + segment.rows.window[wanted]] = False
        return SegmentUse(segment.segment, segment.rows, capture, segment.reason)

    def new_segment(self, spec: FeatureSpec) -> SegmentUse:
        """A new segment of all rows that nobody has claimed."""
        # The inverse of the row number: (quotient, remainder) = (capture, window).
        capture, window = np.divmod(np.flatnonzero(self._free), self._n_windows)
        rows = RowFacts(
            self._snapshot.capture_id[capture],
            window.astype(np.int16),
            self._snapshot.session_id[capture],
            self._snapshot.websdr_id[capture],
            self._digest[capture],
        )
        order = rows.in_order()
        rows = rows.take(order)
        return SegmentUse(rows.segment_id(spec.id), rows, capture[order], None)


def prefilter(spec: FeatureSpec, snapshot: Snapshot, listing: Listing) -> npt.NDArray[np.uint8]:
    """(n,) uint8 `Reason` to reject each capture by catalog and listing alone; the last one that applies counts."""
    with np.errstate(invalid="ignore"):
        right_rate = np.abs(snapshot.sample_rate_hz - spec.sample_rate_hz) <= SAMPLE_RATE_TOLERANCE * spec.sample_rate_hz
    reasons = np.where(listing.size_bytes == MISSING, Reason.MISSING_OBJECT, Reason.VALID)
    reasons = np.where(on_earth(snapshot.position), reasons, Reason.BAD_POSITION)
    return np.where(right_rate, reasons, Reason.SAMPLE_RATE_MISMATCH).astype(np.uint8)


def explain_rejection(plan: Plan, index: int) -> str:
    """In words, why catalog or listing are against capture number `index`."""
    reason = Reason(int(plan.capture_reason[index]))
    if reason is Reason.SAMPLE_RATE_MISMATCH:
        return f"the catalog says {plan.snapshot.sample_rate_hz[index]:.12g} Hz; expected {plan.spec.sample_rate_hz:.12g} Hz"
    if reason is Reason.BAD_POSITION:
        latitude, longitude = plan.snapshot.position[index]
        return f"the catalog says latitude {latitude:.9g}, longitude {longitude:.9g}"
    return "no such object was listed"
