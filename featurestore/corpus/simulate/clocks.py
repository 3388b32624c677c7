"""Receivers' clocks, and when a transmission reaches each: how time goes in a simulated world that knows it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from featurestore.corpus.simulate.fading import shares
from featurestore.corpus.simulate.randomness import Stream, stream
from featurestore.corpus.simulate.receiver import receiver_model
from featurestore.corpus.simulate.session import Transmission
from featurestore.corpus.simulate.simulation_spec import SimulationSpec
from featurestore.corpus.simulate.sites import Receiver
from featurestore.place.delays import SPEED_OF_LIGHT_M_PER_S
from featurestore.place.geodesic import distance_m

NS = 1_000_000_000

TIME_SIGMA_S = {"perfect": 0.0, "gps": 1e-7, "ntp": 5e-3}
"""Standard deviation of a stated start. GPS stamps of KiwiSDR recordings fit a line within 0.06 to 0.08 µs (docs/log.md), and
their antenna cables are not measured; network time is off by "tens of milliseconds" at worst and a millisecond at best (Mills
et al., RFC 5905, appendix and section 1)."""

RATE_SPREAD_PPM = {"perfect": 0.0, "gps": 0.002, "ntp": None}
"""Error of the sample clock (standard deviation). With GPS it is what the fit to the stamps leaves: 0.06 µs in 30 s. `None`:
the receiver's own oscillator, which tunes it, too."""

DRIFT_SPREAD_PPM_PER_S = {"perfect": 0.0, "gps": 0.0, "ntp": 0.001}
"""How fast that error moves (standard deviation): 0.06 ppm in a minute, of the 1 ppm that a compensated crystal keeps over
temperature. What drifts within a recording with GPS is in its fit."""

START_SPREAD = 0.05
"""Receivers begin to record within this share of the recording's length: nobody presses seven buttons at once."""

SPREAD_AT_A_KILOMETRE_S = {"city": 0.4e-6, "residential": 0.3e-6, "rural": 0.1e-6}
"""Median delay spread (r.m.s.) at 1 km; it grows with the root of the distance, and differs by `SPREAD_SIGMA_DB` (Greenstein,
Erceg, Yeh and Clark, IEEE Trans. Vehicular Technology 46(2), 1997: urban, suburban and rural macrocells)."""

SPREAD_SIGMA_DB = 4.0
"""Standard deviation of 10·log10 of the delay spread; the same source has 2 to 6 dB."""


@dataclass(frozen=True)
class Clock:
    """When one receiver took its samples of a session, and what it says of that.

    Attributes:
        start_s: of the first sample, truly, after the session's moment.
        stated_s: the same as the receiver has it.
        sigma_s: one standard deviation of what it says.
        ppm: how much faster than nominal the sample clock runs at the first sample.
        drift_ppm_per_s: how fast that grows.
    """

    start_s: float
    stated_s: float
    sigma_s: float
    ppm: float
    drift_ppm_per_s: float

    def times_s(self, n_samples: int, sample_rate_hz: float) -> npt.NDArray[np.float64]:
        """(n_samples,) when each sample was taken, after the session's moment."""
        nominal = np.arange(n_samples) / sample_rate_hz
        return np.asarray(self.start_s + nominal * (1 - 1e-6 * (self.ppm + self.drift_ppm_per_s / 2 * nominal)))

    def stated_ns(self, sent: Transmission) -> int:
        """What the catalog is told: Unix time of the first sample."""
        return moment_ns(sent) + round(self.stated_s * NS)


def moment_ns(sent: Transmission) -> int:
    """Unix time of a session's moment; no float holds it."""
    return int(sent.timestamp.timestamp()) * NS + sent.timestamp.microsecond * 1000


def clock_of(spec: SimulationSpec, sent: Transmission, receiver: Receiver) -> Clock | None:
    """One receiver's clock in one session; `None` in a world that knows no time."""
    if spec.clock not in TIME_SIGMA_S:
        return None
    rng = stream(spec.seed, Stream.CLOCK, sent.index, receiver.websdr_id)
    start_s = float(rng.uniform(0, START_SPREAD)) * spec.duration_s
    error, rate, drift = rng.standard_normal(3).tolist()
    sigma_s, spread = TIME_SIGMA_S[spec.clock], RATE_SPREAD_PPM[spec.clock]
    ppm = receiver_model(spec.seed, receiver).clock_ppm if spread is None else spread * rate
    return Clock(start_s, start_s + sigma_s * error, sigma_s, ppm, DRIFT_SPREAD_PPM_PER_S[spec.clock] * drift)


def delay_s(sent: Transmission, receiver: Receiver) -> float:
    """How long the direct wave takes: the shortest way over the WGS84 ellipsoid, at the speed of light."""
    there = np.array([receiver.latitude, receiver.longitude])
    return float(distance_m(np.array(sent.place), there)) / SPEED_OF_LIGHT_M_PER_S


def second_path_s(spec: SimulationSpec, sent: Transmission, receiver: Receiver) -> float:
    """How much later than the direct wave the scattered ones arrive; 0 without a second path.

    Two paths with shares p and q of the power, and a lag Δ between them, have a delay spread of Δ·√(p·q).
    """
    if not spec.second_path:
        return 0.0
    rng = stream(spec.seed, Stream.SECOND_PATH, sent.index, receiver.websdr_id)
    kilometres = max(delay_s(sent, receiver) * SPEED_OF_LIGHT_M_PER_S / 1000, 0.1)
    spread = SPREAD_AT_A_KILOMETRE_S[receiver.man_made] * kilometres**0.5 * 10 ** (SPREAD_SIGMA_DB / 10 * rng.standard_normal())
    direct, scattered = shares()
    return float(spread / (direct * scattered) ** 0.5)


def air_span_s(spec: SimulationSpec) -> tuple[float, float]:
    """From when to when, about the session's moment, something must be on the air."""
    margin = 0.01  # more than 2000 km of path, and a clock that is off by 100 ppm over a minute
    return -margin, spec.duration_s * (1 + START_SPREAD) + margin
