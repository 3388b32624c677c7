"""Simulated captures against their truth: levels by regression, then levels, noise and carriers measured in the samples."""

from __future__ import annotations

import io
import math
from collections import Counter

import numpy as np
import numpy.typing as npt
import pytest
from scipy import signal

from featurestore.corpus.simulate.fading import RICE_FACTOR_DB
from featurestore.corpus.simulate.radiomap import ANTENNA_GAIN_DBI, PATH_LOSS_EXPONENT, SHADOWING_SIGMA_DB
from featurestore.corpus.simulate.receiver import receiver_model
from featurestore.corpus.simulate.render import Session, SimulatedCapture
from featurestore.corpus.simulate.session import LABEL_ERROR_M, transmission
from featurestore.corpus.simulate.simulation_spec import SimulationSpec
from featurestore.corpus.simulate.sites import RECEIVERS, REPEATER_SITES, east_north_m
from featurestore.corpus.simulate.truth import CaptureTruth
from featurestore.corpus.simulate.waveform import CHANNEL_BANDWIDTH_HZ

RATE_HZ = 192_000.0

# --- the truth of many sessions ---


@pytest.fixture(scope="module")
def world() -> list[SimulatedCapture]:
    """Many short captures from anywhere, for what the truth says of levels."""
    spec = SimulationSpec(sessions=200, duration_s=0.01, sites="uniform")
    captures = (Session(spec, index).capture(r) for index in range(spec.sessions) for r in range(len(RECEIVERS)))
    return [capture for capture in captures if capture is not None]


def test_path_loss_exponent_and_shadowing_are_found_again_by_regression(world: list[SimulatedCapture]) -> None:
    decades = np.log10([capture.truth.distance_m for capture in world])
    gain = np.array([capture.truth.level_dbm - capture.truth.eirp_dbm for capture in world])
    slope, intercept = np.polyfit(decades, gain, 1)
    assert -slope / 10 == pytest.approx(PATH_LOSS_EXPONENT, abs=0.2)
    residual = gain - (slope * decades + intercept)
    assert residual.std() == pytest.approx(SHADOWING_SIGMA_DB, rel=0.1)
    at_100_km = slope * 5 + intercept - ANTENNA_GAIN_DBI
    assert at_100_km == pytest.approx(-(32.44 + 20 * math.log10(145.7) - 20 + 96), abs=1.5)


def test_levels_jitter_as_rice_says(world: list[SimulatedCapture]) -> None:
    fading = np.array([capture.truth.fading_db for capture in world])
    assert np.mean(10 ** (fading / 10)) == pytest.approx(1, abs=0.05)
    k = 10 ** (RICE_FACTOR_DB / 10)
    assert np.var(10 ** (fading / 10)) == pytest.approx((1 + 2 * k) / (1 + k) ** 2, rel=0.15)


def test_catalog_snr_is_that_of_the_capture_with_an_error_of_1_db(world: list[SimulatedCapture]) -> None:
    error = [
        capture.record.snr_db - capture.truth.snr_db - capture.truth.fading_db
        for capture in world
        if capture.record.snr_db is not None
    ]
    assert len(error) == len(world)
    assert np.mean(error) == pytest.approx(0, abs=0.1)
    assert np.std(error) == pytest.approx(1, abs=0.1)


def test_labels_err_by_some_30_m() -> None:
    errors = []
    for index in range(1500):
        sent = transmission(SimulationSpec(sites="uniform"), index)
        errors.append(east_north_m(*sent.label) - east_north_m(*sent.place))
    radius = np.hypot(*np.array(errors).T)
    assert math.sqrt(np.mean(radius**2)) == pytest.approx(LABEL_ERROR_M, rel=0.05)
    assert np.median(radius) == pytest.approx(LABEL_ERROR_M * math.sqrt(math.log(2)), rel=0.07)  # Rayleigh
    assert np.mean(errors, axis=0) == pytest.approx([0, 0], abs=2)


def test_uniform_places_fill_the_region_and_repeaters_are_all_used() -> None:
    spec = SimulationSpec(sites="uniform")
    places = np.array([transmission(spec, index).place for index in range(1000)])
    assert np.histogram(places[:, 0], 4, (44.3, 45.6))[0] == pytest.approx([250] * 4, abs=50)
    assert np.histogram(places[:, 1], 4, (7.0, 9.4))[0] == pytest.approx([250] * 4, abs=50)
    used = Counter(transmission(SimulationSpec(), index).site for index in range(1000))
    assert set(used) == {site.name for site in REPEATER_SITES}
    assert min(used.values()) > 60


# --- measured in the samples ---


def recorded(session: Session, receiver_index: int) -> tuple[CaptureTruth, npt.NDArray[np.complex128]]:
    capture = session.capture(receiver_index)
    assert capture is not None
    assert capture.npy is not None
    return capture.truth, np.load(io.BytesIO(capture.npy)).astype(np.complex128)


def test_captures_have_the_level_the_snr_and_the_carrier_that_the_truth_says() -> None:
    spec = SimulationSpec(sessions=8, dtype="complex64")
    measured = 0
    for index in range(spec.sessions):
        session = Session(spec, index)
        for r, receiver in enumerate(RECEIVERS):
            truth, samples = recorded(session, r)
            if truth.clipped_fraction:
                continue  # clipping makes levels and noise of its own
            frequency, density = signal.welch(samples, RATE_HZ, nperseg=4096, return_onesided=False, detrend=False)
            quiet = (np.abs(frequency) > 20_000) & (np.abs(frequency) < 60_000)
            noise = float(np.median(density[quiet]))  # per Hz; birdies do not move a median
            model = receiver_model(spec.seed, receiver)
            assert 10 * math.log10(noise) + model.full_scale_dbm == pytest.approx(model.noise_dbm_per_hz, abs=0.6)
            snr_db = truth.snr_db + truth.fading_db
            if snr_db < 15:
                continue
            channel = np.abs(frequency - truth.carrier_hz) < CHANNEL_BANDWIDTH_HZ / 2
            power = float((density[channel] - noise).sum() * RATE_HZ / 4096)
            assert 10 * math.log10(power) == pytest.approx(truth.level_dbfs + truth.fading_db, abs=0.7)
            assert 10 * math.log10(power / (noise * CHANNEL_BANDWIDTH_HZ)) == pytest.approx(snr_db, abs=1.0)
            measured += 1
            if snr_db > 30:
                turn = np.angle(np.sum(samples[1:] * samples[:-1].conj()))  # power-weighted mean frequency
                assert turn * RATE_HZ / (2 * np.pi) == pytest.approx(truth.carrier_hz, abs=150)
    assert measured >= 15


def test_all_receivers_hear_one_transmission() -> None:
    spec = SimulationSpec(sessions=1, dtype="complex64", duration_s=0.5, seed=11)
    session = Session(spec, 0)
    heard = []
    for r in range(len(RECEIVERS)):
        truth, samples = recorded(session, r)
        if truth.snr_db + truth.fading_db > 20:
            smooth = signal.decimate(samples, 8, ftype="fir")
            heard.append(signal.decimate(np.angle(smooth[1:] * smooth[:-1].conj()), 3, ftype="fir"))  # audio at 8 kHz
    assert len(heard) >= 2
    assert np.corrcoef(heard).min() > 0.85
