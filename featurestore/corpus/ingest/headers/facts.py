"""What headers and file names say of a recording beside its samples, and how a recording is completed by it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from featurestore.corpus.ingest.samples import Recording

WRAP_HZ = 1 << 32
"""Headers with 32 bits for the frequency hold what is left of it above 4.29 GHz."""

SAME_TIME_S = 60
"""Two clocks further apart than this speak of different time zones: a header is written within seconds of the file's name."""


@dataclass(frozen=True)
class Facts:
    """What one source says; `None` where it says nothing.

    Attributes:
        source: who says it, such as "its name (gqrx)".
        sample_rate_hz: rate of the recording.
        frequency_hz: centre frequency.
        timestamp: time of the first sample.
        sure_utc: whether the time is UTC for certain, not possibly the local time of the recorder.
        sample_format: one of `RAW_FORMATS`, when a raw file's name tells it.
        note: what else to know of it.
    """

    source: str
    sample_rate_hz: float | None = None
    frequency_hz: float | None = None
    timestamp: datetime | None = None
    sure_utc: bool = True
    sample_format: str | None = None
    note: str = ""


def complete(recording: Recording, facts: Facts) -> Recording:
    """The recording with what it did not know yet, and who said so in its `origins`.

    What is known is kept, but for two faults of headers: a frequency that wrapped round at 32 bits, and a local time where
    the facts know UTC.
    """
    new: dict[str, float | datetime] = {}
    if facts.sample_rate_hz and recording.sample_rate_hz is None:
        new["sample_rate_hz"] = facts.sample_rate_hz
    if facts.frequency_hz and _wants_frequency(recording, facts.frequency_hz):
        new["frequency_mhz"] = facts.frequency_hz / 1e6
    if facts.timestamp and _wants_time(recording, facts):
        new["timestamp"] = facts.timestamp
    zone = "" if facts.sure_utc else ", read as UTC though recorders may write local time"
    said = {name: facts.source + (zone if name == "timestamp" else "") for name in new}
    sure = facts.sure_utc if "timestamp" in new else recording.sure_utc
    notes = (*recording.notes, facts.note) if facts.note else recording.notes
    return replace(recording, **new, origins=dict(recording.origins) | said, sure_utc=sure, notes=notes)  # type: ignore[arg-type]  # by name


def _wants_frequency(recording: Recording, frequency_hz: float) -> bool:
    if recording.frequency_mhz is None:
        return True
    off = frequency_hz - recording.frequency_mhz * 1e6
    return off >= WRAP_HZ - 1e3 and abs(off - round(off / WRAP_HZ) * WRAP_HZ) <= 1e3  # names hold whole kHz


def _wants_time(recording: Recording, facts: Facts) -> bool:
    if recording.timestamp is None or facts.timestamp is None:
        return facts.timestamp is not None
    apart_s = abs((facts.timestamp - recording.timestamp).total_seconds())
    return facts.sure_utc and not recording.sure_utc and apart_s > SAME_TIME_S
