"""Kriging and the radio map against dense solutions that are written down independently, and against worlds that are known."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal

from featurestore.place.grid import Grid
from trainer.network.session.kriging import Covariance, Trend, Weights, fit_covariance
from trainer.network.session.radio_map import RadioMap, Sessions, fit_radio_map

Floats = npt.NDArray[np.float64]
RECEIVERS = np.array([[45.03, 7.27], [45.478, 9.123], [44.395, 8.956], [45.03, 7.27]])


def dense(points: Floats, nugget: Floats, places: Floats, field: Covariance, y: Floats) -> tuple[Floats, Floats]:
    """Textbook simple kriging: mean and variance from the whole covariance matrix."""
    squared = ((points[:, None] - points[None]) ** 2).sum(-1)
    matrix = field.variance * np.exp(-np.sqrt(squared) / field.length_m) + np.diag(nugget)
    cross = field.variance * np.exp(-np.sqrt(((points[:, None] - places[None]) ** 2).sum(-1)) / field.length_m)
    weight = scipy.linalg.solve(matrix, cross, assume_a="pos")
    return weight.T @ y, field.variance - (cross * weight).sum(axis=0)


@settings(deadline=None, max_examples=20)
@given(st.integers(2, 24), st.integers(0, 2**31), st.floats(2e3, 4e4))
def test_few_observations_give_the_dense_solution(n: int, seed: int, length_m: float) -> None:
    rng = np.random.default_rng(seed)
    points, places = rng.uniform(-5e4, 5e4, (n, 2)), rng.uniform(-6e4, 6e4, (7, 2))
    nugget, y = rng.uniform(1, 9, n), rng.normal(0, 6, n)
    field = Covariance(36.0, length_m, 4.0)
    weights = Weights.of(points, nugget, places, field)
    mean, variance = dense(points, nugget, places, field, y)
    np.testing.assert_allclose(weights.apply(y), mean, atol=1e-8)
    np.testing.assert_allclose(weights.variance, variance, atol=1e-8)


def test_near_observations_screen_the_others() -> None:
    rng = np.random.default_rng(1)
    points, places = rng.uniform(-5e4, 5e4, (900, 2)), rng.uniform(-5e4, 5e4, (200, 2))
    field, nugget = Covariance(36.0, 1e4, 6.0), np.full(900, 6.0)
    matrix = field(np.sqrt(((points[:, None] - points[None]) ** 2).sum(-1))) + np.diag(nugget)
    y = np.linalg.cholesky(matrix) @ rng.standard_normal(900)
    weights = Weights.of(points, nugget, places, field)
    mean, variance = dense(points, nugget, places, field, y)
    assert np.sqrt(((weights.apply(y) - mean) ** 2).mean()) < 0.15  # dB, of a field of 6
    np.testing.assert_allclose(weights.variance, variance, rtol=0.02)


def test_left_out_is_the_dense_solution_without_it() -> None:
    rng = np.random.default_rng(2)
    points, y, nugget = rng.uniform(-3e4, 3e4, (15, 2)), rng.normal(0, 6, 15), np.full(15, 5.0)
    field = Covariance(30.0, 1.2e4, 5.0)
    weights = Weights.of(points, nugget, points, field, leave_out=np.arange(15))
    for own in range(15):
        others = np.arange(15) != own
        mean, variance = dense(points[others], nugget[others], points[[own]], field, y[others])
        np.testing.assert_allclose([weights.apply(y)[own], weights.variance[own]], [mean[0], variance[0]], atol=1e-8)


def test_places_of_several_observations_are_left_out_by_number() -> None:
    points = np.zeros((4, 2))
    weights = Weights.of(points, np.ones(4), points, Covariance(), leave_out=np.arange(4), neighbours=2)
    assert all(own not in near for own, near in enumerate(weights.neighbour.tolist()))


def test_likelihood_finds_the_covariance() -> None:
    rng = np.random.default_rng(3)
    points = rng.uniform(-6e4, 6e4, (300, 2))
    true = Covariance(36.0, 1e4, 9.0)
    matrix = true(np.sqrt(((points[:, None] - points[None]) ** 2).sum(-1))) + 9 * np.eye(300)
    y = np.linalg.cholesky(matrix) @ rng.standard_normal(300) + 20
    found = fit_covariance(points, np.ones((300, 1)), y, Trend(np.zeros(1), np.array([1e-3])))
    assert 18 < found.variance < 70
    assert 4e3 < found.length_m < 2.5e4
    assert 4 < found.nugget < 16


def test_trend_is_the_posterior_of_a_linear_model() -> None:
    """Against the conditional of one joint Gaussian of coefficients and observations."""
    rng = np.random.default_rng(4)
    basis, y = np.stack([np.ones(9), rng.normal(size=9)], axis=1), rng.normal(size=9)
    noise, prior, precision = np.diag(rng.uniform(1, 2, 9)), np.array([1.0, -2.0]), np.array([0.5, 0.25])
    beta, covariance = Trend(prior, precision).fit(basis, y, noise)
    joint = basis @ np.diag(1 / precision) @ basis.T + noise
    gain = np.diag(1 / precision) @ basis.T @ np.linalg.inv(joint)
    np.testing.assert_allclose(beta, prior + gain @ (y - basis @ prior))
    np.testing.assert_allclose(covariance, np.diag(1 / precision) - gain @ basis @ np.diag(1 / precision))
    assert np.isfinite(multivariate_normal.logpdf(y, basis @ prior, joint))


def world(n: int, seed: int = 0) -> tuple[Sessions, Grid, Floats]:
    """Levels of n sessions by a distance law alone, power and noise; and their powers."""
    rng = np.random.default_rng(seed)
    position = np.stack([rng.uniform(44.4, 45.5, n), rng.uniform(7.1, 9.3, n)], axis=1)
    grid = Grid.around(position, 5.0)
    points, stands = grid.plane.to_plane(position), grid.plane.to_plane(RECEIVERS)
    distance = np.sqrt(((points[:, None] - stands[None]) ** 2).sum(-1))
    power = rng.normal(0, 2, n)
    level = 40 - 32 * np.log10(distance / 1e4) + power[:, None] + rng.normal(0, 1.5, distance.shape)
    return Sessions(points, position, level + np.array([0, 3, -2, 1])), grid, power


@pytest.fixture(scope="module")
def fitted() -> tuple[RadioMap, Grid]:
    sessions, grid, _ = world(240)
    level = sessions.level.copy()
    level[::3, 1] = np.nan  # a receiver that does not hear everything
    return fit_radio_map(Sessions(sessions.points_m, sessions.position, level), RECEIVERS, grid), grid


def test_map_finds_law_power_and_noise(fitted: tuple[RadioMap, Grid]) -> None:
    found, grid = fitted
    stands = grid.plane.to_plane(RECEIVERS)
    inside = (np.abs(grid.points_m) < np.array([8e4, 5e4])).all(axis=1)
    for column, offset in enumerate((0, 3, -2, 1)):
        distance = np.sqrt(((grid.points_m - stands[column]) ** 2).sum(-1))
        far = inside & (distance > 1.5e4)
        rest = found.mean[column] - (40 + offset - 32 * np.log10(distance / 1e4))
        assert np.sqrt((rest[far] ** 2).mean()) < 1.0  # dB
    assert 2.5 < found.power < 6  # 4
    np.testing.assert_allclose(found.noise, 1.5**2, atol=1.6)  # 240 sessions tell it to about 1 dB²
    assert (found.variance > 0).all()
    np.testing.assert_allclose(found.law, [40.5, -32], atol=3)


def test_receivers_at_one_place_share_their_map_but_for_an_offset(fitted: tuple[RadioMap, Grid]) -> None:
    found, _ = fitted
    difference = found.mean[3] - found.mean[0]
    np.testing.assert_allclose(difference, difference[0], atol=1e-9)
    assert abs(difference[0] - 1) < 0.3
    np.testing.assert_array_equal(found.variance[3], found.variance[0])


def test_a_receiver_that_heard_nothing_keeps_the_law() -> None:
    sessions, grid, _ = world(60)
    level = sessions.level.copy()
    level[:, 2] = np.nan
    found = fit_radio_map(Sessions(sessions.points_m, sessions.position, level), RECEIVERS, grid)
    assert np.isfinite(found.mean).all()
    assert found.variance[2].min() > found.variance[0].min()


def test_unknown_positions_of_receivers_leave_a_map_without_law() -> None:
    sessions, grid, _ = world(60)
    found = fit_radio_map(sessions, np.full((4, 2), np.nan), grid)
    assert np.isfinite(found.mean).all()


@pytest.mark.parametrize("n", [1, 2, 5])
def test_few_sessions_are_enough_for_a_map(n: int) -> None:
    sessions, grid, _ = world(n)
    found = fit_radio_map(sessions, RECEIVERS, grid)
    assert np.isfinite(found.mean).all()
    assert (found.variance > 0).all()
