"""Delays of synthetic sessions: unbiased, as sure as they say, and sensible where nothing can be said."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sessions_for_tests import START_NS, Ear, hear

from featurestore.delay.heard import Heard, Step
from featurestore.delay.pairs import PairOptions, Pairs, measure_pairs
from featurestore.errors import UsageError

OPTIONS = PairOptions(max_lag_s=0.6e-3)


def errors(pairs: Pairs, delays_s: np.ndarray) -> np.ndarray:
    return np.asarray(pairs.delay_s - (delays_s[pairs.a] - delays_s[pairs.b]))


def part(heard: Heard, first: int, stop: int) -> Heard:
    """Samples of a recording as a recording of their own."""
    return replace(
        heard, samples=heard.samples[first:stop], start_time_ns=heard.start_time_ns + round(first / heard.rate_hz * 1e9)
    )


@pytest.mark.parametrize("snr_db", [20, 3])
def test_delays_are_unbiased_and_their_sigmas_hold_what_they_say(snr_db: int) -> None:
    rng = np.random.default_rng(snr_db)
    error_s, sigma_s = [], []
    for _ in range(4):  # sessions of 50 s, each cut into 200 of a quarter of a second
        delays = rng.uniform(-2.5e-4, 2.5e-4, 2)
        starts = 0.0, float(rng.uniform(0, 0.01))
        heard = hear([Ear(d, seconds=50.0, start_s=start) for d, start in zip(delays, starts, strict=True)], rng, snr_db=snr_db)
        for first in range(0, 600_000, 3000):
            pairs = measure_pairs([part(each, first, first + 3000) for each in heard], OPTIONS)
            error_s.append(errors(pairs, delays)[0])
            sigma_s.append(pairs.sigma_s[0])
    error, sigma = np.array(error_s), np.array(sigma_s)
    assert abs(error.mean()) * 12_000 < 0.05
    assert np.abs(error).max() * 12_000 < (0.05 if snr_db == 20 else 0.5)
    assert np.mean(np.abs(error) < sigma) == pytest.approx(0.683, abs=0.03)
    assert np.mean(np.abs(error) < 2 * sigma) == pytest.approx(0.954, abs=0.03)


def test_order_of_receivers_turns_the_sign_and_nothing_else() -> None:
    rng = np.random.default_rng(1)
    heard = hear([Ear(1e-4), Ear(-2e-4, offset_hz=1.5), Ear(0.0)], rng)
    there, back = measure_pairs(heard, OPTIONS), measure_pairs(heard[::-1], OPTIONS)
    mirror = [2, 1, 0]  # pairs (2, 1), (2, 0), (1, 0) of the original numbers
    np.testing.assert_allclose(there.delay_s[mirror], -back.delay_s, atol=1e-10)
    np.testing.assert_allclose(there.sigma_s[mirror], back.sigma_s, rtol=1e-4)
    np.testing.assert_allclose(there.offset_hz[[0, 2]], [-1.5, 1.5], atol=0.05)
    lags = np.linspace(-5e-4, 5e-4, 101)
    np.testing.assert_allclose(there.correlation(lags)[mirror], back.correlation(lags)[:, ::-1].conj(), atol=1e-3)


def test_correlation_over_lags_is_highest_at_the_delay() -> None:
    rng = np.random.default_rng(2)
    delays = np.array([1.5e-4, -1e-4])
    pairs = measure_pairs(hear([Ear(d) for d in delays], rng), OPTIONS)
    lags = np.linspace(-6e-4, 6e-4, 241)
    height = np.abs(pairs.correlation(lags)[0])
    assert abs(lags[height.argmax()] - 2.5e-4) <= 5e-6
    assert height.max() <= 1


@pytest.mark.parametrize(
    "rates_hz",
    [(12_000.0, 12_001.0), (12_000.0, 12_000.05), (12_000.0, 20_250.0), (12_001.084, 12_001.026)],
    ids=["83 ppm", "4 ppm", "other", "two real receivers"],
)
def test_rates_may_differ(rates_hz: tuple[float, float]) -> None:
    rng = np.random.default_rng(3)
    delays = np.array([2e-4, -1e-4])
    ears = [
        Ear(d, rate_hz=rate, seconds=0.4, start_s=0.01 * i) for i, (d, rate) in enumerate(zip(delays, rates_hz, strict=True))
    ]
    pairs = measure_pairs(hear(ears, rng, band_hz=2000.0), OPTIONS)
    assert abs(errors(pairs, delays)[0]) < 5 * pairs.sigma_s[0] < 1.5e-5


def test_receivers_that_do_not_overlap_say_so_and_the_others_go_on() -> None:
    rng = np.random.default_rng(4)
    delays = np.array([1e-4, 0.0, -1e-4])
    pairs = measure_pairs(hear([Ear(delays[0]), Ear(delays[1]), Ear(delays[2], start_s=3.0)], rng), OPTIONS)
    assert pairs.usable.tolist() == [True, False, False]
    assert abs(errors(pairs, delays)[0]) < 1e-6
    assert "do not overlap in time: 2.000 s lie between them" in pairs.reason[1]
    assert pairs.wrong[1] == 1
    assert pairs.peak[1] == 0
    brief = measure_pairs(hear([Ear(0.0), Ear(0.0, start_s=0.999)], rng), OPTIONS)
    assert "overlap by only 0.001 s" in brief.reason[0]


def test_a_step_of_the_clock_costs_its_segments_only() -> None:
    """A quarter of a second is lost on the way: what comes after it is later than its index says."""
    rng = np.random.default_rng(5)
    delays = np.array([2e-4, -1e-4])
    whole = hear([Ear(d, seconds=2.0) for d in delays], rng)
    lost = slice(12_000, 15_000)
    cut = np.delete(whole[1].samples, lost)
    stepped = Heard(cut, 12_000.0, START_NS, steps=(Step(12_000, 0.25),))
    pairs = measure_pairs([whole[0], stepped], OPTIONS)
    assert abs(errors(pairs, delays)[0]) < 5 * pairs.sigma_s[0] < 2e-6
    assert 1.5 < pairs.seconds[0] < 1.76
    blind = measure_pairs([whole[0], Heard(cut, 12_000.0, START_NS)], OPTIONS)  # nobody tells it of the step
    assert blind.peak[0] < 0.6 * pairs.peak[0]


def test_silence_and_what_is_not_finite_have_no_delay() -> None:
    rng = np.random.default_rng(6)
    heard = hear([Ear(0.0), Ear(1e-4)], rng)
    spoiled = heard[1].samples.copy()
    spoiled[7] = np.nan
    for samples in (np.zeros(12_000, np.complex64), np.full(12_000, 0.1 + 0.1j), spoiled):
        pairs = measure_pairs([*heard, Heard(samples, 12_000.0, START_NS)], OPTIONS)
        assert pairs.usable.tolist() == [True, False, False]
        assert pairs.reason[1] == "one of them is silent"


def test_a_recording_twice_has_delay_zero() -> None:
    rng = np.random.default_rng(7)
    (one,) = hear([Ear(0.0)], rng)
    pairs = measure_pairs([one, one], OPTIONS)
    assert abs(pairs.delay_s[0]) < 1e-9
    assert pairs.sigma_s[0] < 1e-6


def test_noise_alone_is_chance() -> None:
    rng = np.random.default_rng(8)
    samples = np.asarray(rng.standard_normal((21, 6000, 2)) @ [1, 1j], np.complex64)
    pairs = measure_pairs([Heard(each, 12_000.0, START_NS) for each in samples], OPTIONS)
    assert len(pairs) == 210
    assert np.median(pairs.wrong) > 0.4
    assert np.mean(pairs.wrong < 0.1) < 0.05
    assert pairs.wrong.min() > 1e-3


def test_a_tone_tells_no_time_and_does_not_disturb() -> None:
    rng = np.random.default_rng(9)
    delays = np.array([2e-4, -1e-4])
    heard = hear([Ear(d) for d in delays], rng, snr_db=10)
    tone = np.exp(2j * np.pi * 1234.0 * np.arange(12_000) / 12_000)
    loud = [Heard((each.samples + 30 * tone).astype(np.complex64), 12_000.0, START_NS) for each in heard]
    pairs = measure_pairs(loud, OPTIONS)
    assert abs(errors(pairs, delays)[0]) < 5 * pairs.sigma_s[0] < 2e-6
    within = measure_pairs(heard, PairOptions(0.6e-3, band_hz=(-3000, 3000)))
    assert abs(within.frequency_hz).max() <= 3000
    assert abs(errors(within, delays)[0]) < 5 * within.sigma_s[0] < 2e-6


def test_a_real_starts_at_any_time_of_day_and_long_overlaps_are_cut() -> None:
    rng = np.random.default_rng(10)
    delays = np.array([2e-4, -1e-4])
    heard = hear([Ear(d, seconds=3.0) for d in delays], rng)
    pairs = measure_pairs(heard, PairOptions(0.6e-3, max_seconds=1.0))
    assert pairs.seconds[0] == pytest.approx(1.0, abs=0.05)
    assert abs(errors(pairs, delays)[0]) < 5 * pairs.sigma_s[0]


def test_impossible_options_are_refused_in_words() -> None:
    with pytest.raises(UsageError, match="max_lag_s is 0"):
        PairOptions(0.0)
    with pytest.raises(UsageError, match="lower frequency first"):
        PairOptions(1e-3, band_hz=(100.0, -100.0))
    with pytest.raises(UsageError, match="rate_hz is -1"):
        Heard(np.zeros(3, np.complex64), -1.0, 0)
    with pytest.raises(UsageError, match="expected complex"):
        Heard(np.zeros(3), 1.0, 0)  # type: ignore[arg-type]  # what it refuses
