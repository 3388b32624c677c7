"""Graphs for sessions in ONNX Runtime: outputs of many sessions, what calls cost, and the grid of the densities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from exporter.graph.metadata import GraphInfo
from exporter.graph.opened_graph import OpenedGraph
from exporter.graph.runtime import median_latencies_ms
from exporter.graph.session_rows import SessionRows
from featurestore.errors import DataQualityError
from featurestore.place.grid import Grid, Plane

SESSIONS_AT_ONCE = 16
LATENCY_BATCHES = (1, 32)
REPEATS = 5

SessionOutputs = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float32]]
"""(n, 2) positions in degrees, (n, 2, 2) covariances in m², (n, rows, columns) log densities per m²."""


def run_sessions(graph: OpenedGraph, rows: SessionRows, batch_size: int = SESSIONS_AT_ONCE) -> SessionOutputs:
    """The graph's outputs for all sessions, so many at a time; NaN where they are not finite."""
    parts = [
        graph.session.run(None, rows.inputs(graph.info.input, slice(start, start + batch_size)))
        for start in range(0, len(rows), batch_size)
    ]
    positions, covariances, log_density = (np.concatenate(values) for values in zip(*parts, strict=True))
    return positions, covariances, log_density


def require_numbers(name: str, outputs: SessionOutputs, rows: SessionRows) -> SessionOutputs:
    """The outputs, if all are numbers.

    Raises:
        DataQualityError: naming the first session of which the graph `name` makes none.
    """
    bad = np.flatnonzero(~(np.isfinite(outputs[0]).all(axis=1) & np.isfinite(outputs[1]).all(axis=(1, 2))))
    if len(bad):
        raise DataQualityError(
            f"{name} returned NaN or infinity for {len(bad)} of {len(rows)} sessions, the first being "
            f"{rows.session_id[bad[0]]}; look "
            "at its captures"
        )
    return outputs


def grid_of(info: GraphInfo) -> Grid:
    """The grid of a graph's densities."""
    region, grid = info.region, (info.session or {})["grid"]
    east = grid["east_m"] + grid["cell_m"] * np.arange(grid["columns"])
    north = grid["north_m"] + grid["cell_m"] * np.arange(grid["rows"])
    return Grid(Plane(region["latitude"], region["longitude"]), east, north, grid["cell_m"])


def session_latencies(sessions: Mapping[str, Any], rows: SessionRows, repeats: int = REPEATS) -> dict[str, dict[int, float]]:
    """Of each ONNX Runtime session by name: batch size → median milliseconds of one call."""
    latencies: dict[str, dict[int, float]] = {name: {} for name in sessions}
    for size in LATENCY_BATCHES:
        inputs = {name: np.resize(values, (size, *values.shape[1:])) for name, values in rows.inputs("features").items()}
        calls = {name: lambda one=one, given=inputs: one.run(None, given) for name, one in sessions.items()}
        for name, milliseconds in median_latencies_ms(calls, repeats).items():
            latencies[name][size] = milliseconds
    return latencies
