"""Rows of equal content, and sessions at one place: found by sorting and by a tree, for ten million rows at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from featurestore.store.split import unique_sessions

Pairs = npt.NDArray[np.int64]

EARTH_RADIUS_M = 6_371_000.0


@dataclass(frozen=True)
class EqualRows:
    """Which captures have rows of equal content.

    Attributes:
        across: (a, 2) for each content that is in more than one split, the ids of a capture in the first and in the last of
            these splits; in order of id.
        rows_across: rows that have such a content.
        within: (w, 2) for each row that repeats another of its split, the ids of the other's capture and its own (the same
            one, where windows of one capture are equal); in order of id.
    """

    across: Pairs
    rows_across: int
    within: Pairs

    @classmethod
    def find(
        cls,
        content: npt.NDArray[np.uint8],
        has_content: npt.NDArray[np.bool_],
        split: npt.NDArray[np.uint8],
        capture_id: npt.NDArray[np.int64],
    ) -> Self:
        """Compare all rows with each other.

        Args:
            content: (n, 16), equal for rows of equal content.
            has_content: (n,) rows to compare; the content of others is not known.
            split: (n,).
            capture_id: (n,).
        """
        rows, group = _equal(content, np.flatnonzero(has_content))
        order = np.lexsort((capture_id[rows], split[rows], group))
        group, split, capture = group[order], split[rows[order]], capture_id[rows[order]]
        joined = group[1:] == group[:-1]
        repeats = joined & (split[1:] == split[:-1])
        start = np.flatnonzero(np.concatenate([[True] * bool(len(group)), ~joined]).astype(bool))
        size = np.diff(np.append(start, len(group)))
        stop = start + size - 1  # the last row of each group
        leaks = split[start] != split[stop]
        across = np.column_stack([capture[start][leaks], capture[stop][leaks]])
        within = np.column_stack([capture[:-1][repeats], capture[1:][repeats]])
        return cls(_in_order(across), int(size[leaks].sum()), _in_order(within))


def _equal(content: npt.NDArray[np.uint8], rows: Pairs) -> tuple[Pairs, Pairs]:
    """Those of `rows` whose content another of them has, too; and for each the number of its content.

    The first half of a digest tells nearly all of them apart, and one sort by it takes a third of one by both halves.
    """
    half = np.ascontiguousarray(content[rows, :8]).view(np.uint64).reshape(-1)
    order = np.argsort(half)
    ordered = half[order]
    equal = ordered[1:] == ordered[:-1]
    candidates = np.zeros(len(rows), bool)
    candidates[order[1:][equal]] = candidates[order[:-1][equal]] = True
    rows = rows[candidates]
    if not len(rows):
        return rows, np.empty(0, np.int64)
    _, group = unique_sessions(np.ascontiguousarray(content[rows]))
    several = np.bincount(group)[group] > 1
    return rows[several], group[several]


def _in_order(pairs: Pairs) -> Pairs:
    return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]


def near_any(position: npt.NDArray[np.float64], known: npt.NDArray[np.float64], radius_m: float) -> npt.NDArray[np.bool_]:
    """(n,) which of the places (n, 2) are within `radius_m` of any of the places (k, 2), latitude and longitude in degrees.

    Along the chord, on a sphere; for radii up to kilometres that is the distance.
    """
    from scipy.spatial import cKDTree  # 0.1 s to import, which commands that compare nothing would wait for

    # Each place once: the tree grows slowly from equal points.
    tree = cKDTree(_on_sphere(np.unique(known, axis=0)))
    places, inverse = np.unique(position, axis=0, return_inverse=True)
    distance_m, _ = tree.query(_on_sphere(places), distance_upper_bound=radius_m)  # infinite where there is none
    return np.asarray(np.isfinite(distance_m)[inverse.reshape(-1)])


def _on_sphere(position: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(n, 3) metres from the Earth's centre."""
    latitude, longitude = np.radians(position).T
    across = np.cos(latitude)
    return EARTH_RADIUS_M * np.column_stack([across * np.cos(longitude), across * np.sin(longitude), np.sin(latitude)])
