"""What a transmitter sends, as a function of time: the waveform of `waveform.py` at any instants, not only at samples.

All receivers of a session evaluate the same function, each at the instants at which its own samples left the transmitter:
a fraction of a sample, a clock that runs fast and one that drifts are all just other instants.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.fft
from scipy.interpolate import CubicSpline

from featurestore.corpus.simulate.waveform import AUDIO_RATE_HZ, CTCSS_DEVIATION_HZ, phase_spectrum

OVERSAMPLING = 8
"""Knots per sample of the audio: a cubic spline between them errs by (ωh)⁴/384 of a sine, −96 dB at 3 kHz."""


class Airwave:
    """One transmission around 0 Hz, of modulus 1, between two moments."""

    def __init__(self, rng: np.random.Generator, span_s: tuple[float, float], ctcss_hz: float) -> None:
        begin, end = span_s
        n_audio = max(64, round((end - begin) * AUDIO_RATE_HZ))
        rate_hz = n_audio / (end - begin)
        n_knots = OVERSAMPLING * n_audio
        phase = scipy.fft.irfft(phase_spectrum(rng, n_audio, rate_hz) * OVERSAMPLING, n_knots)
        knots_s = begin + np.arange(n_knots + 1) / (OVERSAMPLING * rate_hz)
        self._phase = CubicSpline(knots_s, np.append(phase, phase[0]), bc_type="periodic")
        self._ctcss_hz = ctcss_hz
        self._turn = float(rng.uniform())

    def at(self, seconds: npt.NDArray[np.float64]) -> npt.NDArray[np.complex64]:
        """The complex baseband at instants, in any shape."""
        phase = self._phase(seconds)
        phase += CTCSS_DEVIATION_HZ / self._ctcss_hz * np.sin(2 * np.pi * (self._ctcss_hz * seconds + self._turn))
        sent = np.empty(seconds.shape, np.complex64)
        sent.real, sent.imag = np.cos(phase), np.sin(phase)
        return sent
