"""The likelihood of a place, given by how much later some receivers hear a transmission than others.

A pair of receivers a, b at distances d measures (d_a − d_b)/c + e_a − e_b + n: errors e of each receiver (its clock, its path)
and noise n of the correlation. The density of that is normal; and, since a peak can be the wrong one, with a small probability
uniform over the lags searched. So no peak, however wrong, excludes a place.

Pairs that share a receiver share its error. So their log densities are not added as they are: each normal is to the power
κ_ab = (w_a + w_b) / Σw, w = 1/variance of a receiver, which is to say that its variance is divided by κ. For normal errors that
is exact, since Σ_{a<b} w_a·w_b·(e_a − e_b)² / Σw = Σ_a w_a·(e_a − ē)²: all pairs together count as what r receivers know of one
unknown time of emission, r − 1 differences, and not as r·(r − 1)/2. (It is a composite likelihood; Varin, Reid and Firth,
Statistica Sinica 21, 2011.) Where noise of the correlation prevails, which pairs do not share, it is cautious.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls

from featurestore.errors import UsageError
from featurestore.place.geodesic import distance_m, inverse
from featurestore.place.grid import Grid

Float64 = npt.NDArray[np.float64]
Index = npt.NDArray[np.int64]

SPEED_OF_LIGHT_M_PER_S = 299_792_458.0
CLOCK_SIGMAS = 6.0
"""A range of lags leaves room for as many standard deviations of what two clocks are off."""
LEAST_WRONG = 0.01
"""Of a peak that noise cannot explain: it may still be another transmitter's, or a reflection's."""
LEAST_SHARE = 0.02
"""A receiver has at least this share of the smallest variance of its pairs; none is perfect."""


@dataclass(frozen=True, eq=False)
class Delays:
    """What the pairs of one session measured; NaN delays are left out.

    Attributes:
        a: (p,) index of the receiver that hears later by the delay.
        b: (p,) index of the other.
        delay_s: (p,).
        sigma_s: (p,) one standard deviation of the correlation's noise.
        wrong: (p,) probability that the peak is chance.
        receiver_sigma_s: (r,) one standard deviation of each receiver's own error: its clock, its path.
        max_lag_s: lags were searched from −max_lag_s to max_lag_s.

    Raises:
        UsageError: when shapes or values are impossible.
    """

    a: Index
    b: Index
    delay_s: Float64
    sigma_s: Float64
    wrong: Float64
    receiver_sigma_s: Float64
    max_lag_s: float

    def __post_init__(self) -> None:
        shapes = {name: getattr(self, name).shape for name in ("a", "b", "delay_s", "sigma_s", "wrong")}
        if len(set(shapes.values())) != 1:
            raise UsageError(f"columns of pairs differ in shape: {shapes}; expected one entry per pair")
        known = np.isfinite(self.delay_s)
        if not (self.max_lag_s > 0 and (self.receiver_sigma_s >= 0).all() and (self.sigma_s[known] >= 0).all()):
            raise UsageError("max_lag_s must be above 0, and sigmas from 0")
        for name in shapes:
            object.__setattr__(self, name, getattr(self, name)[known])

    def __len__(self) -> int:
        return len(self.a)

    @property
    def variance_s2(self) -> Float64:
        """(p,) of a measured delay about the true one."""
        own = self.receiver_sigma_s**2
        return np.asarray(self.sigma_s**2 + own[self.a] + own[self.b])

    @property
    def powers(self) -> Float64:
        """(p,) κ: how much each pair counts."""
        if not len(self):
            return np.zeros(0)
        weight = 1 / receiver_variances_s2(self.a, self.b, self.variance_s2, len(self.receiver_sigma_s))
        heard = np.unique(np.concatenate([self.a, self.b]))
        return np.asarray((weight[self.a] + weight[self.b]) / weight[heard].sum())


def receiver_variances_s2(a: Index, b: Index, variance_s2: Float64, n_receivers: int) -> Float64:
    """(r,) variances whose sums come nearest to those of the pairs, (p,); for two receivers, half each."""
    incidence = np.zeros((len(a), n_receivers))
    incidence[np.arange(len(a)), a] = incidence[np.arange(len(a)), b] = 1.0
    scale = variance_s2.max() or 1.0
    # A faint pull to equal shares decides what the sums leave open.
    pull = 1e-3 * np.eye(n_receivers)
    solution, _ = nnls(np.vstack([incidence, pull]), np.concatenate([variance_s2 / scale, np.full(n_receivers, 5e-4)]))
    return np.asarray(np.maximum(solution * scale, LEAST_SHARE * variance_s2.min() + 1e-30))


@dataclass(frozen=True, eq=False)
class Views:
    """A grid as receivers see it: made once, used for every session on it.

    Attributes:
        grid: of places.
        distance_m: (r, cells) from each cell to each receiver, on the ellipsoid.
        azimuth: (r, cells) radians, in which direction.
    """

    grid: Grid
    distance_m: Float64
    azimuth: Float64

    @classmethod
    def of(cls, grid: Grid, receivers: Float64) -> Self:
        """For receivers (r, 2) at latitude, longitude in degrees."""
        seen = [inverse(grid.degrees, position) for position in np.asarray(receivers, np.float64)]
        return cls(grid, np.stack([metres for metres, _ in seen]), np.stack([azimuth for _, azimuth in seen]))

    def of_receivers(self, index: npt.NDArray[np.integer]) -> Self:
        """The same grid as some of the receivers see it, in the order of `index`."""
        return type(self)(self.grid, self.distance_m[index], self.azimuth[index])


def log_likelihood(delays: Delays, views: Views) -> Float64:
    """(ny, nx) log likelihood of each cell.

    A cell is a square: its corners' delays differ from its centre's by up to |u_a − u_b|·cell/√2/c, u the directions to the
    receivers. The normal density is widened by a standard deviation of |u_a − u_b|·cell/2/c, so that a coarse grid sees every
    peak, blurred.
    """
    total = np.zeros(views.distance_m.shape[1])
    lag_s, variance_s2, power = delays.max_lag_s, delays.variance_s2, delays.powers
    for pair, (a, b) in enumerate(zip(delays.a.tolist(), delays.b.tolist(), strict=True)):
        expected = (views.distance_m[a] - views.distance_m[b]) / SPEED_OF_LIGHT_M_PER_S
        slope2 = (2 - 2 * np.cos(views.azimuth[a] - views.azimuth[b])) / SPEED_OF_LIGHT_M_PER_S**2
        variance = (variance_s2[pair] + slope2 * views.grid.cell_m**2 / 4) / power[pair]
        wrong = max(float(delays.wrong[pair]), LEAST_WRONG)
        normal = -0.5 * (delays.delay_s[pair] - expected) ** 2 / variance - 0.5 * np.log(2 * np.pi * variance)
        with np.errstate(divide="ignore"):  # a peak that is wrong for certain
            total += np.logaddexp(np.log1p(-wrong) + normal, math.log(wrong / (2 * lag_s)))
    return total.reshape(views.grid.shape)


def longest_delay_s(position: Float64) -> float:
    """The longest distance between receivers, at the speed of light.

    Args:
        position: (r, 2) latitude, longitude of at least one receiver.
    """
    return float(distance_m(position[:, None], position[None]).max()) / SPEED_OF_LIGHT_M_PER_S


def clock_margin_s(sigma_s: float) -> float:
    """What two clocks of that standard deviation may be off, together, in `CLOCK_SIGMAS`."""
    return CLOCK_SIGMAS * math.sqrt(2) * sigma_s


def expected_delays_s(receivers: Float64, position: Float64, a: Index, b: Index) -> Float64:
    """(p,) delays of a transmitter at `position` (2,) in degrees: distance to a less distance to b, at the speed of light."""
    metres = distance_m(np.asarray(receivers, np.float64), np.asarray(position, np.float64))
    return np.asarray((metres[a] - metres[b]) / SPEED_OF_LIGHT_M_PER_S)


def hyperbola(views: Views, a: int, b: int, delay_s: float) -> list[Float64]:
    """Where on the grid a hears later than b by just that: lines (k, 2) of latitude, longitude."""
    from contourpy import LineType, contour_generator

    expected = ((views.distance_m[a] - views.distance_m[b]) / SPEED_OF_LIGHT_M_PER_S).reshape(views.grid.shape)
    generator = contour_generator(views.grid.east_m, views.grid.north_m, expected, line_type=LineType.Separate)
    return [views.grid.plane.from_plane(np.asarray(line)) for line in generator.lines(delay_s) if len(line) > 1]
