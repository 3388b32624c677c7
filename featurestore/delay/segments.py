"""Segments of a session: stretches of time that all receivers share, and each receiver's spectra of them.

Every segment begins at the same instant for all receivers, to a fraction of a sample: a receiver's nearest sample is taken, and
the rest is a phase over frequency. So no receiver's samples are interpolated, rates that differ by some ppm cost nothing, and a
jump of a clock costs the segments that hold it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.typing import ArrayLike, DTypeLike
from scipy import fft
from scipy.ndimage import uniform_filter1d

from featurestore.delay.heard import NS, Heard

Float64 = npt.NDArray[np.float64]
Spectra = npt.NDArray[np.complexfloating[Any, Any]]

LAGS_PER_SEGMENT = 64
"""A segment is that many times longer than the largest lag: the part of it that a lag moves out of sight stays small."""
LEAST_LAGS_PER_SEGMENT = 4
LEAST_SEGMENTS = 8
"""Coherence between receivers cannot be told from chance with fewer."""
SHORTEST_SEGMENT = 64
SMOOTHING = 24
"""Averages run over this share of the bins in use, and at least over `LEAST_SMOOTHING` bins."""
LEAST_SMOOTHING = 5
SAME_RATE = 2e-5
"""Rates this close need no resampling: a bin in a thousand moves by 0.02 of a bin, an instant in a segment by 20 ppm of it."""


@dataclass(frozen=True)
class Segments:
    """Where the segments of a session lie.

    Attributes:
        rate_hz: rate that all receivers are brought to, within `SAME_RATE`.
        length: samples of a segment; they follow each other by half of that.
        start_s: begin of segment 0, in seconds after the earliest start of the session.
        count: segments between there and the end of what is looked at.
    """

    rate_hz: float
    length: int
    start_s: float
    count: int

    @property
    def hop_s(self) -> float:
        """From one segment to the next."""
        return self.length / 2 / self.rate_hz

    @property
    def bin_hz(self) -> float:
        """From one bin of a spectrum to the next."""
        return self.rate_hz / self.length

    @property
    def frequency_hz(self) -> Float64:
        """(length,) of the bins, ascending from −rate/2."""
        return np.asarray((np.arange(self.length) - self.length // 2) * self.bin_hz, np.float64)


@dataclass(frozen=True, eq=False)
class HeardSegments:
    """One receiver's spectra.

    Attributes:
        number: (k,) which segments of the session it heard whole, ascending.
        spectra: (k, length) complex64, bins ascending from −rate/2.
        late_s: (k,) how much later its samples begin than the segments do: less than half a sample.
    """

    number: npt.NDArray[np.int64]
    spectra: Spectra
    late_s: Float64

    @cached_property
    def power(self) -> Float64:
        """(length,) mean power of the bins."""
        squared = self.spectra.real**2 + self.spectra.imag**2
        return np.asarray(squared.sum(axis=0, dtype=np.float64) / max(1, len(squared)))

    def whitened(self, low: int, high: int, keep: npt.NDArray[np.bool_], frequency_hz: Float64) -> Whitened:
        """Bins `low` to `high` of unit mean power, brought to the begin of the segments.

        The power is smoothed over neighbours: else each bin's own scatter would be a filter as long as the segment, that mixes
        the parts of a segment that the two receivers of a pair do not share.

        Args:
            low: first bin.
            high: end of the bins.
            keep: (high − low,) which of them count; the others become 0.
            frequency_hz: (high − low,) of the bins.
        """
        part = self.spectra[:, low:high]
        smooth = smooth_over(keep, self.power[low:high])
        scale = np.where(keep & (smooth > 0), 1 / np.sqrt(np.where(smooth > 0, smooth, 1)), 0).astype(np.float32)
        return Whitened(np.asarray(part * scale * _shift(self.late_s, frequency_hz), np.complex64), keep)


@dataclass(frozen=True, eq=False)
class Whitened:
    """One receiver's whitened spectra, of all of its segments or of some.

    Attributes:
        spectra: (k, bins) complex64.
        keep: (bins,) which of the bins count; the others hold 0.
    """

    spectra: Spectra
    keep: npt.NDArray[np.bool_]

    @cached_property
    def squared(self) -> npt.NDArray[np.float32]:
        """(k, bins) power: made once, however many pairs the receiver is in."""
        return np.asarray(self.spectra.real**2 + self.spectra.imag**2, np.float32)

    @cached_property
    def power(self) -> Float64:
        """(bins,) mean power."""
        return np.asarray(self.squared.sum(axis=0), np.float64) / len(self.squared)

    def of(self, index: npt.NDArray[np.int64]) -> Whitened:
        """Some of its segments, ascending; without a copy where no segment lies between them, as most often."""
        if len(index) == len(self.spectra):
            return self
        rows = slice(index[0], index[-1] + 1) if index[-1] - index[0] + 1 == len(index) else index
        some = Whitened(self.spectra[rows], self.keep)
        some.__dict__["squared"] = self.squared[rows]
        return some


def plan_segments(pieces: list[list[Heard]], origin_ns: int, max_lag_s: float, max_seconds: float) -> Segments | None:
    """Segments for a session, or `None` when no two receivers share enough time for any.

    Args:
        pieces: of each receiver, its stretches without steps, at one rate; none of a silent one.
        origin_ns: Unix time that `Segments.start_s` counts from.
        max_lag_s: largest delay that is looked for.
        max_seconds: at most that much time is looked at, where most pairs of receivers share it.
    """
    heard = [own for own in pieces if own]
    if len(heard) < 2:
        return None
    start = np.array([own[0].start_time_ns - origin_ns for own in heard]) / NS
    stop = np.array([own[-1].stop_time_ns - origin_ns for own in heard]) / NS
    rate_hz = min(piece.rate_hz for own in heard for piece in own)
    first_s, last_s, shared_s = _busiest(start, stop, max_seconds)
    length = max(SHORTEST_SEGMENT, 1 << math.ceil(math.log2(LAGS_PER_SEGMENT * max_lag_s * rate_hz)))
    while length > SHORTEST_SEGMENT and shared_s * rate_hz < (LEAST_SEGMENTS + 2) * length / 2:
        length //= 2
    if length < LEAST_LAGS_PER_SEGMENT * max_lag_s * rate_hz or shared_s * rate_hz < (LEAST_SEGMENTS + 1) * length / 2:
        return None
    return Segments(rate_hz, length, first_s, int((last_s - first_s) * rate_hz / (length / 2)) - 1)


def at_one_rate(pieces: list[list[Heard]]) -> list[list[Heard]]:
    """All at the rate of the slowest; what is there already stays as it is."""
    slowest_hz = min((piece.rate_hz for own in pieces for piece in own), default=0.0)
    near_hz = slowest_hz * (1 + SAME_RATE)
    return [[piece if piece.rate_hz <= near_hz else piece.at_rate(slowest_hz) for piece in own] for own in pieces]


def spectra_of(pieces: list[Heard], origin_ns: int, segments: Segments) -> HeardSegments:
    """The spectra of one receiver's segments: periodic Hann windows, half over each other.

    Args:
        pieces: its stretches without steps.
        origin_ns: the time that `segments.start_s` counts from.
        segments: those of the session.
    """
    number, first_sample, late_s, piece_of = _place(pieces, origin_ns, segments)
    spectra = np.empty((len(number), segments.length), np.complex64)
    window = hann(segments.length)
    for index, piece in enumerate(pieces):
        mine = np.flatnonzero(piece_of == index)
        if not len(mine):
            continue
        frames = np.lib.stride_tricks.sliding_window_view(piece.samples, segments.length)[first_sample[mine]]
        turned = fft.fft(np.asarray(frames * window, np.complex64), axis=1, overwrite_x=True)
        spectra[mine] = fft.fftshift(turned, axes=1)
    return HeardSegments(number, spectra, late_s)


def phases(first: ArrayLike, step: ArrayLike, count: int, dtype: DTypeLike = np.complex128) -> Spectra:
    """(…, count) exp(2πi·(first + step·k)), k from 0: products of two short tables, ten times as fast as as many exponentials.

    Args:
        first: (…) turns of the first.
        step: (…) turns from one to the next.
        count: how many.
        dtype: of the result; the tables are exact.
    """
    first, step = np.asarray(first, np.float64)[..., None], np.asarray(step, np.float64)[..., None]
    block = max(1, math.isqrt(count))
    coarse = np.exp(2j * np.pi * (first + step * np.arange(0, count, block))).astype(dtype)
    fine = np.exp(2j * np.pi * step * np.arange(block)).astype(dtype)
    table = coarse[..., :, None] * fine[..., None, :]
    return np.asarray(table.reshape(*table.shape[:-2], table.shape[-2] * block)[..., :count])


def smooth_over(keep: npt.NDArray[np.bool_], values: npt.NDArray[np.floating[Any]]) -> Float64:
    """(…, bins) mean of the neighbours that count, `smoothing_bins` of them; 0 where none does."""
    width = smoothing_bins(keep)
    held = uniform_filter1d(np.where(keep, values, 0.0), width, mode="constant")
    share = uniform_filter1d(keep.astype(np.float64), width, mode="constant")
    return np.asarray(np.where(share > 0.5 / width, held / np.maximum(share, 0.5 / width), 0.0))


def smoothing_bins(keep: npt.NDArray[np.bool_]) -> int:
    """Bins that powers and coherence are averaged over, odd: paths and receivers differ slowly over frequency."""
    return max(LEAST_SMOOTHING, int(keep.sum()) // SMOOTHING) | 1


@lru_cache(maxsize=16)
def hann(length: int) -> npt.NDArray[np.float32]:
    """Its sidelobes fall by 18 dB per octave: a carrier does not reach the sidebands that carry the delay."""
    return (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)).astype(np.float32)


def independent_samples(count: int, length: int) -> float:
    """Samples that a sum over `count` segments in a row is worth: (∫g)² / ∫g², g the sum of their squared windows.

    For many segments that is 0.947 of the samples that they cover.
    """
    squared = np.asarray(hann(length), np.float64) ** 2
    beside = float(squared[length // 2 :] @ squared[: length // 2])
    return float((count * squared.sum()) ** 2 / (count * (squared @ squared) + 2 * (count - 1) * beside))


def _place(
    pieces: list[Heard], origin_ns: int, segments: Segments
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Float64, npt.NDArray[np.int64]]:
    """Which segments a receiver heard whole; of each, its first sample, how late that is, and the piece it lies in."""
    numbers, firsts, owners = ([np.zeros(0, np.int64)] for _ in range(3))
    lates = [np.zeros(0)]
    for index, piece in enumerate(pieces):
        start_s = (piece.start_time_ns - origin_ns) / NS
        # Rates differ a little: the middle of a segment is put in place, so that the difference cancels over its length.
        middle_s = segments.start_s + segments.hop_s * (np.arange(segments.count) + 1)
        exact = (middle_s - start_s) * piece.rate_hz - segments.length / 2
        first = np.rint(exact).astype(np.int64)
        whole = np.flatnonzero((first >= 0) & (first + segments.length <= len(piece.samples)))
        numbers.append(whole)
        firsts.append(first[whole])
        lates.append((first[whole] - exact[whole]) / piece.rate_hz)
        owners.append(np.full(len(whole), index))
    number = np.concatenate(numbers)
    _, keep = np.unique(number, return_index=True)  # a clock that jumped back would hear a segment twice
    return number[keep], np.concatenate(firsts)[keep], np.concatenate(lates)[keep], np.concatenate(owners)[keep]


def _shift(late_s: Float64, frequency_hz: Float64) -> Spectra:
    """exp(−2πi·f·late), (k, bins) or (1, bins): spectra of later samples as if they began on time."""
    if len(late_s) and np.ptp(late_s) < 1e-12:
        late_s = late_s[:1]
    step_hz = float(frequency_hz[1] - frequency_hz[0]) if len(frequency_hz) > 1 else 0.0
    first_hz = float(frequency_hz[0]) if len(frequency_hz) else 0.0
    return phases(-first_hz * late_s, -step_hz * late_s, len(frequency_hz), np.complex64)


def _busiest(start: Float64, stop: Float64, max_seconds: float) -> tuple[float, float, float]:
    """The stretch of at most `max_seconds` that pairs share most of; its begin, its end, and the best pair's share."""
    best = (float(start.min()), float(start.min()), 0.0)
    most = -1.0
    for first in np.unique(start).tolist():
        last = min(first + max_seconds, float(stop.max()))
        inner = np.minimum(stop[:, None], np.minimum(stop[None], last)) - np.maximum(start[:, None], np.maximum(start, first))
        shared = np.triu(np.maximum(inner, 0.0), 1)
        if shared.sum() > most:
            most, best = float(shared.sum()), (first, last, float(shared.max()))
    return best
