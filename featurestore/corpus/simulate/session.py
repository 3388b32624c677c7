"""One simulated session: who transmits, from where, when and how; and what the catalog is told of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import NAMESPACE_URL, UUID, uuid5

import numpy as np

from featurestore.corpus.simulate.randomness import Stream, stream
from featurestore.corpus.simulate.simulation_spec import SimulationSpec
from featurestore.corpus.simulate.sites import REGION_LATITUDE, REGION_LONGITUDE, REPEATER_SITES, Receiver, east_north_m, moved
from featurestore.corpus.simulate.waveform import CTCSS_TONES_HZ
from featurestore.place.delays import SPEED_OF_LIGHT_M_PER_S

EIRP_DBM = 43.0
"""20 W radiated: a 10 W repeater or a mobile set, with an antenna of 3 dB."""

EIRP_SPREAD_DB = 2.0
"""How much transmitters differ (standard deviation): per site for repeaters, per session for others."""

LABEL_ERROR_M = 30.0
"""Root mean square of the horizontal distance between the true position and the catalog's; one draw per session."""

TUNING_OFFSET_HZ = 3000.0
"""Receivers tuned by hand or by channel list: the carrier lies up to this far from the centre, the same at all receivers."""

MAX_SPEED_M_PER_S = 30.0
"""Transmitters off the known sites move, from standing to motorway speed, in any direction."""

SCATTERER_SPEED_M_PER_S = 1.0
"""Swaying trees and traffic near the path: scattered waves shift even where both ends stand still."""

FIRST_DAY = datetime(2025, 3, 3, tzinfo=UTC)
PERIOD_S = 42 * 86_400
"""Sessions are spread evenly at random over six weeks."""


@dataclass(frozen=True)
class Transmission:
    """What all receivers of a session share; positions are latitude, longitude in degrees."""

    index: int
    session_id: UUID
    site: str
    place: tuple[float, float]
    label: tuple[float, float]
    eirp_dbm: float
    frequency_mhz: float
    ctcss_hz: float
    offset_hz: float
    velocity_m_per_s: tuple[float, float]  # east, north
    scatter_speed_m_per_s: float
    timestamp: datetime

    @property
    def wavelength_m(self) -> float:
        """Wavelength of the carrier."""
        return SPEED_OF_LIGHT_M_PER_S / (self.frequency_mhz * 1e6)

    @property
    def doppler_hz(self) -> float:
        """Largest Doppler shift of the scattered waves."""
        return (math.hypot(*self.velocity_m_per_s) + self.scatter_speed_m_per_s) / self.wavelength_m

    def direct_doppler_hz(self, receiver: Receiver) -> float:
        """Doppler shift of the direct wave: the speed towards the receiver over the wavelength."""
        path = east_north_m(receiver.latitude, receiver.longitude) - east_north_m(*self.place)
        approach_m_per_s = float(path @ self.velocity_m_per_s) / max(math.hypot(*path), 1.0)
        return approach_m_per_s / self.wavelength_m


def transmission(spec: SimulationSpec, index: int) -> Transmission:
    """Session number `index` of the corpus."""
    rng = stream(spec.seed, Stream.SESSION, index)
    known = int(rng.integers(len(REPEATER_SITES)))
    site = REPEATER_SITES[known]
    sine = np.sin(np.radians(REGION_LATITUDE))  # uniform in the sine of latitude is uniform over the sphere
    anywhere = float(np.degrees(np.arcsin(rng.uniform(*sine)))), float(rng.uniform(*REGION_LONGITUDE))
    own_power_db, own_tone = float(rng.standard_normal()), int(rng.integers(len(CTCSS_TONES_HZ)))
    direction, speed = rng.uniform(0, 2 * math.pi), rng.uniform(0, MAX_SPEED_M_PER_S)
    label_error_m = rng.standard_normal(2) * (LABEL_ERROR_M / math.sqrt(2))
    at_site = spec.sites == "repeaters"
    site_power_db = float(stream(spec.seed, Stream.SITE, known).standard_normal())
    place = (site.latitude, site.longitude) if at_site else anywhere
    velocity = (0.0, 0.0) if at_site else (speed * math.cos(direction), speed * math.sin(direction))
    return Transmission(
        index=index,
        session_id=uuid5(NAMESPACE_URL, f"heimdall:simulated-session:{spec.sites}:{spec.seed}:{index}"),
        site=site.name if at_site else "",
        place=place,
        label=moved(*place, *label_error_m),
        eirp_dbm=EIRP_DBM + EIRP_SPREAD_DB * (site_power_db if at_site else own_power_db),
        frequency_mhz=site.frequency_mhz,
        ctcss_hz=site.ctcss_hz if at_site else CTCSS_TONES_HZ[own_tone],
        offset_hz=float(rng.uniform(-TUNING_OFFSET_HZ, TUNING_OFFSET_HZ)),
        velocity_m_per_s=velocity,
        scatter_speed_m_per_s=float(rng.uniform(0, SCATTERER_SPEED_M_PER_S)),
        timestamp=FIRST_DAY + timedelta(milliseconds=int(rng.integers(PERIOD_S * 1000))),
    )
