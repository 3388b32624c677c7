"""Planes and grids: true distances from the centre, every position inside, errors in words."""

from __future__ import annotations

import numpy as np
import pytest
from pyproj import Transformer

from featurestore.errors import UsageError
from featurestore.place.grid import Grid, Plane


def test_plane_is_the_azimuthal_equidistant_one_of_proj() -> None:
    plane = Plane(48.0, 10.0)
    rng = np.random.default_rng(1)
    positions = np.stack([48 + rng.uniform(-8, 8, 200), 10 + rng.uniform(-12, 12, 200)], axis=1)
    proj = Transformer.from_crs("EPSG:4326", "+proj=aeqd +lat_0=48 +lon_0=10 +ellps=WGS84", always_xy=False)
    east, north = proj.transform(*positions.T)
    found = plane.to_plane(positions)
    np.testing.assert_allclose(found, np.stack([east, north], axis=1), atol=0.01)
    np.testing.assert_allclose(plane.from_plane(found), positions, atol=1e-9)


def test_grid_around_holds_every_position_with_its_margin_across_the_date_line() -> None:
    positions = np.array([[-17.5, 179.2], [-18.0, -179.4], [-16.9, 178.9]])
    grid = Grid.around(positions, cell_km=5, margin_km=40)
    metres = grid.plane.to_plane(positions)
    assert abs(grid.plane.longitude) > 178
    for axis, values in ((0, grid.east_m), (1, grid.north_m)):
        assert values[0] - 2500 <= metres[:, axis].min() - 39_900
        assert values[-1] + 2500 >= metres[:, axis].max() + 39_900
        np.testing.assert_allclose(np.diff(values), 5000)
    assert grid.points_m.shape == grid.degrees.shape == (np.prod(grid.shape), 2)
    np.testing.assert_allclose(grid.plane.to_plane(grid.degrees), grid.points_m, atol=0.01)
    # Row after row, west to east: the second point is one cell to the east of the first.
    np.testing.assert_allclose(grid.points_m[1] - grid.points_m[0], [5000, 0])
    np.testing.assert_allclose(grid.cells_of(grid.points_m[grid.shape[1] + 2]), [1, 2], atol=1e-9)


@pytest.mark.parametrize(
    ("positions", "cell_km", "message"),
    [
        (np.zeros((0, 2)), 1.0, "needs positions"),
        (np.array([[91.0, 0.0]]), 1.0, "position 0, 91.0, 0.0, is not on Earth"),
        (np.array([[0.0, np.nan]]), 1.0, "is not on Earth"),
        (np.array([[45.0, 7.0], [46.0, 9.0]]), 0.01, "too fine"),
        (np.array([[45.0, 7.0], [46.0, 9.0]]), 0.0, "cells above 0"),
    ],
)
def test_what_cannot_be_a_grid_is_refused_in_words(positions: np.ndarray, cell_km: float, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Grid.around(positions, cell_km, margin_km=10)


def test_axes_must_fit_the_cell() -> None:
    with pytest.raises(UsageError, match="north_m"):
        Grid(Plane(45, 7), np.array([0.0, 10, 20]), np.array([0.0, 11, 22]), 10.0)
    with pytest.raises(UsageError, match="latitude is 95"):
        Plane(95, 7)
