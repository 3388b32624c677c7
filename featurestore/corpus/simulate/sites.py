"""Where the simulated world lies: receivers, transmitter sites, region, and distances between them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

EARTH_RADIUS_M = 6_371_008.8
"""Mean radius R1 of the WGS84 ellipsoid (IUGG)."""

REGION_LATITUDE = (44.3, 45.6)
REGION_LONGITUDE = (7.0, 9.4)
"""North-west Italy, about 190 km east-west by 145 km north-south: the box that holds all receivers."""


@dataclass(frozen=True)
class Receiver:
    """A WebSDR; `man_made` is its noise environment in the words of ITU-R P.372: city, residential or rural."""

    websdr_id: int
    name: str
    latitude: float
    longitude: float
    man_made: str


@dataclass(frozen=True)
class RepeaterSite:
    """A place from which repeaters transmit, with the channel and tone that belong to it."""

    name: str
    latitude: float
    longitude: float
    frequency_mhz: float
    ctcss_hz: float


RECEIVERS = (
    Receiver(1, "Aquila di Giaveno", 45.030, 7.270, "rural"),
    Receiver(2, "Montanaro", 45.234, 7.857, "residential"),
    Receiver(3, "Torino", 45.044, 7.672, "city"),
    Receiver(4, "Coazze", 45.030, 7.270, "rural"),
    Receiver(5, "Passo dei Giovi", 44.561, 8.956, "rural"),
    Receiver(6, "Genova", 44.395, 8.956, "city"),
    Receiver(7, "Milano-Baggio", 45.478, 9.123, "city"),
)
"""WebSDR sites in north-west Italy. Aquila di Giaveno and Coazze are listed at one position, and are kept as listed: they
share the radio map and differ in fading, noise and hardware only. The noise environments are our guess from the map."""

REPEATER_SITES = (
    RepeaterSite("Monte Musinè", 45.114, 7.455, 145.6000, 67.0),
    RepeaterSite("Colle della Maddalena", 45.033, 7.717, 145.6250, 82.5),
    RepeaterSite("Colma di Mombarone", 45.569, 7.891, 145.6500, 88.5),
    RepeaterSite("Montoso", 44.768, 7.249, 145.6750, 94.8),
    RepeaterSite("Murazzano", 44.473, 8.022, 145.7000, 103.5),
    RepeaterSite("Sacro Monte di Crea", 45.096, 8.270, 145.7125, 110.9),
    RepeaterSite("Monte Beigua", 44.433, 8.567, 145.7250, 123.0),
    RepeaterSite("Monte Fasce", 44.407, 9.036, 145.7375, 127.3),
    RepeaterSite("Monte Giarolo", 44.699, 9.117, 145.7500, 136.5),
    RepeaterSite("Monte Penice", 44.791, 9.321, 145.7875, 156.7),
)
"""Real mountains and hills, to about a kilometre; the repeaters on them, their channels and tones are made up. Channels lie
on the 12.5 kHz grid of the 2 m repeater outputs of IARU Region 1, 145.6 to 145.8 MHz; tones are standard CTCSS tones."""


def distance_m(latitude: float, longitude: float, receiver: Receiver) -> float:
    """Great-circle distance on the mean sphere (haversine), in metres; within 0.3% of the ellipsoid's."""
    phi, other = np.radians([latitude, receiver.latitude])
    half_lat, half_lon = (other - phi) / 2, np.radians(receiver.longitude - longitude) / 2
    a = np.sin(half_lat) ** 2 + np.cos(phi) * np.cos(other) * np.sin(half_lon) ** 2
    return float(2 * EARTH_RADIUS_M * np.arcsin(np.sqrt(a)))


def east_north_m(latitude: npt.ArrayLike, longitude: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Metres east and north of the region's centre, shape (..., 2): a flat map, scaled right at the central latitude."""
    middle_lat, middle_lon = sum(REGION_LATITUDE) / 2, sum(REGION_LONGITUDE) / 2
    east = np.radians(np.asarray(longitude) - middle_lon) * EARTH_RADIUS_M * np.cos(np.radians(middle_lat))
    north = np.radians(np.asarray(latitude) - middle_lat) * EARTH_RADIUS_M
    return np.stack([east, north], axis=-1)


def moved(latitude: float, longitude: float, east_m: float, north_m: float) -> tuple[float, float]:
    """The position some metres to the east and north (small steps on the sphere)."""
    step_lat = np.degrees(north_m / EARTH_RADIUS_M)
    step_lon = np.degrees(east_m / (EARTH_RADIUS_M * np.cos(np.radians(latitude))))
    return float(latitude + step_lat), float(longitude + step_lon)


def sharing_place(receiver: Receiver) -> Receiver:
    """The first listed receiver at the position of this one: itself, unless two share a position."""
    place = (receiver.latitude, receiver.longitude)
    return next(other for other in RECEIVERS if (other.latitude, other.longitude) == place)
