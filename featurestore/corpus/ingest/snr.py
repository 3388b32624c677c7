"""The signal-to-noise ratio of a capture, estimated: power in the channel over the noise beside it.

Spectrum: Welch's averages (IEEE Trans. Audio Electroacoust. 15, 1967). The channel is the one of the stated width with the
most power, its centre at most a quarter of that width from 0 Hz. Noise is what lies a channel's width and more from that
centre, on both sides up to 0.38 of the rate, where receivers' filters are still flat; its floor is fitted in dB by a constant
and one cosine over frequency (the ripple of such filters), without the bins that stand out of it (other signals, birdies).
What the channel holds above that floor is the signal.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.fft

from featurestore.corpus.ingest.samples import Complex

CHANNEL_HZ = 12_500.0
"""One channel of narrowband FM; the simulator reckons its SNR in the same width."""

MAX_BAND_SHARE = 0.25
"""A channel takes at most this share of the recorded band, so that noise is left beside it."""

PASS_EDGE = 0.38
BINS_PER_CHANNEL = 64
MIN_SEGMENTS, MAX_SEGMENTS = 8, 8192
"""Segments of half overlap; of longer captures so many are taken, evenly spread."""

BATCH_SAMPLES = 1 << 18
RIPPLE_PERIODS = np.arange(0.5, 9.01, 0.25)
"""Periods of a filter's ripple over the whole rate that are tried."""

LEAST_SNR_DB, MOST_SNR_DB = -10.0, 60.0
"""Below, ripple and chance are larger than the signal. Above, what lies beside is no noise of the air: a KiwiSDR with a filter
of 1 kHz leaves the rounding of its 16 bits there, 94 dB under DCF77. Both are unknown."""

Floats = npt.NDArray[np.float64]


def estimate_snr_db(
    samples: Complex, rate_hz: float, channel_hz: float = CHANNEL_HZ, band_hz: float | None = None
) -> float | None:
    """Signal over noise in the channel's width, in dB, to one decimal; `None` where nothing can be said.

    Args:
        samples: (n,) complex.
        rate_hz: their rate.
        channel_hz: width of the channel; a quarter of the band where that is less.
        band_hz: width that was recorded, where resampling up has made the rate wider; beyond it lies no noise.
    """
    band_hz = min(rate_hz, band_hz or rate_hz)
    channel_hz = min(channel_hz, MAX_BAND_SHARE * band_hz)
    n_fft = 1 << round(math.log2(BINS_PER_CHANNEL * rate_hz / channel_hz))
    spectrum = _spectrum(samples, n_fft)
    if spectrum is None or not np.isfinite(spectrum).all() or not spectrum.any():
        return None
    frequency_hz = np.fft.fftshift(np.fft.fftfreq(n_fft, 1 / rate_hz))
    width = round(channel_hz * n_fft / rate_hz)  # in bins
    centre_hz = frequency_hz[_centre(spectrum, frequency_hz, width, channel_hz)]
    beside = (np.abs(frequency_hz - centre_hz) >= channel_hz) & (np.abs(frequency_hz) <= PASS_EDGE * band_hz)
    floor = _floor(spectrum, frequency_hz / rate_hz, beside)
    if floor is None:
        return None
    channel = np.abs(frequency_hz - centre_hz) <= channel_hz / 2
    noise = float(floor[channel].sum())
    ratio = float(spectrum[channel].sum()) / noise - 1
    snr_db = 10 * math.log10(ratio) if ratio > 0 else -math.inf
    return round(snr_db, 1) if LEAST_SNR_DB <= snr_db <= MOST_SNR_DB else None


def _spectrum(samples: Complex, n_fft: int) -> Floats | None:
    """Mean power per bin, lowest frequency first: (n_fft,); `None` for captures too short."""
    n_segments = (len(samples) - n_fft) // (n_fft // 2) + 1
    if n_segments < MIN_SEGMENTS:
        return None
    taken = min(n_segments, MAX_SEGMENTS)
    starts = np.round(np.linspace(0, len(samples) - n_fft, taken)).astype(np.int64)
    window = np.hanning(n_fft + 1)[:-1].astype(np.float32)
    total = np.zeros(n_fft)
    batch = max(1, BATCH_SAMPLES // n_fft)
    for at in range(0, taken, batch):
        segments = np.stack([samples[start : start + n_fft] for start in starts[at : at + batch]]) * window
        power: npt.NDArray[Any] = scipy.fft.fft(segments, axis=1, overwrite_x=True)
        total += (power.real.astype(np.float64) ** 2 + power.imag.astype(np.float64) ** 2).sum(axis=0)
    return np.fft.fftshift(total) / taken


def _centre(spectrum: Floats, frequency_hz: Floats, width: int, channel_hz: float) -> int:
    """Bin of the middle of the channel with the most power."""
    power = np.convolve(spectrum, np.ones(width | 1), "same")
    near = np.flatnonzero(np.abs(frequency_hz) <= channel_hz / 4)
    return int(near[power[near].argmax()])


def _floor(spectrum: Floats, share: Floats, beside: npt.NDArray[np.bool_]) -> Floats | None:
    """The noise floor at every bin: exp of a + b·cos(2π p f) + c·sin(2π p f), p the number of periods that fits best.

    Args:
        spectrum: mean power per bin.
        share: frequency over rate.
        beside: the bins of noise.
    """
    if beside.sum() < BINS_PER_CHANNEL // 2 or not (spectrum[beside] > 0).all():
        return None
    level = np.log(np.maximum(spectrum, np.finfo(np.float64).tiny))
    floor = np.full(len(level), np.median(level[beside]))
    for _ in range(3):  # each time without the bins that stand out of the floor so far
        off = level - floor
        spread = 1.4826 * float(np.median(np.abs(off[beside])))  # of normal deviates, the standard deviation
        kept = beside & (np.abs(off) <= 4 * spread + 1e-9)
        fits = (_ripple(level, share, kept, periods) for periods in RIPPLE_PERIODS)
        floor = min(fits, key=lambda fit: float(((level - fit)[kept] ** 2).sum()))
    return np.asarray(np.exp(floor))


def _ripple(level: Floats, share: Floats, kept: npt.NDArray[np.bool_], periods: float) -> Floats:
    turn = 2 * np.pi * periods * share
    shapes = np.stack([np.ones_like(turn), np.cos(turn), np.sin(turn)], axis=1)  # (bin, shape)
    weights = np.linalg.lstsq(shapes[kept], level[kept], rcond=None)[0]
    return np.asarray(shapes @ weights)
