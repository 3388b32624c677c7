"""The estimated SNR against what is true: the simulator's captures, and tones and noise of known power."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest
import scipy.signal

from featurestore.corpus.ingest.snr import estimate_snr_db
from featurestore.corpus.simulate.receiver import receiver_model
from featurestore.corpus.simulate.render import Session
from featurestore.corpus.simulate.simulation_spec import SimulationSpec
from featurestore.corpus.simulate.sites import RECEIVERS

RATE_HZ = 192_000.0
CHANNEL_HZ = 12_500.0


def simulated(seed: int, sites: str) -> Iterator[tuple[float, npt.NDArray[np.complex64]]]:
    """True SNR and samples of captures whose channel holds no spurious carrier of the receiver."""
    spec = SimulationSpec(sessions=4, seed=seed, sites=sites, dtype="complex64")
    for index in range(spec.sessions):
        session = Session(spec, index)
        for number, receiver in enumerate(RECEIVERS):
            birdies_hz = (np.array(receiver_model(seed, receiver).birdie_mhz) - session.sent.frequency_mhz) * 1e6
            capture = session.capture(number)
            if capture is None or capture.npy is None or np.abs(birdies_hz).min(initial=np.inf) < CHANNEL_HZ:
                continue
            yield capture.truth.snr_db + capture.truth.fading_db, np.load(io.BytesIO(bytes(capture.npy)))


@pytest.mark.parametrize(("seed", "sites"), [(7, "uniform"), (21, "uniform"), (5, "repeaters")])
def test_within_2_db_of_the_simulator_from_minus_5_to_40_db(seed: int, sites: str) -> None:
    tried = []
    for true_db, samples in simulated(seed, sites):
        if -5 <= true_db <= 40:
            estimate = estimate_snr_db(samples, RATE_HZ)
            assert estimate == pytest.approx(true_db, abs=2)
            tried.append(true_db)
    assert len(tried) >= 10


def noise(n_samples: int, seed: int = 6) -> npt.NDArray[np.complex64]:
    """White, of power 1."""
    deviates = np.random.default_rng(seed).standard_normal((n_samples, 2))
    return np.asarray(deviates @ [1, 1j] / np.sqrt(2), np.complex64)


def tone(n_samples: int, frequency_hz: float, rate_hz: float = RATE_HZ) -> npt.NDArray[np.complex64]:
    return np.asarray(np.exp(2j * np.pi * frequency_hz / rate_hz * np.arange(n_samples)), np.complex64)


@pytest.mark.parametrize("snr_db", [-5, -2, 0, 10, 25, 40])
@pytest.mark.parametrize(("rate_hz", "channel_hz"), [(RATE_HZ, 12_500), (2_400_000.0, 12_500), (12_000.0, 3000)])
def test_a_tone_in_white_noise(snr_db: float, rate_hz: float, channel_hz: float) -> None:
    """Closed form: noise of power 1 over the whole rate has channel / rate of it in the channel."""
    amplitude = np.sqrt(10 ** (snr_db / 10) * channel_hz / rate_hz)
    samples = noise(400_000) + np.float32(amplitude) * tone(400_000, 0.11 * channel_hz, rate_hz)
    assert estimate_snr_db(samples, rate_hz) == pytest.approx(snr_db, abs=1)


def test_from_minus_5_db_with_ripple_of_the_filter() -> None:
    """One cosine of ±0.4 dB with 8 periods, as the worst simulated receiver has it."""
    for phase in (0.0, np.pi / 2, np.pi):
        spectrum = np.fft.fft(noise(192_000))
        share = np.fft.fftfreq(192_000)
        spectrum *= 10 ** (0.4 / 20 * np.cos(2 * np.pi * 8 * share + phase))
        floor = 10 ** (0.4 / 10 * np.cos(phase))
        amplitude = np.sqrt(10 ** (-5 / 10) * CHANNEL_HZ / RATE_HZ * floor)
        samples = np.asarray(np.fft.ifft(spectrum) + amplitude * tone(192_000, 500), np.complex64)
        assert estimate_snr_db(samples, RATE_HZ) == pytest.approx(-5, abs=1.5)


def test_strong_neighbours_are_no_noise() -> None:
    samples = noise(192_000) + tone(192_000, 2000)
    alone = estimate_snr_db(samples, RATE_HZ)
    for frequency_hz in (-60_000, 25_000, 40_000):
        samples += np.float32(30) * tone(192_000, frequency_hz)
    assert estimate_snr_db(samples, RATE_HZ) == pytest.approx(alone, abs=0.5)


def test_the_stopband_of_a_filter_is_no_noise() -> None:
    """A filter of 1 kHz within a rate of 12 kHz, as a KiwiSDR for DCF77 has it: beside the signal lies nothing of the air."""
    taps = scipy.signal.firwin(401, 500, fs=12_000, window=("kaiser", 12))
    samples = scipy.signal.lfilter(taps, np.ones(1), noise(100_000) + 3 * tone(100_000, 40, 12_000.0))
    rounded = np.round(samples * 1000) / 2**15
    assert estimate_snr_db(np.asarray(rounded, np.complex64), 12_000.0) is None


def test_resampling_up_does_not_change_it() -> None:
    samples = noise(60_000) + np.float32(2) * tone(60_000, 300, 48_000.0)
    wanted = estimate_snr_db(samples, 48_000.0)
    up = np.asarray(scipy.signal.resample_poly(samples, 4, 1), np.complex64)
    assert estimate_snr_db(up, RATE_HZ, band_hz=48_000.0) == pytest.approx(wanted, abs=0.5)


@pytest.mark.parametrize(
    "samples",
    [noise(192_000), np.zeros(192_000, np.complex64), noise(4000), noise(0), np.full(192_000, 0.5, np.complex64)],
    ids=["noise", "silence", "short", "empty", "constant"],
)
def test_where_nothing_can_be_said(samples: npt.NDArray[np.complex64]) -> None:
    assert estimate_snr_db(samples, RATE_HZ) is None
