"""How good predictions are, in metres: errors, likelihood, calibration of σ, by receiver, by SNR."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from scipy.special import ellipe

from featurestore.errors import DataQualityError
from trainer.network.geometry import Float64, Region, geodesic_m

Int64 = npt.NDArray[np.int64]

NEAR_THRESHOLDS_M = (30, 50, 100)
FAR_THRESHOLDS_M = (1_000, 3_000, 10_000, 30_000, 100_000)
SNR_BAND_DB = 10


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
            shape = np.shape(getattr(self, field.name))
            if shape != expected:
                raise ValueError(f"{field.name} has shape {shape}, which must be {expected} as error_m has {count} rows")

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
        "by_snr": {name: summary(predictions.select(rows), thresholds) for name, rows in snr_bands(predictions.snr_db)},
    }


def summary(predictions: Predictions, thresholds: tuple[int, ...]) -> dict[str, float]:
    """Metrics over all rows: those of `error_summary`, and how well σ describes the errors.

    `nll` is in nats per row for densities in metres, comparable between regions of any size. `expected_error_m` is the mean
    error that σ predicts, `calibration_error_m` its distance from the mean error found. `coverage_1_sigma` and
    `coverage_2_sigma` are the shares of true positions in the ellipses of 1 and 2 σ: 39.3% and 86.5%, which are 1 − e^(−k²/2),
    when σ is right.
    """
    expected_m = float(expected_error_m(predictions.sigma_east_m, predictions.sigma_north_m).mean())
    squared = squared_deviations(predictions)
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
    return np.asarray(0.5 * squared_deviations(predictions) + volume + math.log(2 * math.pi))


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


def squared_deviations(predictions: Predictions) -> Float64:
    """(n,) squared errors in units of σ: those of a χ² distribution with 2 degrees of freedom when σ is right."""
    east = predictions.east_error_m / predictions.sigma_east_m
    north = predictions.north_error_m / predictions.sigma_north_m
    return np.asarray(east**2 + north**2)


def share_inside(predictions: Predictions, k: Float64) -> Float64:
    """The share of true positions in the ellipse of k σ, of each k; right is 1 − e^(−k²/2)."""
    deviation = np.sort(np.sqrt(squared_deviations(predictions)))
    return np.asarray(np.searchsorted(deviation, k, "right") / len(deviation))


def snr_bands(snr_db: Float64) -> Iterator[tuple[str, npt.NDArray[np.bool_]]]:
    """Names and rows of the bands that are not empty, the lowest first, then the rows whose SNR is not known."""
    known = np.isfinite(snr_db)
    lower = np.floor(snr_db / SNR_BAND_DB) * SNR_BAND_DB
    for edge in np.unique(lower[known]).astype(int).tolist():
        yield f"{edge} to {edge + SNR_BAND_DB} dB", lower == edge
    if not known.all():
        yield "unknown", ~known


def sample_evenly(count: int, wanted: int, seed: int = 0) -> Int64:
    """Indices of `wanted` of `count` rows, or of all when they are fewer, in ascending order: one drawn from each stretch.

    Not every m-th: the rows of a session lie together, one for each receiver, so that could be always the same receiver.
    """
    edges = np.arange(min(count, wanted) + 1) * count // max(1, min(count, wanted))
    drawn = np.random.default_rng(seed).random(len(edges) - 1) * np.diff(edges)
    return np.asarray(edges[:-1] + drawn.astype(np.int64))
