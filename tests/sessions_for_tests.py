"""Sessions whose delays are known: one noise-like transmission, heard by several receivers at any time and rate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from featurestore.delay.heard import Heard

START_NS = 1_700_000_000_123_456_789
Complex = npt.NDArray[np.complexfloating[Any, Any]]


@dataclass(frozen=True)
class Ear:
    """How one receiver hears.

    Attributes:
        delay_s: of the path.
        rate_hz: true rate of its samples.
        start_s: when its first sample is taken.
        seconds: length of its recording.
        offset_hz: its frequency error.
    """

    delay_s: float
    rate_hz: float = 12_000.0
    start_s: float = 0.0
    seconds: float = 1.0
    offset_hz: float = 0.0


def transmission(rng: np.random.Generator, band_hz: float, seconds: float) -> tuple[npt.NDArray[np.float64], Complex]:
    """Gaussian noise of unit power, as frequencies and amplitudes of tones that fill ±band/2; it repeats after `seconds`."""
    frequency = np.arange(-round(band_hz / 2 * seconds), round(band_hz / 2 * seconds) + 1) / seconds
    amplitude = rng.standard_normal((len(frequency), 2)) @ [1, 1j]
    return frequency, amplitude / np.sqrt(2 * len(frequency))


def hear(ears: Sequence[Ear], rng: np.random.Generator, band_hz: float = 8_000.0, snr_db: float = 20.0) -> list[Heard]:
    """What the receivers record; the ratio is that within the receiver's whole bandwidth.

    A receiver whose samples are on a grid of the transmission's period is computed by an FFT, any other one tone by tone.
    """
    frequency, amplitude = transmission(rng, band_hz, period_s(ears))
    heard = []
    for ear in ears:
        n = round(ear.seconds * ear.rate_hz)
        clean = _sample(frequency, amplitude, ear, n, period_s(ears)) * np.exp(1j * rng.uniform(0, 2 * np.pi))
        clean *= np.exp(2j * np.pi * ear.offset_hz * np.arange(n) / ear.rate_hz)
        noise = rng.standard_normal((n, 2)) @ [1, 1j] * np.sqrt(10 ** (-snr_db / 10) / 2)
        samples = np.asarray(clean + noise, np.complex64)
        heard.append(Heard(samples, ear.rate_hz, START_NS + round(ear.start_s * 1e9)))
    return heard


def period_s(ears: Sequence[Ear]) -> float:
    """Longer than anything that is heard, so that nothing is heard twice."""
    return 1.0 + math.ceil(max(ear.start_s + ear.seconds for ear in ears))


def _sample(frequency: npt.NDArray[np.float64], amplitude: Complex, ear: Ear, n: int, period: float) -> Complex:
    turned = amplitude * np.exp(2j * np.pi * frequency * (ear.start_s - ear.delay_s))
    points = period * ear.rate_hz
    if abs(points - round(points)) < 1e-9:
        table = np.zeros(round(points), complex)
        table[np.rint(frequency * period).astype(int)] = turned
        return np.asarray(np.fft.ifft(table)[:n] * round(points))
    time_s = np.arange(n) / ear.rate_hz
    parts = [np.exp(2j * np.pi * np.outer(part, frequency)) @ turned for part in np.array_split(time_s, max(1, n // 500))]
    return np.concatenate(parts)
