"""Distances on the ellipsoid against PROJ's geodesics (Karney)."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pyproj import Geod

from featurestore.place.geodesic import direct, distance_m, inverse

WGS84 = Geod(ellps="WGS84")
POSITIONS = st.tuples(st.floats(-89.9, 89.9), st.floats(-180, 180)).map(np.array)


@given(POSITIONS, POSITIONS)
def test_distance_and_azimuth_agree_with_proj(here: np.ndarray, there: np.ndarray) -> None:
    azimuth, _, metres = WGS84.inv(here[1], here[0], there[1], there[0])
    found, direction = inverse(here, there)
    if metres > 19_500_000:  # almost opposite: a sphere's distance
        assert abs(found - metres) < 0.006 * metres
        return
    assert abs(found - metres) < 1e-3
    if metres > 1:
        assert abs((np.rad2deg(direction) - azimuth + 180) % 360 - 180) * np.deg2rad(1) * min(metres, 6e6) < 2e-3


@given(POSITIONS, st.floats(0, 15_000_000), st.floats(-np.pi, np.pi))
def test_direct_agrees_with_proj(here: np.ndarray, metres: float, azimuth: float) -> None:
    longitude, latitude, _ = WGS84.fwd(here[1], here[0], np.rad2deg(azimuth), metres)
    found = direct(here, np.array(metres), np.array(azimuth))
    assert float(distance_m(found, np.array([latitude, longitude]))) < 1e-3


def test_arrays_broadcast_and_a_point_is_no_distance_from_itself() -> None:
    here = np.array([[50.0, 9.0], [51.0, 10.0]])
    table = distance_m(here[:, None], here[None])
    assert table.shape == (2, 2)
    assert table[0, 0] == table[1, 1] == 0
    assert abs(table[0, 1] - table[1, 0]) < 1e-6
    assert np.isfinite(distance_m(np.array([0.0, 0.0]), np.array([0.0, 30.0])))  # along the equator cos²α is zero


@given(arrays(np.float64, (4, 2), elements=st.floats(-60, 60)))
def test_one_call_for_many_is_the_same_as_many_calls(positions: np.ndarray) -> None:
    together = distance_m(positions[:, None], positions[None])
    apart = [[float(distance_m(a, b)) for b in positions] for a in positions]
    np.testing.assert_allclose(together, apart, atol=2e-3)
