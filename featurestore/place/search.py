"""From a coarse grid to a fine one: the posterior of a place whose region is far smaller than where it may lie."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from featurestore.place.grid import Grid
from featurestore.place.posterior import Posterior

Float64 = npt.NDArray[np.float64]

HELD = 0.999
"""A finer grid holds that much of the coarser one's mass."""
CELLS = 160
"""Along the longer side of a grid."""
SHRINK = 0.7
"""A finer grid is worth its while when it is at most that wide."""
MARGIN_CELLS = 2
MOST_ROUNDS = 12


def search(log_density: Callable[[Grid], Float64], where: Grid, least_cell_m: float = 10.0) -> Posterior:
    """Look closer, again and again, at where the mass is, until it fills the grid: the last of `rounds`."""
    *_, last = rounds(log_density, where, least_cell_m)
    return last


def rounds(
    log_density: Callable[[Grid], Float64], where: Grid, least_cell_m: float = 10.0, cells: int = CELLS
) -> Iterator[Posterior]:
    """The posterior on `where`, then on ever finer grids of ever smaller parts of it.

    Args:
        log_density: of the cells of any grid, (ny, nx) up to a constant; it widens its peaks to the cells it is asked for, as
            `place.delays.log_likelihood` does, else a coarse grid may miss them.
        where: the first grid: all of the region that is searched.
        least_cell_m: cells need not be smaller.
        cells: along the longer side of each finer grid.
    """
    posterior = Posterior(where, log_density(where))
    yield posterior
    for _ in range(MOST_ROUNDS):
        grid = posterior.grid
        low, high = posterior.bounds_m(HELD)
        low = np.maximum(low - MARGIN_CELLS * grid.cell_m, where.low_m)
        high = np.minimum(high + MARGIN_CELLS * grid.cell_m, where.high_m)
        cell_m = max(float((high - low).max()) / cells, least_cell_m)
        if cell_m > SHRINK * grid.cell_m:
            break
        finer = Grid.within(grid.plane, low, high, cell_m)
        posterior = Posterior(finer, log_density(finer))
        yield posterior
