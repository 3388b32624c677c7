"""Merged statistics equal those of everything at once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.tensor.moments import MIN_STD, Moments, merge_all

SHAPE = (3, 5)


def rows(count: int, seed: int, offset: float = -70.0) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.random.default_rng(seed).normal(offset, 9, (count, *SHAPE, 4)).astype(np.float32)


@given(st.lists(st.integers(0, 7), min_size=1, max_size=6), st.integers(0, 1000), st.floats(-1e4, 1e4))
def test_parts_merge_to_the_whole(counts: list[int], seed: int, offset: float) -> None:
    everything = rows(sum(counts), seed, offset)
    parts = np.split(everything, np.cumsum(counts)[:-1])
    merged = merge_all((Moments.of(part, SHAPE) for part in parts), SHAPE)
    assert merged.count == sum(counts) * 4
    if sum(counts):
        values = everything.astype(np.float64)
        np.testing.assert_allclose(merged.mean, values.mean(axis=(0, 3)), rtol=1e-12, atol=1e-9)
        np.testing.assert_allclose(merged.std, np.maximum(values.std(axis=(0, 3)), MIN_STD), rtol=1e-7)


def test_a_large_offset_costs_no_digits() -> None:
    values = rows(50, 1, 1e6)
    np.testing.assert_allclose(Moments.of(values, SHAPE).std, values.astype(np.float64).std(axis=(0, 3)), rtol=1e-9)


def test_std_has_a_floor() -> None:
    assert Moments.of(np.full((3, *SHAPE, 4), -120, np.float32), SHAPE).std == pytest.approx(MIN_STD)


def test_nothing_is_neutral() -> None:
    some = Moments.of(rows(3, 0), SHAPE)
    for merged in (some.merge(Moments.empty(SHAPE)), Moments.empty(SHAPE).merge(some)):
        assert merged.count == some.count
        np.testing.assert_array_equal(merged.mean, some.mean)
        np.testing.assert_array_equal(merged.m2, some.m2)
