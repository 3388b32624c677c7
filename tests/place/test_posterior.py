"""Posteriors against the closed forms of Gaussians, and by how often they hold the truth."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import kstest, multivariate_normal

from featurestore.errors import DataQualityError, UsageError
from featurestore.place import density
from featurestore.place.grid import Grid, Plane
from featurestore.place.posterior import LEVELS, Posterior

COVARIANCE = np.array([[9e8, 3e8], [3e8, 4e8]])  # 30 km east, 20 km north
MEAN = np.array([4000.0, -7000.0])


def square(cell_m: float = 2000.0, half_m: float = 160_000.0) -> Grid:
    return Grid.within(Plane(45, 8), np.full(2, -half_m), np.full(2, half_m), cell_m)


def gaussian(grid: Grid, mean: np.ndarray = MEAN, covariance: np.ndarray = COVARIANCE) -> np.ndarray:
    return multivariate_normal(mean, covariance).logpdf(grid.points_m).reshape(grid.shape)


def test_moments_of_a_gaussian_are_its_parameters() -> None:
    posterior = Posterior(square(), gaussian(square()) + 123.0)
    np.testing.assert_allclose(posterior.point_m, MEAN, atol=20)
    np.testing.assert_allclose(posterior.covariance_m2, COVARIANCE, rtol=0.01)
    assert posterior.masses.sum() == pytest.approx(1)
    np.testing.assert_allclose(posterior.grid.plane.to_plane(posterior.point), posterior.point_m, atol=1e-3)


@pytest.mark.parametrize(("level", "sigmas"), [(LEVELS[0], 1), (LEVELS[1], 2)])
def test_regions_of_a_gaussian_are_its_ellipses(level: float, sigmas: float) -> None:
    posterior = Posterior(square(), gaussian(square()))
    ellipse_km2 = np.pi * sigmas**2 * np.sqrt(np.linalg.det(COVARIANCE)) / 1e6
    assert posterior.area_km2(level) == pytest.approx(ellipse_km2, rel=0.01)
    (ring,) = posterior.contours_m(level)
    np.testing.assert_array_equal(ring[0], ring[-1])
    whitened = np.linalg.solve(np.linalg.cholesky(COVARIANCE), (ring - MEAN).T)
    np.testing.assert_allclose(np.hypot(*whitened), sigmas, atol=0.04)
    (degrees,) = posterior.contours(level)
    np.testing.assert_allclose(posterior.grid.plane.to_plane(degrees), ring, atol=0.01)


def test_level_of_a_place_is_the_mass_that_is_denser() -> None:
    posterior = Posterior(square(), gaussian(square()))
    for sigmas in (0.3, 1.0, 2.0, 3.0):
        point = MEAN + np.linalg.cholesky(COVARIANCE) @ np.array([0.6, 0.8]) * sigmas
        position = posterior.grid.plane.from_plane(point)
        assert posterior.level_at(position) == pytest.approx(1 - np.exp(-(sigmas**2) / 2), abs=0.005)
        wanted = multivariate_normal(MEAN, COVARIANCE).logpdf(point)
        assert posterior.log_density_at(position[None])[0] == pytest.approx(wanted, abs=0.01)


def test_point_is_the_spatial_median_not_the_mean() -> None:
    """Two places, one twice as likely: least expected distance is at the likelier one, the mean lies between them."""
    grid = square()
    near, far = np.array([-60_000.0, 0.0]), np.array([60_000.0, 30_000.0])
    narrow = np.eye(2) * 5000.0**2
    log = np.logaddexp(np.log(2) + gaussian(grid, near, narrow), gaussian(grid, far, narrow))
    posterior = Posterior(grid, log)

    def expected_distance(point: np.ndarray) -> float:
        return float(posterior.masses.ravel() @ np.hypot(*(grid.points_m - point).T))

    best = minimize(
        expected_distance, posterior.masses.ravel() @ grid.points_m, method="Nelder-Mead", options={"xatol": 1, "fatol": 1e-4}
    )
    assert np.hypot(*(posterior.point_m - best.x)) < 100
    assert np.hypot(*(posterior.point_m - near)) < 10_000
    assert len(posterior.contours(0.865)) == 2


def test_stated_regions_hold_the_truth_as_often_as_they_say() -> None:
    """Truths drawn from a prior, measured with noise: the levels of the truths are uniform, whatever the grid's cell."""
    rng = np.random.default_rng(7)
    grid = square(cell_m=5000.0, half_m=120_000.0)
    covariance = np.eye(2) * 12_000.0**2
    truths = rng.uniform(-60_000, 60_000, (1500, 2))
    measured = truths + rng.multivariate_normal(np.zeros(2), covariance, len(truths))
    offset = grid.points_m[None] - measured[:, None]
    log = (-0.5 * (offset**2).sum(axis=2) / 12_000.0**2).reshape(-1, *grid.shape)
    log = density.normalize(np.where((np.abs(grid.points_m) <= 60_000).all(axis=1).reshape(grid.shape), log, -np.inf), 5000.0)
    levels = density.levels_at(log, grid, truths)
    assert kstest(levels, "uniform").pvalue > 0.01
    for level in LEVELS:
        assert np.mean(levels <= level) == pytest.approx(level, abs=0.03)


def test_batches_say_what_single_posteriors_say() -> None:
    grid = square(cell_m=8000.0)
    rng = np.random.default_rng(3)
    log = np.stack([gaussian(grid, rng.uniform(-5e4, 5e4, 2), COVARIANCE * scale) for scale in (0.3, 1, 2)])
    single = [Posterior(grid, each) for each in log]
    together = density.normalize(log, grid.cell_m)
    np.testing.assert_allclose(density.medians_m(together, grid), [one.point_m for one in single], atol=50)
    np.testing.assert_allclose(density.covariances_m2(together, grid), [one.covariance_m2 for one in single])
    np.testing.assert_allclose(
        density.thresholds(together, grid.cell_m, 0.865)[1] / 1e6, [one.area_km2(0.865) for one in single]
    )


def test_product_adds_what_sources_know() -> None:
    grid = square()
    both = Posterior.product(grid, [gaussian(grid), gaussian(grid)])
    np.testing.assert_allclose(both.covariance_m2, COVARIANCE / 2, rtol=0.01)


def test_a_region_that_reaches_the_edge_is_closed_along_it() -> None:
    grid = square(half_m=30_000.0)
    posterior = Posterior(grid, gaussian(grid, np.array([30_000.0, 0.0])))
    for ring in posterior.contours_m(0.865):
        np.testing.assert_array_equal(ring[0], ring[-1])
        assert ring[:, 0].max() <= 31_000
    assert np.isneginf(posterior.log_density_at(np.array([[50.0, 8.0]])))[0]
    assert posterior.level_at(np.array([50.0, 8.0])) == 1
    low, high = posterior.bounds_m(0.865)
    assert high[0] == pytest.approx(30_000)
    assert low[0] > -30_000


def test_impossible_places_and_wrong_shapes_are_refused_in_words() -> None:
    grid = square()
    with pytest.raises(DataQualityError, match="no place on the grid"):
        Posterior(grid, np.full(grid.shape, -np.inf))
    with pytest.raises(DataQualityError, match="no NaN"):
        Posterior(grid, np.full(grid.shape, np.nan))
    with pytest.raises(UsageError, match="does not fit"):
        Posterior(grid, np.zeros((2, 2)))
