"""A posterior of place: what is known of where one transmitter is, as a density on a grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
import numpy.typing as npt

from featurestore.errors import UsageError
from featurestore.place import density
from featurestore.place.grid import Grid

Float64 = npt.NDArray[np.float64]

LEVELS = (0.393, 0.865)
"""What ellipses of one and of two standard deviations hold of a Gaussian in two dimensions: 1 − exp(−k²/2)."""
RING_FLOOR = 50.0
"""Log densities this far below a contour are all the same to it; it keeps −inf out of interpolation."""


@dataclass(frozen=True, eq=False)
class Posterior:
    """A normalized density of place.

    Attributes:
        grid: where it is defined; nothing lies outside.
        log_density: (ny, nx) natural logarithm of the density per m²; it is normalized here, whatever constant it came with.

    Raises:
        UsageError: when the shape is not the grid's.
        DataQualityError: when it is zero everywhere, or holds NaN.
    """

    grid: Grid
    log_density: Float64

    def __post_init__(self) -> None:
        if self.log_density.shape != self.grid.shape:
            raise UsageError(f"a log density of shape {self.log_density.shape} does not fit its grid {self.grid.shape}")
        object.__setattr__(self, "log_density", density.normalize(self.log_density[None], self.grid.cell_m)[0])

    @classmethod
    def product(cls, grid: Grid, log_densities: Sequence[Float64]) -> Self:
        """What independent sources say together: (ny, nx) log densities or log likelihoods on one grid, added."""
        return cls(grid, np.sum(np.stack(log_densities), axis=0))

    @cached_property
    def masses(self) -> Float64:
        """(ny, nx) probability of each cell."""
        return np.asarray(density.masses(self.log_density[None], self.grid.cell_m).reshape(self.grid.shape))

    @cached_property
    def point_m(self) -> Float64:
        """(2,) the place of least expected distance (spatial median), metres east, north on the grid's plane."""
        return np.asarray(density.medians_m(self.log_density[None], self.grid)[0])

    @property
    def point(self) -> Float64:
        """(2,) the place of least expected distance, latitude and longitude in degrees."""
        return self.grid.plane.from_plane(self.point_m)

    @cached_property
    def covariance_m2(self) -> Float64:
        """(2, 2) covariance of east, north in m²."""
        return np.asarray(density.covariances_m2(self.log_density[None], self.grid)[0])

    def log_density_at(self, positions: Float64) -> Float64:
        """(n,) log density per m² at positions (n, 2) in degrees; −inf outside of the grid."""
        points = self.grid.plane.to_plane(positions)
        stack = np.broadcast_to(self.log_density, (len(points), *self.grid.shape))
        return density.log_densities_at(stack, self.grid, points)

    def level_at(self, position: Float64) -> float:
        """Mass of the region denser than a position (2,) in degrees; the 86.5% region holds it exactly if this is ≤ 0.865."""
        point = self.grid.plane.to_plane(position)[None]
        return float(density.levels_at(self.log_density[None], self.grid, point)[0])

    def area_km2(self, level: float) -> float:
        """Area of the region of highest density that holds `level`, such as 0.865."""
        return float(density.thresholds(self.log_density[None], self.grid.cell_m, level)[1][0]) / 1e6

    def contours(self, level: float) -> list[Float64]:
        """The border of the region that holds `level`: closed rings (k, 2) of latitude, longitude, first point = last.

        A ring may bound a hole. Where the region reaches the grid's edge the ring follows the edge.
        """
        return [self.grid.plane.from_plane(ring) for ring in self.contours_m(level)]

    def contours_m(self, level: float) -> list[Float64]:
        """`contours` as (k, 2) metres east, north."""
        from contourpy import LineType, contour_generator

        border = float(density.thresholds(self.log_density[None], self.grid.cell_m, level)[0][0])
        log = np.maximum(self.log_density, border - RING_FLOOR)
        cell, east, north = self.grid.cell_m, self.grid.east_m, self.grid.north_m
        # A rim just outside of the grid, below every contour, closes the rings that reach the edge.
        log = np.pad(log, 1, constant_values=border - RING_FLOOR)
        x = np.concatenate([[east[0] - cell / 2], east, [east[-1] + cell / 2]])
        y = np.concatenate([[north[0] - cell / 2], north, [north[-1] + cell / 2]])
        lines = contour_generator(x, y, log, line_type=LineType.Separate).lines(border - 1e-9)
        return [np.asarray(line) for line in lines if len(line) > 3]

    def bounds_m(self, level: float) -> tuple[Float64, Float64]:
        """Lowest and highest east, north (2,) of the cells in the region that holds `level`: where a finer grid belongs."""
        border, _ = density.thresholds(self.log_density[None], self.grid.cell_m, level)
        points = self.grid.points_m[self.log_density.ravel() >= border[0]]
        half = self.grid.cell_m / 2
        return points.min(axis=0) - half, points.max(axis=0) + half
