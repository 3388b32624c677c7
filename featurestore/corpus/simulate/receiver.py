"""What a receiver makes of the air: its noise, filter, birdies, clock and gain, and the converter at its end."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import scipy.fft

from featurestore.corpus.simulate.randomness import Stream, stream
from featurestore.corpus.simulate.sites import Receiver

THERMAL_DBM_PER_HZ = -174.0
"""kT at 290 K."""

NOISE_FIGURE_DB = 6.0
"""An RTL-SDR-class tuner with some feeder before it."""

NOISE_SPREAD_DB = 1.0
"""How much sites of one kind differ (standard deviation)."""

MAN_MADE_C_DB = {"city": 76.8, "residential": 72.5, "rural": 67.2}
MAN_MADE_D_DB = 27.7
"""Median man-made noise figure is c − d·log10(f/MHz) (ITU-R P.372, table of environmental categories)."""

FULL_SCALE_DBM = -57.0
"""Power at the antenna that fills the converter: gain set so that noise moves some ten of its steps, and transmitters nearby
clip; no AGC."""

GAIN_SPREAD_DB = 3.0
"""How differently operators set their gain (standard deviation)."""

CLOCK_SPREAD_PPM = 1.0
"""Error of a temperature-compensated oscillator (standard deviation): 146 Hz at 145.7 MHz."""

CONVERTER_BITS = 14
"""Per rail: what the converters of better WebSDR front ends have."""

BIRDIES = (2, 6)
BIRDIE_BAND_MHZ = (145.50, 145.90)
BIRDIE_DBM = (-130.0, -110.0)
"""Spurious carriers of the receiver and its neighbourhood: how many, where, and how strong at the antenna."""

LEAKAGE_DBFS = (-85.0, -70.0)
"""Offset of a direct-conversion tuner at 0 Hz."""


@dataclass(frozen=True)
class ReceiverModel:
    """One receiver's hardware and surroundings: fixed as long as the seed is.

    `pass_edge` is the half-power edge of the filter as a share of the sample rate, `steepness` its Butterworth-like order;
    ripple is a cosine over frequency with the given depth and number of periods.
    """

    noise_dbm_per_hz: float
    full_scale_dbm: float
    clock_ppm: float
    pass_edge: float
    steepness: int
    ripple_db: float
    ripple_periods: float
    birdie_mhz: tuple[float, ...]
    birdie_dbm: tuple[float, ...]
    leakage_dbfs: float

    def noise_dbm(self, bandwidth_hz: float) -> float:
        """Noise power in a bandwidth, referred to the antenna."""
        return self.noise_dbm_per_hz + float(10 * np.log10(bandwidth_hz))

    def response(self, frequency_hz: npt.ArrayLike, sample_rate_hz: float) -> npt.NDArray[np.float64]:
        """Amplitude of the channel filter at baseband frequencies."""
        share = np.asarray(frequency_hz) / sample_rate_hz
        ripple = 10 ** (self.ripple_db / 20 * np.cos(2 * np.pi * self.ripple_periods * share))
        return np.asarray(ripple / np.sqrt(1 + (np.abs(share) / self.pass_edge) ** (2 * self.steepness)))


@lru_cache(maxsize=64)
def receiver_model(seed: int, receiver: Receiver) -> ReceiverModel:
    """The hardware that this seed gives to a receiver."""
    rng = stream(seed, Stream.RECEIVER, receiver.websdr_id)
    n_birdies = int(rng.integers(*BIRDIES, endpoint=True))
    noise = noise_figure_db(receiver.man_made) + NOISE_SPREAD_DB * rng.standard_normal()
    return ReceiverModel(
        noise_dbm_per_hz=THERMAL_DBM_PER_HZ + float(noise),
        full_scale_dbm=FULL_SCALE_DBM + GAIN_SPREAD_DB * float(rng.standard_normal()),
        clock_ppm=CLOCK_SPREAD_PPM * float(rng.standard_normal()),
        pass_edge=float(rng.uniform(0.42, 0.48)),
        steepness=int(rng.integers(12, 24, endpoint=True)),
        ripple_db=float(rng.uniform(0.05, 0.4)),
        ripple_periods=float(rng.uniform(2, 8)),
        birdie_mhz=tuple(rng.uniform(*BIRDIE_BAND_MHZ, n_birdies).tolist()),
        birdie_dbm=tuple(rng.uniform(*BIRDIE_DBM, n_birdies).tolist()),
        leakage_dbfs=float(rng.uniform(*LEAKAGE_DBFS)),
    )


def noise_figure_db(man_made: str, frequency_mhz: float = 145.7) -> float:
    """Noise figure of external and receiver noise together, over kT at 290 K.

    Source: ITU-R P.372, equation f = fa + fr − 1 for a lossless antenna.
    """
    external_db = MAN_MADE_C_DB[man_made] - MAN_MADE_D_DB * np.log10(frequency_mhz)
    return float(10 * np.log10(10 ** (external_db / 10) + 10 ** (NOISE_FIGURE_DB / 10) - 1))


@lru_cache(maxsize=16)
def _noise_shape(model: ReceiverModel, n_fft: int, sample_rate_hz: float) -> npt.NDArray[np.float32]:
    """Amplitude per bin that turns unit normal deviates on both rails into filtered noise after an inverse FFT."""
    power = 10 ** ((model.noise_dbm(sample_rate_hz) - model.full_scale_dbm) / 10)
    shape = model.response(scipy.fft.fftfreq(n_fft, 1 / sample_rate_hz), sample_rate_hz) * np.sqrt(power * n_fft / 2)
    shaped: npt.NDArray[np.float32] = shape.astype(np.float32)
    shaped.setflags(write=False)
    return shaped


def background(
    model: ReceiverModel, rng: np.random.Generator, n_samples: int, sample_rate_hz: float, centre_mhz: float
) -> npt.NDArray[np.complex64]:
    """What a receiver records with no one transmitting: (n_samples,), full scale 1: noise, birdies and leakage, filtered.

    Made in the frequency domain: white noise costs the same there, and filter and carriers are then free.
    """
    n_fft = scipy.fft.next_fast_len(n_samples)
    deviates = rng.standard_normal(2 * n_fft, np.float32)
    by_rail = deviates.reshape(n_fft, 2)
    by_rail *= _noise_shape(model, n_fft, sample_rate_hz)[:, None]
    spectrum = deviates.view(np.complex64)
    phases = rng.uniform(0, 2 * np.pi, len(model.birdie_mhz) + 1)
    spectrum[0] += n_fft * 10 ** (model.leakage_dbfs / 20) * np.exp(1j * phases[0])
    for mhz, dbm, phase in zip(model.birdie_mhz, model.birdie_dbm, phases[1:], strict=True):
        offset_hz = (mhz - centre_mhz) * 1e6
        if abs(offset_hz) < sample_rate_hz / 2:
            amplitude = 10 ** ((dbm - model.full_scale_dbm) / 20) * float(model.response(offset_hz, sample_rate_hz))
            spectrum[round(offset_hz * n_fft / sample_rate_hz) % n_fft] += n_fft * amplitude * np.exp(1j * phase)
    return np.asarray(scipy.fft.ifft(spectrum, overwrite_x=True)[:n_samples], np.complex64)


def digitize(samples: npt.NDArray[np.complex64]) -> float:
    """Round both rails to the converter's steps and clip them at full scale, in place.

    Returns:
        The share of samples that were clipped.
    """
    rails = samples.view(np.float32)
    steps = np.float32(2 ** (CONVERTER_BITS - 1))
    rails *= steps
    np.rint(rails, out=rails)
    clipped = 0.0
    if rails.max() > steps - 1 or rails.min() < -steps:
        over = (rails > steps - 1) | (rails < -steps)
        clipped = float(over.reshape(-1, 2).any(axis=1).mean())
        np.clip(rails, -steps, steps - 1, out=rails)
    rails /= steps
    return clipped
