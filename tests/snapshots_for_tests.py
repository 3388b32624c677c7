"""Snapshots of a catalog that no catalog gave."""

from __future__ import annotations

import uuid

import numpy as np

from featurestore.source.snapshot import NO_TIMESTAMP, Snapshot


def snapshot(ids: list[int]) -> Snapshot:
    """Captures of these ids; three ids make a session."""
    n = len(ids)
    sessions = [uuid.uuid5(uuid.NAMESPACE_DNS, str(capture // 3)).bytes for capture in ids]
    return Snapshot(
        capture_id=np.array(ids, np.int64),
        session_id=np.frombuffer(b"".join(sessions), np.uint8).reshape(-1, 16),
        websdr_id=np.array([capture % 3 for capture in ids], np.int32),
        position=np.tile([45.0, 7.0], (n, 1)),
        frequency_mhz=np.full(n, np.nan, np.float32),
        sample_rate_hz=np.full(n, 192_000.0),
        snr_db=np.full(n, np.nan, np.float32),
        timestamp=np.full(n, NO_TIMESTAMP),
        start_time_ns=np.full(n, NO_TIMESTAMP),
        time_sigma_s=np.full(n, np.nan),
        custom_keys={},
        query="",
    )
