"""True sample rate and time of a KiwiSDR recording, from the GPS time that the receiver stamped on each block of samples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from featurestore.corpus.ingest.gps_time import WEEK_S
from featurestore.corpus.ingest.samples import ClockStep

STAMP_BYTES = 10
"""A `kiwi` chunk: u8 age of the last GPS solution in s, u8 unused, u32 GPS second of the week, u32 nanoseconds."""

NEVER_LOCKED = 255
MAX_AGE_S = 60
"""Older solutions don't count as lock; within a minute the receiver's oscillator drifts by far less than 1 ppm."""

MIN_STAMPS = 8
MAX_OFFSET = 1e-3
"""A receiver's clock is right within some ppm; a rate that is off by more than this is a fault in the stamps."""

LEAST_STEP_S = 1e-5
"""A tenth of a sample: no receiver's oscillator wanders so far within a recording against its own fit."""
STAMP_RESOLUTION_S = 1e-9


@dataclass(frozen=True)
class Stamps:
    """One GPS stamp per block of samples, as columns of length k."""

    age_s: npt.NDArray[np.uint8]
    time_s: npt.NDArray[np.float64]  # since the start of the GPS week; 0 where the receiver had no time yet
    sample: npt.NDArray[np.int64]  # index of the block's first sample


@dataclass(frozen=True)
class GpsClock:
    """What the stamps say; without lock, nothing but notes.

    Attributes:
        rate_hz: against GPS time.
        notes: what was odd about the stamps.
        start_s: time of sample 0 in seconds of the GPS week.
        sigma_s: root mean square of the stamps about the fit; they wander together, so that averaging does not help.
        steps: where samples are missing.
    """

    rate_hz: float | None
    notes: tuple[str, ...]
    start_s: float | None = None
    sigma_s: float | None = None
    steps: tuple[ClockStep, ...] = ()


def parse_stamps(stamps: bytes, samples: list[int]) -> Stamps:
    """Stamps from the contents of all `kiwi` chunks, one after the other, and the sample index where each one applies."""
    layout = np.dtype([("age", "u1"), ("unused", "u1"), ("second", "<u4"), ("nanosecond", "<u4")])
    table = np.frombuffer(stamps, layout)
    return Stamps(table["age"], table["second"] + table["nanosecond"] * 1e-9, np.array(samples, np.int64))


def measure_rate(stamps: Stamps, nominal_hz: float) -> GpsClock:
    """Least-squares slope of sample index against GPS time.

    Where the stamps jump (lost samples, a stale stamp, the first block) a new run begins; all runs share one slope and each
    has its own offset, so that no jump bends the slope. The turn of the GPS week is no jump.
    """
    usable = (stamps.age_s <= MAX_AGE_S) & (stamps.time_s > 0)
    if usable.sum() < MIN_STAMPS:
        return GpsClock(None, (f"{_why_unusable(stamps, int(usable.sum()))}; its nominal rate holds",))
    sample = stamps.sample[usable]
    step_s = _wrap(np.diff(stamps.time_s[usable]))
    time_s = np.concatenate([[0.0], np.cumsum(step_s)])
    expected_s = np.diff(sample) / nominal_hz
    jumps = np.abs(step_s - expected_s) > 1e-4 + 2e-3 * expected_s
    run = np.concatenate([[0], np.cumsum(jumps)])
    length = np.bincount(run)
    if length.max() < MIN_STAMPS:
        return GpsClock(None, ("GPS stamps jump from block to block; its nominal rate holds",))
    t = time_s - (np.bincount(run, time_s) / length)[run]
    n = sample - (np.bincount(run, sample) / length)[run]
    rate_hz = float((t @ n) / (t @ t))
    if abs(rate_hz / nominal_hz - 1) > MAX_OFFSET:
        return GpsClock(None, (f"GPS stamps say {rate_hz:.1f} Hz, the header {nominal_hz:g} Hz; the nominal rate holds",))
    steady = np.flatnonzero(length > 1)
    # Where sample 0 of each run lies, in seconds after the first usable stamp.
    origin_s = ((np.bincount(run, time_s) - np.bincount(run, sample) / rate_hz) / length)[steady]
    held = length[run] > 1
    wander_s = t[held] - n[held] / rate_hz
    sigma_s = float(np.sqrt((wander_s @ wander_s) / max(1, len(wander_s) - len(steady) - 1)))
    steps = _steps(origin_s, sample[np.searchsorted(run, steady, "left")])
    note = f"true rate {rate_hz:.4f} Hz, from {int(length[steady].sum())} GPS stamps"
    start_s = float(stamps.time_s[usable][0] + origin_s[0]) % WEEK_S
    return GpsClock(rate_hz, (note, *_gaps(steps)), start_s, max(sigma_s, STAMP_RESOLUTION_S), steps)


def _steps(origin_s: npt.NDArray[np.float64], first: npt.NDArray[np.int64]) -> tuple[ClockStep, ...]:
    """The jumps between steady runs, each at its run's first stamp; the clock's slow wandering is no jump."""
    jumps_s = np.diff(origin_s)
    step_index = np.flatnonzero(np.abs(jumps_s) > LEAST_STEP_S)
    return tuple(ClockStep(int(first[index + 1]), float(jumps_s[index])) for index in step_index)


def _gaps(steps: tuple[ClockStep, ...]) -> list[str]:
    """Samples that the network lost."""
    lost_s = [step.jump_s for step in steps if step.jump_s > 1e-3]
    return [f"{sum(lost_s):.3f} s of samples are missing in {len(lost_s)} places"] if lost_s else []


def _wrap(step_s: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Steps of a clock that starts anew each week, to the nearest one."""
    return np.asarray((step_s + WEEK_S / 2) % WEEK_S - WEEK_S / 2)


def _why_unusable(stamps: Stamps, n_usable: int) -> str:
    if n_usable:
        return f"only {n_usable} usable GPS stamps"
    ages = stamps.age_s[stamps.time_s > 0]  # the first block of every recording is stamped zero, age included
    if len(ages) == 0:
        return "receiver without GPS lock (no stamp holds a time)"
    age = "it never had a solution" if ages.min() == NEVER_LOCKED else f"its last solution is at least {ages.min()} s old"
    return f"receiver without GPS lock ({age})"
