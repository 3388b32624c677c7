"""Between degrees and what the network predicts: metres on one plane that touches the Earth in the middle of the region.

The plane is the topocentric one (east, north; EPSG methods 9837 and 9840, in PROJ the ellipsoidal `ortho`), not azimuthal
equidistant: a position on the ellipsoid has an exact closed form in it, so that the exported network computes the very
function that pyproj computes here, without series or iteration. The price is foreshortening along the radius, 1 − cos(r/R):
0.03% at 150 km, 0.11% at 300 km, far below any error of position; errors are geodesics (`geodesic_m`) in any case.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt
from pyproj import Geod, Transformer

from featurestore.errors import DataQualityError, UsageError
from featurestore.tensor.spec import differing_fields

if TYPE_CHECKING:
    import torch

Float64 = npt.NDArray[np.float64]

WGS84 = Geod(ellps="WGS84")
AXIS_M = WGS84.a
"""Equatorial radius a."""
ECCENTRICITY_SQUARED = WGS84.es
MARGIN = 0.05
"""Share by which the plane reaches beyond the farthest training position."""
MIN_HALF_EXTENT_M = 1000.0
"""One single site has no extent; this is about how far an aerial's noted position is ever off, with room."""
MAX_HALF_EXTENT_M = 2_000_000.0
"""Beyond it the corners (2828 km) are foreshortened by more than 10%, and no plane is a fair picture."""
HORIZON_M = 6_300_000.0
"""The plane ends at the polar radius, 6357 km; what lies farther out has no position on Earth."""


@dataclass(frozen=True)
class Region:
    """A tangent plane and its unit.

    Attributes:
        latitude: of the point where the plane touches, WGS84 degrees.
        longitude: likewise.
        half_extent_m: metres that make one unit of the network's targets.

    Raises:
        UsageError: when a value is impossible; the message names it.
    """

    latitude: float
    longitude: float
    half_extent_m: float

    def __post_init__(self) -> None:
        for name, low, high in (
            ("latitude", -90.0, 90.0),
            ("longitude", -180.0, 180.0),
            ("half_extent_m", 1e-3, HORIZON_M),
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
                raise UsageError(f"the region's {name} is {value!r}; it must be a number from {low:g} to {high:g}")
            object.__setattr__(self, name, float(value))

    @classmethod
    def around(cls, positions: Float64, margin: float = MARGIN, min_half_extent_m: float = MIN_HALF_EXTENT_M) -> Self:
        """The region whose square holds all positions, with the midpoint of their extent at its centre.

        Args:
            positions: (n, 2) float64 latitude, longitude in degrees; rows with NaN are ignored.
            margin: share of the half-extent to add on every side.
            min_half_extent_m: half-extent when all positions lie closer together.

        Raises:
            UsageError: when an argument is not usable.
            DataQualityError: when there is no position, one is not on Earth, or they lie too far apart for one plane.
        """
        if not (math.isfinite(margin) and margin >= 0):
            raise UsageError(f"the region's margin is {margin}; it must be a share of at least 0, such as {MARGIN}")
        given = _pairs(positions, "positions")
        known = given[~np.isnan(given).any(axis=1)]
        if not len(known):
            raise DataQualityError(
                f"a region needs at least one training position; found none among {len(given)} rows: look at the set's labels"
            )
        _require_on_earth(known)
        centre = cls(*_mean_direction(known), half_extent_m=1.0)
        # The mean leans towards where the data is dense; the midpoint spends the targets' range [-1, 1] evenly.
        plane = centre._project_within(known)
        latitude, longitude = centre.from_plane((plane.min(axis=0, keepdims=True) + plane.max(axis=0, keepdims=True)) / 2)[0]
        centre = cls(float(latitude), float(longitude), half_extent_m=1.0)
        reach = float(np.abs(centre._project_within(known)).max()) * (1 + margin)
        return cls(centre.latitude, centre.longitude, max(reach, min_half_extent_m))

    def _project_within(self, positions: Float64) -> Float64:
        plane = self._project(positions)
        reach = float(np.abs(plane).max())
        if not reach <= MAX_HALF_EXTENT_M:  # infinite beyond the horizon
            raise DataQualityError(
                f"the training positions reach {reach / 1000:.0f} km from their centre "
                f"{self.latitude:.3f}, {self.longitude:.3f}; one plane holds at most {MAX_HALF_EXTENT_M / 1000:.0f} km: "
                "look for wrong labels, or train one network for each part"
            )
        return plane

    def _project(self, positions: Float64) -> Float64:
        east, north = _transformer(self.latitude, self.longitude).transform(positions[:, 1], positions[:, 0])
        return np.stack([east, north], axis=1)

    def to_plane(self, position: Float64) -> Float64:
        """Metres east and north on the plane.

        Args:
            position: (n, 2) float64 latitude, longitude in degrees; NaN gives NaN.

        Returns:
            (n, 2) float64.

        Raises:
            DataQualityError: for a position that is not on Earth, or lies beyond the plane's horizon.
        """
        given = _pairs(position, "position")
        known = ~np.isnan(given).any(axis=1)
        _require_on_earth(given[known])
        plane = np.full(given.shape, np.nan)
        plane[known] = self._project(given[known])
        hidden = np.flatnonzero(np.isinf(plane).any(axis=1))
        if len(hidden):
            latitude, longitude = given[hidden[0]]
            raise DataQualityError(
                f"{len(hidden)} of {len(given)} positions, the first at {latitude:.3f}, {longitude:.3f} (row {hidden[0]}), lie "
                f"beyond the horizon of {self.latitude:.3f}, {self.longitude:.3f}; positions within some "
                f"{MAX_HALF_EXTENT_M / 1000:.0f} km are wanted: look for wrong labels, or train on a set that covers them"
            )
        return plane

    def from_plane(self, plane: Float64) -> Float64:
        """Latitude and longitude in degrees of points on the plane; `to_plane` backwards, to well below a millimetre.

        A point beyond the horizon, as an untrained network may predict, is drawn back along its direction to `HORIZON_M`.

        Args:
            plane: (n, 2) float64 metres east, north; what is not finite gives NaN.

        Returns:
            (n, 2) float64, longitude in [−180, 180].
        """
        metres = _pairs(plane, "plane")
        known = np.isfinite(metres).all(axis=1)
        east, north = metres[known].T
        inwards = np.maximum(np.hypot(east, north) / HORIZON_M, 1.0)
        transformer = _transformer(self.latitude, self.longitude)
        longitude, latitude = transformer.transform(east / inwards, north / inwards, direction="INVERSE")
        position = np.full(metres.shape, np.nan)
        position[known] = np.stack([latitude, longitude], axis=1)
        return position

    def encode(self, position: Float64) -> Float64:
        """Degrees to the network's targets: (n, 2) latitude, longitude → (n, 2) east, north in units of the half-extent."""
        return self.to_plane(position) / self.half_extent_m

    def decode(self, units: Float64) -> Float64:
        """The network's outputs to degrees: (n, 2) east, north in units of the half-extent → (n, 2) latitude, longitude."""
        return self.from_plane(_pairs(units, "units") * self.half_extent_m)

    def decode_torch(self, units: torch.Tensor) -> torch.Tensor:
        """`decode` in elementary operations of torch, to be exported with the network.

        Degrees near 120 step by 7.6e-6 in float32, which is 0.85 m: so the offset from the centre is computed in the dtype of
        `units` (float32 is enough: it errs by less than 0.15 m within 300 km), and the centre is added in float64.

        Args:
            units: (n, 2) east, north in units of the half-extent.

        Returns:
            (n, 2) float64 latitude, longitude in degrees, longitude in [−180, 180).
        """
        import torch

        position = self.offset_torch(units).to(torch.float64) + torch.tensor(
            [self.latitude, self.longitude], dtype=torch.float64, device=units.device
        )
        turns = torch.floor((position[:, 1] + 180) / 360)
        return torch.stack([position[:, 0], position[:, 1] - 360 * turns], dim=1)

    def offset_torch(self, units: torch.Tensor) -> torch.Tensor:
        """Degrees of latitude and longitude from the centre, (n, 2), in the dtype of `units`: the small part of `decode_torch`.

        The point P = P₀ + R·(e, n, u) lies on the ellipsoid x² + y² + κ·z² = a², κ = 1/(1 − ε²), for one u near zero: a
        quadratic equation. On the ellipsoid, tan φ = κ·z / √(x² + y²) and tan λ = y / x, exactly. Every difference of large
        numbers is taken on paper (P₀ solves the ellipsoid's equation; its part along n cancels), none by the computer.
        Frame: x from the axis to the centre's meridian, y east, z along the axis; lengths in units of a.
        """
        import torch

        sin, cos = math.sin(math.radians(self.latitude)), math.cos(math.radians(self.latitude))
        kappa = 1 / (1 - ECCENTRICITY_SQUARED)
        vertical = 1 / math.sqrt(1 - ECCENTRICITY_SQUARED * sin * sin)  # N: radius of curvature in the prime vertical
        x0 = vertical * cos

        plane = units * (self.half_extent_m / AXIS_M)  # (row, axis)
        radius = (plane * plane).sum(dim=1, keepdim=True).clamp(min=1e-30).sqrt()
        plane = plane * (HORIZON_M / AXIS_M / radius).clamp(max=1.0)
        east, north = plane[:, 0], plane[:, 1]

        a = cos * cos + kappa * sin * sin  # a·u² + 2·b·u + c = 0
        b = vertical + north * (sin * cos * (kappa - 1))
        c = east * east + north * north * (sin * sin + kappa * cos * cos)
        up = -c / (b + (b * b - a * c).clamp(min=0.0).sqrt())  # the root near zero, without cancellation

        dx = up * cos - north * sin
        dz = north * cos + up * sin
        axis_distance = ((x0 + dx) * (x0 + dx) + east * east).sqrt()  # p = √(x² + y²)
        dp = (2 * x0 * dx + dx * dx + east * east) / (axis_distance + x0).clamp(min=1e-15)  # p − x₀
        # tan(φ − φ₀), from the sine and cosine of the angle between (p, κz) and (cos φ₀, sin φ₀).
        latitude = torch.atan2(kappa * cos * dz - sin * dp, vertical + cos * dp + kappa * sin * dz)
        longitude = torch.atan2(east, x0 + dx)
        return torch.stack([latitude, longitude], dim=1) * (180 / math.pi)

    def to_json(self) -> dict[str, float]:
        """What a checkpoint keeps."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any], source: str) -> Self:
        """The region that `source` holds; `UsageError` names fields that are missing or unknown."""
        if odd := differing_fields(cls, values):
            raise UsageError(f"{source} holds no region this version understands: fields {odd} differ; use a matching version")
        return cls(**values)


def geodesic_m(a: Float64, b: Float64) -> Float64:
    """Distance along the WGS84 ellipsoid in metres (Karney 2013, through pyproj), (n,) float64.

    Args:
        a: (n, 2) latitude, longitude in degrees, or (2,) for one position; NaN gives NaN.
        b: likewise.
    """
    first, second = np.broadcast_arrays(np.atleast_2d(a).astype(np.float64), np.atleast_2d(b).astype(np.float64))
    return np.asarray(WGS84.inv(first[:, 1], first[:, 0], second[:, 1], second[:, 0])[2], dtype=np.float64)


@lru_cache(maxsize=32)
def _transformer(latitude: float, longitude: float) -> Transformer:
    # Kept outside Region, which is compared, pickled and sent to other processes. A Transformer is safe across threads.
    return Transformer.from_pipeline(f"+proj=ortho +lat_0={latitude!r} +lon_0={longitude!r} +ellps=WGS84")


def _pairs(values: Float64, name: str) -> Float64:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] != 2:
        raise UsageError(f"{name} has shape {array.shape}; it must be (n, 2), one pair in each row")
    return array


def _require_on_earth(position: Float64) -> None:
    bad = np.flatnonzero((np.abs(position) > (90, 180)).any(axis=1))
    if len(bad):
        latitude, longitude = position[bad[0]]
        raise DataQualityError(
            f"{len(bad)} of {len(position)} positions are not on Earth, the first at latitude {latitude:g}, longitude "
            f"{longitude:g}; latitudes within ±90° and longitudes within ±180° are wanted: correct the labels"
        )


def _mean_direction(position: Float64) -> tuple[float, float]:
    """Degrees of the mean of unit vectors: no seam at the antimeridian, unlike the mean of longitudes."""
    latitude, longitude = np.radians(position).T
    east = np.cos(latitude) * np.sin(longitude)
    x, y, z = float((np.cos(latitude) * np.cos(longitude)).mean()), float(east.mean()), float(np.sin(latitude).mean())
    return math.degrees(math.atan2(z, math.hypot(x, y))), math.degrees(math.atan2(y, x))
