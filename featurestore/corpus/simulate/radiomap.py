"""The radio map: how strong each place is heard by each receiver, before fading. A pure function of seed and place."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from featurestore.corpus.simulate.randomness import Stream, stream
from featurestore.corpus.simulate.sites import Receiver, distance_m, east_north_m, sharing_place
from featurestore.place.delays import SPEED_OF_LIGHT_M_PER_S

PATH_LOSS_EXPONENT = 3.2
"""Between free space (2) and a city (4): VHF over hills and plains (Rappaport, Wireless Communications, chapter 4)."""

REFERENCE_DISTANCE_M = 100.0
"""Free space up to here. With the exponent it gives Hata's suburban loss for a 200 m hilltop within a few dB."""

SHADOWING_SIGMA_DB = 6.0
"""Log-normal shadowing; 4 to 10 dB are usual (Rappaport, chapter 4)."""

SHADOWING_CORRELATION_M = 10_000.0
"""Where the correlation of shadowing falls to 1/e: terrain of valleys and ridges, far more than the 500 m that Gudmundson
found for suburbs, where buildings cast the shadows."""

ANTENNA_GAIN_DBI = 2.0
"""Receiving antenna: a vertical dipole or discone with its feeder."""

N_FEATURES = 1024
"""Waves that make up one shadowing field: enough for Gaussian values and 2% of its correlation; 0.05 ms per place."""


def path_loss_db(distance: npt.ArrayLike, frequency_mhz: float) -> npt.NDArray[np.float64]:
    """Mean path loss in dB at a distance in metres: free space to the reference distance, then log-distance.

    Source: Friis for the reference; Rappaport, Wireless Communications, chapter 4 for the rest.
    """
    metres = np.maximum(np.asarray(distance, np.float64), 1.0)
    wavelength_m = SPEED_OF_LIGHT_M_PER_S / (frequency_mhz * 1e6)
    near = 20 * np.log10(4 * np.pi * np.minimum(metres, REFERENCE_DISTANCE_M) / wavelength_m)
    far = 10 * PATH_LOSS_EXPONENT * np.log10(np.maximum(metres, REFERENCE_DISTANCE_M) / REFERENCE_DISTANCE_M)
    return np.asarray(near + far)


@lru_cache(maxsize=64)
def _waves(seed: int, place: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Wave vectors (2, m) in rad/m, and phases (m,), of one receiver's shadowing field."""
    rng = stream(seed, Stream.SHADOWING, place)
    # The spectral density of exp(-d/length) in the plane is a bivariate Cauchy: a Gaussian over a half-normal.
    directions = rng.standard_normal((2, N_FEATURES))
    vectors = directions / (np.abs(rng.standard_normal(N_FEATURES)) * SHADOWING_CORRELATION_M)
    return vectors, rng.uniform(0, 2 * np.pi, N_FEATURES)


def shadowing_db(seed: int, receiver: Receiver, latitude: npt.ArrayLike, longitude: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Shadowing in dB between places and a receiver: a Gaussian field over the places, of correlation exp(-d/length).

    Receivers at one position share the field; fields of different positions are independent.

    Source: Gudmundson, Correlation model for shadow fading in mobile radio systems, Electronics Letters 27 (1991), for the
    correlation; Rahimi and Recht, Random features for large-scale kernel machines, NIPS 2007, for evaluating it anywhere
    without a grid.
    """
    vectors, phases = _waves(seed, sharing_place(receiver).websdr_id)
    angles = east_north_m(latitude, longitude) @ vectors + phases  # (..., wave)
    return np.asarray(SHADOWING_SIGMA_DB * np.sqrt(2 / N_FEATURES) * np.cos(angles).sum(axis=-1))


def mean_level_dbm(
    seed: int, receiver: Receiver, place: tuple[float, float], eirp_dbm: float, frequency_mhz: float
) -> tuple[float, float, float]:
    """(distance in m, shadowing in dB, mean received power in dBm without fading) of a transmitter at latitude, longitude."""
    metres = distance_m(*place, receiver)
    shadow = float(shadowing_db(seed, receiver, *place))
    level = eirp_dbm + ANTENNA_GAIN_DBI - float(path_loss_db(metres, frequency_mhz)) + shadow
    return metres, shadow, level
