"""Two releases that locate sessions, on the same sessions, offline; see `exporter.release.compare`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from exporter.graph.session_rows import SessionRows
from exporter.made_session_graphs import session_latencies
from exporter.predict.opened_graph import OpenedGraph
from exporter.predict.session_predictor import SESSIONS_AT_ONCE, SessionPredictor
from exporter.release.compare import CompareRequest, maybe_trained_on, paired_interval
from exporter.release.comparison import Comparison, Side
from exporter.release.release import Release
from featurestore.errors import UsageError
from featurestore.progress import Progress
from featurestore.store.feature_set import FeatureSet
from featurestore.store.split import Split
from trainer.evaluate.metrics import thresholds_m
from trainer.evaluate.session_metrics import SessionPredictions, session_summary
from trainer.network.geometry import Region
from trainer.network.session.density import Located
from trainer.network.session.spec import SessionPlace


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
    predictors = [SessionPredictor(graph) for _, graph in sides]
    rows = [predictor.read_set(feature_set, Split[request.split.upper()]) for predictor in predictors]
    progress.start("predict", 2 * len(rows[0]), "sessions")
    found = [_predictions(predictor, each, progress) for predictor, each in zip(predictors, rows, strict=True)]
    latency = session_latencies({str(index): graph.session for index, (_, graph) in enumerate(sides)}, rows[0])
    number = np.arange(len(rows[0]), dtype=">u8").view(np.uint8).reshape(-1, 8)  # every session is its own
    difference = paired_interval(found[1].error_m - found[0].error_m, number, request.confidence, request.draws, request.seed)
    both = [
        Side(
            release=str(release.version),
            precision=graph.info.precision,
            feature_set=graph.info.feature_set,
            size_bytes=release.size_bytes,
            latency_ms=latency[str(index)],
            metrics=session_summary(found[index], thresholds_m(graph.info.region["half_extent_m"])),
        )
        for index, (release, graph) in enumerate(sides)
    ]
    notes = tuple(note for side in both for note in maybe_trained_on(feature_set, side))
    return Comparison(both[0], both[1], feature_set.version, request.split, len(rows[0]), difference, notes, unit="sessions")


def _predictions(predictor: SessionPredictor, rows: SessionRows, progress: Progress) -> SessionPredictions:
    """As `trainer.evaluate.session_metrics` wants them."""
    place, parts = _place(predictor), []
    unit = place.region.half_extent_m
    for start in range(0, len(rows), SESSIONS_AT_ONCE):
        part = rows.select(slice(start, start + SESSIONS_AT_ONCE))
        positions, covariances, log_density = predictor.run(part)
        located = Located(
            torch.from_numpy(place.region.encode(positions)),
            torch.from_numpy(covariances / unit**2),
            torch.from_numpy(log_density.reshape(len(part), -1) + 2 * math.log(unit)),
        )
        parts.append(SessionPredictions.of(located, place, part.position))
        progress.advance(len(part))
    return SessionPredictions.join(parts)


def _place(predictor: SessionPredictor) -> SessionPlace:
    """Region and grid as the graph's metadata have them."""
    grid, region = predictor.grid, Region.from_json(dict(predictor.info.region), predictor.name)
    reach = (grid.cell_m * grid.shape[1] / 2, grid.cell_m * grid.shape[0] / 2)
    known: Any = predictor.receivers
    return SessionPlace(region, known.websdr_id, known.position, reach, grid.cell_m)
