"""A plane of east and north metres round a point on Earth, and a grid of square cells on it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
import numpy.typing as npt

from featurestore.errors import UsageError
from featurestore.place.geodesic import direct, inverse

Float64 = npt.NDArray[np.float64]

MAX_CELLS = 4_000_000
"""Of one grid: a log density of 32 MB. A finer look at a smaller place is a second grid."""
MAX_EXTENT_M = 10_000_000.0
"""A quarter of the way round the Earth: farther out an azimuthal plane enlarges areas by more than half."""


@dataclass(frozen=True)
class Plane:
    """The azimuthal equidistant projection of the ellipsoid: distance and direction from the centre are true.

    Areas are too large by (r/R)² / 6 at the distance r from the centre: 0.1% at 500 km.

    Attributes:
        latitude: of the centre, WGS84 degrees.
        longitude: likewise.
    """

    latitude: float
    longitude: float

    def __post_init__(self) -> None:
        for name, limit in (("latitude", 90.0), ("longitude", 180.0)):
            value = float(getattr(self, name))
            if not abs(value) <= limit:
                raise UsageError(f"the plane's {name} is {value}; expected one from {-limit:g} to {limit:g}")
            object.__setattr__(self, name, value)

    @property
    def centre(self) -> Float64:
        """(2,) latitude, longitude."""
        return np.array([self.latitude, self.longitude])

    def to_plane(self, position: Float64) -> Float64:
        """(..., 2) latitude, longitude in degrees → (..., 2) metres east, north."""
        metres, azimuth = inverse(self.centre, np.asarray(position, np.float64))
        return np.stack([metres * np.sin(azimuth), metres * np.cos(azimuth)], axis=-1)

    def from_plane(self, plane: Float64) -> Float64:
        """(..., 2) metres east, north → (..., 2) latitude, longitude in degrees; `to_plane` backwards."""
        east, north = np.moveaxis(np.asarray(plane, np.float64), -1, 0)
        return direct(self.centre, np.hypot(east, north), np.arctan2(east, north))


@dataclass(frozen=True, eq=False)
class Grid:
    """Square cells on a plane, rows from south to north.

    Attributes:
        plane: where its metres count from.
        east_m: (nx,) centres of the columns, ascending, `cell_m` apart.
        north_m: (ny,) centres of the rows, likewise.
        cell_m: side of a cell.
    """

    plane: Plane
    east_m: Float64
    north_m: Float64
    cell_m: float

    def __post_init__(self) -> None:
        for name in ("east_m", "north_m"):
            axis = getattr(self, name)
            if axis.ndim != 1 or len(axis) < 2 or not np.allclose(np.diff(axis), self.cell_m, rtol=1e-6):
                raise UsageError(f"the grid's {name} has shape {axis.shape}; expected at least 2 centres {self.cell_m} m apart")

    @classmethod
    def around(cls, positions: Float64, cell_km: float, margin_km: float = 0.0) -> Self:
        """The grid that holds all positions with a margin on every side.

        Args:
            positions: (n, 2) latitude, longitude in degrees.
            cell_km: side of a cell.
            margin_km: how far it reaches beyond the outermost positions.

        Raises:
            UsageError: when there is no position, one is not on Earth, or the grid had too many cells.
        """
        given = np.asarray(positions, np.float64)
        if given.ndim != 2 or given.shape[1:] != (2,) or not len(given):
            raise UsageError(f"a grid needs positions (n, 2) of latitude and longitude; found shape {given.shape}")
        if not (np.abs(given) <= (90, 180)).all():
            row = int(np.flatnonzero(~(np.abs(given) <= (90, 180)).all(axis=1))[0])
            raise UsageError(f"position {row}, {given[row, 0]}, {given[row, 1]}, is not on Earth; expected degrees of WGS84")
        plane = Plane(*_mean_direction(given))
        metres = plane.to_plane(given)
        plane = Plane(*plane.from_plane((metres.min(axis=0) + metres.max(axis=0)) / 2))
        reach = np.abs(plane.to_plane(given)).max(axis=0) + margin_km * 1e3
        return cls.within(plane, -reach, reach, cell_km * 1e3)

    @classmethod
    def within(cls, plane: Plane, low_m: Float64, high_m: Float64, cell_m: float) -> Self:
        """The grid whose cells cover the rectangle from `low_m` to `high_m`, (2,) metres east, north, with its middle theirs.

        Raises:
            UsageError: when it had too many cells, or reached round the Earth.
        """
        middle, extent = (low_m + high_m) / 2, np.maximum(high_m - low_m, 0.0)
        if not (cell_m > 0 and np.isfinite(extent).all() and extent.max() <= 2 * MAX_EXTENT_M):
            raise UsageError(
                f"a grid of {extent.max() / 1e3:,.0f} km with cells of {cell_m / 1e3:g} km is not possible; "
                f"expected cells above 0 and at most {2 * MAX_EXTENT_M / 1e3:,.0f} km"
            )
        n_east, n_north = (max(2, math.ceil(length / cell_m - 1e-9)) for length in extent)
        if n_east * n_north > MAX_CELLS:
            raise UsageError(
                f"a grid of {n_east:,} × {n_north:,} cells is too fine, expected at most {MAX_CELLS:,} cells; "
                f"give cells larger than {cell_m / 1e3:g} km or a smaller margin"
            )
        east, north = ((np.arange(n) - (n - 1) / 2) * cell_m for n in (n_east, n_north))
        return cls(plane, middle[0] + east, middle[1] + north, float(cell_m))

    @property
    def shape(self) -> tuple[int, int]:
        """Rows, columns: (ny, nx)."""
        return len(self.north_m), len(self.east_m)

    @property
    def low_m(self) -> Float64:
        """(2,) its western and southern border."""
        return np.array([self.east_m[0], self.north_m[0]]) - self.cell_m / 2

    @property
    def high_m(self) -> Float64:
        """(2,) its eastern and northern border."""
        return np.array([self.east_m[-1], self.north_m[-1]]) + self.cell_m / 2

    @cached_property
    def points_m(self) -> Float64:
        """(ny·nx, 2) centres of the cells, metres east and north, row after row."""
        east, north = np.meshgrid(self.east_m, self.north_m)
        return np.stack([east.ravel(), north.ravel()], axis=1)

    @cached_property
    def degrees(self) -> Float64:
        """(ny·nx, 2) centres of the cells, latitude and longitude."""
        return self.plane.from_plane(self.points_m)

    def cells_of(self, points_m: Float64) -> Float64:
        """Points (..., 2) of metres east, north as fractional indices (..., 2) of row, column; centres are whole numbers."""
        points = np.asarray(points_m, np.float64)
        row = (points[..., 1] - self.north_m[0]) / self.cell_m
        column = (points[..., 0] - self.east_m[0]) / self.cell_m
        return np.stack([row, column], axis=-1)


def _mean_direction(positions: Float64) -> tuple[float, float]:
    """Latitude and longitude of the mean of unit vectors, so that ±180° is no border."""
    latitude, longitude = np.deg2rad(positions).T
    x, y, z = (np.cos(latitude) * np.cos(longitude)).sum(), (np.cos(latitude) * np.sin(longitude)).sum(), np.sin(latitude).sum()
    return math.degrees(math.atan2(z, math.hypot(x, y))), math.degrees(math.atan2(y, x))
