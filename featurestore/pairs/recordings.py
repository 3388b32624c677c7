"""The captures of a session → what `delay` correlates: of each, the samples of one stretch of time that they share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from featurestore.delay.heard import NS, Heard
from featurestore.errors import ShortObjectError
from featurestore.objects.objects import Objects
from featurestore.source.captures import HEADER_GUESS_BYTES, Layout, check_samples, not_finite, parse_header
from featurestore.source.npy_header import HEADER_LIMIT_BYTES, header_bytes
from featurestore.tensor.rejection import Reason, Rejection

Int64 = npt.NDArray[np.int64]


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


@dataclass(frozen=True)
class Piece:
    """What is to be read of a capture: `count` samples from sample `first` on."""

    recording: Recording
    layout: Layout
    first: int
    count: int


def read_layout(raw: Objects, recording: Recording) -> Layout | Rejection:
    """Where a capture's samples are, by its header, or why it cannot be used."""
    try:
        n_bytes = min(HEADER_GUESS_BYTES, recording.size_bytes)
        head = _read(raw, recording.key, 0, n_bytes) if n_bytes else b""
        wanted = header_bytes(head)
        if n_bytes < wanted <= min(recording.size_bytes, HEADER_LIMIT_BYTES):
            head += _read(raw, recording.key, n_bytes, wanted)
    except FileNotFoundError:
        return Rejection(Reason.MISSING_OBJECT, "was listed, and was gone when it was to be read")
    except ShortObjectError:
        return Rejection(Reason.UNREADABLE, f"became shorter than the {recording.size_bytes} bytes that were listed")
    return parse_header(head[:wanted], recording.size_bytes, 1)


def cut(recordings: Sequence[Recording], layouts: Sequence[Layout], seconds: float) -> list[Piece | None]:
    """What to read of each capture of a session: one stretch of time, in which as much as can be is heard by two at once.

    Returns:
        One each; `None` where a capture has nothing in the stretch.
    """
    start = np.array([each.start_time_ns for each in recordings], np.int64)
    stop = np.array([each.stop_time_ns(layout) for each, layout in zip(recordings, layouts, strict=True)], np.int64)
    begin, end = shared_stretch(start, stop, seconds)
    pieces: list[Piece | None] = []
    for recording, layout in zip(recordings, layouts, strict=True):
        rate = recording.sample_rate_hz
        first = max(0, math.ceil((begin - recording.start_time_ns) / NS * rate - 1e-6))
        last = min(layout.n_samples, math.floor((end - recording.start_time_ns) / NS * rate + 1e-6))
        pieces.append(Piece(recording, layout, first, last - first) if last > first else None)
    return pieces


def shared_stretch(start_ns: Int64, stop_ns: Int64, seconds: float) -> tuple[int, int]:
    """The stretch of at most `seconds` in which pairs of recordings share most time, from the first moment that two share."""
    best, most = (int(start_ns.min()), int(start_ns.min())), -1
    for begin in np.unique(start_ns).tolist():
        end = begin + round(seconds * NS)
        first, last = np.maximum(start_ns, begin), np.minimum(stop_ns, end)
        both = np.minimum.outer(last, last) - np.maximum.outer(first, first)  # (recording, recording)
        shared = int(np.triu(np.maximum(both, 0), 1).sum())
        if shared > most:
            best, most = (begin, end), shared
    return best


def read_piece(raw: Objects, piece: Piece) -> Heard | Rejection:
    """The samples of a piece with their time, or why the capture cannot be used."""
    recording = piece.recording
    try:
        data = _read(raw, recording.key, *piece.layout.byte_range(piece.first, piece.count))
    except FileNotFoundError:
        return Rejection(Reason.MISSING_OBJECT, "was listed, and was gone when it was to be read")
    except ShortObjectError:
        return Rejection(Reason.UNREADABLE, f"became shorter than the {recording.size_bytes} bytes that were listed")
    samples = np.frombuffer(data, piece.layout.dtype).astype(np.complex64)
    if not np.isfinite(samples).all():
        return not_finite(samples)
    checked = check_samples(samples)
    if isinstance(checked, Rejection):
        return checked
    late_ns = round(piece.first / recording.sample_rate_hz * NS)
    return Heard(samples, recording.sample_rate_hz, recording.start_time_ns + late_ns)


def _read(raw: Objects, key: str, begin: int, end: int) -> bytes:
    [found] = raw.get_ranges(key, [begin], [end])
    if len(found) != end - begin:
        raise ShortObjectError(key)
    return bytes(memoryview(found))
