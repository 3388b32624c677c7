"""How good predictions are, in metres: errors, likelihood, calibration of σ, by receiver, by SNR; and baselines beside them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from scipy.special import ellipe

from featurestore.errors import DataQualityError, UsageError
from trainer.geometry import Float64, Region, geodesic_m

Int64 = npt.NDArray[np.int64]

NEAR_THRESHOLDS_M = (30, 50, 100)
FAR_THRESHOLDS_M = (1_000, 3_000, 10_000, 30_000, 100_000)
SNR_BAND_DB = 10
BLOCK_BYTES = 64 * 2**20
"""Memory for one block of float32 features in `k_nearest`, which needs about five times as much at most."""


@dataclass(frozen=True)
class Predictions:
    """One row for each prediction, all in float64 except the receiver.

    Attributes:
        position_true: (n, 2) latitude, longitude in degrees.
        position: (n, 2) predicted, likewise.
        error_m: (n,) geodesic between the two.
        east_error_m: (n,) predicted less true, on the region's plane.
        north_error_m: (n,) likewise.
        sigma_east_m: (n,) predicted standard deviation, above 0.
        sigma_north_m: (n,) likewise.
        websdr_id: (n,) int64, the receiver.
        snr_db: (n,) NaN where unknown.

    Raises:
        ValueError: when the arrays differ in length.
    """

    position_true: Float64
    position: Float64
    error_m: Float64
    east_error_m: Float64
    north_error_m: Float64
    sigma_east_m: Float64
    sigma_north_m: Float64
    websdr_id: Int64
    snr_db: Float64

    def __post_init__(self) -> None:
        count = len(self.error_m)
        for field in fields(self):
            expected = (count, 2) if field.name.startswith("position") else (count,)
            found = np.shape(getattr(self, field.name))
            if found != expected:
                raise ValueError(f"{field.name} has shape {found}, which must be {expected} as error_m has {count} rows")

    @classmethod
    def from_outputs(
        cls, region: Region, outputs: Float64, position_true: Float64, websdr_id: Int64, snr_db: npt.NDArray[np.floating]
    ) -> Self:
        """What the network's outputs, (n, 4) in units of the half-extent, mean on the ground."""
        wide = np.asarray(outputs, dtype=np.float64)
        position = region.decode(wide[:, :2])
        # The plane's own difference, not that of the position drawn back from beyond the horizon: σ speaks of this one.
        difference = (wide[:, :2] - region.encode(position_true)) * region.half_extent_m  # (row, axis)
        sigma = wide[:, 2:] * region.half_extent_m
        return cls(
            position_true=np.asarray(position_true, dtype=np.float64),
            position=position,
            error_m=geodesic_m(position_true, position),
            east_error_m=difference[:, 0],
            north_error_m=difference[:, 1],
            sigma_east_m=sigma[:, 0],
            sigma_north_m=sigma[:, 1],
            websdr_id=np.asarray(websdr_id, dtype=np.int64),
            snr_db=np.asarray(snr_db, dtype=np.float64),
        )

    def __len__(self) -> int:
        return len(self.error_m)

    def select(self, rows: npt.NDArray[np.bool_]) -> Self:
        """Those rows only."""
        return type(self)(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    @property
    def finite(self) -> npt.NDArray[np.bool_]:
        """(n,) whether everything that is measured is a number, and σ above 0."""
        columns = (self.error_m, self.east_error_m, self.north_error_m, self.sigma_east_m, self.sigma_north_m)
        usable: npt.NDArray[np.bool_] = np.isfinite(columns).all(axis=0) & (self.sigma_east_m > 0) & (self.sigma_north_m > 0)
        return usable


def measure(predictions: Predictions, half_extent_m: float) -> dict[str, Any]:
    """All metrics: those of `summary`, then the same under `by_receiver` (id) and `by_snr` (band such as "10 to 20 dB").

    Args:
        predictions: at least one row, everything finite but `snr_db`.
        half_extent_m: of the region; only thresholds below it tell anything.

    Raises:
        DataQualityError: when there is nothing to measure, or something is not a number.
    """
    if not len(predictions):
        raise DataQualityError("there are no predictions to measure; choose a split that has rows")
    bad = np.flatnonzero(~predictions.finite)
    if len(bad):
        raise DataQualityError(
            f"{len(bad)} of {len(predictions)} predictions, the first at row {bad[0]}, are not finite or have σ ≤ 0; numbers "
            "are wanted: the training diverged, use an earlier checkpoint"
        )
    thresholds = thresholds_m(half_extent_m)
    receivers = {str(number): predictions.websdr_id == number for number in np.unique(predictions.websdr_id)}
    return {
        **summary(predictions, thresholds),
        "by_receiver": {name: summary(predictions.select(rows), thresholds) for name, rows in receivers.items()},
        "by_snr": {name: summary(predictions.select(rows), thresholds) for name, rows in _snr_bands(predictions.snr_db)},
    }


def summary(predictions: Predictions, thresholds: tuple[int, ...]) -> dict[str, float]:
    """Metrics over all rows: those of `error_summary`, and how well σ describes the errors.

    `nll` is in nats per row for densities in metres, comparable between regions of any size. `expected_error_m` is the mean
    error that σ predicts, `calibration_error_m` its distance from the mean error found. `coverage_1_sigma` and
    `coverage_2_sigma` are the shares of true positions in the ellipses of 1 and 2 σ: 39.3% and 86.5%, which are 1 − e^(−k²/2),
    when σ is right.
    """
    expected_m = float(expected_error_m(predictions.sigma_east_m, predictions.sigma_north_m).mean())
    squared = _squared_deviations(predictions)
    return {
        **error_summary(predictions.error_m, thresholds),
        "nll": float(nll(predictions).mean()),
        "expected_error_m": expected_m,
        "calibration_error_m": abs(float(predictions.error_m.mean()) - expected_m),
        "coverage_1_sigma": float((squared <= 1).mean()),
        "coverage_2_sigma": float((squared <= 4).mean()),
    }


def error_summary(error_m: Float64, thresholds: tuple[int, ...]) -> dict[str, float]:
    """Metrics of the errors alone, which baselines have too: `rows`, mean, quantiles, and the shares within thresholds.

    Args:
        error_m: (n,), n at least 1.
        thresholds: in metres, as `thresholds_m` gives them.
    """
    median, p68, p90, p95 = np.quantile(error_m, [0.5, 0.68, 0.9, 0.95]).tolist()
    within = {f"within_{threshold_name(limit)}": float((error_m <= limit).mean()) for limit in thresholds}
    mean = float(error_m.mean())
    return {
        "rows": len(error_m),
        "error_mean_m": mean,
        "error_median_m": median,
        "error_p68_m": p68,
        "error_p90_m": p90,
        "error_p95_m": p95,
        **within,
    }


def thresholds_m(half_extent_m: float) -> tuple[int, ...]:
    """30, 50 and 100 m, and those of 1, 3, 10, 30 and 100 km that lie below the half-extent: beyond it, most guesses count."""
    return NEAR_THRESHOLDS_M + tuple(limit for limit in FAR_THRESHOLDS_M if limit < half_extent_m)


def threshold_name(limit_m: int) -> str:
    """`100_m`, `3_km`."""
    return f"{limit_m // 1000}_km" if limit_m >= 1000 else f"{limit_m}_m"


def nll(predictions: Predictions) -> Float64:
    """(n,) negative log-likelihood of the true positions in nats, for densities per square metre."""
    volume = np.log(predictions.sigma_east_m) + np.log(predictions.sigma_north_m)
    return np.asarray(0.5 * _squared_deviations(predictions) + volume + math.log(2 * math.pi))


def expected_error_m(sigma_east_m: Float64, sigma_north_m: Float64) -> Float64:
    """(n,) the mean length of a 2-D Gaussian vector with these standard deviations.

    A Gaussian vector is R·(s cos θ, t sin θ) with θ uniform and R of the Rayleigh distribution, whose mean is √(π/2). The mean
    of √(s² cos² θ + t² sin² θ) over θ is the circumference of the ellipse over 2π, 4·s·E(m)/2π with m = 1 − t²/s², s ≥ t and E
    the complete elliptic integral of the second kind (Abramowitz & Stegun 17.3.3). Together: √(2/π)·s·E(m); s = t gives
    s·√(π/2), and t = 0 the half-normal's s·√(2/π).
    """
    longer, shorter = np.maximum(sigma_east_m, sigma_north_m), np.minimum(sigma_east_m, sigma_north_m)
    ratio = np.divide(shorter, longer, out=np.ones_like(longer), where=longer > 0)
    return np.asarray(math.sqrt(2 / math.pi) * longer * ellipe(1 - ratio**2))


def predict_the_mean(train_positions: Float64, true: Float64) -> Float64:
    """Errors in metres, (n,), of always predicting the mean of the training positions: what knowing nothing achieves.

    Args:
        train_positions: (m, 2) latitude, longitude in degrees.
        true: (n, 2) likewise.
    """
    region = Region.around(train_positions)
    # On the plane, because the mean of longitudes is wrong across the antimeridian.
    mean = np.nanmean(region.to_plane(train_positions), axis=0, keepdims=True)
    return geodesic_m(region.from_plane(mean), true)


def k_nearest(
    train_features: npt.NDArray[np.floating],
    train_positions: Float64,
    features: npt.NDArray[np.floating],
    k: int,
    block_bytes: int = BLOCK_BYTES,
) -> Float64:
    """Positions predicted as the mean of those of the k training rows whose features are nearest (Euclidean).

    Exact search in float32 by blocks: features may be memory-mapped, and of any size. Of equally near rows the earlier win.

    Args:
        train_features: (m, …) of any float type.
        train_positions: (m, 2) latitude, longitude in degrees.
        features: (n, …) with the same trailing shape.
        k: neighbours, from 1 to m.
        block_bytes: memory for a block of features.

    Returns:
        (n, 2) latitude, longitude in degrees; errors are `geodesic_m` of these and the true ones.

    Raises:
        UsageError: when k is out of range.
        ValueError: when shapes do not fit.
    """
    if len(train_positions) != len(train_features) or train_features.shape[1:] != features.shape[1:]:
        raise ValueError(
            f"train_features {train_features.shape}, train_positions {train_positions.shape} and features {features.shape} do "
            "not fit: rows of the first two, and all other axes of the features, must be equal"
        )
    if not 1 <= k <= len(train_features):
        raise UsageError(f"k is {k}; it must lie between 1 and the number of training rows, {len(train_features)}")
    region = Region.around(train_positions)
    plane = region.to_plane(train_positions)  # (row, axis)
    neighbours = [_nearest(block, train_features, k, block_bytes) for block in _blocks(features, block_bytes)]
    rows = np.concatenate([*neighbours, np.empty((0, k), np.int64)])
    return region.from_plane(plane[rows].mean(axis=1))


def _nearest(
    queries: npt.NDArray[np.float32], train_features: npt.NDArray[np.floating], k: int, block_bytes: int
) -> npt.NDArray[np.int64]:
    """(query, k) rows of the nearest, nearest first."""
    best = np.empty((len(queries), 0), np.float32)  # squared distance, less the query's own square: the same order
    rows = np.empty((len(queries), 0), np.int64)
    start = 0
    for block in _blocks(train_features, block_bytes):
        distance = np.einsum("ij,ij->i", block, block) - 2 * (queries @ block.T)  # (query, train row)
        best = np.concatenate([best, distance], axis=1)
        found = np.broadcast_to(np.arange(start, start + len(block)), distance.shape)
        rows = np.concatenate([rows, found], axis=1)
        order = np.argsort(best, axis=1, kind="stable")[:, :k]
        best, rows = np.take_along_axis(best, order, axis=1), np.take_along_axis(rows, order, axis=1)
        start += len(block)
    return rows


def _blocks(features: npt.NDArray[np.floating], block_bytes: int) -> Iterator[npt.NDArray[np.float32]]:
    """(row, feature) in float32, as many rows at a time as fit."""
    width = math.prod(features.shape[1:])
    # Of narrow features that would be so many rows that the matrix of distances outgrows the blocks: it gets a quarter.
    count = max(1, min(block_bytes // (4 * max(width, 1)), math.isqrt(block_bytes // 16)))
    for start in range(0, len(features), count):
        yield np.asarray(features[start : start + count], dtype=np.float32).reshape(-1, width)


def _squared_deviations(predictions: Predictions) -> Float64:
    """(n,) squared errors in units of σ: those of a χ² distribution with 2 degrees of freedom when σ is right."""
    east = predictions.east_error_m / predictions.sigma_east_m
    north = predictions.north_error_m / predictions.sigma_north_m
    return np.asarray(east**2 + north**2)


def _snr_bands(snr_db: Float64) -> Iterator[tuple[str, npt.NDArray[np.bool_]]]:
    """Names and rows of the bands that are not empty, the lowest first, then the rows whose SNR is not known."""
    known = np.isfinite(snr_db)
    lower = np.floor(snr_db / SNR_BAND_DB) * SNR_BAND_DB
    for edge in np.unique(lower[known]).astype(int).tolist():
        yield f"{edge} to {edge + SNR_BAND_DB} dB", lower == edge
    if not known.all():
        yield "unknown", ~known
