"""Windows that mean the same moment (`--align session`): which captures of a session are aligned, and how that is told apart.

A window's samples depend then on when all captures of the session begin and end, so the source digest of an aligned capture is
made of all of theirs: where one is replaced, joins, goes, or gets another time, the session's tensors are computed anew.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from featurestore.source.recording import Recording, digest_of, recording_at, session_inputs
from featurestore.source.snapshot import NO_TIMESTAMP, Listing, Snapshot
from featurestore.store.split import unique_sessions

ALONE = -1
SESSION = "session"


@dataclass(frozen=True)
class Alignment:
    """Which captures are aligned with which.

    Attributes:
        group: (n,) number of each capture's group, or `ALONE`.
        members: places in the snapshot of each group's captures, by receiver.
        source_digest: (n, 16) of each capture, as rows have it.
    """

    group: npt.NDArray[np.int64]
    members: tuple[npt.NDArray[np.int64], ...]
    source_digest: npt.NDArray[np.uint8]

    def recordings(self, capture: int, snapshot: Snapshot, listing: Listing) -> tuple[int, tuple[Recording, ...]] | None:
        """Place of a capture among the captures of its group, and those; `None` where it is aligned with nobody."""
        group = int(self.group[capture])
        if group == ALONE:
            return None
        members = self.members[group].tolist()
        found = tuple(recording_at(each, snapshot, listing) for each in members)
        return members.index(capture), found


def align_sessions(snapshot: Snapshot, listing: Listing, usable: npt.NDArray[np.bool_]) -> Alignment:
    """Group the usable captures of each session whose start is known; one alone stays as it is."""
    timed = np.flatnonzero(usable & (snapshot.start_time_ns != NO_TIMESTAMP))
    group = np.full(len(snapshot), ALONE, np.int64)
    digest = listing.source_digest.copy()
    members: list[npt.NDArray[np.int64]] = []
    if len(timed):
        session = unique_sessions(snapshot.session_id[timed])[1]
        order = np.lexsort((snapshot.capture_id[timed], snapshot.websdr_id[timed], session))
        timed, session = timed[order], session[order]
        inputs = session_inputs(
            snapshot.capture_id[timed],
            snapshot.websdr_id[timed],
            listing.source_digest[timed],
            snapshot.start_time_ns[timed],
            snapshot.sample_rate_hz[timed],
        )
        for part in np.split(np.arange(len(timed)), np.flatnonzero(np.diff(session)) + 1):
            if len(part) < 2:
                continue
            for place in part.tolist():  # its own inputs come first: captures of one session differ
                own = np.concatenate([inputs[[place]], inputs[part]])
                digest[timed[place]] = np.frombuffer(digest_of(own), np.uint8)
            group[timed[part]] = len(members)
            members.append(timed[part])
    return Alignment(group, tuple(members), digest)
