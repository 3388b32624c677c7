"""Any part of a recording at another sample rate: polyphase, by a ratio of small whole numbers."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from math import ceil
from typing import Any

import numpy as np
import numpy.typing as npt

from featurestore.corpus.ingest.samples import Complex
from featurestore.errors import DataQualityError

TOLERANCES = (1e-6, 1e-5)
"""How far the ratio may be from the exact one: 1 ppm stretches a minute by 60 µs. The second one serves rates that differ by
some ppm only, where a closer ratio needs a filter longer than `MAX_FACTOR` allows."""

TIMED_TOLERANCE = 1e-8
"""For samples with times: a second ends 10 ns off."""

MAX_FACTOR = 1 << 16
"""The filter has 96 taps for each unit of the larger factor; designing the longest takes about 2 s."""

HALF_LENGTH = 48
"""Samples of the slower rate on each side of the filter: with `BETA` its band is flat up to 0.89 of the slower Nyquist
frequency (Kaiser's formula), and what would alias is 80 dB down."""

BETA = 7.857  # Kaiser, 80 dB: 0.1102·(80 − 8.7)
TRANSITION = (80 - 7.95) / (2.285 * np.pi * 2 * HALF_LENGTH)


def find_ratio(rate_hz: float, target_hz: float, *, timed: bool = False) -> Fraction:
    """Target over rate, within 1 ppm (at worst 10), with the denominator as small as a search by powers of two finds.

    Args:
        rate_hz: of the recording.
        target_hz: of the captures.
        timed: whether the samples have times that must stay right; then within 0.01 ppm where that can be had.

    Raises:
        DataQualityError: when the rates are too far apart.
    """
    exact = Fraction(target_hz) / Fraction(rate_hz)
    largest = int(MAX_FACTOR / max(float(exact), 1.0)) - 1  # so that the numerator stays below the bound, too
    limits = [*(1 << power for power in range(largest.bit_length())), largest] if largest >= 1 else []
    for tolerance in (TIMED_TOLERANCE, *TOLERANCES) if timed else TOLERANCES:
        for limit in limits:
            ratio = exact.limit_denominator(limit)
            if abs(ratio / exact - 1) <= tolerance:
                return ratio
    raise DataQualityError(f"cannot be resampled from {rate_hz:g} Hz to {target_hz:g} Hz: the rates are too far apart")


def residual(ratio: Fraction, rate_hz: float, target_hz: float) -> float:
    """How far the ratio is from the exact one, relative to it; negative when captures run slow."""
    return float(ratio * Fraction(rate_hz) / Fraction(target_hz) - 1)


def count(n_samples: int, ratio: Fraction) -> int:
    """Samples after resampling."""
    return ceil(n_samples * ratio)


def resample(read: Callable[[int, int], Complex], n_samples: int, ratio: Fraction, start: int, stop: int) -> Complex:
    """Samples `start` to `stop` of the resampled recording; only the input that they need is read.

    Args:
        read: gives the recording's own samples from one index to another.
        n_samples: length of the recording.
        ratio: new rate over old.
        start: first output sample.
        stop: end of the output samples, at most `count(n_samples, ratio)`.

    Returns:
        The same numbers, whichever parts a recording is read in (see Crochiere and Rabiner, Multirate Digital Signal
        Processing, on polyphase filters); silence is assumed before and after the recording.
    """
    if ratio == 1:
        return read(start, stop)
    from scipy.signal import resample_poly

    up, down = ratio.numerator, ratio.denominator
    margin = ceil(HALF_LENGTH * max(up, down) / up) + 1
    first = max(0, start * down // up - margin) // down * down  # a multiple of `down` keeps the filter's phase
    last = min(n_samples, ceil(stop * down / up) + margin)
    taps: Any = _taps(up, down)  # scipy takes coefficients here, its stubs don't know
    samples = read(first, last)
    # I and Q apart: on complex samples scipy makes the taps complex too, and takes 2.5 times as long for the same numbers.
    components = resample_poly(samples.view(samples.real.dtype).reshape(-1, 2), up, down, axis=0, window=taps)
    offset = first // down * up
    return np.ascontiguousarray(components[start - offset : stop - offset]).view(samples.dtype)[:, 0]


@lru_cache(maxsize=8)
def _taps(up: int, down: int) -> npt.NDArray[np.float32]:
    from scipy.signal import firwin

    factor = max(up, down)
    taps = firwin(2 * HALF_LENGTH * factor + 1, (1 - TRANSITION / 2) / factor, window=("kaiser", BETA))
    return np.asarray(taps, np.float32)
