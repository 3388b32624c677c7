"""Resampling keeps tones where and as strong as they are, lets nothing alias, and doesn't depend on how it is cut."""

from __future__ import annotations

from fractions import Fraction
from functools import partial
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.corpus.ingest.resample import MAX_FACTOR, count, find_ratio, resample, residual
from featurestore.errors import DataQualityError

RATES = [(12_001.0843, 12_000), (2_400_000, 192_000), (222_222, 192_000), (48_000, 192_000), (100_000, 12_000)]


def tone(rate_hz: float, frequency_hz: float, start: int, stop: int) -> npt.NDArray[np.complex64]:
    return np.asarray(np.exp(2j * np.pi * frequency_hz / rate_hz * np.arange(start, stop)), np.complex64)


@pytest.mark.parametrize(("rate_hz", "target_hz"), RATES)
@pytest.mark.parametrize("place", [-0.85, -0.3, 0.0, 0.6])
def test_a_tone_keeps_frequency_phase_and_level(rate_hz: float, target_hz: float, place: float) -> None:
    n_samples = 60_000
    frequency_hz = place * min(rate_hz, target_hz) / 2
    ratio = find_ratio(rate_hz, target_hz)
    n_out = count(n_samples, ratio)
    found = resample(partial(tone, rate_hz, frequency_hz), n_samples, ratio, 0, n_out)
    assert found.dtype == np.complex64
    edge = 2 * 48 * max(1, round(target_hz / rate_hz))
    wanted = tone(target_hz, frequency_hz, 0, n_out)
    # 1 ppm of ratio may turn the phase by up to 2 pi f t 1e-6.
    drift = 2 * np.pi * abs(frequency_hz) * n_samples / rate_hz * abs(float(ratio) * rate_hz / target_hz - 1)
    np.testing.assert_allclose(found[edge:-edge], wanted[edge:-edge], rtol=0, atol=1e-3 + 1.1 * drift)


def test_nothing_aliases() -> None:
    n_samples = 100_000
    ratio = find_ratio(2_400_000, 192_000)
    for frequency_hz in (100_000, 150_000, 400_000, -1_100_000):
        found = resample(partial(tone, 2_400_000, frequency_hz), n_samples, ratio, 200, count(n_samples, ratio) - 200)
        assert 20 * np.log10(np.abs(found).max()) < -75, frequency_hz


@pytest.mark.parametrize(("rate_hz", "target_hz"), RATES)
def test_parts_are_the_whole(rate_hz: float, target_hz: float) -> None:
    rng = np.random.default_rng(3)
    samples = (rng.normal(size=(20_000, 2)) @ [1, 1j]).astype(np.complex64)
    ratio = find_ratio(rate_hz, target_hz)
    n_out = count(len(samples), ratio)

    def read(start: int, stop: int) -> npt.NDArray[np.complex64]:
        assert 0 <= start < stop <= len(samples)
        return samples[start:stop]

    whole = resample(read, len(samples), ratio, 0, n_out)
    assert len(whole) == n_out
    edges = np.linspace(0, n_out, 6).astype(int)
    parts = [resample(read, len(samples), ratio, int(a), int(b)) for a, b in pairwise(edges)]
    np.testing.assert_allclose(np.concatenate(parts), whole, rtol=0, atol=1e-6)


@given(st.floats(1e3, 5e6), st.floats(-2.3, 2.3))
def test_the_ratio_is_close_and_its_factors_are_bounded(rate_hz: float, decades: float) -> None:
    target_hz = rate_hz * 10**decades
    ratio = find_ratio(rate_hz, target_hz)
    assert abs(residual(ratio, rate_hz, target_hz)) <= 1.01e-5
    assert residual(ratio, rate_hz, target_hz) == pytest.approx(float(ratio) * rate_hz / target_hz - 1, abs=1e-12)
    assert max(ratio.numerator, ratio.denominator) <= MAX_FACTOR


@given(st.floats(-1e-3, 1e-3), st.sampled_from([1.0, 0.08, 4.0, 16.0]))
def test_rates_that_differ_by_some_ppm(offset: float, ratio: float) -> None:
    rate_hz, target_hz = 12_000 * (1 + offset), 12_000 * ratio
    found = find_ratio(rate_hz, target_hz)
    assert abs(residual(found, rate_hz, target_hz)) <= (1.01e-6 if abs(offset) > 5e-5 else 1.01e-5)


def test_plain_ratios_stay_plain() -> None:
    assert find_ratio(2_400_000, 192_000) == Fraction(2, 25)
    assert find_ratio(192_000, 192_000) == 1


@pytest.mark.parametrize(("rate_hz", "target_hz"), [(4e6, 1e-3), (1.0, 1e9)])
def test_rates_too_far_apart(rate_hz: float, target_hz: float) -> None:
    with pytest.raises(DataQualityError, match="too far apart"):
        find_ratio(rate_hz, target_hz)
