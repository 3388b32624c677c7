"""Metrics of sessions on posteriors that are known."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainer.evaluate.session_baselines import predict_nearest
from trainer.evaluate.session_metrics import SessionPredictions, random_subsets, session_summary, time_parts
from trainer.network.geometry import Region
from trainer.network.session.density import locate
from trainer.network.session.place import SessionPlace


def test_coverage_area_and_expected_error_of_gaussians() -> None:
    """Truths drawn from the posteriors themselves: shares are 39.3% and 86.5%, the area is 2π·2·σ², the error σ·√(π/2)."""
    corners = np.array([[44.4, 7.1], [45.5, 9.3]])
    place = SessionPlace.around(Region.around(corners), corners, [1], np.zeros((1, 2)), 2.0)
    rng, sigma = np.random.default_rng(0), 8000.0
    centre, n = rng.uniform(-2e4, 2e4, (400, 2)), 400
    truth = place.grid.plane.from_plane(centre + rng.normal(0, sigma, (n, 2)))
    squared = ((place.grid.points_m[None] - centre[:, None]) ** 2).sum(-1)
    unit = place.region.half_extent_m
    points = torch.from_numpy((place.region.encode(place.grid.degrees)).astype(np.float32))
    located = locate(torch.from_numpy((-squared / (2 * sigma**2)).astype(np.float32)), points, place.cell_m / unit)
    found = session_summary(SessionPredictions.of(located, place, truth), ())
    assert abs(found["coverage_1_sigma"] - 0.393) < 0.08
    assert abs(found["coverage_2_sigma"] - 0.865) < 0.06
    np.testing.assert_allclose(found["expected_error_m"], sigma * np.sqrt(np.pi / 2), rtol=0.03)
    np.testing.assert_allclose(found["area_86_median_km2"], 2 * np.pi * 2 * sigma**2 / 1e6, rtol=0.05)
    np.testing.assert_allclose(found["nll"], np.log(2 * np.pi * sigma**2) + 1, atol=0.15)
    assert found["calibration_error_m"] < 600


@given(st.integers(1, 20), st.integers(1, 9), st.integers(0, 2**31))
def test_random_subsets_grow(n: int, r: int, seed: int) -> None:
    present = np.random.default_rng(seed).random((n, r)) < 0.7
    before = np.zeros_like(present)
    for size in range(1, r + 1):
        subset = random_subsets(present, size)
        enough = present.sum(axis=1) >= size
        assert (subset.sum(axis=1) == np.where(enough, size, 0)).all()
        assert (subset <= present).all()
        assert (before[enough] <= subset[enough]).all()
        before = subset


@given(st.lists(st.integers(-1, 2**60), max_size=40))
def test_parts_of_time_hold_every_known_session_once(times: list[int]) -> None:
    parts = [part for _, part in time_parts(np.array(times, np.int64))]
    held = np.concatenate([*parts, np.empty(0, np.int64)])
    assert sorted(held.tolist()) == [index for index, time in enumerate(times) if time >= 0]


def test_nearest_sessions_are_compared_over_what_both_heard() -> None:
    known = np.array([[0.0, 0.0], [10.0, np.nan], [np.nan, 5.0]])
    positions = np.array([[45.0, 8.0], [45.1, 8.1], [45.2, 8.2]])
    found = predict_nearest(known, positions, np.array([[9.0, 50.0], [np.nan, 4.0]]), 1)
    np.testing.assert_allclose(found, positions[[1, 2]], atol=1e-6)
