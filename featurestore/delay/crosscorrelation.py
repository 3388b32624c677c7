"""One pair of receivers: their whitened spectra → delay, its sigma, and what to correlate over lags.

The generalized cross-correlation of Knapp and Carter (IEEE Trans. ASSP 24(4), 1976) for complex samples whose common phase is
unknown. Bins are weighted as Hannan and Thomson do, by γ²/(1 − γ²) with the coherence γ between the two receivers: that is the
phase transform (PHAT), and of each bin as much as its signal-to-noise ratio earns. It is the maximum-likelihood estimator.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import fft

from featurestore.delay.segments import hann, independent_samples, smooth_over, smoothing_bins

Float64 = npt.NDArray[np.float64]
Spectra = npt.NDArray[np.complexfloating[Any, Any]]
Mask = npt.NDArray[np.bool_]

MOST_COHERENT = 0.999
"""γ² of a bin counts at most as much: beyond, leakage of the window and propagation limit the phase, not noise."""
SIGNIFICANT = 4.0
"""γ² of unrelated noise is one over the number of independent samples; bins below this multiple of it count nothing."""
NEWTON_STEPS = 8
MAXIMA = 2 / 3


@dataclass(frozen=True, eq=False)
class Common:
    """The segments that both receivers of a pair heard.

    Attributes:
        a: (k, bins) whitened spectra of the first receiver.
        b: (k, bins) of the second.
        number: (k,) numbers of the segments, ascending.
        keep: (bins,) which bins count; the others hold 0.
        frequency_hz: (bins,) evenly spaced.
        length: samples of a segment.
        hop_s: time from one segment to the next.
    """

    a: Spectra
    b: Spectra
    number: npt.NDArray[np.int64]
    keep: Mask
    frequency_hz: Float64
    length: int
    hop_s: float

    @property
    def worth(self) -> float:
        """Independent samples that each bin averages over."""
        return independent_samples(len(self.number), self.length) / self.length

    @property
    def bandwidth_hz(self) -> float:
        """Of the bins that count."""
        return float(self.keep.sum() / (2 * self.hop_s))


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
    cross = common.a * common.b.conj()  # (k, bins): phase −2π·f·delay + 2π·offset·time
    offset_hz = _find_offset(cross, common, max_lag_s)
    turn = np.exp(-2j * np.pi * offset_hz * common.hop_s * common.number)
    mean = (turn @ cross) / len(cross)  # (bins,)
    rough_s = _highest(mean, common, max_lag_s)
    # Under chance alone |Σ mean|² is exponentially distributed about Σ|cross|² / (segments · independent samples).
    energy = float((cross.real**2 + cross.imag**2).sum()) / (len(cross) * common.worth)
    peak = abs((mean * np.exp(2j * np.pi * common.frequency_hz * rough_s)).sum()) ** 2 / max(energy, 1e-30)
    squared = _coherence(mean * np.exp(2j * np.pi * common.frequency_hz * rough_s), common)
    weights = mean * (np.sqrt(squared) / (1 - squared) if squared.any() else common.keep)
    delay_s = _refine(weights, common, _highest(weights, common, max_lag_s), max_lag_s)
    sigma_s = _sigma_s(squared, common, max_lag_s)
    return PairDelay(delay_s, sigma_s, float(peak), _chance(float(peak), common, max_lag_s), offset_hz, weights)


def correlation(weights: Spectra, frequency_hz: Float64, lag_s: Float64) -> Spectra:
    """(…, lags) complex correlation at any lags, 1 where all bins agree; from (…, bins) `PairDelay.weights`."""
    whole = np.maximum(np.abs(weights).sum(axis=-1, keepdims=True), 1e-30)
    return np.asarray((weights / whole) @ np.exp(2j * np.pi * np.outer(frequency_hz, lag_s)))


def _find_offset(cross: Spectra, common: Common, max_lag_s: float) -> float:
    """The frequency between the receivers at which some lag within reach correlates best, within ±1 / (2·hop).

    It is the highest point of the cross-ambiguity function: inverse transform over bins, transform over segments.
    """
    lags, inside = _lag_axis(cross.shape[1], common, max_lag_s)
    first, span = int(common.number[0]), int(common.number[-1] - common.number[0]) + 1
    table = np.zeros((span, cross.shape[1]), np.complex64)
    table[common.number - first] = cross
    over_lags = fft.ifft(table, lags, axis=1)[:, inside]
    turns = fft.next_fast_len(2 * span)
    power = np.abs(fft.fft(over_lags, turns, axis=0)) ** 2  # (offset, lag)
    row, column = np.unravel_index(np.argmax(power), power.shape)
    below, here, above = (power[(row + step) % turns, column] for step in (-1, 0, 1))
    bend = 2 * here - below - above
    shift = 0.5 * (above - below) / bend if bend > 0 else 0.0
    turn = (int(row) + shift) / turns
    return float((turn - round(turn)) / common.hop_s)


def _lag_axis(n_bins: int, common: Common, max_lag_s: float) -> tuple[int, npt.NDArray[np.int64]]:
    """Length of an inverse transform that samples the correlation twice as finely as it need be, and its lags within reach."""
    length = fft.next_fast_len(2 * n_bins)
    step_s = 2 * common.hop_s / length
    reach = min(math.ceil(max_lag_s / step_s), (length - 1) // 2)
    return length, np.arange(-reach, reach + 1) % length


def _highest(weights: Spectra, common: Common, max_lag_s: float) -> float:
    """The lag within reach where |correlation| is highest, on a grid four times finer than it need be."""
    length = fft.next_fast_len(4 * len(weights))
    step_s = 2 * common.hop_s / length
    reach = min(math.ceil(max_lag_s / step_s), (length - 1) // 2)
    steps = np.arange(-reach, reach + 1)
    return float(np.clip(steps[np.argmax(np.abs(fft.ifft(weights, length)[steps]))] * step_s, -max_lag_s, max_lag_s))


def _coherence(aligned: Spectra, common: Common) -> Float64:
    """(bins,) γ², smoothed over neighbours, without what chance adds, and 0 where it is chance."""
    power = [smooth_over(common.keep, np.asarray(np.mean(x.real**2 + x.imag**2, axis=0))) for x in (common.a, common.b)]
    real, imag = (smooth_over(common.keep, np.asarray(part)) for part in (aligned.real, aligned.imag))
    cross = real**2 + imag**2
    squared = cross / np.maximum(power[0] * power[1], 1e-30)
    chance = min(1 / (common.worth * min(smoothing_bins(common.keep), int(common.keep.sum()))), 0.5)
    honest = np.where(squared > SIGNIFICANT * chance, (squared - chance) / (1 - chance), 0.0)
    return np.where(common.keep, np.minimum(honest, MOST_COHERENT), 0.0)


def _refine(weights: Spectra, common: Common, lag_s: float, max_lag_s: float) -> float:
    """The exact maximum of |correlation| near a lag, by Newton's method on the trigonometric polynomial that it is."""
    omega = 2 * np.pi * common.frequency_hz
    step_s = common.hop_s / len(weights) / 2
    here = lag_s
    for _ in range(NEWTON_STEPS):
        turned = weights * np.exp(1j * omega * here)
        value, first, second = turned.sum(), (1j * omega * turned).sum(), (-(omega**2) * turned).sum()
        slope = float((first * value.conjugate()).real)
        bend = float(abs(first) ** 2 + (second * value.conjugate()).real)
        if bend >= 0:
            break
        here = float(np.clip(here - slope / bend, lag_s - step_s, lag_s + step_s))
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
