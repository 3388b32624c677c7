"""Time in the simulated world: what a receiver samples is what left the transmitter that much earlier, by its own clock."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import scipy.fft
import scipy.signal

from featurestore.corpus.simulate.airwave import Airwave
from featurestore.corpus.simulate.clocks import NS, Clock, clock_of, delay_s, moment_ns, second_path_s
from featurestore.corpus.simulate.render import Session
from featurestore.corpus.simulate.session import transmission
from featurestore.corpus.simulate.simulation_spec import SimulationSpec
from featurestore.corpus.simulate.sites import RECEIVERS
from featurestore.corpus.simulate.truth import CaptureTruth, truth_csv
from featurestore.errors import UsageError

RATE_HZ = 48_000.0
TIMED = SimulationSpec(sites="uniform", sample_rate_hz=RATE_HZ, duration_s=0.5, clock="gps")


def test_a_waveform_at_any_instants_is_that_of_its_samples() -> None:
    """Between samples it is what their spectrum says: it is band-limited."""
    air = Airwave(np.random.default_rng(3), (-0.1, 0.6), 88.5)
    begin, n = 0.0, 24_000
    samples = air.at(begin + np.arange(n) / RATE_HZ)
    assert np.abs(samples) == pytest.approx(1, abs=1e-6)
    late = 0.37 / RATE_HZ
    spectrum = scipy.fft.fft(samples * scipy.signal.windows.tukey(n, 0.2))
    moved = scipy.fft.ifft(spectrum * np.exp(2j * np.pi * scipy.fft.fftfreq(n, 1 / RATE_HZ) * late))
    middle = slice(n // 4, 3 * n // 4)
    np.testing.assert_allclose(moved[middle], air.at(begin + late + np.arange(n) / RATE_HZ)[middle], atol=2e-3)


def test_a_clock_that_is_fast_takes_its_samples_too_early_and_ever_more_so() -> None:
    times = Clock(0.25, 0.25, 0.0, 2.0, 0.5).times_s(480_001, RATE_HZ)  # 10 s
    assert times[0] == 0.25
    assert times[-1] - times[0] == pytest.approx(10 * (1 - 2e-6) - 0.5e-6 / 2 * 10**2, abs=1e-12)


def arrival_s(samples: npt.NDArray[np.complexfloating], air: Airwave, spec: SimulationSpec, near_s: float) -> float:
    """When the first sample left the transmitter, by a search with the known waveform: not the store's way to a delay.

    A carrier's frequency and slow fading are taken out block by block: the power of each block's correlation counts.
    """
    nominal = np.arange(len(samples)) / spec.sample_rate_hz

    def agreement(start_s: float) -> float:
        product = samples * air.at(start_s + nominal).conj()
        return float((np.abs(product.reshape(-1, 480).sum(axis=1)) ** 2).sum())

    grid = near_s + np.linspace(-8e-6, 8e-6, 33)
    values = np.array([agreement(start) for start in grid])
    return float(np.roots(np.polyder(np.polyfit(grid - near_s, values / values.max(), 2)))[0]) + near_s


def test_every_receiver_hears_the_same_wave_when_the_way_to_it_is_gone() -> None:
    errors_s = []
    for index in range(4):
        session = Session(TIMED, index)
        for place, receiver in enumerate(RECEIVERS):
            capture = session.capture(place)
            assert capture is not None
            truth, record = capture.truth, capture.record
            assert truth.delay_s == pytest.approx(truth.distance_m / 299_792_458, rel=4e-3)  # that distance is on a sphere
            assert truth.start_time_ns is not None
            assert record.start_time_ns is not None
            assert truth.time_error_s is not None
            assert record.start_time_ns - truth.start_time_ns == pytest.approx(truth.time_error_s * NS, abs=1.01)
            if truth.snr_db + truth.fading_db < 20 or capture.npy is None:
                continue
            samples = np.frombuffer(memoryview(capture.npy)[128:], np.complex128)
            samples = samples * np.exp(-2j * np.pi * truth.carrier_hz / RATE_HZ * np.arange(len(samples)))
            left_s = (truth.start_time_ns - moment_ns(session.sent)) / NS - delay_s(session.sent, receiver)
            errors_s.append(arrival_s(samples, session.air, TIMED, left_s) - left_s)
    assert len(errors_s) >= 5
    assert np.abs(errors_s).max() < 2e-6  # a tenth of a sample, where fading is deep
    assert np.median(np.abs(errors_s)) < 0.4e-6


def test_clocks_say_what_their_sigma_promises() -> None:
    for clock, sigma_s in (("perfect", 0.0), ("gps", 1e-7), ("ntp", 5e-3)):
        spec = replace(TIMED, clock=clock)
        found = [clock_of(spec, transmission(spec, i), receiver) for i in range(60) for receiver in RECEIVERS]
        errors = np.array([each.stated_s - each.start_s for each in found if each is not None])
        assert len(errors) == 420
        assert errors.std() == pytest.approx(sigma_s, rel=0.1)
        assert {each.sigma_s for each in found if each is not None} == {sigma_s}


def test_without_a_clock_nothing_is_said_of_time() -> None:
    spec = replace(TIMED, clock="none")
    capture = Session(spec, 0).capture(0)
    assert capture is not None
    assert (capture.record.start_time_ns, capture.record.time_sigma_s, capture.truth.delay_s) == (None, None, None)
    assert truth_csv([capture.truth]).endswith(b",,,,,,\n")


def test_the_second_path_carries_the_scattered_share_later() -> None:
    spec = replace(TIMED, second_path=True, clock="perfect")
    later = [[second_path_s(spec, transmission(spec, i), receiver) for receiver in RECEIVERS] for i in range(200)]
    kilometres = [[delay_s(transmission(spec, i), receiver) * 299_792.458 for receiver in RECEIVERS] for i in range(200)]
    at_a_kilometre = np.median(np.array(later) / np.sqrt(kilometres), axis=0) * 0.4  # √(0.8 · 0.2)
    expected = [{"city": 0.4e-6, "residential": 0.3e-6, "rural": 0.1e-6}[receiver.man_made] for receiver in RECEIVERS]
    np.testing.assert_allclose(at_a_kilometre, expected, rtol=0.25)
    one, two = (Session(each, 0).capture(0) for each in (replace(spec, second_path=False), spec))
    assert one is not None
    assert two is not None
    assert one.truth.fading_db == two.truth.fading_db
    assert one.npy != two.npy
    with pytest.raises(UsageError, match="second_path is True; expected a clock"):
        SimulationSpec(second_path=True)


def test_truth_columns_are_in_the_order_of_the_class() -> None:
    header = truth_csv([]).decode().strip().split(",")
    assert header == list(CaptureTruth.__dataclass_fields__)
