"""One recording and its label → captures: which rate, which cuts, which session each belongs to."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from fractions import Fraction
from functools import partial
from uuid import UUID, uuid5

import numpy as np

from featurestore.corpus.ingest.gps_time import gps_to_unix_ns
from featurestore.corpus.ingest.labels import Label
from featurestore.corpus.ingest.resample import TOLERANCES, count, find_ratio, resample, residual
from featurestore.corpus.ingest.samples import Complex, ComplexName, Recording
from featurestore.corpus.ingest.times import NS
from featurestore.errors import DataQualityError, UsageError
from featurestore.source.catalog_writing import CaptureRecord
from featurestore.source.snapshot import default_key

RATE_TOLERANCE = 1e-3
"""How far label and header may differ in the sample rate before one of them must be wrong."""

MAX_CAPTURE_BYTES = 5 << 30
"""The most that S3 takes in one request."""


@dataclass(frozen=True)
class IngestOptions:
    """How recordings become captures.

    Attributes:
        resample_to_hz: rate of the captures; `None` keeps each recording's own.
        sample_rate_hz: rate of the recordings that neither header nor label states one for.
        swap_iq: exchange I and Q, unless a label says otherwise.
        split_seconds: cut each recording into consecutive captures of this length; `None` leaves it whole.
        dtype: `complex64` or `complex128`.
        jobs: recordings converted at the same time.
        receivers: CSV of where receivers stand, before what labels say: a file or `s3://…`.

    Raises:
        UsageError: when a value is impossible.
    """

    resample_to_hz: float | None = None
    sample_rate_hz: float | None = None
    swap_iq: bool = False
    split_seconds: float | None = None
    dtype: ComplexName = "complex64"
    jobs: int = 2
    receivers: str | None = None

    def __post_init__(self) -> None:
        for name in ("resample_to_hz", "sample_rate_hz", "split_seconds"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise UsageError(f"{name} is {value}; expected a number above 0")
        if self.dtype not in ("complex64", "complex128"):
            raise UsageError(f"dtype is {self.dtype!r}; expected complex64 or complex128")
        if not self.jobs >= 1:  # so that NaN fails too
            raise UsageError(f"jobs is {self.jobs}; expected at least 1")


@dataclass(frozen=True)
class Capture:
    """One capture to be written: its catalog row, its object's key, and where in the recording its samples lie.

    `start` and `stop` count samples after resampling by `ratio`. `start_time_ns` is the Unix time of its first sample and
    `time_sigma_s` one standard deviation of that; `None` where it is not known.
    """

    record: CaptureRecord
    key: str
    recording: Recording
    ratio: Fraction
    start: int
    stop: int
    swap_iq: bool
    dtype: ComplexName
    start_time_ns: int | None = None
    time_sigma_s: float | None = None

    def read(self) -> Complex:
        """Its samples, decoded, swapped and resampled now.

        Raises:
            DataQualityError: when some are not finite.
        """
        read = partial(self.recording.read, swap_iq=self.swap_iq, dtype=self.dtype)
        samples = resample(read, len(self.recording), self.ratio, self.start, self.stop)
        if not np.isfinite(samples).all():
            raise DataQualityError("holds samples that are NaN or infinite; record or convert it again")
        return samples


def settle_rate(recording: Recording, label: Label, options: IngestOptions) -> float:
    """The recording's sample rate: measured against GPS, else as labelled, else as its header states, else the option.

    Raises:
        DataQualityError: when nothing states a rate, or label and header contradict each other.
    """
    header_hz, stated_hz = recording.gps_rate_hz or recording.sample_rate_hz, label.sample_rate_hz
    if header_hz is not None and not (math.isfinite(header_hz) and header_hz > 0):
        raise DataQualityError(f"states the impossible sample rate {header_hz} Hz; correct its header")
    if header_hz is not None and stated_hz is not None and abs(header_hz / stated_hz - 1) > RATE_TOLERANCE:
        raise DataQualityError(
            f"its header says {header_hz:g} Hz, its label sample_rate_hz {stated_hz:g}; correct the wrong one"
        )
    rate_hz = recording.gps_rate_hz or stated_hz or header_hz or options.sample_rate_hz
    if rate_hz is None:
        raise DataQualityError("states no sample rate; add sample_rate_hz to its label or give --sample-rate-hz")
    return rate_hz


def plan_captures(recording: Recording, label: Label, session: UUID, options: IngestOptions) -> list[Capture]:
    """The captures of one recording, in time; samples are read, swapped and resampled when each one is `read`.

    Raises:
        DataQualityError: when the rate is unknown or out of reach, or the recording is shorter than one cut.
    """
    rate_hz = settle_rate(recording, label, options)
    target_hz = options.resample_to_hz or rate_hz
    ratio = find_ratio(rate_hz, target_hz, timed=recording.gps_start_s is not None)
    start_ns = start_time_ns(recording, label.timestamp)
    total = count(len(recording), ratio)
    length = total if options.split_seconds is None else round(options.split_seconds * target_hz)
    if not 0 < length <= total:
        raise DataQualityError(
            f"lasts {total / target_hz:.3f} s, less than one cut of {options.split_seconds} s (--split-seconds)"
        )
    if length * np.dtype(options.dtype).itemsize > MAX_CAPTURE_BYTES:
        raise DataQualityError(
            f"would be a capture of {length:,} samples, more than an object may hold; cut it (--split-seconds)"
        )
    swap_iq = options.swap_iq if label.swap_iq is None else label.swap_iq
    captures = []
    for start in range(0, total - length + 1, length):
        # The k-th cuts of a session's receivers are one session again: they heard the same moment.
        cut_session = session if options.split_seconds is None else uuid5(session, str(start // length))
        record = _record(recording, label, cut_session, target_hz, start)
        key = default_key(cut_session.bytes, label.websdr_id)
        began_ns, sigma_s = None, None
        if start_ns is not None:
            began_ns = capture_time_ns(recording, start_ns, start / ratio, (start + length) / ratio, rate_hz)
            sigma_s = None if began_ns is None else label.time_sigma_s or recording.time_sigma_s
        record = replace(record, start_time_ns=began_ns, time_sigma_s=sigma_s)
        place = start, start + length
        captures.append(Capture(record, key, recording, ratio, *place, swap_iq, options.dtype, began_ns, sigma_s))
    return captures


def start_time_ns(recording: Recording, near: datetime | None) -> int | None:
    """Unix time of a recording's first sample.

    Args:
        recording: stamped with GPS time, or dated by its header.
        near: its time as labelled, to tell the GPS week; `None` leaves that to the recording's name.
    """
    near = near or recording.timestamp
    if recording.gps_start_s is not None:
        return None if near is None else gps_to_unix_ns(recording.gps_start_s, near)
    return recording.start_time_ns


def capture_time_ns(recording: Recording, start_ns: int, first: Fraction, stop: Fraction, rate_hz: float) -> int | None:
    """Unix time at a place in a recording; `None` when the clock jumps before another place.

    Args:
        recording: it says where its clock jumps.
        start_ns: time of its sample 0.
        first: the place, in samples of the recording.
        stop: the other place.
        rate_hz: its true rate.
    """
    if any(first < step.sample < stop for step in recording.steps):
        return None
    jumped_s = sum(step.jump_s for step in recording.steps if step.sample <= first)
    return start_ns + round(first / Fraction(rate_hz) * NS) + round(jumped_s * NS)


def rate_notes(recording: Recording, label: Label, options: IngestOptions) -> list[str]:
    """What resampling could not do."""
    rate_hz = settle_rate(recording, label, options)
    target_hz = options.resample_to_hz or rate_hz
    ratio = find_ratio(rate_hz, target_hz, timed=recording.gps_start_s is not None)
    off = residual(ratio, rate_hz, target_hz)
    notes = []
    if abs(off) > TOLERANCES[0]:
        notes.append(f"{rate_hz:.4f} Hz is so close to {target_hz:g} Hz that the captures stay {off * 1e6:+.1f} ppm off")
    if target_hz > rate_hz * (1 + RATE_TOLERANCE):
        notes.append(f"resampled up from {rate_hz:g} Hz: nothing lies beyond ±{rate_hz / 2:g} Hz")
    return notes


def origin_notes(recording: Recording, label: Label) -> list[str]:
    """What was taken from elsewhere than a label or a header proper, and from where."""
    values = {
        "sample_rate_hz": f"sample rate {recording.sample_rate_hz:g} Hz" if recording.sample_rate_hz else "",
        "frequency_mhz": f"frequency {recording.frequency_mhz:.10g} MHz" if recording.frequency_mhz else "",
        "timestamp": f"time {recording.timestamp:%Y-%m-%dT%H:%M:%S}Z" if recording.timestamp else "",
    }
    used = {name: source for name, source in recording.origins.items() if getattr(label, name) is None}
    return [
        f"{', '.join(values[name] for name in values if used.get(name) == source)} from {source}"
        for source in dict.fromkeys(used.values())
    ]


def _record(recording: Recording, label: Label, session: UUID, rate_hz: float, start: int) -> CaptureRecord:
    began = label.timestamp or recording.timestamp
    return CaptureRecord(
        session_id=session,
        websdr_id=label.websdr_id,
        latitude=label.latitude,
        longitude=label.longitude,
        sample_rate_hz=rate_hz,
        frequency_mhz=label.frequency_mhz or recording.frequency_mhz,
        snr_db=label.snr_db,
        timestamp=None if began is None else began + timedelta(seconds=start / rate_hz),
        # Said even where it is the usual one, so that a row that pointed elsewhere points here from now on.
        iq_key=default_key(session.bytes, label.websdr_id),
        approved=label.approved,
    )
