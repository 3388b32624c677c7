"""What a simulated session lets anybody know: Cramér–Rao bounds of delays, and of the place from times, levels, or both.

Receiver i hears the same unknown waveform, of power spectrum S(f), later by its delay and turned by an unknown phase, in noise
of its own. For Gaussian waveforms the Fisher information of the delays θ is, with ρ_i(f) the signal-to-noise ratio per Hz,

    K_ij(f) = 2T · (δ_ij·ρ_i·Σρ − ρ_i·ρ_j) / (1 + Σρ),    J = ∫ω²K − (∫ωK)·(∫K)⁺·(∫ωK)ᵀ,

the first with known phases (Hahn and Tretter, IEEE Trans. Information Theory 19(5), 1973, for complex samples), the second
where phases are estimated, too. For two receivers K is 2T·γ²/(1 − γ²), as Knapp and Carter (1976) have it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.signal

from featurestore.corpus.simulate.clocks import TIME_SIGMA_S
from featurestore.corpus.simulate.radiomap import path_loss_db
from featurestore.corpus.simulate.render import Session
from featurestore.corpus.simulate.sites import Receiver, distance_m, moved
from featurestore.corpus.simulate.waveform import CHANNEL_BANDWIDTH_HZ
from featurestore.place.delays import SPEED_OF_LIGHT_M_PER_S
from featurestore.place.geodesic import inverse

Float64 = npt.NDArray[np.float64]

LEVEL_SIGMA_DB = 3.3
"""Standard deviation of a short capture's level under the fading of `fading.py`."""

AIR_RATE_HZ = 48_000.0
SPECTRUM_BINS = 2048
STEP_M = 50.0
"""Levels are differentiated over this step."""


@dataclass(frozen=True)
class Reception:
    """How well a receiver hears a session: signal-to-noise ratio in one channel, fading included."""

    receiver: Receiver
    snr_db: float


def delay_information(session: Session, receptions: Sequence[Reception]) -> Float64:
    """(r, r) Fisher information in 1/s² of the delays to r receivers; it says nothing of what is common to all of them.

    Args:
        session: whose waveform is heard.
        receptions: how well each receiver hears it.
    """
    seconds = session.spec.duration_s
    sent = session.air.at(np.arange(round(seconds * AIR_RATE_HZ)) / AIR_RATE_HZ)
    frequency, density = scipy.signal.welch(
        sent, AIR_RATE_HZ, nperseg=min(SPECTRUM_BINS, len(sent)), return_onesided=False, detrend=False
    )
    bin_hz = AIR_RATE_HZ / len(frequency)
    snr = np.array([10 ** (each.snr_db / 10) for each in receptions])
    rho = snr[:, None] * CHANNEL_BANDWIDTH_HZ * density / (density.sum() * bin_hz)  # (receiver, bin)
    total = rho.sum(axis=0)
    weight = 2 * seconds * bin_hz / (1 + total)
    omega = 2 * np.pi * frequency

    def moment(power: int) -> Float64:
        each = weight * omega**power
        return np.asarray(np.diag((rho * total) @ each) - (rho * each) @ rho.T)

    phases = np.linalg.pinv(moment(0), hermitian=True)
    return np.asarray(moment(2) - moment(1) @ phases @ moment(1).T)


def pair_bound_s(information: Float64, a: int, b: int) -> float:
    """Standard deviation at which any unbiased estimate of one pair's delay ends, from these two receivers alone.

    The information of two receivers alone is what `delay_information` gives of their captures; for a pair within more it is
    less than what all of them together say.
    """
    difference = np.zeros(len(information))
    difference[a], difference[b] = 1.0, -1.0
    return float(np.sqrt(difference @ np.linalg.pinv(information, hermitian=True) @ difference))


def time_information(session: Session, receptions: Sequence[Reception], place: tuple[float, float]) -> Float64:
    """(2, 2) Fisher information in 1/m² that times have of a place, east and north, clocks being as good as the session's."""
    information = delay_information(session, receptions)
    sigma_s = TIME_SIGMA_S[session.spec.clock]
    if sigma_s:  # clocks are estimated, too, and known to within σ: J − J·(J + 1/σ²)⁻¹·J, written so that nothing cancels
        prior = np.eye(len(information)) / sigma_s**2
        information = information @ np.linalg.solve(information + prior, prior)
        information = (information + information.T) / 2
    receivers = np.array([(each.receiver.latitude, each.receiver.longitude) for each in receptions])
    azimuth = inverse(np.array(place), receivers)[1]
    slope = -np.stack([np.sin(azimuth), np.cos(azimuth)], axis=1) / SPEED_OF_LIGHT_M_PER_S  # (receiver, 2) s/m
    return np.asarray(slope.T @ information @ slope)


def level_information(receivers: Sequence[Receiver], place: tuple[float, float]) -> Float64:
    """(2, 2) Fisher information in 1/m² that levels have of a place by the law of distance; one receiver for each position.

    Shadowing is left out: its correlation is exponential, so it has no slope, and what a known map tells of it is no bound of
    this kind (see the best estimator in bench/knowable.py).
    """
    positions = {(each.latitude, each.longitude): each for each in reversed(receivers)}
    slopes = []
    for receiver in positions.values():
        slope = []
        for east, north in ((STEP_M, 0.0), (0.0, STEP_M)):
            ahead, behind = (_level_db(receiver, moved(*place, side * east, side * north)) for side in (1, -1))
            slope.append((ahead - behind) / (2 * STEP_M))
        slopes.append(slope)
    gradient = np.array(slopes)  # (place, 2) dB/m
    return np.asarray(gradient.T @ gradient / LEVEL_SIGMA_DB**2)


def place_bound_m(information: Float64) -> float:
    """Root mean square of the distance at which any unbiased estimate of the place ends."""
    return float(np.sqrt(np.trace(np.linalg.inv(information))))


def _level_db(receiver: Receiver, place: tuple[float, float]) -> float:
    return -float(path_loss_db(distance_m(*place, receiver), 145.7))
