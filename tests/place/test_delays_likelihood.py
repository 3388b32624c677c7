"""Places from delays: exact for normal errors, honest in its regions, unmoved by wrong peaks."""

from __future__ import annotations

from functools import partial
from itertools import combinations

import numpy as np
import pytest
from pyproj import Geod

from featurestore.errors import UsageError
from featurestore.place import density
from featurestore.place.delays import Delays, Views, expected_delays_s, hyperbola, log_likelihood, receiver_variances_s2
from featurestore.place.grid import Grid
from featurestore.place.posterior import Posterior
from featurestore.place.search import search

RECEIVERS = np.array([[45.03, 7.27], [45.23, 7.86], [44.56, 8.96], [44.40, 8.95], [45.48, 9.12], [44.9, 8.2], [45.1, 9.6]])
MICRO = 1e-6


def delays_of(values_s: np.ndarray, receiver_sigma_s: np.ndarray, sigma_s: float = 0.0, wrong: float = 0.0) -> Delays:
    a, b = np.array(list(combinations(range(len(receiver_sigma_s)), 2))).T
    return Delays(a, b, values_s, np.full(len(a), sigma_s), np.full(len(a), wrong), receiver_sigma_s, 1e-3)


def test_expected_delay_is_the_difference_of_geodesics() -> None:
    geod = Geod(ellps="WGS84")
    here = np.array([45.1, 8.4])
    metres = [geod.inv(here[1], here[0], longitude, latitude)[2] for latitude, longitude in RECEIVERS]
    a, b = np.array([0, 3]), np.array([1, 6])
    wanted = [(metres[0] - metres[1]) / 299_792_458.0, (metres[3] - metres[6]) / 299_792_458.0]
    np.testing.assert_allclose(expected_delays_s(RECEIVERS, here, a, b), wanted, atol=1e-11)


@pytest.mark.parametrize("n", [2, 3, 5, 7])
def test_all_pairs_together_know_what_the_receivers_know(n: int) -> None:
    """Quadratic forms: pairs to their powers are arrival times with an unknown time of emission."""
    rng = np.random.default_rng(n)
    sigma = rng.uniform(0.5, 3.0, n) if n > 2 else np.ones(n)
    error = rng.standard_normal(n) * sigma
    a, b = np.array(list(combinations(range(n), 2))).T
    delays = Delays(a, b, error[a] - error[b], np.zeros(len(a)), np.zeros(len(a)), sigma, 1e3)
    pairs = float((delays.powers * (error[a] - error[b]) ** 2 / delays.variance_s2).sum())
    weight = 1 / sigma**2
    mean = (weight @ error) / weight.sum()
    assert pairs == pytest.approx(float(weight @ (error - mean) ** 2), rel=0.01)


def test_variances_of_receivers_come_back_from_those_of_pairs() -> None:
    a, b = np.array(list(combinations(range(4), 2))).T
    own = np.array([1.0, 4.0, 0.25, 9.0])
    np.testing.assert_allclose(receiver_variances_s2(a, b, own[a] + own[b], 4), own, rtol=0.01)
    np.testing.assert_allclose(receiver_variances_s2(np.array([0]), np.array([1]), np.array([2.0]), 2), 1.0, rtol=0.01)


@pytest.mark.parametrize(
    ("n", "receiver_us", "noise_us", "wrong_share"),
    [(3, 20.0, 0.0, 0.0), (7, 30.0, 0.0, 0.0), (7, 20.0, 0.0, 0.1), (4, 10.0, 20.0, 0.0)],
    ids=["three", "seven", "wrong peaks", "noise of pairs"],
)
def test_regions_hold_the_truth_as_often_as_they_say(n: int, receiver_us: float, noise_us: float, wrong_share: float) -> None:
    rng = np.random.default_rng(100 * n)
    grid = Grid.around(RECEIVERS, cell_km=3.0, margin_km=30.0)
    views = Views.of(grid, RECEIVERS)
    a, b = np.array(list(combinations(range(n), 2))).T
    levels, distances = [], []
    inside = grid.degrees[(np.abs(grid.points_m) < 0.8 * np.abs(grid.points_m).max(axis=0)).all(axis=1)]
    for truth in inside[rng.integers(len(inside), size=150)]:
        error = rng.standard_normal(n) * receiver_us * MICRO
        measured = (
            expected_delays_s(RECEIVERS, truth, a, b) + error[a] - error[b] + rng.standard_normal(len(a)) * noise_us * MICRO
        )
        astray = rng.random(len(a)) < wrong_share
        measured[astray] = rng.uniform(-1e-3, 1e-3, astray.sum())
        log = log_likelihood(delays_of(measured, np.full(n, receiver_us * MICRO), noise_us * MICRO, wrong_share), views)
        normal = density.normalize(log[None], grid.cell_m)
        point = grid.plane.to_plane(truth)[None]
        levels.append(density.levels_at(normal, grid, point)[0])
        distances.append(np.hypot(*(density.medians_m(normal, grid) - point)[0]))
    held = np.mean(np.array(levels) <= 0.865)
    # Wrong peaks and noise that pairs don't share make it cautious, never bold.
    assert 0.865 - 0.07 < held < (0.865 + 0.07 if noise_us == wrong_share == 0 else 1.0)
    assert np.median(distances) < 20_000


def test_a_coarse_grid_sees_a_sharp_peak() -> None:
    truth = np.array([44.97, 8.31])
    a, b = np.array(list(combinations(range(5), 2))).T
    exact = expected_delays_s(RECEIVERS[:5], truth, a, b)
    grid = Grid.around(RECEIVERS, cell_km=8.0, margin_km=20.0)
    posterior = Posterior(grid, log_likelihood(delays_of(exact, np.full(5, 0.05 * MICRO)), Views.of(grid, RECEIVERS)))
    assert np.hypot(*(posterior.point_m - grid.plane.to_plane(truth))) < 6000
    assert posterior.level_at(truth) < 0.9


def test_hyperbolas_pass_through_the_transmitter() -> None:
    truth = np.array([44.97, 8.31])
    grid = Grid.around(RECEIVERS, cell_km=2.0, margin_km=20.0)
    views = Views.of(grid, RECEIVERS)
    a, b = np.array([0, 2]), np.array([4, 5])
    for first, second, delay in zip(a, b, expected_delays_s(RECEIVERS, truth, a, b), strict=True):
        lines = hyperbola(views, int(first), int(second), float(delay))
        near = min(np.hypot(*(grid.plane.to_plane(line) - grid.plane.to_plane(truth)).T).min() for line in lines)
        assert near < 2000


def test_no_pair_says_nothing_and_impossible_ones_are_refused() -> None:
    grid = Grid.around(RECEIVERS, cell_km=20.0)
    none = delays_of(np.full(3, np.nan), np.ones(3))
    assert len(none) == 0
    np.testing.assert_array_equal(log_likelihood(none, Views.of(grid, RECEIVERS)), 0)
    with pytest.raises(UsageError, match="one entry per pair"):
        Delays(np.zeros(2, np.int64), np.ones(1, np.int64), np.zeros(1), np.ones(1), np.zeros(1), np.ones(2), 1.0)
    with pytest.raises(UsageError, match="above 0"):
        delays_of(np.zeros(1), np.ones(2), sigma_s=-1.0)


def seen_by_five(delays: Delays, grid: Grid) -> np.ndarray:
    return log_likelihood(delays, Views.of(grid, RECEIVERS[:5]))


@pytest.mark.parametrize("sigma_us", [0.1, 3.0])
def test_search_finds_a_place_to_metres_and_holds_it_in_its_region(sigma_us: float) -> None:
    rng = np.random.default_rng(5)
    where = Grid.around(RECEIVERS, cell_km=3.0, margin_km=100.0)
    a, b = np.array(list(combinations(range(5), 2))).T
    errors_m, levels = [], []
    for truth in np.stack([rng.uniform(44.6, 45.4, 12), rng.uniform(7.6, 9.2, 12)], axis=1):
        error = rng.standard_normal(5) * sigma_us * MICRO
        delays = delays_of(expected_delays_s(RECEIVERS, truth, a, b) + error[a] - error[b], np.full(5, sigma_us * MICRO))
        posterior = search(partial(seen_by_five, delays), where)
        errors_m.append(float(np.hypot(*(posterior.point_m - posterior.grid.plane.to_plane(truth)))))
        levels.append(posterior.level_at(truth))
    assert np.median(errors_m) < sigma_us * 300 * 1.5
    assert 0.7 < np.mean(np.array(levels) <= 0.865) <= 1
