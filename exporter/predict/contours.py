"""Rings of a contour → the polygons of GeoJSON: each outer ring with the holes in it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Ring = npt.NDArray[np.float64]
DIGITS = 6
"""Of degrees: 0.1 m."""


def polygons(rings: Sequence[Ring]) -> list[list[list[list[float]]]]:
    """Coordinates of a MultiPolygon: outer rings against the clock, holes with it (RFC 7946, section 3.1.6).

    Args:
        rings: (k, 2) of x, y each, closed, that do not cross each other. A ring inside of an odd number of others is a hole.
    """
    inside = [
        [other for other in range(len(rings)) if other != index and holds(rings[other], rings[index][0])]
        for index in range(len(rings))
    ]
    outer = {index: [_plain(ring, against_the_clock=True)] for index, ring in enumerate(rings) if len(inside[index]) % 2 == 0}
    for index, ring in enumerate(rings):
        if index not in outer:
            around = max(inside[index], key=lambda other: len(inside[other]))  # the innermost that holds it
            outer[around].append(_plain(ring, against_the_clock=False))
    return list(outer.values())


def holds(ring: Ring, point: Ring) -> bool:
    """Whether a point (2,) lies inside of a closed ring: a ray from it crosses an odd number of edges."""
    x, y = ring.T
    between = (y[:-1] > point[1]) != (y[1:] > point[1])
    run = x[:-1][between] + (point[1] - y[:-1][between]) * np.diff(x)[between] / np.diff(y)[between]
    return bool(np.count_nonzero(run > point[0]) % 2)


def signed_area(ring: Ring) -> float:
    """Of a closed ring: above 0 when it runs against the clock (shoelace formula)."""
    x, y = (ring - ring[0]).T
    return float((x[:-1] * y[1:] - x[1:] * y[:-1]).sum() / 2)


def _plain(ring: Ring, *, against_the_clock: bool) -> list[list[float]]:
    ordered = ring if (signed_area(ring) > 0) == against_the_clock else ring[::-1]
    points: list[list[float]] = np.round(ordered, DIGITS).tolist()
    points[-1] = points[0]
    return points
