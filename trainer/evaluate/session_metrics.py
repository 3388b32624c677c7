"""Metrics of located sessions: errors on the ground, likelihood, and whether regions of highest density hold what they say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from featurestore.errors import DataQualityError
from featurestore.place import density
from featurestore.place.posterior import LEVELS, Posterior
from trainer.evaluate.metrics import error_summary, snr_bands, thresholds_m
from trainer.network.geometry import Float64, geodesic_m
from trainer.network.session.density import Located
from trainer.network.session.place import SessionPlace

Int64 = npt.NDArray[np.int64]

TIMES = 4
"""Parts of the time that the sessions cover, each with as many of them."""


@dataclass(frozen=True, eq=False)
class SessionPredictions:
    """What posteriors of n sessions say, and what is true.

    Attributes:
        position_true: (n, 2) degrees.
        position: (n, 2) degrees: least expected distance.
        error_m: (n,) between them, on the ellipsoid.
        covariance_m2: (n, 2, 2) east, north.
        expected_error_m: (n,) mean distance from `position` under the posterior.
        nll: (n,) nats, for densities per m².
        level: (n,) mass of the region denser than the true place.
        area_km2: (n,) of the 86.5% region.
    """

    position_true: Float64
    position: Float64
    error_m: Float64
    covariance_m2: Float64
    expected_error_m: Float64
    nll: Float64
    level: Float64
    area_km2: Float64

    @classmethod
    def of(cls, located: Located, place: SessionPlace, position_true: Float64) -> Self:
        """Sum a batch of posteriors up.

        A true place beyond the grid counts as the nearest one on it; its error does not.

        Raises:
            DataQualityError: when a posterior is no number.
        """
        grid, unit = place.grid, place.region.half_extent_m
        log = located.log_density.double().cpu().numpy().reshape(-1, *grid.shape) - 2 * np.log(unit)
        log = density.normalize(log, grid.cell_m)
        units = located.position.double().cpu().numpy()
        half = grid.cell_m / 2 - 1e-3
        edges = [(axis[0] - half, axis[-1] + half) for axis in (grid.east_m, grid.north_m)]
        truth = np.stack(
            [np.clip(x, *edge) for x, edge in zip(grid.plane.to_plane(position_true).T, edges, strict=True)], axis=1
        )
        position = place.region.decode(units)
        mass = density.masses(log, grid.cell_m)
        here = grid.plane.to_plane(position)
        distance = np.hypot(grid.points_m[:, 0] - here[:, :1], grid.points_m[:, 1] - here[:, 1:])
        return cls(
            position_true=position_true,
            position=position,
            error_m=geodesic_m(position_true, position),
            covariance_m2=located.covariance.double().cpu().numpy() * unit**2,
            expected_error_m=(mass * distance).sum(axis=1),
            nll=-density.log_densities_at(log, grid, truth),
            level=density.levels_at(log, grid, truth),
            area_km2=density.thresholds(log, grid.cell_m, LEVELS[1])[1] / 1e6,
        )

    @classmethod
    def of_rounds(cls, found: Sequence[Posterior], position_true: Float64) -> Self:
        """Sum up one posterior that is known on several grids, each a part of the one before, and finer.

        The last one says where. The finest that holds the true place says how dense it is there.

        Args:
            found: see `place.search.rounds`.
            position_true: (2,) degrees; beyond the first grid the nearest place on it counts, but for the error.
        """
        last, plane = found[-1], found[0].grid.plane
        truth = plane.to_plane(position_true)
        truth = np.clip(truth, found[0].grid.low_m + 1e-3, found[0].grid.high_m - 1e-3)
        holds = [each for each in found if ((truth > each.grid.low_m) & (truth < each.grid.high_m)).all()][-1]
        offset = last.grid.points_m - last.point_m
        position = plane.from_plane(truth)
        return cls(
            position_true=position_true[None],
            position=last.point[None],
            error_m=geodesic_m(position_true, last.point),
            covariance_m2=last.covariance_m2[None],
            expected_error_m=np.array([last.masses.ravel() @ np.hypot(*offset.T)]),
            nll=-holds.log_density_at(position[None]),
            level=np.array([holds.level_at(position)]),
            area_km2=np.array([last.area_km2(LEVELS[1])]),
        )

    @classmethod
    def join(cls, parts: Sequence[Self]) -> Self:
        """One after the other."""
        return cls(**{each.name: np.concatenate([getattr(part, each.name) for part in parts]) for each in fields(cls)})

    def __len__(self) -> int:
        return len(self.error_m)

    def select(self, chosen: npt.NDArray[Any]) -> Self:
        """Those sessions only."""
        return type(self)(**{each.name: getattr(self, each.name)[chosen] for each in fields(self)})


def session_summary(predictions: SessionPredictions, thresholds: tuple[int, ...]) -> dict[str, float]:
    """Metrics over all sessions; the names are those of captures (`metrics.summary`), for regions of highest density.

    `coverage_1_sigma` and `coverage_2_sigma` are the shares of true places in the 39.3% and the 86.5% region; `rows` counts
    sessions. `nll` is in nats per session, for densities per m².
    """
    expected = float(predictions.expected_error_m.mean())
    return {
        **error_summary(predictions.error_m, thresholds),
        "nll": float(predictions.nll.mean()),
        "expected_error_m": expected,
        "calibration_error_m": abs(float(predictions.error_m.mean()) - expected),
        "coverage_1_sigma": float((predictions.level <= LEVELS[0]).mean()),
        "coverage_2_sigma": float((predictions.level <= LEVELS[1]).mean()),
        "area_86_mean_km2": float(predictions.area_km2.mean()),
        "area_86_median_km2": float(np.median(predictions.area_km2)),
    }


def measure_sessions(
    predictions: SessionPredictions, half_extent_m: float, receiver: Int64, snr_db: Float64, timestamp: Int64
) -> dict[str, Any]:
    """All metrics: those of `session_summary`; then by receiver that took part, by the strongest SNR, and by time.

    Args:
        predictions: at least one session.
        half_extent_m: of the region.
        receiver: (n, r) numbers of receivers that heard it, −1 where absent.
        snr_db: (n, r) of captures, NaN where unknown.
        timestamp: (n,) ns since 1970; negative where unknown.

    Raises:
        DataQualityError: when there is nothing to measure, or something is not a number.
    """
    if not len(predictions) or not np.isfinite(predictions.error_m).all() or not np.isfinite(predictions.nll).all():
        raise DataQualityError(
            f"{len(predictions)} sessions are located, {int((~np.isfinite(predictions.nll)).sum())} of them "
            "nowhere; numbers are wanted: "
            "choose a split that has sessions, or an earlier checkpoint"
        )
    thresholds = thresholds_m(half_extent_m)

    def group(chosen: npt.NDArray[Any]) -> dict[str, float]:
        return session_summary(predictions.select(chosen), thresholds)

    strongest = np.where(np.isnan(snr_db), -np.inf, snr_db).max(axis=1)
    strongest = np.where(np.isfinite(strongest), strongest, np.nan)
    return {
        **session_summary(predictions, thresholds),
        "by_receiver": {str(n): group((receiver == n).any(axis=1)) for n in np.unique(receiver[receiver >= 0]).tolist()},
        "by_snr": {name: group(rows) for name, rows in snr_bands(strongest)},
        "by_time": {name: group(rows) for name, rows in time_parts(timestamp)},
    }


def time_parts(timestamp: Int64) -> Iterator[tuple[str, npt.NDArray[np.int64]]]:
    """Names and sessions of parts of the time, in its order, each with about as many; none where times are not known."""
    known = np.flatnonzero(timestamp >= 0)
    order = known[np.argsort(timestamp[known], kind="stable")]
    for part in np.array_split(order, min(TIMES, len(order)) or 1):
        if len(part):
            first, last = (str(np.datetime64(int(timestamp[row]), "ns").astype("datetime64[D]")) for row in part[[0, -1]])
            yield f"{first} to {last}", part


def random_subsets(present: npt.NDArray[np.bool_], size: int, seed: int = 0) -> npt.NDArray[np.bool_]:
    """Masks (n, r) that leave `size` of the captures of each session, drawn at random; sessions with fewer are left empty.

    The subset of `size` is part of that of `size + 1`: what one more receiver does is seen on the same draw.
    """
    key = np.where(present, np.random.default_rng(seed).random(present.shape), np.inf)
    rank = key.argsort(axis=1).argsort(axis=1)
    return np.asarray(present & (rank < size) & (present.sum(axis=1) >= size)[:, None])
