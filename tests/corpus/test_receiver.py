"""Fading and receivers, measured against closed forms: Rice, kTB, the converter."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import signal, stats

from featurestore.corpus.simulate.fading import RICE_FACTOR_DB, apply, rician
from featurestore.corpus.simulate.receiver import CONVERTER_BITS, background, digitize, noise_figure_db, receiver_model
from featurestore.corpus.simulate.sites import RECEIVERS

RATE_HZ = 192_000.0
QUIET = replace(receiver_model(7, RECEIVERS[0]), birdie_mhz=(), birdie_dbm=(), leakage_dbfs=-300.0)


def test_levels_of_short_captures_follow_rice() -> None:
    rng = np.random.default_rng(5)
    amplitude = np.abs([rician(rng, 192, RATE_HZ, 0.5, 0.0).gains[0] for _ in range(3000)])
    k = 10 ** (RICE_FACTOR_DB / 10)
    sigma = math.sqrt(1 / (2 * (k + 1)))
    assert np.mean(amplitude**2) == pytest.approx(1, abs=0.03)
    fit = stats.kstest(amplitude, stats.rice(b=math.sqrt(2 * k), scale=sigma).cdf)
    assert fit.pvalue > 0.01
    assert np.std(20 * np.log10(amplitude)) == pytest.approx(3.3, abs=0.3)


def test_fading_over_a_long_capture_has_unit_power_and_its_doppler_spread() -> None:
    fading = rician(np.random.default_rng(6), 30 * int(RATE_HZ), RATE_HZ, 12.0, 5.0)
    assert fading.power_db == pytest.approx(0, abs=1.0)
    spectrum = np.abs(np.fft.fft(fading.gains * np.hanning(len(fading.gains)))) ** 2
    frequency = np.fft.fftfreq(len(fading.gains), fading.block / RATE_HZ)
    assert spectrum[np.abs(frequency) > 12.5].sum() < 1e-6 * spectrum.sum()
    assert frequency[np.argmax(spectrum)] == pytest.approx(5.0, abs=0.1)


def test_a_carrier_lands_where_it_should_with_the_power_it_should() -> None:
    n = 50_001  # no multiple of the block
    fading = rician(np.random.default_rng(8), n, RATE_HZ, 0.0, 0.0)
    received = apply(np.ones(n, np.complex64), fading, 3210.5, RATE_HZ, 0.25)
    wanted = 0.25 * fading.gains[0] * np.exp(2j * np.pi * 3210.5 / RATE_HZ * np.arange(n))
    assert received.shape == (n,)
    assert np.abs(received - wanted).max() < 1e-5


def test_straight_lines_between_fading_knots_are_close_to_the_truth() -> None:
    fine = rician(np.random.default_rng(9), 192_000, RATE_HZ * 16, 15.0, 15.0)
    coarse = rician(np.random.default_rng(9), 12_000, RATE_HZ, 15.0, 15.0)
    received = apply(np.ones(12_000, np.complex64), coarse, 0.0, RATE_HZ, 1.0)
    knots = np.arange(0, 12_000, coarse.block)
    assert np.allclose(received[knots], coarse.gains[:-1][: len(knots)], atol=1e-5)
    assert fine.block == 16 * coarse.block  # the same instants
    middle = received[coarse.block // 2 :: coarse.block][:90]
    between = rician(np.random.default_rng(9), 24_000, RATE_HZ, 15.0, 15.0)
    doubled = np.interp(np.arange(90) + 0.5, np.arange(len(between.gains)), between.gains)
    assert np.abs(middle - doubled).max() < 2e-3


@pytest.mark.parametrize(("man_made", "wanted_db"), [("city", 16.9), ("residential", 12.6), ("rural", 7.3)])
def test_external_noise_is_that_of_itu_r_p_372(man_made: str, wanted_db: float) -> None:
    external = 10 ** (wanted_db / 10)
    receiver = 10**0.6
    assert noise_figure_db(man_made) == pytest.approx(10 * math.log10(external + receiver - 1), abs=0.1)


def test_noise_floor_is_ktb_and_noise_figure() -> None:
    samples = background(QUIET, np.random.default_rng(1), 192_000, RATE_HZ, 145.7)
    frequency, density = signal.welch(samples, RATE_HZ, nperseg=2048, return_onesided=False)
    inside = np.abs(frequency) < 20_000
    measured_dbm_per_hz = 10 * np.log10(density[inside].mean()) + QUIET.full_scale_dbm
    assert measured_dbm_per_hz == pytest.approx(QUIET.noise_dbm_per_hz, abs=QUIET.ripple_db + 0.15)
    excess_db = QUIET.noise_dbm_per_hz + 174 - noise_figure_db("rural")
    assert abs(excess_db) < 4  # a normal deviate of 1 dB


def test_filter_falls_off_at_the_edges() -> None:
    samples = background(QUIET, np.random.default_rng(2), 192_000, RATE_HZ, 145.7)
    frequency, density = signal.welch(samples, RATE_HZ, nperseg=2048, return_onesided=False)
    order = np.argsort(np.abs(frequency))
    centre, edge = density[order[:400]].mean(), density[order[-20:]].mean()
    share = np.abs(frequency[order[-20:]]).mean() / RATE_HZ
    wanted_db = -10 * math.log10(1 + (share / QUIET.pass_edge) ** (2 * QUIET.steepness))
    assert 10 * np.log10(edge / centre) == pytest.approx(wanted_db, abs=1.5)
    assert QUIET.response(QUIET.pass_edge * RATE_HZ, RATE_HZ) == pytest.approx(math.sqrt(0.5), rel=0.06)


def test_birdies_stand_where_they_are_in_the_air() -> None:
    model = replace(QUIET, birdie_mhz=(145.72,), birdie_dbm=(QUIET.full_scale_dbm - 30,), ripple_db=0.0)
    samples = background(model, np.random.default_rng(3), 192_000, RATE_HZ, 145.7)
    spectrum = np.abs(np.fft.fft(samples)) / len(samples)
    assert np.argmax(spectrum) == 20_000
    assert 20 * np.log10(spectrum[20_000]) == pytest.approx(-30, abs=0.1)


def test_converter_rounds_and_clips() -> None:
    step = 2.0 ** (1 - CONVERTER_BITS)
    samples = np.array([0.3 * step, 0.7 * step + 2j, -1.5 + 0.5j, 0.25], np.complex64)
    assert digitize(samples) == 0.5
    assert samples.tolist() == [0, step + 1j * (1 - step), -1 + 0.5j, 0.25]


def test_receivers_differ_and_stay_themselves() -> None:
    models = [receiver_model(7, receiver) for receiver in RECEIVERS]
    assert len({model.clock_ppm for model in models}) == len(models)
    receiver_model.cache_clear()
    assert [receiver_model(7, receiver) for receiver in RECEIVERS] == models
    assert receiver_model(8, RECEIVERS[0]) != models[0]
