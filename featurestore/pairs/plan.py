"""The plan of a pair build, pure: which sessions can be correlated, which are already, which are to be computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np
import numpy.typing as npt

from featurestore.pairs.rows import PairRows, pack
from featurestore.pairs.spec import PairSpec
from featurestore.source.recording import Recording, digest_of, recording_at, session_inputs
from featurestore.source.snapshot import MISSING, NO_TIMESTAMP, Listing, Snapshot
from featurestore.store.split import assign, hash_sessions, on_earth
from featurestore.tensor.rejection import Reason
from featurestore.tensor.spec import SplitSpec

FINISH_SHARE = 0.5
"""An interrupted segment is finished when at least this share of its sessions is still wanted."""

NOT_WANTED = -1

Index = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Session:
    """A session that can be correlated: `capture` are places in the snapshot, by receiver."""

    digest: bytes
    capture: Index

    @property
    def n_pairs(self) -> int:
        """Rows that it takes."""
        return len(self.capture) * (len(self.capture) - 1) // 2


@dataclass(frozen=True)
class StoredPairSegment:
    """A pair segment that the store holds; `reason` is `None` while it is not complete."""

    segment: str
    rows: PairRows
    chunk_rows: int
    reason: npt.NDArray[np.uint8] | None


@dataclass(frozen=True)
class PairUse:
    """A segment's part in a set.

    Attributes:
        segment: its name.
        rows: what it holds, or will hold.
        chunk_rows: how it is cut.
        session: (n,) place of each row's session among the plan's, or `NOT_WANTED`.
        reason: (n,) of each row, or `None` when it is to be computed.
    """

    segment: str
    rows: PairRows
    chunk_rows: int
    session: Index
    reason: npt.NDArray[np.uint8] | None


@dataclass(frozen=True)
class PairPlan:
    """What a pair build will do.

    Attributes:
        spec: of the pairs.
        split: of the set.
        snapshot: every approved capture.
        listing: what the raw location says of them.
        capture_reason: (n,) uint8: captures with a time that catalog or listing reject; 0 for all others.
        capture_split: (n,) uint8.
        timed: captures whose start is known.
        sessions: those of two such captures or more.
        uses: segments that the set is a view of, most rows first.
    """

    spec: PairSpec
    split: SplitSpec
    snapshot: Snapshot
    listing: Listing
    capture_reason: npt.NDArray[np.uint8]
    capture_split: npt.NDArray[np.uint8]
    timed: int
    sessions: tuple[Session, ...]
    uses: tuple[PairUse, ...]

    @property
    def to_compute(self) -> list[PairUse]:
        """Segments that are not complete yet."""
        return [use for use in self.uses if use.reason is None]

    def recordings(self, place: int) -> list[Recording]:
        """The captures of one of its sessions, in the order of its pairs."""
        return [recording_at(each, self.snapshot, self.listing) for each in self.sessions[place].capture.tolist()]

    def count_sessions(self, uses: Sequence[PairUse]) -> int:
        """Sessions of the set in some segments."""
        return sum(len(np.unique(use.session[use.session != NOT_WANTED])) for use in uses)


def make_pair_plan(
    spec: PairSpec, split: SplitSpec, snapshot: Snapshot, listing: Listing, stored: Sequence[StoredPairSegment]
) -> PairPlan:
    """Plan a build. Of two segments that hold a session, the one of which more is wanted serves it, or the smaller.

    Args:
        spec: of the pairs.
        split: of the set.
        snapshot: every approved capture.
        listing: the raw location, joined to it.
        stored: what the store holds of this spec.
    """
    timed = snapshot.start_time_ns != NO_TIMESTAMP
    reasons = _prefilter(snapshot, listing, timed)
    sessions = _find_sessions(snapshot, listing, timed & (reasons == Reason.VALID))
    free = {session.digest: place for place, session in enumerate(sessions)}
    candidates = [(segment, segment.rows.sessions()) for segment in stored]
    candidates.sort(key=lambda pair: (-sum(each[0] in free for each in pair[1]), len(pair[0].rows), pair[0].segment))
    uses = []
    for complete in (True, False):
        for segment, held in candidates:
            wanted = [each for each in held if each[0] in free]
            enough = wanted and (complete or len(wanted) >= FINISH_SHARE * len(held))
            if (segment.reason is not None) == complete and enough:
                uses.append(_claim(segment, wanted, free))
    if free:
        uses.append(_new_segment(spec, snapshot, sessions, sorted(free.values())))
    uses.sort(key=lambda use: (-len(use.rows), use.segment))
    splits = assign(split, snapshot.session_id, snapshot.position)
    return PairPlan(spec, split, snapshot, listing, reasons, splits, int(timed.sum()), tuple(sessions), tuple(uses))


def _find_sessions(snapshot: Snapshot, listing: Listing, usable: npt.NDArray[np.bool_]) -> list[Session]:
    """Sessions with two usable captures or more, in the order of their hashes, as rows of features have it."""
    capture = np.flatnonzero(usable)
    high, low = snapshot.session_id[capture].view(">u8").T
    h = hash_sessions(snapshot.session_id[capture])
    order = np.lexsort((snapshot.capture_id[capture], snapshot.websdr_id[capture], low, high, h))
    capture, high, low = capture[order], high[order], low[order]
    inputs = session_inputs(
        snapshot.capture_id[capture],
        snapshot.websdr_id[capture],
        listing.source_digest[capture],
        snapshot.start_time_ns[capture],
        snapshot.sample_rate_hz[capture],
    )
    borders = np.flatnonzero((np.diff(high) != 0) | (np.diff(low) != 0)) + 1
    edges = [0, *borders.tolist(), len(capture)]
    return [Session(digest_of(inputs[begin:end]), capture[begin:end]) for begin, end in pairwise(edges) if end - begin >= 2]


def _prefilter(snapshot: Snapshot, listing: Listing, timed: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    """What catalog and listing alone say against each capture that has a time."""
    with np.errstate(invalid="ignore"):
        rate = np.isfinite(snapshot.sample_rate_hz) & (snapshot.sample_rate_hz > 0)
    reasons = np.where(listing.size_bytes == MISSING, Reason.MISSING_OBJECT, Reason.VALID)
    reasons = np.where(on_earth(snapshot.position), reasons, Reason.BAD_POSITION)
    reasons = np.where(rate, reasons, Reason.SAMPLE_RATE_MISMATCH)
    return np.where(timed, reasons, Reason.VALID).astype(np.uint8)


def _claim(segment: StoredPairSegment, wanted: list[tuple[bytes, int, int]], free: dict[bytes, int]) -> PairUse:
    session = np.full(len(segment.rows), NOT_WANTED, np.int64)
    for digest, begin, end in wanted:
        session[begin:end] = free.pop(digest)
    return PairUse(segment.segment, segment.rows, segment.chunk_rows, session, segment.reason)


def _new_segment(spec: PairSpec, snapshot: Snapshot, sessions: Sequence[Session], places: list[int]) -> PairUse:
    """A segment of all sessions that no other holds."""
    starts, chunk_rows = pack([sessions[place].n_pairs for place in places])
    rows = PairRows.empty(starts[-1] + sessions[places[-1]].n_pairs)
    of_row = np.full(len(rows), NOT_WANTED, np.int64)
    for place, start in zip(places, starts, strict=True):
        session = sessions[place]
        end = start + session.n_pairs
        pairs = session.capture[np.array(list(combinations(range(len(session.capture)), 2)))]  # (pair, 2)
        of_row[start:end] = place
        rows.session_id[start:end] = snapshot.session_id[session.capture[0]]
        rows.session_digest[start:end] = np.frombuffer(session.digest, np.uint8)
        for side, name in enumerate("ab"):
            getattr(rows, f"capture_{name}")[start:end] = snapshot.capture_id[pairs[:, side]]
            getattr(rows, f"websdr_{name}")[start:end] = snapshot.websdr_id[pairs[:, side]]
    return PairUse(rows.segment_id(spec.id, chunk_rows), rows, chunk_rows, of_row, None)
