"""The catalog at one moment, as columns: what approved captures there are, and their labels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

NO_TIMESTAMP = np.iinfo(np.int64).min
"""Timestamp of a capture that has none; the same bits as numpy's NaT."""


@dataclass(frozen=True)
class Snapshot:
    """Every approved capture at one moment, as columns of equal length n, ordered by `capture_id`.

    `custom_keys` holds the object keys of just those captures whose key is not the usual one (see `default_key`), by index.
    """

    capture_id: npt.NDArray[np.int64]
    session_id: npt.NDArray[np.uint8]  # (n, 16)
    websdr_id: npt.NDArray[np.int32]
    position: npt.NDArray[np.float64]  # (n, 2) latitude, longitude in degrees
    frequency_mhz: npt.NDArray[np.float32]
    sample_rate_hz: npt.NDArray[np.float64]
    snr_db: npt.NDArray[np.float32]
    timestamp: npt.NDArray[np.int64]  # ns since 1970 UTC
    custom_keys: dict[int, str]
    query: str

    def __len__(self) -> int:
        return len(self.capture_id)

    def key(self, index: int) -> str:
        """The object key of one capture, relative to the raw location."""
        custom = self.custom_keys.get(index)
        return custom if custom is not None else default_key(self.session_id[index].tobytes(), self.websdr_id[index])

    def keys(self) -> Iterator[str]:
        """The object keys of all captures, in order."""
        return map(self.key, range(len(self)))


def default_key(session_id: bytes, websdr_id: int | np.int32) -> str:
    """`sessions/{session_id}/websdr_{websdr_id}.npy`, of a session given as its 16 bytes."""
    return f"sessions/{format_session(session_id)}/websdr_{int(websdr_id)}.npy"


def format_session(session_id: bytes) -> str:
    """`str(UUID(bytes=session_id))`, four times as fast: it is done for every capture of a catalog."""
    digits = session_id.hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
