"""The place that a network for sessions knows: region, receivers and grid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from featurestore.errors import UsageError
from featurestore.place.grid import Grid, Plane
from featurestore.tensor.spec import differing_fields
from trainer.network.geometry import Region

Float64 = npt.NDArray[np.float64]

CELLS_ACROSS = 200
"""Cells along the longer side of the region, at most, where nobody says how large they are. With half as many, errors are as
small, but regions of highest density are coarser than the smallest posteriors, and the likelihood loses 0.2 nats."""
MARGIN_CELLS = 2


@dataclass(frozen=True, eq=False)
class SessionPlace:
    """Region, receivers and grid of a network for sessions.

    Attributes:
        region: the plane and unit of its positions.
        websdr_id: (R,) receivers that training knew, ascending.
        position: (R, 2) where they stand, degrees; NaN where nobody said.
        reach_m: (2,) half the extent of the grid, east and north.
        cell_m: side of a cell.
    """

    region: Region
    websdr_id: npt.NDArray[np.int64]
    position: Float64
    reach_m: tuple[float, float]
    cell_m: float

    @classmethod
    def around(cls, region: Region, positions: Float64, websdr_id: npt.ArrayLike, where: Float64, grid_km: float) -> Self:
        """The place of a training.

        Args:
            region: of its train positions.
            positions: (n, 2) train positions in degrees.
            websdr_id: (R,) receivers.
            where: (R, 2) they stand, degrees or NaN.
            grid_km: see `SessionSpec`.
        """
        plane = Plane(region.latitude, region.longitude)
        reach = np.abs(plane.to_plane(positions[np.isfinite(positions).all(axis=1)])).max(axis=0)
        cell_m = grid_km * 1000 or _round_up(2 * float(reach.max()) / CELLS_ACROSS)
        east, north = (float(max(length, cell_m)) + MARGIN_CELLS * cell_m for length in reach)
        return cls(region, np.asarray(websdr_id, np.int64), np.asarray(where, np.float64), (east, north), cell_m)

    @cached_property
    def grid(self) -> Grid:
        """Cells of the posterior."""
        plane, reach = Plane(self.region.latitude, self.region.longitude), np.asarray(self.reach_m)
        return Grid.within(plane, -reach, reach, self.cell_m)

    def to_json(self) -> dict[str, Any]:
        """Plain values, for checkpoints."""
        lists = {"websdr_id": self.websdr_id.tolist(), "position": self.position.tolist(), "reach_m": list(self.reach_m)}
        return {**asdict(self), "region": self.region.to_json(), **lists}

    @classmethod
    def from_json(cls, values: Mapping[str, Any], source: str) -> Self:
        """The place that `source` holds; `UsageError` names unknown or missing fields."""
        if odd := differing_fields(cls, values):
            raise UsageError(f"{source} holds no place this version understands: fields {odd} differ; use a matching version")
        return cls(
            Region.from_json(values["region"], source),
            np.array(values["websdr_id"], np.int64),
            np.array(values["position"], np.float64).reshape(-1, 2),
            (float(values["reach_m"][0]), float(values["reach_m"][1])),
            float(values["cell_m"]),
        )


def _round_up(metres: float) -> float:
    """The next of 1, 2, 5 times a power of ten."""
    power = 10.0 ** np.floor(np.log10(metres))
    return float(next(step * power for step in (1, 2, 5, 10) if step * power >= metres * (1 - 1e-9)))
