"""Places from pairs of simulated receivers: near the Cramér–Rao bound with GPS clocks, and no harm with network time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import numpy.typing as npt
import pytest
from copies_for_tests import database
from pair_worlds import SPEC, WORLD, World

from featurestore.corpus.simulate.bound import (
    LEVEL_SIGMA_DB,
    Reception,
    delay_information,
    level_information,
    pair_bound_s,
    place_bound_m,
    time_information,
)
from featurestore.corpus.simulate.radiomap import path_loss_db, shadowing_db
from featurestore.corpus.simulate.render import Session
from featurestore.corpus.simulate.sites import RECEIVERS, REGION_LATITUDE, REGION_LONGITUDE, east_north_m
from featurestore.pairs.pair_set import SessionPairs
from featurestore.pairs.places import delays_of
from featurestore.place.delays import Delays, Views, log_likelihood
from featurestore.place.grid import Grid
from featurestore.place.posterior import Posterior
from featurestore.place.search import search
from featurestore.services import Running

Float64 = npt.NDArray[np.float64]

POSITIONS = np.array([(receiver.latitude, receiver.longitude) for receiver in RECEIVERS])
NUMBERS = np.array([receiver.websdr_id for receiver in RECEIVERS])
REGION = np.array([(latitude, longitude) for latitude in REGION_LATITUDE for longitude in REGION_LONGITUDE])
GPS = replace(WORLD, sessions=12, duration_s=1.0, seed=7)


@pytest.fixture(scope="module")
def gps(services: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with database(services) as catalog:
        world = World(tmp_path_factory.mktemp("gps"), catalog)
        world.simulate(GPS)
        world.build()
        yield world


def heard_by_all(world: World, session: Session) -> list[Reception]:
    """How well each receiver hears a session, by the truth."""
    truth, name = world.truth(), str(session.sent.session_id)
    rows = [truth[name, receiver.websdr_id] for receiver in RECEIVERS]
    snr_db = [float(row["snr_db"]) + float(row["fading_db"]) for row in rows]
    return [Reception(receiver, snr) for receiver, snr in zip(RECEIVERS, snr_db, strict=True)]


def by_id(world: World) -> dict[bytes, SessionPairs]:
    return {session.session_id: session for session in world.open().sessions()}


def seen_from(delays: Delays, grid: Grid) -> Float64:
    return log_likelihood(delays, Views.of(grid, POSITIONS))


def error_m(posterior: Posterior, place: tuple[float, float]) -> float:
    return float(np.hypot(*(posterior.point_m - posterior.grid.plane.to_plane(np.array(place)))))


def known_levels(grid: Grid) -> Float64:
    """(receiver, cells) mean level, up to a constant, by a radio map known exactly."""
    latitude, longitude = grid.degrees.T
    metres = east_north_m(latitude, longitude)
    rows = []
    for receiver in RECEIVERS:
        away = np.hypot(*(metres - east_north_m(receiver.latitude, receiver.longitude)).T)
        rows.append(shadowing_db(GPS.seed, receiver, latitude, longitude) - path_loss_db(away, 145.7))
    return np.array(rows)


def errors_of_levels_m(count: int) -> Float64:
    """(count,) errors of levels alone, of sessions that are not rendered: their fading is drawn."""
    grid, rng = Grid.around(REGION, 4.0, 5.0), np.random.default_rng(0)
    known, errors = known_levels(grid), []
    for index in range(count):
        place = Session(GPS, 1000 + index).sent.place
        there = Grid.within(grid.plane, *(2 * (grid.plane.to_plane(np.array(place)),)), 1.0)  # cells around the very place
        heard = known_levels(there).mean(axis=1) + rng.normal(scale=LEVEL_SIGMA_DB, size=len(RECEIVERS))
        density = -0.5 * ((heard[:, None] - known) ** 2).sum(axis=0) / LEVEL_SIGMA_DB**2
        errors.append(error_m(Posterior(grid, density.reshape(grid.shape)), place))
    return np.array(errors)


def level_log_density(grid: Grid, known: Float64, rows: list[dict[str, str]]) -> Float64:
    """(ny, nx) what the levels that were heard say of each cell, the transmitter's power being known."""
    heard = np.array([float(row["level_dbm"]) + float(row["fading_db"]) - float(row["eirp_dbm"]) for row in rows])
    misfit = heard[:, None] - 2.0 - known  # 2 dBi of antenna
    return np.asarray(-0.5 * (misfit**2).sum(axis=0) / LEVEL_SIGMA_DB**2).reshape(grid.shape)


def test_seven_receivers_with_gps_reach_the_bound_and_levels_do_not(gps: World) -> None:
    pairs = by_id(gps)
    times, bounds, inside = [], [], []
    for index in range(GPS.sessions):
        session = Session(GPS, index)
        place = session.sent.place
        delays = delays_of(pairs[session.sent.session_id.bytes], SPEC, NUMBERS)
        found = search(partial(seen_from, delays), Grid.around(REGION, 2.0, 5.0))
        times.append(error_m(found, place))
        inside.append(found.level_at(np.array(place)) <= 0.865)
        bounds.append(place_bound_m(time_information(session, heard_by_all(gps, session), place)))
    assert np.median(times) <= 1.5 * np.median(bounds)
    assert 10 * np.median(times) <= np.median(errors_of_levels_m(100))
    assert np.mean(inside) >= 0.75


def test_with_network_time_fusion_is_no_worse_than_levels_alone(
    services: Running, tmp_path_factory: pytest.TempPathFactory
) -> None:
    spec = replace(GPS, sessions=6, clock="ntp", duration_s=0.3)
    grid = Grid.around(REGION, 4.0, 5.0)
    known, views = known_levels(grid), Views.of(grid, POSITIONS)
    with database(services) as catalog:
        world = World(tmp_path_factory.mktemp("ntp"), catalog)
        world.simulate(spec)
        world.build()
        pairs, rows = by_id(world), world.truth()
    alone, fused = [], []
    for index in range(spec.sessions):
        sent = Session(spec, index).sent
        heard = [rows[str(sent.session_id), number] for number in NUMBERS.tolist()]
        levels = level_log_density(grid, known, heard)
        times = log_likelihood(delays_of(pairs[sent.session_id.bytes], SPEC, NUMBERS), views)
        alone.append(error_m(Posterior(grid, levels), sent.place))
        fused.append(error_m(Posterior.product(grid, [levels, times]), sent.place))
    assert np.mean(fused) <= 1.03 * np.mean(alone)
    assert np.median(fused) <= 1.03 * np.median(alone)
    assert (np.array(fused) <= 1.03 * np.array(alone) + 100).all()  # a fortieth of a cell


def test_a_pair_whose_clock_is_unknown_is_left_out(gps: World) -> None:
    session = next(iter(by_id(gps).values()))
    sigma = session.clock_sigma_s.copy()
    sigma[session.websdr == 3] = np.nan
    delays = delays_of(replace(session, clock_sigma_s=sigma), SPEC, NUMBERS)
    assert len(delays) == 15
    assert 2 not in {*delays.a.tolist(), *delays.b.tolist()}
    assert len(delays_of(session, SPEC, NUMBERS[:3])) == 3


# --- the bound itself


def test_the_bound_of_a_pair_is_that_of_a_known_waveform_when_the_other_receiver_is_noiseless() -> None:
    """σ² = 1 / (8π²·T·SNR·β²), β² the mean square bandwidth about the middle (Carter, Proc. IEEE 75, 1987, section II)."""
    session = Session(GPS, 0)
    information = delay_information(session, [Reception(RECEIVERS[0], 90.0), Reception(RECEIVERS[1], 10.0)])
    sent = session.air.at(np.arange(48_000) / 48_000)
    power = np.abs(np.fft.fft(sent)) ** 2
    frequency = np.fft.fftfreq(48_000, 1 / 48_000)
    middle = (power @ frequency) / power.sum()
    beta2 = (power @ (frequency - middle) ** 2) / power.sum()
    snr = 10.0 * 12_500  # 10 dB in 12.5 kHz, over one second
    assert pair_bound_s(information, 0, 1) == pytest.approx(1 / np.sqrt(8 * np.pi**2 * snr * beta2), rel=0.05)


def test_more_receivers_and_better_clocks_never_know_less(gps: World) -> None:
    session = Session(GPS, 1)
    heard, place = heard_by_all(gps, session), session.sent.place
    all_seven = time_information(session, heard, place)
    assert place_bound_m(all_seven) <= place_bound_m(time_information(session, heard[2:], place))
    perfect = time_information(Session(replace(GPS, clock="perfect"), 1), heard, place)
    network = time_information(Session(replace(GPS, clock="ntp"), 1), heard, place)
    assert place_bound_m(perfect) <= place_bound_m(all_seven) < 2000
    assert place_bound_m(network) > 300_000  # 5 ms are 1500 km
    levels = level_information(RECEIVERS, place)
    assert place_bound_m(all_seven + levels) <= min(place_bound_m(all_seven), place_bound_m(levels))
