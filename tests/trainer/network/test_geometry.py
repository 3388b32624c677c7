"""The plane against pyproj's own topocentric pipeline and geodesics; the exported form against pyproj, in float32."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import Geod, Transformer

from featurestore.errors import DataQualityError, UsageError
from trainer.network.geometry import HORIZON_M, MAX_HALF_EXTENT_M, Float64, Region, geodesic_m

TORINO = np.array([[45.044, 7.672]])
unhurried = settings(deadline=None, max_examples=60)  # the first call of PROJ or torch can take seconds
GEOD = Geod(ellps="WGS84")
latitudes, longitudes = st.floats(-90, 90), st.floats(-180, 180)
centres = st.tuples(latitudes, longitudes)


def around(latitude: float, longitude: float, radius_m: float, count: int = 200, seed: int = 0) -> Float64:
    """Positions spread evenly over a disk, by geodesics."""
    generator = np.random.default_rng(seed)
    radius = radius_m * np.sqrt(generator.random(count))
    azimuth = generator.uniform(0, 360, count)
    found = GEOD.fwd(np.full(count, longitude), np.full(count, latitude), azimuth, radius)
    return np.stack([found[1], found[0]], axis=1)


@unhurried
@given(centres, st.integers(0, 1000))
def test_plane_is_the_topocentric_one_and_goes_back(centre: tuple[float, float], seed: int) -> None:
    region = Region(*centre, half_extent_m=300e3)
    positions = around(*centre, 500e3, seed=seed)
    plane = region.to_plane(positions)
    steps = f"+step +proj=cart +ellps=WGS84 +step +proj=topocentric +ellps=WGS84 +lat_0={centre[0]!r} +lon_0={centre[1]!r}"
    topocentric = Transformer.from_pipeline(f"+proj=pipeline {steps}")
    east, north, _ = topocentric.transform(positions[:, 1], positions[:, 0], np.zeros(len(positions)))
    np.testing.assert_allclose(plane, np.stack([east, north], axis=1), rtol=0, atol=1e-6)
    # Nanometres, except that PROJ takes a centre within 1e-10 rad (0.6 mm) of the equator to be on it.
    assert geodesic_m(region.from_plane(plane), positions).max() < 1e-3
    assert geodesic_m(region.decode(region.encode(positions)), positions).max() < 1e-3


@unhurried
@given(centres, st.floats(1e3, 300e3), st.integers(0, 1000))
def test_float32_torch_decodes_within_decimetres(centre: tuple[float, float], half_extent_m: float, seed: int) -> None:
    """The bound asked for is 0.5 m within 300 km, anywhere on Earth."""
    region = Region(*centre, half_extent_m=half_extent_m)
    positions = around(*centre, 300e3, seed=seed)
    units = torch.from_numpy(region.encode(positions))
    decoded = region.decode_torch(units.float())
    assert decoded.dtype == torch.float64
    assert geodesic_m(decoded.numpy(), positions).max() < 0.15
    assert geodesic_m(region.decode_torch(units).numpy(), positions).max() < 1e-4  # in float64 the same closed form is exact


def test_torch_draws_back_what_lies_beyond_the_horizon() -> None:
    region = Region(45.0, 7.0, half_extent_m=100e3)
    units = np.array([[0.0, 0.0], [1e4, -2e4], [0.0, 70.0], [-1e12, 1.0]])
    decoded = region.decode_torch(torch.from_numpy(units)).numpy()
    assert np.isfinite(decoded).all()
    np.testing.assert_array_equal(decoded[0], [45.0, 7.0])
    assert geodesic_m(decoded, region.decode(units)).max() < 1e-3
    assert np.isfinite(region.decode_torch(torch.from_numpy(units).float()).numpy()).all()


def test_exported_program_computes_the_same() -> None:
    region = Region(44.9, 179.99, half_extent_m=150e3)

    class Decoder(torch.nn.Module):
        def forward(self, units: torch.Tensor) -> torch.Tensor:
            return region.decode_torch(units)

    units = torch.rand(5, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1
    batch = {0: torch.export.Dim.DYNAMIC}
    program = torch.export.export(Decoder(), (units,), dynamic_shapes=(batch,))
    more = torch.cat([units, -units])
    decoded = program.module()(more)
    torch.testing.assert_close(decoded, region.decode_torch(more), rtol=0, atol=0)
    assert (decoded[:, 1].abs() <= 180).all()
    assert decoded[:, 1].min() < -178  # the region does straddle the antimeridian


def test_beyond_the_horizon_is_drawn_back_along_its_direction() -> None:
    region = Region(0.0, 0.0, half_extent_m=1.0)
    far = region.from_plane(np.array([[1e9, 0.0], [3e300, 0.0], [np.inf, 0.0]]))
    np.testing.assert_allclose(far[:2], np.repeat(region.from_plane(np.array([[HORIZON_M, 0.0]])), 2, axis=0), atol=1e-6)
    assert np.isnan(far[2]).all()


@unhurried
@given(centres, st.floats(0, 1_500e3), st.integers(0, 1000), st.floats(0, 0.5))
def test_targets_lie_within_one(centre: tuple[float, float], radius_m: float, seed: int, margin: float) -> None:
    positions = around(*centre, radius_m, count=20, seed=seed)
    region = Region.around(positions, margin=margin)
    units = region.encode(positions)
    assert np.abs(units).max() <= 1 + 1e-12
    assert region.half_extent_m >= 1000
    if radius_m > 10e3:
        assert np.abs(units).max() == pytest.approx(1 / (1 + margin), rel=1e-6)  # and they use the range


def test_region_straddles_the_antimeridian() -> None:
    region = Region.around(np.array([[-17.0, 179.0], [-18.0, -179.0], [-17.5, 180.0]]))
    assert abs(region.longitude) > 179.9
    assert region.half_extent_m == pytest.approx(1.05 * 107e3, rel=0.02)
    decoded = region.decode(np.array([[-0.9, 0.0], [0.9, 0.0]]))
    assert decoded[0, 1] > 178
    assert decoded[1, 1] < -178


def test_centre_is_the_middle_of_the_extent_whatever_the_density() -> None:
    crowd = np.repeat(around(45.0, 7.0, 5e3, count=50), 20, axis=0)
    region = Region.around(np.concatenate([crowd, [[45.0, 9.0], [np.nan, 9.0], [45.0, np.nan]]]))
    assert region.longitude == pytest.approx(8.0, abs=0.05)


def test_one_site_has_the_least_extent() -> None:
    region = Region.around(np.repeat(TORINO, 5, axis=0))
    assert region.half_extent_m == 1000
    np.testing.assert_allclose(region.encode(TORINO), 0, atol=1e-9)


def test_nan_stays_nan_in_its_row() -> None:
    region = Region.around(TORINO)
    plane = region.to_plane(np.array([[np.nan, 7.0], TORINO[0]]))
    assert np.isnan(plane[0]).all()
    assert np.isfinite(plane[1]).all()
    assert np.isnan(region.decode(plane)[0]).all()
    assert region.encode(np.empty((0, 2))).shape == region.decode(np.empty((0, 2))).shape == (0, 2)


@pytest.mark.parametrize(
    ("positions", "error", "message"),
    [
        (np.empty((0, 2)), DataQualityError, "found none among 0 rows"),
        (np.full((4, 2), np.nan), DataQualityError, "found none among 4 rows"),
        (np.zeros(4), UsageError, r"shape \(4,\); it must be \(n, 2\)"),
        (np.array([[45.0, 7.0], [7.0, 245.0]]), DataQualityError, "1 of 2 positions are not on Earth, .* longitude 245"),
        (np.array([[45.0, 7.0], [-45.0, -70.0]]), DataQualityError, "one plane holds at most 2000 km"),
        (np.array([[0.0, 0.0], [0.0, 180.0]]), DataQualityError, "one plane holds at most 2000 km"),
    ],
)
def test_errors_name_what_was_found(positions: Float64, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Region.around(positions)


def test_position_beyond_the_horizon_is_named() -> None:
    with pytest.raises(DataQualityError, match=r"1 of 2 positions, the first at -33.000, 151.000 \(row 1\)"):
        Region.around(TORINO).to_plane(np.array([TORINO[0], [-33.0, 151.0]]))


@pytest.mark.parametrize(
    "values", [(91, 0, 1), (0, 181, 1), (0, 0, 0), (0, 0, np.nan), (0, 0, np.inf), ("45", 0, 1), (True, 0, 1)]
)
def test_impossible_regions_are_refused(values: tuple[float, float, float]) -> None:
    with pytest.raises(UsageError, match="the region's "):
        Region(*values)


def test_margin_is_checked() -> None:
    with pytest.raises(UsageError, match="margin is -1"):
        Region.around(TORINO, margin=-1)


@unhurried
@given(centres, st.floats(1, MAX_HALF_EXTENT_M))
def test_json_goes_back(centre: tuple[float, float], half_extent_m: float) -> None:
    region = Region(*centre, half_extent_m=half_extent_m)
    assert Region.from_json(json.loads(json.dumps(region.to_json())), "last.ckpt") == region


def test_json_of_another_version_is_refused() -> None:
    with pytest.raises(UsageError, match=r"last\.ckpt holds no region .* fields half_extent_m, scale differ"):
        Region.from_json({"latitude": 0, "longitude": 0, "scale": 1}, "last.ckpt")


@unhurried
@given(centres, st.floats(1, 1_000e3), st.floats(0, 360))
def test_geodesic_agrees_with_the_direct_problem(centre: tuple[float, float], distance_m: float, azimuth: float) -> None:
    longitude, latitude, _ = GEOD.fwd(centre[1], centre[0], azimuth, distance_m)
    found = geodesic_m(np.array([centre]), np.array([[latitude, longitude]]))
    assert found == pytest.approx(distance_m, abs=1e-5)


def test_geodesic_is_vectorized_and_known() -> None:
    """A quarter meridian of WGS84 is 10 001 965.729 m; one degree of the equator is a·π/180."""
    found = geodesic_m(np.array([[0.0, 0.0], [0.0, 0.0], [np.nan, 0.0]]), np.array([[90.0, 0.0], [0.0, 1.0], [0.0, 0.0]]))
    np.testing.assert_allclose(found[:2], [10_001_965.729, 6_378_137 * np.pi / 180], atol=1e-3)
    assert np.isnan(found[2])
    assert geodesic_m(TORINO[0], np.repeat(TORINO, 3, axis=0)).tolist() == [0, 0, 0]
