"""The catalog at one moment, as columns: what approved captures there are, and their labels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from featurestore.source.receivers import Receivers

NO_TIMESTAMP = np.iinfo(np.int64).min
"""Timestamp of a capture that has none; the same bits as numpy's NaT."""

KEYS_AT_ONCE = 10_000

_DIGIT_PLACES = [place for place in range(36) if place not in (8, 13, 18, 23)]


@dataclass(frozen=True)
class Snapshot:
    """Every approved capture at one moment, as columns of equal length n, ordered by `capture_id`.

    `custom_keys` holds the object keys of just those captures whose key is not the usual one (see `default_key`), by index.
    `receivers` says where those receivers stand that the captures name; `None` where nobody said.
    """

    capture_id: npt.NDArray[np.int64]
    session_id: npt.NDArray[np.uint8]  # (n, 16)
    websdr_id: npt.NDArray[np.int32]
    position: npt.NDArray[np.float64]  # (n, 2) latitude, longitude in degrees
    frequency_mhz: npt.NDArray[np.float32]
    sample_rate_hz: npt.NDArray[np.float64]
    snr_db: npt.NDArray[np.float32]
    timestamp: npt.NDArray[np.int64]  # ns since 1970 UTC
    start_time_ns: npt.NDArray[np.int64]  # of the first sample, ns since 1970 UTC; `NO_TIMESTAMP` where unknown
    time_sigma_s: npt.NDArray[np.float64]  # one standard deviation of it; NaN where unknown
    custom_keys: dict[int, str]
    query: str
    receivers: Receivers | None = None

    def __len__(self) -> int:
        return len(self.capture_id)

    def key(self, index: int) -> str:
        """The object key of one capture, relative to the raw location."""
        custom = self.custom_keys.get(index)
        return custom if custom is not None else default_key(self.session_id[index].tobytes(), self.websdr_id[index])

    def keys_at(self, index: npt.NDArray[np.int64]) -> list[str]:
        """The object keys of the captures at `index`, in its order: `key` for many, in a quarter of the time."""
        texts = format_sessions(self.session_id[index])
        keys = list(map(_usual_key, texts, self.websdr_id[index].tolist()))
        if self.custom_keys:
            return [self.custom_keys.get(capture, key) for capture, key in zip(index.tolist(), keys, strict=True)]
        return keys

    def keys(self) -> Iterator[str]:
        """The object keys of all captures, in order."""
        for start in range(0, len(self), KEYS_AT_ONCE):
            yield from self.keys_at(np.arange(start, min(start + KEYS_AT_ONCE, len(self))))


def default_key(session_id: bytes, websdr_id: int | np.int32) -> str:
    """`sessions/{session_id}/websdr_{websdr_id}.npy`, of a session given as its 16 bytes."""
    return _usual_key(format_session(session_id), int(websdr_id))


def _usual_key(session: str, websdr_id: int) -> str:
    return f"sessions/{session}/websdr_{websdr_id}.npy"


def format_session(session_id: bytes) -> str:
    """`str(UUID(bytes=session_id))`, four times as fast."""
    digits = session_id.hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def format_sessions(session_id: npt.NDArray[np.uint8]) -> list[str]:
    """`format_session` of every row of (n, 16), faster again: it is done for every capture of a catalog."""
    digits = np.frombuffer(session_id.tobytes().hex().encode(), np.uint8).reshape(-1, 32)
    texts = np.full((len(digits), 36), ord("-"), np.uint8)  # (session, character)
    texts[:, _DIGIT_PLACES] = digits
    joined = texts.tobytes().decode()
    return [joined[start : start + 36] for start in range(0, len(joined), 36)]


MISSING = -1
"""Size of a capture whose object was not listed."""


@dataclass(frozen=True)
class Listing:
    """What the raw location says of each capture of a snapshot, in its order.

    Attributes:
        size_bytes: (n,) int64; `MISSING` where there is no object.
        source_digest: (n, 16) uint8; zeros where there is no object.
    """

    size_bytes: npt.NDArray[np.int64]
    source_digest: npt.NDArray[np.uint8]
