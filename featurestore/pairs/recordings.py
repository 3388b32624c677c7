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
from featurestore.source.captures import Layout, check_samples, not_finite
from featurestore.source.recording import Recording
from featurestore.source.timed import read_bytes
from featurestore.tensor.rejection import Reason, Rejection

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Piece:
    """What is to be read of a capture: `count` samples from sample `first` on."""

    recording: Recording
    layout: Layout
    first: int
    count: int


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
        data = read_bytes(raw, recording.key, *piece.layout.byte_range(piece.first, piece.count))
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
