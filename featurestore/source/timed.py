"""Captures whose start is known: reading where their samples are, and what time a session's have in common."""

from __future__ import annotations

import math
from collections.abc import Sequence

from featurestore.errors import ShortObjectError
from featurestore.objects.objects import Objects
from featurestore.source.captures import HEADER_GUESS_BYTES, Layout, parse_header
from featurestore.source.npy_header import HEADER_LIMIT_BYTES, header_bytes
from featurestore.source.recording import NS, Recording
from featurestore.tensor.rejection import Reason, Rejection


def read_layout(raw: Objects, recording: Recording) -> Layout | Rejection:
    """Where a capture's samples are, by its header, or why it cannot be used."""
    try:
        n_bytes = min(HEADER_GUESS_BYTES, recording.size_bytes)
        head = read_bytes(raw, recording.key, 0, n_bytes) if n_bytes else b""
        wanted = header_bytes(head)
        if n_bytes < wanted <= min(recording.size_bytes, HEADER_LIMIT_BYTES):
            head += read_bytes(raw, recording.key, n_bytes, wanted)
    except FileNotFoundError:
        return Rejection(Reason.MISSING_OBJECT, "was listed, and was gone when it was to be read")
    except ShortObjectError:
        return Rejection(Reason.UNREADABLE, f"became shorter than the {recording.size_bytes} bytes that were listed")
    return parse_header(head[:wanted], recording.size_bytes, 1)


def read_bytes(raw: Objects, key: str, begin: int, end: int) -> bytes:
    """Just these bytes of an object; `ShortObjectError` when it has fewer."""
    [piece] = raw.get_ranges(key, [begin], [end])
    if len(piece) != end - begin:
        raise ShortObjectError(key)
    return bytes(memoryview(piece))


def overlap(own: int, recordings: Sequence[Recording], layouts: Sequence[Layout | Rejection]) -> tuple[int, int] | None:
    """The samples `[first, stop)` of one capture that lie in the time which all readable ones of its session share.

    `first` is the sample nearest to the beginning of that time, so the same window of all of them begins at one instant, to
    half a sample; the number of samples is the same for captures of one rate.

    Returns:
        `None` where they share no time.
    """
    good = [(each, layout) for each, layout in zip(recordings, layouts, strict=True) if isinstance(layout, Layout)]
    layout = layouts[own]
    if not isinstance(layout, Layout):
        return None
    begin = max(each.start_time_ns for each, _ in good)
    end = min(each.stop_time_ns(found) for each, found in good)
    rate = recordings[own].sample_rate_hz
    first = round((begin - recordings[own].start_time_ns) / NS * rate)
    count = math.floor((end - begin) / NS * rate) - 1  # rounding may move the last sample out
    return (first, first + count) if count > 0 and first + count <= layout.n_samples else None
