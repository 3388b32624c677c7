"""Rician fading of one path, slow beside the signal: the gain that a narrowband channel applies over time."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

RICE_FACTOR_DB = 6.0
"""Power of the direct path over the scattered ones: between Rayleigh (none) and clear sight (above 10 dB); the project's
requirement. It moves the level of a short capture by 3.3 dB (standard deviation)."""

N_SCATTERERS = 24
"""Waves that add up to the scattered part; from about ten its amplitude is Rayleigh
(Jakes, Microwave Mobile Communications)."""

KNOTS_PER_S = 1500.0
"""Where the gain is computed; straight lines between. At 15 Hz of Doppler they err by −65 dB."""


@dataclass(frozen=True)
class Fading:
    """One path's gain: at the start of each block of samples, and at the end of the last; mean power 1 over all paths."""

    gains: npt.NDArray[np.complex128]  # (n_blocks + 1,)
    block: int  # samples from one gain to the next
    direct: npt.NDArray[np.complex128]  # (n_blocks + 1,) the direct path's part of the gains

    @property
    def power_db(self) -> float:
        """Mean power over the capture, in dB: how much more, or less, this capture got than the radio map says."""
        return float(10 * np.log10(np.mean(np.abs(self.gains) ** 2)))

    def paths(self) -> tuple[Fading, Fading]:
        """The direct path alone, and the scattered ones: what arrives at two times, where there is a second path."""
        return replace(self, gains=self.direct), replace(self, gains=self.gains - self.direct)


def rician(rng: np.random.Generator, n_samples: int, sample_rate_hz: float, doppler_hz: float, direct_hz: float) -> Fading:
    """Draw one path.

    Args:
        rng: source of phases and directions.
        n_samples: length of the capture.
        sample_rate_hz: its rate.
        doppler_hz: largest Doppler shift of the scattered waves, which come from all around (Clarke's spectrum).
        direct_hz: Doppler shift of the direct wave.

    Source: Clarke, A statistical theory of mobile-radio reception, Bell Syst. Tech. J. 47 (1968); Rice for the direct wave.
    """
    block = max(1, round(sample_rate_hz / KNOTS_PER_S))
    seconds = np.arange(-(-n_samples // block) + 1) * (block / sample_rate_hz)
    direct, scattered = shares()
    angles = rng.uniform(0, 2 * np.pi, (2, N_SCATTERERS))
    shifts = doppler_hz * np.cos(angles[0])
    waves = np.exp(1j * (2 * np.pi * seconds[:, None] * shifts + angles[1])).sum(axis=1)  # (knot, wave) → (knot,)
    sight = np.exp(1j * (2 * np.pi * direct_hz * seconds + rng.uniform(0, 2 * np.pi)))
    sight *= np.sqrt(direct)
    return Fading(sight + np.sqrt(scattered / N_SCATTERERS) * waves, block, sight)


def shares() -> tuple[float, float]:
    """Mean power of the direct and of the scattered part; their sum is 1."""
    k = 10 ** (RICE_FACTOR_DB / 10)
    return k / (k + 1), 1 / (k + 1)


def apply(
    baseband: npt.NDArray[np.complex64], fading: Fading, carrier_hz: float, sample_rate_hz: float, amplitude: float
) -> npt.NDArray[np.complex64]:
    """The baseband (n,) as received: faded, scaled, and moved to `carrier_hz` from the centre.

    Per block of samples the carrier is one phasor times one short table, so that the long arrays see products only.
    """
    block = fading.block
    n_blocks = len(fading.gains) - 1
    inner = np.exp(2j * np.pi * carrier_hz / sample_rate_hz * np.arange(block)).astype(np.complex64)  # (block,)
    ramp = inner * (np.arange(block, dtype=np.float32) / np.float32(block))
    cycles = np.arange(n_blocks) * (block * carrier_hz / sample_rate_hz)
    start = amplitude * np.exp(2j * np.pi * (cycles - np.floor(cycles)))  # (n_blocks,)
    level = (start * fading.gains[:-1]).astype(np.complex64)[:, None]
    slope = (start * np.diff(fading.gains)).astype(np.complex64)[:, None]
    received: npt.NDArray[np.complex64] = level * inner  # (n_blocks, block)
    received += slope * ramp
    flat = received.reshape(-1)[: len(baseband)]
    flat *= baseband
    return flat
