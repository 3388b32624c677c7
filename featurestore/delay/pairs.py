"""All pairs of a session: what receivers heard → delays, sigmas, correlations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from featurestore.delay.band import LEAST_BINS, find_band
from featurestore.delay.crosscorrelation import Common, PairDelay, correlate, correlation
from featurestore.delay.heard import Heard
from featurestore.delay.segments import LEAST_SEGMENTS, HeardSegments, Segments, at_one_rate, plan_segments, spectra_of
from featurestore.errors import UsageError

Float64 = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

MOST_LAG_S = 0.1
"""A third of a way round the Earth; a larger lag is no path but a wrong clock."""


@dataclass(frozen=True)
class PairOptions:
    """How pairs are correlated.

    Attributes:
        max_lag_s: the largest delay that is looked for: baseline over speed of light, and what clocks may be off.
        max_seconds: of overlap to use.
        band_hz: lowest and highest frequency from the recordings' centre; `None` for all. Within it
            the bins where a signal is are found.

    Raises:
        UsageError: when a value is impossible.
    """

    max_lag_s: float
    max_seconds: float = 60.0
    band_hz: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        for name, high in (("max_lag_s", MOST_LAG_S), ("max_seconds", math.inf)):
            value = getattr(self, name)
            if not 0 < value <= high:
                raise UsageError(
                    f"{name} is {value}; expected seconds above 0" + (f", at most {high}" if high < math.inf else "")
                )
        if self.band_hz is not None and not self.band_hz[0] < self.band_hz[1]:
            raise UsageError(f"the band is {self.band_hz[0]} to {self.band_hz[1]} Hz; expected the lower frequency first")


@dataclass(frozen=True, eq=False)
class Pairs:
    """All p = r·(r − 1)/2 pairs of r receivers, in the order (0, 1), (0, 2), … and then (1, 2).

    Attributes:
        a: (p,) index of the first receiver.
        b: (p,) index of the second.
        delay_s: (p,) how much later a hears than b; NaN where that cannot be said.
        sigma_s: (p,) one standard deviation, from noise and bandwidth; clocks come on top (`Heard.time_sigma_s`).
        peak: (p,) power of the peak over the mean power at which unrelated noise correlates; 0 where there is none.
        wrong: (p,) probability that the peak is chance; 1 where there is none.
        offset_hz: (p,) frequency at a over that at b; NaN where there is none.
        seconds: (p,) time that both heard, as far as it was used.
        reason: (p,) why a pair has no delay; "" where it has one.
        frequency_hz: (bins,) of the weights.
        weights: (p, bins) complex64, 0 where there is no delay.
    """

    a: npt.NDArray[np.int64]
    b: npt.NDArray[np.int64]
    delay_s: Float64
    sigma_s: Float64
    peak: Float64
    wrong: Float64
    offset_hz: Float64
    seconds: Float64
    reason: tuple[str, ...]
    frequency_hz: Float64
    weights: npt.NDArray[np.complex64]

    def __len__(self) -> int:
        return len(self.a)

    @property
    def usable(self) -> Mask:
        """(p,) which pairs have a delay."""
        return np.isfinite(self.delay_s)

    def of(self, receivers: Sequence[int]) -> Pairs:
        """The pairs of some of the receivers, ascending, which are numbered anew."""
        number = {index: place for place, index in enumerate(receivers)}
        kept = [k for k, (a, b) in enumerate(zip(self.a.tolist(), self.b.tolist(), strict=True)) if {a, b} <= number.keys()]
        values: dict[str, Any] = {column.name: getattr(self, column.name) for column in fields(self)}
        values |= {name: value[kept] for name, value in values.items() if name not in ("reason", "frequency_hz")}
        values |= {name: np.array([number[index] for index in values[name].tolist()], np.int64) for name in ("a", "b")}
        return Pairs(**values | {"reason": tuple(self.reason[k] for k in kept)})

    def correlation(self, lag_s: Float64) -> npt.NDArray[np.complexfloating[Any, Any]]:
        """(p, lags) complex correlation at lags in seconds; 1 where all bins agree."""
        return correlation(self.weights, self.frequency_hz, np.asarray(lag_s, np.float64))


def measure_pairs(heard: Sequence[Heard], options: PairOptions) -> Pairs:
    """Correlate every pair of a session's receivers; a pair that cannot be correlated says why.

    Args:
        heard: one per receiver.
        options: how.
    """
    pieces = at_one_rate([[] if each.is_silent else each.pieces() for each in heard])
    origin_ns = min((own[0].start_time_ns for own in pieces if own), default=0)
    segments = plan_segments(pieces, origin_ns, options.max_lag_s, options.max_seconds)
    found: list[PairDelay | str] = []
    if segments is None:
        found = [_why_not(pieces[a], pieces[b]) for a, b in combinations(range(len(heard)), 2)]
        return _gather(len(heard), found, np.zeros(0), np.zeros(len(found)))
    spectra = [spectra_of(own, origin_ns, segments) for own in pieces]
    band = _Band.of(spectra, segments, options.band_hz)
    whitened = [each.whitened(band.low, band.high, band.keep, band.frequency_hz) for each in spectra]
    seconds = []
    for a, b in combinations(range(len(heard)), 2):
        number, in_a, in_b = np.intersect1d(spectra[a].number, spectra[b].number, assume_unique=True, return_indices=True)
        seconds.append((len(number) + 1) * segments.hop_s if len(number) else 0.0)
        if len(number) < LEAST_SEGMENTS:
            found.append(_why_not(pieces[a], pieces[b]))
        elif band.keep.sum() < LEAST_BINS:
            found.append("nothing but single tones is heard in the band, and a tone carries no time")
        else:
            both = whitened[a].of(in_a), whitened[b].of(in_b)
            common = Common(*both, number, band.frequency_hz, segments.length, segments.hop_s)
            found.append(correlate(common, options.max_lag_s))
    return _gather(len(heard), found, band.frequency_hz, np.array(seconds))


@dataclass(frozen=True, eq=False)
class _Band:
    """The bins `low` to `high` of a session's spectra, and which of them count."""

    low: int
    high: int
    keep: Mask
    frequency_hz: Float64

    @classmethod
    def of(cls, spectra: list[HeardSegments], segments: Segments, band_hz: tuple[float, float] | None) -> _Band:
        # What is a tone at one receiver is notched at all of them, so that all pairs use the same bins.
        keep = find_band([each.power for each in spectra if len(each.number)], segments.frequency_hz, band_hz)
        used = np.flatnonzero(keep)
        low, high = (int(used[0]), int(used[-1]) + 1) if len(used) else (0, 0)
        return cls(low, high, keep[low:high], segments.frequency_hz[low:high])


def _why_not(a: list[Heard], b: list[Heard]) -> str:
    """Why two receivers' segments are too few."""
    if not (a and b):
        return "one of them is silent"
    shared_s = min(a[-1].stop_time_ns, b[-1].stop_time_ns) / 1e9 - max(a[0].start_time_ns, b[0].start_time_ns) / 1e9
    if shared_s <= 0:
        return f"they do not overlap in time: {-shared_s:.3f} s lie between them"
    return f"they overlap by only {shared_s:.3f} s, too little for the lags that are looked for"


def _gather(n_receivers: int, found: list[PairDelay | str], frequency_hz: Float64, seconds: Float64) -> Pairs:
    """Columns from one entry per pair: its delay, or why there is none."""
    order = np.array(list(combinations(range(n_receivers), 2)), np.int64).reshape(-1, 2)
    none = PairDelay(math.nan, math.nan, 0.0, 1.0, math.nan, np.zeros(len(frequency_hz), np.complex64))
    each = [none if isinstance(one, str) else one for one in found]
    return Pairs(
        a=order[:, 0],
        b=order[:, 1],
        delay_s=np.array([one.delay_s for one in each], np.float64),
        sigma_s=np.array([one.sigma_s for one in each], np.float64),
        peak=np.array([one.peak for one in each], np.float64),
        wrong=np.array([one.wrong for one in each], np.float64),
        offset_hz=np.array([one.offset_hz for one in each], np.float64),
        seconds=seconds,
        reason=tuple(one if isinstance(one, str) else "" for one in found),
        frequency_hz=frequency_hz,
        weights=np.array([one.weights for one in each], np.complex64).reshape(len(each), len(frequency_hz)),
    )
