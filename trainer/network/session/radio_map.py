"""The radio map: level of each receiver over the region, with its variance, fitted in closed form to known places.

level[s, r] = a_g + b_g·log₁₀(d/10 km) + shadowing_g(x_s) + offset_r + power_s + noise[s, r]

Receivers at one position (a group g) share distance law and shadowing. Power of a transmitter is nobody's knowledge: it has a
variance, and binds the maps of all receivers together, since a strong session is strong everywhere. The joint posterior mean of
maps and powers is found by block Gauss–Seidel (each map given the powers, the powers given the maps), a few rounds of which
suffice. Source of the model: Gudmundson (1991) for shadowing; Rappaport, Wireless Communications, chapter 4 for the law.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from featurestore.place.geodesic import distance_m
from featurestore.place.grid import Grid
from trainer.network.session.kriging import SAMPLE, Covariance, Trend, Weights, distances_m, fit_covariance

Float64 = npt.NDArray[np.float64]

REFERENCE_M = 10_000.0
NEAREST_M = 100.0
"""The law ends there; transmitters nearer than that are neighbours."""
SLOPE, SLOPE_SPREAD = -32.0, 10.0
"""dB per decade, expected before anything is heard; path-loss exponents of 2 to 4 lie within."""
OFFSET_SPREAD_DB = 30.0
SAME_PLACE_M = 100.0
ROUNDS = 8
LEAST_NOISE_DB2 = 0.25
MEAN_DISTANCE = 0.383
"""Of points of a unit square from its middle."""
UNSEEN_OFFSET_DB, UNSEEN_SLOPE_DB = 5.0, 3.0
"""How much laws of receivers differ, where too few are known to tell."""
FEW_GROUPS = 3


@dataclass(frozen=True, eq=False)
class Sessions:
    """What sessions at known places were heard like.

    Attributes:
        points_m: (n, 2) transmitters on the grid's plane, metres.
        position: (n, 2) the same in degrees.
        level: (n, R) dB, NaN where a receiver heard nothing of it.
    """

    points_m: Float64
    position: Float64
    level: Float64


@dataclass(frozen=True, eq=False)
class RadioMap:
    """Maps of R receivers on the cells of a grid.

    Attributes:
        mean: (R, cells) expected level of a transmitter of mean power, dB.
        variance: (R, cells) of that, dB²: of kriging, of the law, and of places within a cell.
        noise: (R,) variance of a capture around the map: fading and reading, dB².
        power: variance of transmitters' power, dB².
        law: (2,) level at 10 km and dB per decade of a receiver that nobody has heard yet.
        law_covariance: (2, 2) of these.
        law_variance: of its shadowing, dB².
        law_noise: of a capture of its, dB².
        table: (R, 4) for people: path-loss exponent, shadowing σ in dB, its length in km, noise σ in dB.
        left_out: (n, R) residuals of the sessions, each from the map without it, its power taken off; NaN where absent.
    """

    mean: Float64
    variance: Float64
    noise: Float64
    power: float
    law: Float64
    law_covariance: Float64
    law_variance: float
    law_noise: float
    table: Float64
    left_out: Float64


def law_basis(position: Float64, receiver: Float64) -> Float64:
    """(n, 2) functions of the distance law at positions (n, 2) in degrees: 1 and log₁₀(d/10 km); 0 for an unknown receiver."""
    if not np.isfinite(receiver).all():
        return np.stack([np.ones(len(position)), np.zeros(len(position))], axis=1)
    metres = np.maximum(distance_m(position, receiver), NEAREST_M)
    return np.stack([np.ones(len(position)), np.log10(metres / REFERENCE_M)], axis=1)


@dataclass(eq=False)
class _Field:
    """One group's map while it is fitted; arrays are of the sessions that it heard."""

    columns: list[int]
    session: npt.NDArray[np.intp]
    points_m: Float64
    basis: Float64
    heard: npt.NDArray[np.bool_]  # (session, column)
    level: Float64  # (session, column), 0 where absent
    trend: Trend
    offset: Float64  # (column,)
    covariance: Covariance = field(default_factory=Covariance)
    noise: float = 9.0
    beta: Float64 = field(default_factory=lambda: np.zeros(2))
    beta_covariance: Float64 = field(default_factory=lambda: np.eye(2))
    weights: Weights | None = None
    left_out: Float64 = field(default_factory=lambda: np.empty(0))
    fitted: Float64 = field(default_factory=lambda: np.empty(0))

    @classmethod
    def of(cls, columns: list[int], sessions: Sessions, receiver: Float64) -> _Field:
        heard = np.isfinite(sessions.level[:, columns])
        session = np.flatnonzero(heard.any(axis=1))
        level = np.where(heard, sessions.level[:, columns], 0.0)[session]
        heard = heard[session]
        means = level.sum(axis=0) / np.maximum(heard.sum(axis=0), 1)
        middle = float(level.sum() / max(heard.sum(), 1))
        trend = Trend(np.array([middle, SLOPE]), 1 / np.array([OFFSET_SPREAD_DB, SLOPE_SPREAD]) ** 2)
        basis = law_basis(sessions.position[session], receiver)
        offset = np.where(heard.any(axis=0), means - middle, 0.0)
        return cls(columns, session, sessions.points_m[session], basis, heard, level, trend, offset)

    @property
    def count(self) -> Float64:
        """(session,) receivers of the group that heard it."""
        return np.asarray(self.heard.sum(axis=1), np.float64)

    @property
    def nugget(self) -> Float64:
        """(session,) variance of its mean level around the map."""
        return self.noise / self.count

    def observed(self, power: Float64) -> Float64:
        """(session,) mean level over the group, less offsets and power."""
        rest = np.where(self.heard, self.level - self.offset, 0.0)
        return np.asarray(rest.sum(axis=1) / self.count - power[self.session])

    def prepare(self, nugget: Float64) -> None:
        """Weights of every session for every other."""
        own = np.arange(len(self.session))
        self.weights = Weights.of(self.points_m, nugget, self.points_m, self.covariance, leave_out=own)

    def update(self, power: Float64, nugget: Float64) -> None:
        """Trend and map given the powers: `left_out` residuals, and the map where the sessions are (`fitted`)."""
        assert self.weights is not None
        y = self.observed(power)
        taken = np.random.default_rng(1).permutation(len(y))[:SAMPLE]
        matrix = self.covariance(distances_m(self.points_m[taken], self.points_m[taken])) + np.diag(nugget[taken])
        self.beta, self.beta_covariance = self.trend.fit(self.basis[taken], y[taken], matrix)
        rest = y - self.basis @ self.beta
        self.left_out = rest - self.weights.apply(rest)
        # A left-out prediction of variance v and the session's own observation: their precision-weighted mean.
        self.fitted = y - self.left_out * nugget / (self.weights.variance + nugget)

    def update_offsets(self, power: Float64) -> None:
        """What tells the group's receivers apart: mean difference from the common map; the group's mean stays the trend's."""
        rest = np.where(self.heard, self.level - (self.fitted + power[self.session])[:, None], 0.0)
        offset = rest.sum(axis=0) / np.maximum(self.heard.sum(axis=0), 1)
        self.offset = offset - offset.mean()

    def on_grid(self, power: Float64, grid: Grid, receiver: Float64) -> tuple[Float64, Float64]:
        """(cells,) mean without offset, and variance."""
        rest = self.observed(power) - self.basis @ self.beta
        weights = Weights.of(self.points_m, self.nugget, grid.points_m, self.covariance)
        cells = law_basis(grid.degrees, receiver)
        # Variance of the trend that the neighbours do not carry with them (universal kriging; Cressie 1993, section 3.4).
        open_ = cells - weights.apply(self.basis)
        of_trend = np.einsum("cj,jk,ck->c", open_, self.beta_covariance, open_)
        within_cell = self.covariance.variance - float(self.covariance(np.array(MEAN_DISTANCE * grid.cell_m)))
        return cells @ self.beta + weights.apply(rest), weights.variance + of_trend + within_cell


def fit_radio_map(sessions: Sessions, receivers: Float64, grid: Grid) -> RadioMap:
    """Fit all maps.

    Args:
        sessions: at known places; time is linear in them.
        receivers: (R, 2) where receivers stand, degrees, NaN where unknown.
        grid: on whose cells the maps are wanted.
    """
    fields = [_Field.of(columns, sessions, receivers[columns[0]]) for columns in _groups(receivers, sessions.level)]
    n_sessions = len(sessions.level)
    power = np.zeros(n_sessions)
    for each in fields:
        each.covariance = fit_covariance(each.points_m, each.basis, each.observed(power), each.trend)
        total = np.full(len(each.session), each.covariance.nugget)
        each.prepare(total)
        each.update(power, total)
    power_variance = _power_variance(fields, n_sessions)
    for each in fields:
        each.noise = _noise(each, power_variance)
        each.prepare(each.nugget)
    for _ in range(ROUNDS):
        for each in fields:
            each.update(power, each.nugget)
            each.update_offsets(power)
        power = _powers(fields, n_sessions, power_variance)
    for each in fields:
        each.update(power, each.nugget)
    return _finish(fields, sessions, (receivers, grid), power, power_variance)


def _groups(receivers: Float64, level: Float64) -> list[list[int]]:
    """Columns of receivers that share a position, for each position; those that heard nothing are in none."""
    groups: list[list[int]] = []
    for column, place in enumerate(receivers):
        if not np.isfinite(level[:, column]).any():
            continue
        known = np.isfinite(place).all()
        for group in groups:
            if known and np.isfinite(receivers[group[0]]).all() and distance_m(receivers[group[0]], place) < SAME_PLACE_M:
                group.append(column)
                break
        else:
            groups.append([column])
    return groups


def _power_variance(fields: list[_Field], n_sessions: int) -> float:
    """Covariance of left-out residuals of one session at two groups: power is all that they have in common."""
    total, squares, pairs = np.zeros(n_sessions), np.zeros(n_sessions), np.zeros(n_sessions)
    for each in fields:
        total[each.session] += each.left_out
        squares[each.session] += each.left_out**2
        pairs[each.session] += 1
    n_pairs = float((pairs * (pairs - 1)).sum())
    return max(float((total**2 - squares).sum()) / n_pairs, 0.0) if n_pairs else 0.0


def _noise(each: _Field, power_variance: float) -> float:
    """Variance of a capture around the map: what is left of squared residuals without the map's own variance and power."""
    assert each.weights is not None
    rest = each.count * (each.left_out**2 - each.weights.variance - power_variance)
    return max(float(rest.mean()), LEAST_NOISE_DB2) if len(rest) > FEW_GROUPS else each.covariance.nugget


def _powers(fields: list[_Field], n_sessions: int, power_variance: float) -> Float64:
    """(n,) expected power of each session given the maps, their mean 0."""
    if power_variance <= 0:
        return np.zeros(n_sessions)
    weighted, precision = np.zeros(n_sessions), np.full(n_sessions, 1 / power_variance)
    for each in fields:
        rest = np.where(each.heard, each.level - each.offset - each.fitted[:, None], 0.0).sum(axis=1)
        weighted[each.session] += rest / each.noise
        precision[each.session] += each.count / each.noise
    power = weighted / precision
    return np.asarray(power - power.mean())


def _finish(
    fields: list[_Field], sessions: Sessions, where: tuple[Float64, Grid], power: Float64, power_variance: float
) -> RadioMap:
    """The maps of all receivers on the grid, and the law of those that are not among them."""
    receivers, grid = where
    n_receivers, n_cells = len(receivers), len(grid.points_m)
    law, law_covariance = _pooled_law(fields)
    law_variance = float(np.mean([each.covariance.variance for each in fields]))
    law_noise = float(np.mean([each.noise for each in fields]))
    mean, variance = np.empty((n_receivers, n_cells)), np.empty((n_receivers, n_cells))
    noise, table = np.full(n_receivers, law_noise), np.full((n_receivers, 4), np.nan)
    left_out = np.full(sessions.level.shape, np.nan)
    for column in range(n_receivers):  # those that heard nothing keep the law
        basis = law_basis(grid.degrees, receivers[column])
        mean[column] = basis @ law
        variance[column] = np.einsum("cj,jk,ck->c", basis, law_covariance, basis) + law_variance
    for each in fields:
        cells, spread = each.on_grid(power, grid, receivers[each.columns[0]])
        for index, column in enumerate(each.columns):
            mean[column], variance[column], noise[column] = cells + each.offset[index], spread, each.noise
            known = (-each.beta[1] / 10, each.covariance.variance**0.5, each.covariance.length_m / 1000, each.noise**0.5)
            table[column] = known
            heard = each.heard[:, index]
            own = each.level[:, index] - each.offset[index] - each.observed(power) - power[each.session]
            left_out[each.session[heard], column] = (each.left_out + own)[heard]
    return RadioMap(mean, variance, noise, power_variance, law, law_covariance, law_variance, law_noise, table, left_out)


def _pooled_law(fields: list[_Field]) -> tuple[Float64, Float64]:
    """Mean of the receivers' laws, and the covariance of another one around it."""
    betas = np.array([each.beta for each in fields])
    spread = np.diag([UNSEEN_OFFSET_DB**2, UNSEEN_SLOPE_DB**2])
    if len(fields) > FEW_GROUPS:
        spread = np.cov(betas, rowvar=False) * (1 + 1 / len(fields))
    return betas.mean(axis=0), spread
