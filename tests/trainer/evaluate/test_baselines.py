"""Baselines against closed forms, brute force, and sets that were really built."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore.errors import UsageError
from trainer.evaluate.baselines import k_nearest, predict_the_mean
from trainer.network.geometry import Float64, Region, geodesic_m

unhurried = settings(deadline=None, max_examples=50)
REGION = Region(44.9, 8.2, half_extent_m=100e3)


def test_predicting_the_mean_errs_by_the_spread() -> None:
    """Evenly over a square of half-side h, the mean distance from the centre is h·(√2 + asinh 1)/3."""
    targets = np.random.default_rng(0).uniform(-1, 1, (40_000, 2))
    errors = predict_the_mean(REGION.decode(targets), REGION.decode(targets[:10_000]))
    assert errors.mean() == pytest.approx(100e3 * (math.sqrt(2) + math.asinh(1)) / 3, rel=0.01)


def test_predicting_the_mean_across_the_antimeridian() -> None:
    errors = predict_the_mean(np.array([[0.0, 179.0], [0.0, -179.0], [np.nan, 0.0]]), np.array([[0.0, 180.0], [0.0, -179.0]]))
    np.testing.assert_allclose(errors, [0, 6_378_137 * math.pi / 180], atol=1)


def features_and_positions(
    count: int, seed: int, dtype: npt.DTypeLike = np.float32
) -> tuple[npt.NDArray[np.floating], Float64]:
    generator = np.random.default_rng(seed)
    return generator.normal(size=(count, 3, 4, 2)).astype(dtype), REGION.decode(generator.uniform(-1, 1, (count, 2)))


@unhurried
@given(st.integers(1, 40), st.integers(0, 20), st.integers(1, 5), st.sampled_from([1, 1000, 5000, 2**20]))
def test_nearest_are_those_of_brute_force(n_train: int, n_queries: int, k: int, block_bytes: int) -> None:
    train, positions = features_and_positions(n_train, 0, np.float16)
    queries, _ = features_and_positions(n_queries, 1, np.float16)
    k = min(k, n_train)
    difference = queries.astype(np.float64)[:, np.newaxis] - train.astype(np.float64)
    nearest = np.square(difference).sum(axis=(2, 3, 4)).argsort(axis=1)[:, :k]
    expected = REGION.from_plane(REGION.to_plane(positions)[nearest].mean(axis=1))
    found = k_nearest(train, positions, queries, k, block_bytes)
    assert found.shape == (n_queries, 2)
    # The mean on a plane that touches elsewhere lies elsewhere by the planes' foreshortening.
    assert (geodesic_m(found, expected) < 50).all()


def test_nearest_row_is_the_row_itself() -> None:
    train, positions = features_and_positions(30, 0)
    assert geodesic_m(k_nearest(train, positions, train[::-1], 1), positions[::-1]).max() < 1e-6


def test_earlier_rows_win_a_tie() -> None:
    train, positions = features_and_positions(1, 0)
    _, positions = features_and_positions(9, 0)
    found = k_nearest(np.repeat(train, 9, axis=0), positions, train, 1, block_bytes=1)
    assert geodesic_m(found, positions[:1])[0] < 1e-6


def test_nearest_need_little_memory() -> None:
    train, queries = np.zeros((4000, 500), np.float16), np.zeros((1000, 500), np.float16)
    positions = REGION.decode(np.zeros((4000, 2)))
    tracemalloc.start()
    k_nearest(train, positions, queries, 3, block_bytes=2**18)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5 * 2**18  # of 8 MB as float32


def test_neighbours_must_exist() -> None:
    train, positions = features_and_positions(3, 0)
    for k in (0, 4):
        with pytest.raises(UsageError, match=f"k is {k}; it must lie between 1 and the number of training rows, 3"):
            k_nearest(train, positions, train, k)
    with pytest.raises(ValueError, match="do not fit"):
        k_nearest(train, positions[:2], train, 1)
    with pytest.raises(ValueError, match="do not fit"):
        k_nearest(train, positions, train[:, :2], 1)
