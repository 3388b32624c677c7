"""Metrics against closed forms, simulation, torch.distributions and brute force."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate

from featurestore.errors import DataQualityError
from trainer.evaluate.metrics import (
    Predictions,
    error_summary,
    expected_error_m,
    measure,
    nll,
    sample_evenly,
    summary,
    thresholds_m,
)
from trainer.network.geometry import Region, geodesic_m

unhurried = settings(deadline=None, max_examples=50)
REGION = Region(44.9, 8.2, half_extent_m=100e3)


def simulated(count: int, seed: int = 0, overconfident: float = 1.0) -> Predictions:
    """Outputs of a network whose σ is right, or too small by a factor."""
    generator = np.random.default_rng(seed)
    targets = generator.uniform(-1, 1, (count, 2))
    sigma = generator.uniform(0.01, 0.2, (count, 2))
    outputs = np.concatenate([targets + sigma * generator.normal(size=(count, 2)), sigma / overconfident], axis=1)
    snr_db = generator.uniform(-12, 35, count).astype(np.float32)
    snr_db[::10] = np.nan
    return Predictions.from_outputs(REGION, outputs, REGION.decode(targets), generator.integers(1, 4, count), snr_db)


@unhurried
@given(st.floats(0, 1e5), st.floats(0, 1e5))
def test_expected_error_is_the_mean_length(sigma_east_m: float, sigma_north_m: float) -> None:
    """Against the same mean over the angle, integrated numerically."""

    def length(angle: float) -> float:
        return math.hypot(sigma_east_m * math.cos(angle), sigma_north_m * math.sin(angle))

    quarter = integrate.quad(length, 0, math.pi / 2, epsrel=1e-8, limit=200)[0] if sigma_east_m or sigma_north_m else 0.0
    expected = math.sqrt(math.pi / 2) * quarter / (math.pi / 2)
    found = expected_error_m(np.array([sigma_east_m]), np.array([sigma_north_m]))[0]
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_expected_error_agrees_with_simulation() -> None:
    generator = np.random.default_rng(0)
    for east, north in ((3.0, 3.0), (1.0, 10.0), (5.0, 2.0), (7.0, 0.0)):
        lengths = np.hypot(*(np.array([[east], [north]]) * generator.normal(size=(2, 200_000))))
        error = 5 * float(lengths.std()) / math.sqrt(lengths.size)
        assert expected_error_m(np.array([east]), np.array([north]))[0] == pytest.approx(lengths.mean(), abs=error)


def test_expected_error_at_its_ends() -> None:
    found = expected_error_m(np.array([2.0, 2.0, 0.0, 0.0]), np.array([2.0, 0.0, 2.0, 0.0]))
    np.testing.assert_allclose(found, 2 * np.sqrt([np.pi / 2, 2 / np.pi, 2 / np.pi, 0]))


def test_sigma_that_is_right_is_found_calibrated() -> None:
    found = measure(simulated(40_000), 100e3)
    assert found["coverage_1_sigma"] == pytest.approx(1 - math.exp(-0.5), abs=0.01)
    assert found["coverage_2_sigma"] == pytest.approx(1 - math.exp(-2), abs=0.01)
    assert found["calibration_error_m"] < 0.02 * found["error_mean_m"]


def test_overconfidence_shows() -> None:
    right, wrong = (measure(simulated(5000, overconfident=factor), 100e3) for factor in (1.0, 2.0))
    assert wrong["expected_error_m"] == pytest.approx(right["expected_error_m"] / 2)
    assert wrong["calibration_error_m"] == pytest.approx(wrong["error_mean_m"] / 2, rel=0.05)
    assert wrong["coverage_2_sigma"] == pytest.approx(1 - math.exp(-0.5), abs=0.02)  # its 2σ is truly 1σ
    assert wrong["nll"] > right["nll"]


def test_nll_is_that_of_torch_distributions_in_metres() -> None:
    predictions = simulated(100)
    error = torch.from_numpy(np.stack([predictions.east_error_m, predictions.north_error_m], axis=1))
    sigma = torch.from_numpy(np.stack([predictions.sigma_east_m, predictions.sigma_north_m], axis=1))
    likelihood = torch.distributions.Normal(0, sigma).log_prob(error)  # type: ignore[no-untyped-call]  # torch's
    np.testing.assert_allclose(nll(predictions), -likelihood.sum(dim=1).numpy())


def test_errors_of_known_size() -> None:
    found = error_summary(np.arange(1.0, 102.0), (30, 50, 100, 1000))
    assert found == {
        "rows": 101,
        "error_mean_m": 51,
        "error_median_m": 51,
        "error_p68_m": pytest.approx(69),
        "error_p90_m": pytest.approx(91),
        "error_p95_m": pytest.approx(96),
        "within_30_m": pytest.approx(30 / 101),
        "within_50_m": pytest.approx(50 / 101),
        "within_100_m": pytest.approx(100 / 101),
        "within_1_km": 1,
    }


@unhurried
@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50))
def test_errors_are_ordered_and_shares_are_shares(errors: list[float]) -> None:
    found = error_summary(np.array(errors), thresholds_m(1e6))
    quantiles = [found[f"error_{name}_m"] for name in ("median", "p68", "p90", "p95")]
    assert quantiles == sorted(quantiles)
    assert min(errors) <= quantiles[0] <= quantiles[-1] <= max(errors)
    shares = [value for name, value in found.items() if name.startswith("within_")]
    assert shares == sorted(shares)
    assert 0 <= shares[0] <= shares[-1] <= 1


def test_thresholds_suit_the_region() -> None:
    assert thresholds_m(1_000) == (30, 50, 100)
    assert thresholds_m(95_000) == (30, 50, 100, 1_000, 3_000, 10_000, 30_000)
    assert thresholds_m(2e6)[-1] == 100_000


def test_outputs_become_metres_on_the_ground() -> None:
    true = np.array([[44.9, 8.2]])
    outputs = np.array([[0.03, 0.04, 0.1, 0.2]])
    found = Predictions.from_outputs(REGION, outputs, true, np.array([7]), np.array([20.0]))
    assert found.error_m[0] == pytest.approx(5000, abs=0.01)
    columns = (found.east_error_m, found.north_error_m, found.sigma_east_m, found.sigma_north_m)
    np.testing.assert_allclose(np.concatenate(columns), [3000, 4000, 10_000, 20_000], rtol=1e-9)
    assert geodesic_m(found.position, true)[0] == found.error_m[0]


def test_groups_are_measured_like_the_whole() -> None:
    predictions = simulated(500)
    found = measure(predictions, 50e3)
    assert list(found["by_receiver"]) == ["1", "2", "3"]
    assert list(found["by_snr"]) == [
        "-20 to -10 dB",
        "-10 to 0 dB",
        "0 to 10 dB",
        "10 to 20 dB",
        "20 to 30 dB",
        "30 to 40 dB",
        "unknown",
    ]
    for group in ("by_receiver", "by_snr"):
        assert sum(part["rows"] for part in found[group].values()) == found["rows"] == 500
        mean = sum(part["rows"] * part["error_mean_m"] for part in found[group].values()) / 500
        assert mean == pytest.approx(found["error_mean_m"])
    band = predictions.select((predictions.snr_db >= 10) & (predictions.snr_db < 20))
    assert found["by_snr"]["10 to 20 dB"] == summary(band, thresholds_m(50e3))


def test_nothing_to_measure_is_said() -> None:
    with pytest.raises(DataQualityError, match="no predictions"):
        measure(simulated(3).select(np.zeros(3, bool)), 100e3)


def test_what_is_not_a_number_is_named() -> None:
    predictions = simulated(4)
    error_m = predictions.error_m.copy()
    error_m[2] = np.nan
    with pytest.raises(DataQualityError, match="1 of 4 predictions, the first at row 2, are not finite"):
        measure(replace(predictions, error_m=error_m), 100e3)
    assert replace(predictions, sigma_east_m=np.zeros(4)).finite.tolist() == [False] * 4


def test_columns_of_other_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match=r"snr_db has shape \(3,\), which must be \(4,\)"):
        replace(simulated(4), snr_db=np.zeros(3))


@unhurried
@given(st.integers(0, 500), st.integers(1, 100), st.integers(0, 5))
def test_a_sample_is_spread_evenly(count: int, wanted: int, seed: int) -> None:
    found = sample_evenly(count, wanted, seed)
    assert len(found) == min(count, wanted)
    np.testing.assert_array_equal(found, sample_evenly(count, wanted, seed))
    assert (np.diff(found) > 0).all()
    stretch = np.searchsorted(np.arange(1, len(found) + 1) * count // max(1, len(found)), found, "right")
    np.testing.assert_array_equal(stretch, np.arange(len(found)))


def test_a_sample_holds_every_receiver() -> None:
    """Every seventh of rows that come receiver by receiver would be one receiver alone."""
    assert set(sample_evenly(7000, 1000) % 7) == set(range(7))
