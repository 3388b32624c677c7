"""One capture with a start time, and what tells one session's inputs from another's. Pure."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from featurestore.source.captures import Layout
    from featurestore.source.snapshot import Listing, Snapshot

NS = 1_000_000_000


@dataclass(frozen=True)
class Recording:
    """One capture: its object, as listed, and when it begins."""

    capture_id: int
    key: str
    size_bytes: int
    sample_rate_hz: float
    start_time_ns: int

    def stop_time_ns(self, layout: Layout) -> int:
        """When it ends."""
        return self.start_time_ns + math.floor(layout.n_samples / self.sample_rate_hz * NS)


def recording_at(index: int, snapshot: Snapshot, listing: Listing) -> Recording:
    """The recording of one capture of a snapshot."""
    return Recording(
        int(snapshot.capture_id[index]),
        snapshot.key(index),
        int(listing.size_bytes[index]),
        float(snapshot.sample_rate_hz[index]),
        int(snapshot.start_time_ns[index]),
    )


def session_inputs(
    capture_id: npt.NDArray[np.int64],
    websdr_id: npt.NDArray[np.int32],
    source_digest: npt.NDArray[np.uint8],
    start_time_ns: npt.NDArray[np.int64],
    sample_rate_hz: npt.NDArray[np.float64],
) -> npt.NDArray[np.uint8]:
    """(n, 44) what a capture contributes to what is computed from its session as a whole."""
    columns = ((capture_id, "<i8"), (websdr_id, "<i4"), (source_digest, "u1"), (start_time_ns, "<i8"), (sample_rate_hz, "<f8"))
    n = len(capture_id)
    parts = [
        np.ascontiguousarray(column, dtype).view(np.uint8).reshape(n, 16 if dtype == "u1" else np.dtype(dtype).itemsize)
        for column, dtype in columns
    ]
    return np.concatenate(parts, axis=1)


def digest_of(inputs: npt.NDArray[np.uint8]) -> bytes:
    """The 16 bytes that tell one set of inputs from another."""
    return hashlib.sha256(np.ascontiguousarray(inputs).tobytes()).digest()[:16]
