"""What a batch of densities on one grid says: points, covariances, regions of highest density.

Shapes: b densities, ny rows, nx columns. Everything runs over bounded parts of the batch, so that a thousand sessions on a fine
grid need no more memory than a few.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from scipy.ndimage import map_coordinates

from featurestore.errors import DataQualityError
from featurestore.place.grid import Grid

Float64 = npt.NDArray[np.float64]
Densities = npt.NDArray[np.floating]

FLOOR = -1e30
PART_CELLS = 2_000_000
MEDIAN_STEPS = 200
MEDIAN_CELLS = 0.003
"""Steps of the spatial median end when they are this short, in cells."""


def normalize(log_density: Densities, cell_m: float) -> Float64:
    """Log densities per m², so that each integrates to 1 over its grid.

    Args:
        log_density: (b, ny, nx), up to a constant each; −inf where a place is impossible.
        cell_m: side of a cell.

    Raises:
        DataQualityError: when one holds NaN or +inf, or is −inf everywhere.
    """
    log = np.asarray(log_density, np.float64)
    peak = log.max(axis=(1, 2), keepdims=True)
    if not np.isfinite(peak).all():
        index = int(np.flatnonzero(~np.isfinite(peak[:, 0, 0]))[0])
        raise DataQualityError(
            f"log density {index} has the maximum {peak[index, 0, 0]}; expected finite values somewhere and no NaN: "
            "no place on the grid agrees with what was measured"
        )
    total = np.log(np.exp(log - peak).sum(axis=(1, 2), keepdims=True)) + peak
    return np.asarray(log - total - 2 * np.log(cell_m))


def masses(log_density: Densities, cell_m: float) -> Float64:
    """Probability of each cell, (b, ny·nx), from normalized log densities."""
    return np.exp(np.asarray(log_density, np.float64).reshape(len(log_density), -1)) * cell_m**2


def medians_m(log_density: Densities, grid: Grid) -> Float64:
    """(b, 2) spatial median in metres east, north: the point of least expected distance.

    Weiszfeld's iteration (Tohoku Math. J. 43, 1937), each cell with its mass. A cell is no point, but a square: its distance is
    taken as √(d² + cell²/12), which is the mean over the square for d ≫ cell, and has no corner at d = 0.
    """
    medians = []
    for part in _parts(log_density):
        mass = masses(part, grid.cell_m)
        here = mass @ grid.points_m
        active = np.arange(len(mass))
        for _ in range(MEDIAN_STEPS):
            offset = grid.points_m[None] - here[active, None]  # (b, cell, 2)
            weight = mass[active] / np.sqrt((offset**2).sum(axis=2) + grid.cell_m**2 / 12)
            step = np.einsum("bc,bcx->bx", weight, offset) / weight.sum(axis=1, keepdims=True)
            here[active] += step
            active = active[np.hypot(*step.T) > MEDIAN_CELLS * grid.cell_m]
            if not len(active):
                break
        medians.append(here)
    return np.concatenate(medians)


def covariances_m2(log_density: Densities, grid: Grid) -> Float64:
    """(b, 2, 2) covariance of east, north, with that of a place within its cell (cell²/12 on both axes)."""
    covariances = []
    for part in _parts(log_density):
        mass = masses(part, grid.cell_m)
        mean = mass @ grid.points_m
        second = np.einsum("bc,cx,cy->bxy", mass, grid.points_m, grid.points_m, optimize=True)
        covariances.append(second - mean[:, :, None] * mean[:, None, :] + np.eye(2) * grid.cell_m**2 / 12)
    return np.concatenate(covariances)


def log_densities_at(log_density: Densities, grid: Grid, points_m: Float64) -> Float64:
    """(b,) log density at one point each, (b, 2) metres east, north; −inf outside of the grid.

    It is linear between the centres of cells, and the cell's own where a neighbour is impossible.
    """
    cells = grid.cells_of(points_m)
    held = np.clip(cells, 0, np.subtract(grid.shape, 1))  # the outer half of a border cell reads as its centre
    row, column = np.rint(held).astype(np.intp).T
    own = np.asarray(log_density, np.float64)[np.arange(len(held)), row, column]
    # A floor instead of −inf, since 0 · −inf is no number.
    linear = [map_coordinates(np.maximum(log, FLOOR), held[[i]].T, order=1)[0] for i, log in enumerate(log_density)]
    outside = (np.abs(cells - held) > 0.5).any(axis=1)
    return np.where(outside, -np.inf, np.where(np.asarray(linear) < FLOOR / 1e9, own, linear))


def levels_at(log_density: Densities, grid: Grid, points_m: Float64) -> Float64:
    """(b,) mass of the region that is denser than the point: a point lies in the region of level p if and only if this is ≤ p.

    If the densities are honest, these are uniform on [0, 1] over many truths. Cells as dense as the point count by half.

    Args:
        log_density: (b, ny, nx), normalized.
        grid: their grid.
        points_m: (b, 2) metres east, north.
    """
    here = log_densities_at(log_density, grid, points_m)
    levels = []
    for start, part in _numbered_parts(log_density):
        flat, threshold = part.reshape(len(part), -1), here[start : start + len(part), None]
        mass = masses(part, grid.cell_m)
        levels.append((mass * (flat > threshold)).sum(axis=1) + 0.5 * (mass * (flat == threshold)).sum(axis=1))
    return np.where(np.isneginf(here), 1.0, np.minimum(np.concatenate(levels), 1.0))


def thresholds(log_density: Densities, cell_m: float, level: float) -> tuple[Float64, Float64]:
    """(b,) log density on the border of the region of highest density that holds `level`, and the region's area in m²."""
    if not 0 < level < 1:
        raise ValueError(f"level {level}: expected a share between 0 and 1, such as 0.865")
    borders, areas = [], []
    for part in _parts(log_density):
        flat = np.asarray(part, np.float64).reshape(len(part), -1)
        order = np.argsort(-flat, axis=1)
        sorted_log = np.take_along_axis(flat, order, axis=1)
        held = np.cumsum(np.exp(sorted_log) * cell_m**2, axis=1)
        last = np.minimum((held < level).sum(axis=1), flat.shape[1] - 1)  # the cell in which the level is reached
        rows = np.arange(len(part))
        before = np.where(last > 0, held[rows, np.maximum(last - 1, 0)], 0.0)
        share = np.clip((level - before) / (held[rows, last] - before), 0.0, 1.0)
        borders.append(sorted_log[rows, last])
        areas.append((last + share) * cell_m**2)
    return np.concatenate(borders), np.concatenate(areas)


def _numbered_parts(log_density: Densities) -> Iterator[tuple[int, Densities]]:
    step = max(1, PART_CELLS // max(1, log_density[0].size)) if len(log_density) else 1
    for start in range(0, max(1, len(log_density)), step):
        yield start, log_density[start : start + step]


def _parts(log_density: Densities) -> Iterator[Densities]:
    return (part for _, part in _numbered_parts(log_density))
