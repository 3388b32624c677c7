"""One pair of receivers: their whitened spectra → delay, its sigma, and what to correlate over lags.

The generalized cross-correlation of Knapp and Carter (IEEE Trans. ASSP 24(4), 1976) for complex samples whose common phase is
unknown. Bins are weighted as Hannan and Thomson do, by γ²/(1 − γ²) with the coherence γ between the two receivers: that is the
phase transform (PHAT), and of each bin as much as its signal-to-noise ratio earns. It is the maximum-likelihood estimator.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import fft

from featurestore.delay.segments import Whitened, hann, independent_samples, phases, smooth_over, smoothing_bins

Float64 = npt.NDArray[np.float64]
Spectra = npt.NDArray[np.complexfloating[Any, Any]]
Mask = npt.NDArray[np.bool_]

MOST_COHERENT = 0.999
"""γ² of a bin counts at most as much: beyond, leakage of the window and propagation limit the phase, not noise."""
SIGNIFICANT = 4.0
"""γ² of unrelated noise is one over the number of independent samples; bins below this multiple of it count nothing."""
NEWTON_STEPS = 8
NEWTON_ENOUGH_S = 1e-13
"""A step this small ends the search: a ten-thousandth of a nanosecond."""
MAXIMA = 2 / 3
LITTLE_TURN = 1 / 8
"""Bins are added up while the largest lag turns them by no more than this share of a circle: 0.2 dB at the reach."""


@dataclass(frozen=True, eq=False)
class Common:
    """The segments that both receivers of a pair heard.

    Attributes:
        a: of the first receiver, k segments.
        b: the same segments of the second.
        number: (k,) numbers of the segments, ascending.
        frequency_hz: (bins,) evenly spaced.
        length: samples of a segment.
        hop_s: time from one segment to the next.
    """

    a: Whitened
    b: Whitened
    number: npt.NDArray[np.int64]
    frequency_hz: Float64
    length: int
    hop_s: float

    @property
    def keep(self) -> Mask:
        """(bins,) which bins count; the others hold 0."""
        return self.a.keep

    @cached_property
    def worth(self) -> float:
        """Independent samples that each bin averages over."""
        return independent_samples(len(self.number), self.length) / self.length

    @property
    def bandwidth_hz(self) -> float:
        """Of the bins that count."""
        return float(self.keep.sum() / (2 * self.hop_s))

    def turns(self, lag_s: float) -> Spectra:
        """(bins,) exp(2πi·f·lag): what brings spectra that are late by a lag back to the begin."""
        first_hz, step_hz = float(self.frequency_hz[0]), 1 / (2 * self.hop_s)
        return phases(first_hz * lag_s, step_hz * lag_s, len(self.frequency_hz))


@dataclass(frozen=True, eq=False)
class PairDelay:
    """What one pair of receivers says.

    Attributes:
        delay_s: how much later the first receiver hears; positive when the transmitter is nearer to the second.
        sigma_s: one standard deviation, from bandwidth and coherence (Cramér–Rao bound); no clocks in it.
        peak: power of the peak over the mean power at which unrelated noise correlates.
        wrong: probability that the peak is chance, from 0 to 1.
        offset_hz: frequency at the first receiver over that at the second.
        weights: (bins,) complex: the weighted cross-spectrum, of which `correlation` is the transform.
    """

    delay_s: float
    sigma_s: float
    peak: float
    wrong: float
    offset_hz: float
    weights: Spectra


def correlate(common: Common, max_lag_s: float) -> PairDelay:
    """The delay of one pair, looked for within ±`max_lag_s`."""
    cross = common.a.spectra * common.b.spectra.conj()  # (k, bins) complex64: phase −2π·f·delay + 2π·offset·time
    offset_hz = _find_offset(cross, common, max_lag_s)
    turn = np.exp(-2j * np.pi * offset_hz * common.hop_s * common.number)
    # No matrix product here: BLAS adds up in another order where it has more threads, and a worker has one.
    mean = np.einsum("k,kb->b", turn.astype(np.complex64), cross).astype(np.complex128) / len(cross)  # (bins,)
    rough_s = _highest(mean, common, max_lag_s)
    aligned = mean * common.turns(rough_s)
    # Under chance alone |Σ mean|² is exponentially distributed about Σ|cross|² / (segments · independent samples).
    energy = float((common.a.squared * common.b.squared).sum(dtype=np.float64)) / (len(cross) * common.worth)
    peak = abs(aligned.sum()) ** 2 / max(energy, 1e-30)
    squared = _coherence(aligned, common)
    weights = mean * (np.sqrt(squared) / (1 - squared) if squared.any() else common.keep)
    delay_s = _refine(weights, common, _highest(weights, common, max_lag_s), max_lag_s)
    sigma_s = _sigma_s(squared, common, max_lag_s)
    return PairDelay(delay_s, sigma_s, float(peak), _chance(float(peak), common, max_lag_s), offset_hz, weights)


def correlation(weights: Spectra, frequency_hz: Float64, lag_s: Float64) -> Spectra:
    """(…, lags) complex64 correlation at any lags, 1 where all bins agree; from (…, bins) `PairDelay.weights`.

    Args:
        weights: (…, bins).
        frequency_hz: (bins,) of the bins, evenly spaced.
        lag_s: (lags,).
    """
    if len(frequency_hz) < 2:
        return np.zeros((*weights.shape[:-1], len(lag_s)), np.complex64)
    whole = np.maximum(np.abs(weights).sum(axis=-1, keepdims=True), 1e-30)
    step_hz = float(frequency_hz[-1] - frequency_hz[0]) / (len(frequency_hz) - 1)
    turns = phases(frequency_hz[0] * lag_s, step_hz * lag_s, len(frequency_hz), np.complex64)  # (lag, bin)
    return np.asarray((weights / whole).astype(np.complex64) @ turns.T)


def _find_offset(cross: Spectra, common: Common, max_lag_s: float) -> float:
    """The frequency between the receivers at which some lag within reach correlates best, within ±1 / (2·hop).

    It is the highest point of the cross-ambiguity function: inverse transform over bins, transform over segments. Lags within
    reach are a small share of those that the bins tell apart, so neighbouring bins are added up first; that weakens lags near
    the reach a little, which is made good.
    """
    together = max(1, int(LITTLE_TURN * 2 * common.hop_s / max_lag_s))
    blocks = _add_neighbours(cross, together)  # (k, block)
    lags, inside, lag_s = _lag_axis(blocks.shape[1], together / (2 * common.hop_s), max_lag_s)
    first, span = int(common.number[0]), int(common.number[-1] - common.number[0]) + 1
    over_lags = np.zeros((span, len(inside)), np.complex64)
    over_lags[common.number - first] = fft.ifft(blocks, lags, axis=1)[:, inside] / np.sinc(
        together * lag_s / (2 * common.hop_s)
    ).astype(np.float32)
    turns = fft.next_fast_len(2 * span)
    power = np.abs(fft.fft(over_lags, turns, axis=0)) ** 2  # (offset, lag)
    row, column = np.unravel_index(np.argmax(power), power.shape)
    below, here, above = (power[(row + step) % turns, column] for step in (-1, 0, 1))
    bend = 2 * here - below - above
    shift = 0.5 * (above - below) / bend if bend > 0 else 0.0
    turn = (int(row) + shift) / turns
    return float((turn - round(turn)) / common.hop_s)


def _add_neighbours(cross: Spectra, together: int) -> Spectra:
    """(k, blocks) sums over so many bins each; the last block may hold fewer."""
    n_blocks = -(-cross.shape[1] // together)
    padded = np.zeros((len(cross), n_blocks * together), np.complex64)
    padded[:, : cross.shape[1]] = cross
    sums = padded[:, ::together].copy()
    for each in range(1, together):
        sums += padded[:, each::together]
    return np.asarray(sums)


def _lag_axis(n_bins: int, step_hz: float, max_lag_s: float) -> tuple[int, npt.NDArray[np.intp], Float64]:
    """Length of an inverse transform that samples the correlation twice as finely as need be; the lags within reach."""
    length = fft.next_fast_len(2 * n_bins)
    step_s = 1 / (length * step_hz)
    reach = min(math.ceil(max_lag_s / step_s), (length - 1) // 2)
    steps = np.arange(-reach, reach + 1)
    return length, np.asarray(steps % length, np.intp), np.asarray(steps * step_s, np.float64)


def _highest(weights: Spectra, common: Common, max_lag_s: float) -> float:
    """The lag within reach where |correlation| is highest, on a grid four times finer than it need be."""
    length = fft.next_fast_len(4 * len(weights))
    step_s = 2 * common.hop_s / length
    reach = min(math.ceil(max_lag_s / step_s), (length - 1) // 2)
    steps = np.arange(-reach, reach + 1)
    return float(np.clip(steps[np.argmax(np.abs(fft.ifft(weights, length)[steps]))] * step_s, -max_lag_s, max_lag_s))


def _coherence(aligned: Spectra, common: Common) -> Float64:
    """(bins,) γ², smoothed over neighbours, without what chance adds, and 0 where it is chance."""
    parts = np.stack([common.a.power, common.b.power, aligned.real, aligned.imag])
    power_a, power_b, real, imag = smooth_over(common.keep, parts)
    squared = (real**2 + imag**2) / np.maximum(power_a * power_b, 1e-30)
    chance = min(1 / (common.worth * min(smoothing_bins(common.keep), int(common.keep.sum()))), 0.5)
    honest = np.where(squared > SIGNIFICANT * chance, (squared - chance) / (1 - chance), 0.0)
    return np.where(common.keep, np.minimum(honest, MOST_COHERENT), 0.0)


def _refine(weights: Spectra, common: Common, lag_s: float, max_lag_s: float) -> float:
    """The exact maximum of |correlation| near a lag, by Newton's method on the trigonometric polynomial that it is."""
    omega = 2 * np.pi * common.frequency_hz
    derivatives = np.stack([weights, 1j * omega * weights, -(omega**2) * weights])  # (derivative, bin)
    step_s = common.hop_s / len(weights) / 2
    here = lag_s
    for _ in range(NEWTON_STEPS):
        value, first, second = (derivatives * common.turns(here)).sum(axis=1)
        slope = float((first * value.conjugate()).real)
        bend = float(abs(first) ** 2 + (second * value.conjugate()).real)
        if bend >= 0:
            break
        before, here = here, float(np.clip(here - slope / bend, lag_s - step_s, lag_s + step_s))
        if abs(here - before) < NEWTON_ENOUGH_S:
            break
    # |weights| per bin bends the peak by this much; the windows lean it towards lag 0.
    strength = np.abs(weights)
    middle = (strength @ omega) / max(strength.sum(), 1e-30)
    bend = (strength @ (omega - middle) ** 2) / max(strength.sum(), 1e-30)
    lean = _window_slope(here, common) / bend if bend > 0 else 0.0
    return float(np.clip(here - lean, -max_lag_s, max_lag_s))


def _window_slope(lag_s: float, common: Common) -> float:
    """Slope of the logarithm of the windows' autocorrelation: a lag moves part of what two segments share out of sight."""
    samples_per_s = common.length / (2 * common.hop_s)
    window = np.asarray(hann(common.length), np.float64)
    shift = round(abs(lag_s) * samples_per_s)
    near, far = (float(window[s:] @ window[: common.length - s]) for s in (max(shift - 1, 0), shift + 1))
    width = shift + 1 - max(shift - 1, 0)
    return math.copysign((math.log(far) - math.log(near)) / width * samples_per_s, lag_s) if shift else 0.0


def _sigma_s(squared: Float64, common: Common, max_lag_s: float) -> float:
    """Cramér–Rao bound of a delay with unknown phase: σ⁻² = 8π²·Σ n·γ²/(1 − γ²)·(f − f̄)², n independent samples of a bin."""
    information = squared / (1 - squared)
    total = information.sum()
    if total <= 0:
        return max_lag_s / math.sqrt(3)  # nothing but the search's bounds is known
    middle = (information @ common.frequency_hz) / total
    spread = information @ (common.frequency_hz - middle) ** 2
    return float(min(1 / math.sqrt(max(8 * math.pi**2 * common.worth * spread, 1e-30)), max_lag_s / math.sqrt(3)))


def _chance(peak: float, common: Common, max_lag_s: float) -> float:
    """Probability that the highest of all lags and offsets is chance, given how high it is.

    p is the chance that noise alone reaches it somewhere: about x·exp(−x) for each independent lag and offset, as maxima of a
    smooth field go (Adler, The Geometry of Random Fields, chapter 6), with a factor that simulated noise gave. −e·p·ln p
    bounds the odds for chance (Sellke, Bayarri and Berger, The American Statistician 55(1), 2001).
    """
    places = (2 * max_lag_s * common.bandwidth_hz + 1) * (common.worth + 1)
    p = -math.expm1(-MAXIMA * places * peak * math.exp(-min(peak, 700.0)))
    if p >= 1 / math.e:
        return 1.0
    odds = -math.e * p * math.log(p) if p > 0 else 0.0
    return odds / (1 + odds)
