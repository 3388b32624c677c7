"""The radio map against closed forms: distance, path loss, and the statistics of shadowing."""

from __future__ import annotations

import math

import numpy as np
import pytest

from featurestore.corpus.simulate.radiomap import (
    PATH_LOSS_EXPONENT,
    REFERENCE_DISTANCE_M,
    SHADOWING_CORRELATION_M,
    SHADOWING_SIGMA_DB,
    path_loss_db,
    shadowing_db,
)
from featurestore.corpus.simulate.sites import (
    EARTH_RADIUS_M,
    RECEIVERS,
    REGION_LATITUDE,
    REGION_LONGITUDE,
    REPEATER_SITES,
    distance_m,
    east_north_m,
    moved,
)
from featurestore.corpus.simulate.waveform import CTCSS_TONES_HZ


def test_region_is_the_size_that_is_promised_and_holds_every_site() -> None:
    corners = east_north_m(REGION_LATITUDE, REGION_LONGITUDE)
    width, height = corners[1] - corners[0]
    assert width == pytest.approx(190_000, rel=0.01)
    assert height == pytest.approx(145_000, rel=0.01)
    for site in (*RECEIVERS, *REPEATER_SITES):
        assert REGION_LATITUDE[0] <= site.latitude <= REGION_LATITUDE[1]
        assert REGION_LONGITUDE[0] <= site.longitude <= REGION_LONGITUDE[1]


def test_repeaters_have_channels_on_the_grid_and_standard_tones() -> None:
    steps = [(site.frequency_mhz - 145.6) / 0.0125 for site in REPEATER_SITES]
    assert np.allclose(steps, np.round(steps), atol=1e-6)
    assert min(steps) >= 0
    assert max(steps) <= 15
    assert len(set(np.round(steps))) == len(REPEATER_SITES)
    assert {site.ctcss_hz for site in REPEATER_SITES} <= set(CTCSS_TONES_HZ)


@pytest.mark.parametrize("receiver", RECEIVERS, ids=lambda receiver: receiver.name)
def test_distance_agrees_with_the_spherical_law_of_cosines_and_with_the_flat_map(receiver: object) -> None:
    assert isinstance(receiver, type(RECEIVERS[0]))
    for site in REPEATER_SITES:
        phi, other = math.radians(site.latitude), math.radians(receiver.latitude)
        turn = math.radians(site.longitude - receiver.longitude)
        angle = math.acos(math.sin(phi) * math.sin(other) + math.cos(phi) * math.cos(other) * math.cos(turn))
        found = distance_m(site.latitude, site.longitude, receiver)
        assert found == pytest.approx(EARTH_RADIUS_M * angle, abs=1)
        flat = east_north_m(site.latitude, site.longitude) - east_north_m(receiver.latitude, receiver.longitude)
        assert found == pytest.approx(np.hypot(*flat), rel=0.01)


def test_moving_goes_as_far_as_asked() -> None:
    torino = RECEIVERS[2]
    latitude, longitude = moved(torino.latitude, torino.longitude, 300.0, -400.0)
    assert distance_m(latitude, longitude, torino) == pytest.approx(500, rel=1e-4)
    assert latitude < torino.latitude
    assert longitude > torino.longitude


def test_path_loss_is_free_space_near_and_grows_by_the_exponent_far() -> None:
    free_space = 32.44 + 20 * math.log10(145.7) + 20 * math.log10(REFERENCE_DISTANCE_M / 1000)
    assert path_loss_db(REFERENCE_DISTANCE_M, 145.7) == pytest.approx(free_space, abs=0.02)
    assert path_loss_db(50.0, 145.7) == pytest.approx(free_space - 6.02, abs=0.02)
    decade = path_loss_db(100_000.0, 145.7) - path_loss_db(10_000.0, 145.7)
    assert decade == pytest.approx(10 * PATH_LOSS_EXPONENT)


@pytest.mark.parametrize("distance_km", [1, 5, 20])
def test_path_loss_is_near_hatas_suburban_formula_for_a_hilltop(distance_km: float) -> None:
    mhz, base_m, mobile_m = 150.0, 200.0, 1.5
    log_f = math.log10(mhz)
    correction = (1.1 * log_f - 0.7) * mobile_m - (1.56 * log_f - 0.8)
    urban = 69.55 + 26.16 * log_f - 13.82 * math.log10(base_m) - correction
    urban += (44.9 - 6.55 * math.log10(base_m)) * math.log10(distance_km)
    suburban = urban - 2 * math.log10(mhz / 28) ** 2 - 5.4
    assert path_loss_db(distance_km * 1000, mhz) == pytest.approx(suburban, abs=5)


def test_shadowing_has_the_spread_and_the_correlation_that_are_promised() -> None:
    rng = np.random.default_rng(1)
    n_places, lags_m = 150, (0.3e4, 1e4, 2e4)
    latitude = rng.uniform(*REGION_LATITUDE, n_places)
    longitude = rng.uniform(*REGION_LONGITUDE, n_places)
    here, there = [], []
    for seed in range(60):
        here.append(shadowing_db(seed, RECEIVERS[0], latitude, longitude))
        steps = [moved_all(latitude, longitude, lag, rng) for lag in lags_m]
        there.append([shadowing_db(seed, RECEIVERS[0], *step) for step in steps])
    values = np.array(here)  # (seed, place)
    others = np.array(there)  # (seed, lag, place)
    assert np.mean(values) == pytest.approx(0, abs=0.5)
    assert np.std(values) == pytest.approx(SHADOWING_SIGMA_DB, rel=0.05)
    for lag, other in zip(lags_m, others.transpose(1, 0, 2), strict=True):
        correlation = np.corrcoef(values.ravel(), other.ravel())[0, 1]
        assert correlation == pytest.approx(math.exp(-lag / SHADOWING_CORRELATION_M), abs=0.05)


def test_shadowing_is_gaussian() -> None:
    values = np.array([shadowing_db(seed, RECEIVERS[1], 45.0, 8.0) for seed in range(1500)]) / SHADOWING_SIGMA_DB
    assert np.mean(np.abs(values) < 1) == pytest.approx(0.683, abs=0.04)
    assert np.mean(np.abs(values) < 2) == pytest.approx(0.954, abs=0.02)


def test_receivers_at_one_position_share_the_map_and_others_do_not() -> None:
    giaveno, montanaro, _, coazze, *_ = RECEIVERS
    rng = np.random.default_rng(2)
    places = rng.uniform(*REGION_LATITUDE, 300), rng.uniform(*REGION_LONGITUDE, 300)
    assert np.array_equal(shadowing_db(7, giaveno, *places), shadowing_db(7, coazze, *places))
    assert abs(np.corrcoef(shadowing_db(7, giaveno, *places), shadowing_db(7, montanaro, *places))[0, 1]) < 0.35


def moved_all(
    latitude: np.ndarray, longitude: np.ndarray, lag_m: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    angles = rng.uniform(0, 2 * np.pi, len(latitude))
    pairs = [
        moved(a, b, lag_m * math.cos(angle), lag_m * math.sin(angle))
        for a, b, angle in zip(latitude, longitude, angles, strict=True)
    ]
    lat, lon = np.array(pairs).T
    return lat, lon
