"""Distances and directions on the WGS84 ellipsoid, for whole arrays at once.

Source: T. Vincenty, Direct and Inverse Solutions of Geodesics on the Ellipsoid, Survey Review 176 (1975). Its series is right
to 0.1 mm, a third of a picosecond of light. It does not converge for points that are almost opposite on Earth, some 20,000 km
apart; those get the distance on a sphere, wrong by up to 0.6%: no ground wave reaches so far.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]

AXIS_M = 6_378_137.0
"""Equatorial radius a (WGS84, NIMA TR8350.2)."""
FLATTENING = 1 / 298.257223563
POLAR_AXIS_M = AXIS_M * (1 - FLATTENING)
MEAN_RADIUS_M = 6_371_008.8
ITERATIONS = 30
"""Ordinary pairs need 3 to 5."""
CONVERGED_RAD = 1e-12  # 6 µm on the ground


def distance_m(here: Float64, there: Float64) -> Float64:
    """Length of the shortest way over the ellipsoid.

    Args:
        here: (..., 2) latitude, longitude in degrees.
        there: likewise; the two broadcast.

    Returns:
        (...) metres.
    """
    return inverse(here, there)[0]


def inverse(here: Float64, there: Float64) -> tuple[Float64, Float64]:
    """Distance in metres, and azimuth at `here` in radians clockwise from north; arguments as for `distance_m`."""
    lat1, lon1, lat2, lon2 = (np.deg2rad(x) for x in (here[..., 0], here[..., 1], there[..., 0], there[..., 1]))
    sin_u1, cos_u1 = _reduced(lat1)
    sin_u2, cos_u2 = _reduced(lat2)
    turn = np.asarray((lon2 - lon1 + np.pi) % (2 * np.pi) - np.pi)
    lam = turn
    with np.errstate(invalid="ignore", divide="ignore"):  # where both points are one, or no iteration converges
        for _ in range(ITERATIONS):
            sin_lam, cos_lam = np.sin(lam), np.cos(lam)
            east, north = cos_u2 * sin_lam, cos_u1 * sin_u2 - sin_u1 * cos_u2 * cos_lam
            sin_sigma = np.hypot(east, north)
            cos_sigma = sin_u1 * sin_u2 + cos_u1 * cos_u2 * cos_lam
            sigma = np.arctan2(sin_sigma, cos_sigma)
            sin_alpha = np.where(sin_sigma > 0, cos_u1 * cos_u2 * sin_lam / sin_sigma, 0.0)
            cos2_alpha = 1 - sin_alpha**2
            cos_mid = np.where(cos2_alpha > 0, cos_sigma - 2 * sin_u1 * sin_u2 / cos2_alpha, 0.0)  # 0: along the equator
            previous, lam = lam, turn + _longitude_term(sin_alpha, sigma, cos_mid)
            if np.nanmax(np.abs(lam - previous), initial=0.0) < CONVERGED_RAD:
                break
    b, delta_sigma = _length_terms(cos2_alpha, sin_sigma, cos_sigma, cos_mid)
    stuck = (np.abs(lam - previous) > 1e-9) | (np.abs(lam) > np.pi)
    metres = np.where(stuck, MEAN_RADIUS_M * sigma, b * (sigma - delta_sigma))
    return metres, np.arctan2(east, north)


def direct(here: Float64, metres: Float64, azimuth: Float64) -> Float64:
    """Where one comes from `here` over a distance.

    Args:
        here: (..., 2) latitude, longitude in degrees.
        metres: (...) distances.
        azimuth: (...) radians clockwise from north; the three broadcast.

    Returns:
        (..., 2) latitude, longitude in degrees, longitude in [−180, 180).
    """
    sin_u, cos_u = _reduced(np.deg2rad(here[..., 0]))
    sin_az, cos_az = np.sin(azimuth), np.cos(azimuth)
    sigma_start = np.arctan2(sin_u, cos_u * cos_az)
    sin_alpha = cos_u * sin_az
    cos2_alpha = 1 - sin_alpha**2
    b, _ = _length_terms(cos2_alpha, np.zeros(()), np.ones(()), np.zeros(()))
    sigma = metres / b
    for _ in range(ITERATIONS):
        cos_mid = np.cos(2 * sigma_start + sigma)
        _, delta = _length_terms(cos2_alpha, np.sin(sigma), np.cos(sigma), cos_mid)
        previous, sigma = sigma, metres / b + delta
        if np.nanmax(np.abs(sigma - previous), initial=0.0) < CONVERGED_RAD:
            break
    sin_s, cos_s, cos_mid = np.sin(sigma), np.cos(sigma), np.cos(2 * sigma_start + sigma)
    across = sin_u * sin_s - cos_u * cos_s * cos_az
    latitude = np.arctan2(sin_u * cos_s + cos_u * sin_s * cos_az, (1 - FLATTENING) * np.hypot(sin_alpha, across))
    lam = np.arctan2(sin_s * sin_az, cos_u * cos_s - sin_u * sin_s * cos_az)
    turn = lam - _longitude_term(sin_alpha, sigma, cos_mid)
    longitude = (here[..., 1] + np.rad2deg(turn) + 180) % 360 - 180
    return np.stack(np.broadcast_arrays(np.rad2deg(latitude), longitude), axis=-1)


def _reduced(latitude: Float64) -> tuple[Float64, Float64]:
    """Sine and cosine of the reduced latitude U, tan U = (1 − f)·tan φ."""
    u = np.arctan2((1 - FLATTENING) * np.sin(latitude), np.cos(latitude))
    return np.sin(u), np.cos(u)


def _longitude_term(sin_alpha: Float64, sigma: Float64, cos_mid: Float64) -> Float64:
    """λ − L: what longitude differs by between the auxiliary sphere and the ellipsoid (equations 10 and 11)."""
    cos2_alpha = 1 - sin_alpha**2
    c = FLATTENING / 16 * cos2_alpha * (4 + FLATTENING * (4 - 3 * cos2_alpha))
    inner = sigma + c * np.sin(sigma) * (cos_mid + c * np.cos(sigma) * (2 * cos_mid**2 - 1))
    return np.asarray((1 - c) * FLATTENING * sin_alpha * inner)


def _length_terms(cos2_alpha: Float64, sin_sigma: Float64, cos_sigma: Float64, cos_mid: Float64) -> tuple[Float64, Float64]:
    """b·A in metres, and Δσ in radians (equations 3, 4 and 6): a distance is b·A·(σ − Δσ)."""
    u2 = cos2_alpha * (AXIS_M**2 - POLAR_AXIS_M**2) / POLAR_AXIS_M**2
    a = 1 + u2 / 16384 * (4096 + u2 * (-768 + u2 * (320 - 175 * u2)))
    b = u2 / 1024 * (256 + u2 * (-128 + u2 * (74 - 47 * u2)))
    square = 2 * cos_mid**2 - 1
    cubic = b / 6 * cos_mid * (4 * sin_sigma**2 - 3) * (4 * cos_mid**2 - 3)
    delta = b * sin_sigma * (cos_mid + b / 4 * (cos_sigma * square - cubic))
    return np.asarray(POLAR_AXIS_M * a), np.asarray(delta)
