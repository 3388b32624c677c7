"""How well could anybody locate a transmitter of the simulated world from received levels? The numbers of docs/physics.md.

    python bench/knowable.py

Transmitters lie anywhere in the region. The estimator is the best there can be: it knows the radio map (path loss and
shadowing) exactly at every place, the transmitter's power, and how fading spreads a level; its estimate is the spatial median
of the posterior over a grid of the region, which has the smallest mean error. What remains is what levels do not tell. A
network that learns from labelled captures cannot beat it on such a world, whatever its size.
"""

from __future__ import annotations

import argparse
from itertools import combinations

import numpy as np
import numpy.typing as npt

from featurestore.corpus.simulate.bound import (
    Reception,
    delay_information,
    level_information,
    pair_bound_s,
    place_bound_m,
    time_information,
)
from featurestore.corpus.simulate.radiomap import mean_level_dbm, path_loss_db, shadowing_db
from featurestore.corpus.simulate.receiver import receiver_model
from featurestore.corpus.simulate.render import Session
from featurestore.corpus.simulate.simulation_spec import SimulationSpec
from featurestore.corpus.simulate.sites import RECEIVERS, REGION_LATITUDE, REGION_LONGITUDE, Receiver, east_north_m
from featurestore.corpus.simulate.waveform import CHANNEL_BANDWIDTH_HZ

FADING_DB = 3.3
"""Standard deviation of a short capture's level under Rician fading of 6 dB (docs/simulator.md)."""

MAP_SEED = 7
SEED = 1
SESSIONS = 200
"""Enough for medians of bounds."""

STEP_M = 1000.0
NEGLIGIBLE = 1e-4
"""Of the largest weight."""

ITERATIONS = 20
PLACES = {(receiver.latitude, receiver.longitude): receiver for receiver in reversed(RECEIVERS)}
"""One receiver for each place: two of the seven share one."""

Array = npt.NDArray[np.float64]


def levels(latitude: Array, longitude: Array, receiver: Receiver) -> Array:
    """(n,) mean level of a transmitter at each place, in dB up to a constant."""
    east, north = (
        east_north_m(latitude, longitude) - east_north_m(np.array(receiver.latitude), np.array(receiver.longitude))
    ).T
    mean = -path_loss_db(np.hypot(east, north), 145.7)
    return np.asarray(mean + shadowing_db(MAP_SEED, receiver, latitude, longitude))


def spatial_median(points: Array, weight: Array) -> Array:
    """(2,) the place with the smallest weighted mean distance to (m, 2) points (Weiszfeld, Tohoku Math. J. 43, 1937)."""
    place: Array = weight @ points / weight.sum()
    for _ in range(ITERATIONS):
        pull = weight / np.maximum(np.hypot(*(points - place).T), STEP_M / 10)
        place = pull @ points / pull.sum()
    return place


def errors_m(truth: Array, grid: Array, heard: Array, known: Array) -> Array:
    """(n,) metres between n transmitters and the medians of their posteriors.

    Args:
        truth: (n, 2) east and north.
        grid: (m, 2) candidate places, equally likely.
        heard: (n, receiver) measured levels.
        known: (m, receiver) mean levels at the candidates.
    """
    found = np.empty_like(truth)
    for row, level in enumerate(heard):
        exponent = -0.5 * (((level - known) / FADING_DB) ** 2).sum(axis=1)  # (m,)
        weight = np.exp(exponent - exponent.max())
        likely = weight > NEGLIGIBLE
        found[row] = spatial_median(grid[likely], weight[likely])
    return np.asarray(np.hypot(*(found - truth).T))


def print_bounds(count: int) -> None:
    """Cramér–Rao bounds of sessions of a second, heard by seven receivers with GPS clocks: of pairs, and of places."""
    spec = SimulationSpec(sessions=count, sites="uniform", clock="gps", seed=MAP_SEED)
    pairs_s, places_m = [], []
    for index in range(count):
        session = Session(spec, index)
        sent = session.sent
        heard = [
            Reception(
                receiver,
                mean_level_dbm(MAP_SEED, receiver, sent.place, sent.eirp_dbm, sent.frequency_mhz)[2]
                - receiver_model(MAP_SEED, receiver).noise_dbm(CHANNEL_BANDWIDTH_HZ),
            )
            for receiver in RECEIVERS
        ]
        times, by_level = time_information(session, heard, sent.place), level_information(RECEIVERS, sent.place)
        pairs_s += [pair_bound_s(delay_information(session, list(pair)), 0, 1) for pair in combinations(heard, 2)]
        places_m.append([place_bound_m(each) for each in (times, by_level, times + by_level)])
    quartiles = np.percentile(np.array(pairs_s) * 1e6, [25, 50, 75])
    print(f"bound of a pair's delay            {quartiles[0]:.2f}, {quartiles[1]:.2f}, {quartiles[2]:.2f} µs (quartiles)")
    for name, bound in zip(("times", "levels, law of distance only", "both"), np.median(places_m, axis=0), strict=True):
        print(f"bound of a place, {name:30} median {bound / 1000:6.2f} km")


def main() -> None:
    """Compute, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transmitters", type=int, default=1000)
    parser.add_argument("--smallest", action="store_true", help="just see that it runs (make bench-check)")
    arguments = parser.parse_args()
    count = 10 if arguments.smallest else arguments.transmitters
    rng = np.random.default_rng(SEED)
    latitude, longitude = rng.uniform(*REGION_LATITUDE, count), rng.uniform(*REGION_LONGITUDE, count)
    north_steps, east_steps = (
        int(size / STEP_M) for size in np.ptp(east_north_m(np.array(REGION_LATITUDE), np.array(REGION_LONGITUDE)), axis=0)[::-1]
    )
    grid_lat, grid_lon = (
        axis.ravel()
        for axis in np.meshgrid(
            np.linspace(*REGION_LATITUDE, north_steps), np.linspace(*REGION_LONGITUDE, east_steps), indexing="ij"
        )
    )
    receivers = list(PLACES.values())
    known = np.stack([levels(grid_lat, grid_lon, receiver) for receiver in receivers], axis=1)
    heard = np.stack([levels(latitude, longitude, receiver) for receiver in receivers], axis=1)
    heard += rng.normal(scale=FADING_DB, size=heard.shape)
    truth, grid = east_north_m(latitude, longitude), east_north_m(grid_lat, grid_lon)

    def line(name: str, errors: Array) -> str:
        return f"{name:32} mean {errors.mean() / 1000:5.1f} km, median {np.median(errors) / 1000:5.1f} km"

    print(line("the mean of all positions", np.hypot(*(truth - grid.mean(axis=0)).T)))
    alone = [errors_m(truth, grid, heard[:, [i]], known[:, [i]]) for i in range(len(receivers))]
    print(line("one receiver (each of the six)", np.concatenate(alone)))
    print(line("all six together", errors_m(truth, grid, heard, known)))
    print_bounds(min(count, SESSIONS))


if __name__ == "__main__":
    main()
