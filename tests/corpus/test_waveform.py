"""The transmitted signal, measured: envelope, deviation, bandwidth, tone, speech."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from scipy import signal

from featurestore.corpus.simulate.waveform import CTCSS_DEVIATION_HZ, PEAK_DEVIATION_HZ, VOICE_BAND_HZ, fm_baseband

RATE_HZ = 192_000.0
TONE_HZ = 88.5


@pytest.fixture(scope="module")
def baseband() -> npt.NDArray[np.complex64]:
    return fm_baseband(np.random.default_rng(3), 4 * int(RATE_HZ), RATE_HZ, TONE_HZ)


def deviation_hz(baseband: npt.NDArray[np.complex64]) -> npt.NDArray[np.float64]:
    """What an FM discriminator hears."""
    wide = baseband.astype(np.complex128)
    return np.asarray(np.angle(wide[1:] * wide[:-1].conj()) * RATE_HZ / (2 * np.pi))


def test_envelope_is_constant(baseband: npt.NDArray[np.complex64]) -> None:
    assert baseband.dtype == np.complex64
    assert np.abs(baseband) == pytest.approx(1, abs=1e-6)


def test_deviation_reaches_its_limit_and_keeps_it(baseband: npt.NDArray[np.complex64]) -> None:
    peak = np.abs(deviation_hz(baseband)).max()
    assert 0.8 * PEAK_DEVIATION_HZ < peak < 1.03 * PEAK_DEVIATION_HZ


def test_carson_bandwidth_holds_98_percent_of_the_power(baseband: npt.NDArray[np.complex64]) -> None:
    frequency, density = signal.welch(baseband, RATE_HZ, nperseg=8192, return_onesided=False)
    carson = 2 * (PEAK_DEVIATION_HZ + VOICE_BAND_HZ[1])
    inside = np.abs(frequency) <= carson / 2
    assert density[inside].sum() / density.sum() > 0.98
    assert density[np.abs(frequency) > 12_500].sum() / density.sum() < 1e-4


def test_tone_is_there_at_its_deviation(baseband: npt.NDArray[np.complex64]) -> None:
    heard = deviation_hz(baseband)
    spectrum = 2 * np.abs(np.fft.rfft(heard * np.hanning(len(heard)))) / np.hanning(len(heard)).sum()
    frequency = np.fft.rfftfreq(len(heard), 1 / RATE_HZ)
    below_voice = frequency < 255
    assert frequency[below_voice][np.argmax(spectrum[below_voice])] == pytest.approx(TONE_HZ, abs=0.3)
    assert spectrum[below_voice].max() == pytest.approx(CTCSS_DEVIATION_HZ, rel=0.05)


def test_voice_stays_in_its_band_and_comes_in_syllables(baseband: npt.NDArray[np.complex64]) -> None:
    heard = signal.decimate(deviation_hz(baseband), 12, ftype="fir")  # at 16 kHz
    frequency, density = signal.welch(heard, 16_000, nperseg=2048)
    voice = (frequency >= 250) & (frequency <= 3050)
    assert density[frequency > 3200].sum() < 0.001 * density[voice].sum()
    loudness = np.sqrt(np.convolve((heard - heard.mean()) ** 2, np.ones(800) / 800, "valid"))  # 50 ms
    assert loudness.std() > 0.2 * loudness.mean()


@pytest.mark.parametrize(("n_samples", "rate_hz"), [(1920, 192_000.0), (9973, 96_000.0), (24_000, 24_000.0)])
def test_any_length_and_rate_will_do(n_samples: int, rate_hz: float) -> None:
    assert fm_baseband(np.random.default_rng(0), n_samples, rate_hz, 67.0).shape == (n_samples,)
