"""Two releases that locate sessions, on the same sessions, offline; see `exporter.release.compare`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from exporter.graph.opened_graph import OpenedGraph
from exporter.graph.session_rows import SessionRows, read_sessions, receivers_of
from exporter.graph.session_runtime import SESSIONS_AT_ONCE, grid_of, require_numbers, run_sessions, session_latencies
from exporter.release.comparison import Comparison, Side
from exporter.release.paired import CompareRequest, maybe_trained_on, paired_interval
from exporter.release.release import Release
from featurestore.errors import UsageError
from featurestore.progress import Progress
from featurestore.store.feature_set import FeatureSet
from featurestore.store.split import Split
from trainer.evaluate.metrics import thresholds_m
from trainer.evaluate.session_metrics import SessionPredictions, session_summary
from trainer.network.geometry import Region
from trainer.network.session.density import Located
from trainer.network.session.place import SessionPlace


def compare_sessions(
    request: CompareRequest,
    sides: Sequence[tuple[Release, OpenedGraph]],
    feature_set: FeatureSet,
    progress: Progress,
) -> Comparison:
    """Locate the sessions of a split with both releases.

    Raises:
        UsageError: when a page is asked for, or a release locates captures.
        DataQualityError: when the split has no sessions, or an output is not a number.
    """
    if request.html is not None:
        raise UsageError(
            f"--html {request.html}: pages compare releases that locate captures, and these locate sessions; leave it out"
        )
    split = Split[request.split.upper()]
    stands = [receivers_of(graph.info.session, feature_set.receivers) for _, graph in sides]
    rows = [read_sessions(feature_set, split, receivers) for receivers in stands]
    progress.start("predict", 2 * len(rows[0]), "sessions")
    predictions = [_predictions(graph, each, progress) for (_, graph), each in zip(sides, rows, strict=True)]
    latency = session_latencies({str(index): graph.session for index, (_, graph) in enumerate(sides)}, rows[0])
    number = np.arange(len(rows[0]), dtype=">u8").view(np.uint8).reshape(-1, 8)  # every session is its own
    difference = paired_interval(
        predictions[1].error_m - predictions[0].error_m, number, request.confidence, request.draws, request.seed
    )
    both = [
        Side(
            release=str(release.version),
            precision=graph.info.precision,
            feature_set=graph.info.feature_set,
            size_bytes=release.size_bytes,
            latency_ms=latency[str(index)],
            metrics=session_summary(predictions[index], thresholds_m(graph.info.region["half_extent_m"])),
        )
        for index, (release, graph) in enumerate(sides)
    ]
    notes = tuple(note for side in both for note in maybe_trained_on(feature_set, side))
    return Comparison(both[0], both[1], feature_set.version, request.split, len(rows[0]), difference, notes, unit="sessions")


def _predictions(graph: OpenedGraph, rows: SessionRows, progress: Progress) -> SessionPredictions:
    """As `trainer.evaluate.session_metrics` wants them."""
    place, parts = _place(graph), []
    unit = place.region.half_extent_m
    for start in range(0, len(rows), SESSIONS_AT_ONCE):
        part = rows.select(slice(start, start + SESSIONS_AT_ONCE))
        positions, covariances, log_density = require_numbers(graph.name, run_sessions(graph, part), part)
        located = Located(
            torch.from_numpy(place.region.encode(positions)),
            torch.from_numpy(covariances / unit**2),
            torch.from_numpy(log_density.reshape(len(part), -1) + 2 * math.log(unit)),
        )
        parts.append(SessionPredictions.of(located, place, part.position))
        progress.advance(len(part))
    return SessionPredictions.join(parts)


def _place(graph: OpenedGraph) -> SessionPlace:
    """Region and grid as the graph's metadata have them."""
    grid, region = grid_of(graph.info), Region.from_json(dict(graph.info.region), graph.name)
    reach = (grid.cell_m * grid.shape[1] / 2, grid.cell_m * grid.shape[0] / 2)
    known = receivers_of(graph.info.session)
    return SessionPlace(region, known.websdr_id, known.position, reach, grid.cell_m)
