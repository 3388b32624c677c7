"""Whether graphs for sessions compute what the network does: PyTorch against ONNX Runtime, on real sessions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from exporter.graph.opened_graph import OpenedGraph
from exporter.graph.runtime import median_latencies_ms
from exporter.graph.session_graph import sessions_to_export
from exporter.graph.session_rows import SessionRows
from exporter.graph.session_runtime import SessionOutputs, run_sessions
from exporter.predict.session_predictor import Heard, SessionPredictor
from exporter.validate.validate import WORST, BatchResult, Tolerance, Validation
from exporter.validate.validate_iq import IQ_TOLERANCE, stored_features
from featurestore.store.feature_set import FeatureSet
from featurestore.store.split import Split
from trainer.network.checkpoints import Checkpoint
from trainer.network.geometry import geodesic_m

BATCH_SIZES = (1, 2, 7)
RECEIVERS = (1, 3, 7, 12)
MAX_SESSIONS = 48
REPEATS = 9


def validate_sessions(  # noqa: PLR0913 - all but the first three have good defaults
    graph: Path | str,
    checkpoint: Checkpoint,
    feature_set: FeatureSet,
    *,
    split: Split = Split.VAL,
    tolerance: Tolerance | None = None,
    max_sessions: int = MAX_SESSIONS,
    repeats: int = REPEATS,
) -> Validation:
    """Compare `model.onnx` of a network for sessions with the checkpoint it came from.

    Sessions go through in batches of several sizes, and with room for several numbers of captures: what is too much is left
    out, and places that stay empty hold NaN for the graph, and are not there for PyTorch.

    Args:
        graph: file; its input must be `features`.
        checkpoint: what PyTorch runs.
        feature_set: of the spec and basis that the network was trained on.
        split: which sessions.
        tolerance: see `Tolerance`; covariances may differ by twice its share.
        max_sessions: at most so many, spread evenly over the split.
        repeats: of each latency.

    Raises:
        UsageError: when the graph is not usable, or the set has other features than the network knows.
        DataQualityError: when the split has no sessions. (A graph that fails only does so in `require`.)
    """
    checkpoint.features.require_same(feature_set, checkpoint.source)
    tolerance, opened = tolerance or Tolerance(), OpenedGraph.open(graph)
    rows = SessionPredictor(opened).read_set(feature_set, split, max_sessions)
    module = sessions_to_export(checkpoint)
    batches, distances = [], np.zeros(len(rows))
    widest = rows.present.shape[1]
    for n_captures in (widest, *RECEIVERS):
        expected = run_torch(module, rows.with_room(min(n_captures, widest)))
        for size in BATCH_SIZES if n_captures == widest else BATCH_SIZES[-1:]:
            actual = run_sessions(opened, rows.with_room(n_captures), size)
            result, distance = compare_sessions(expected, actual, tolerance, size, n_captures)
            batches.append(result)
            distances = np.maximum(distances, distance)
    return Validation(
        graph=str(graph),
        rows=len(rows),
        split=split.name.lower(),
        feature_set=feature_set.version,
        tolerance=tolerance,
        batches=tuple(batches),
        worst=_worst(rows, distances),
        latency_ms={1: _latency(module, opened.session, rows, repeats)},
        unit="sessions",
    )


def validate_session_iq(
    graph: Path | str, checkpoint: Checkpoint, sessions: Sequence[Heard], tolerance: Tolerance = IQ_TOLERANCE
) -> Validation:
    """Compare `model-iq.onnx` of a network for sessions with featurestore and PyTorch, on sessions in files.

    Raises:
        UsageError: when the graph or a capture is not usable.
    """
    predictor, spec = SessionPredictor(graph), checkpoint.features.spec
    iq = predictor.read_files(sessions, spec.sample_rate_hz)
    n_windows = spec.windows_per_capture
    features = np.full((len(iq), iq.present.shape[1], n_windows, *spec.tensor_shape), np.nan, np.float32)
    for line, session in enumerate(sessions):
        for place, path in enumerate(session.paths):
            features[line, place] = stored_features(checkpoint.features, path)
    shape = (len(iq), -1, *spec.tensor_shape)
    rows = SessionRows(
        features.reshape(shape),
        np.repeat(iq.receiver_id, n_windows, axis=1),
        np.repeat(iq.receiver_position, n_windows, axis=1),
        np.repeat(iq.present, n_windows, axis=1),
        iq.session_id,
        iq.position,
    )
    expected = run_torch(sessions_to_export(checkpoint), rows)
    result, distances = compare_sessions(expected, predictor.run(iq, 1), tolerance, 1, iq.present.shape[1])
    return Validation(
        graph=str(graph),
        rows=len(iq),
        split="captured",
        feature_set=checkpoint.features.version,
        tolerance=tolerance,
        batches=(result,),
        worst=_worst(iq, distances),
        latency_ms={},
        unit="sessions",
    )


def run_torch(module: nn.Module, rows: SessionRows, name: str = "features", batch_size: int = 8) -> SessionOutputs:
    """What PyTorch makes of these sessions."""
    parts = []
    with torch.inference_mode():
        for start in range(0, len(rows), batch_size):
            inputs = rows.inputs(name, slice(start, start + batch_size)).values()
            parts.append(module(*(torch.from_numpy(np.ascontiguousarray(values)) for values in inputs)))
    positions, covariances, log_density = (torch.cat(values).numpy() for values in zip(*parts, strict=True))
    return positions, covariances, log_density


def compare_sessions(
    expected: SessionOutputs, actual: SessionOutputs, tolerance: Tolerance, batch_size: int, receivers: int
) -> tuple[BatchResult, npt.NDArray[np.float64]]:
    """How far outputs are from those expected, and (n,) distances of positions in metres, infinite where one is none.

    σ is that along the narrow axis of the covariance. Entries of the covariance are compared in units of √(Σᵢᵢ·Σⱼⱼ), and log
    densities in nats; these may differ by ten times the relative tolerance at the peak, and by as much more for each nat below.
    """
    distance = geodesic_m(expected[0], actual[0])  # NaN where a position is none
    least = np.sqrt(np.linalg.eigvalsh(expected[1])[:, 0])
    spread = np.sqrt(np.diagonal(expected[1], axis1=1, axis2=2))
    covariance = (np.abs(actual[1] - expected[1]) / (spread[:, :, None] * spread[:, None, :])).max(axis=(1, 2))
    depth = 1 + expected[2].max(axis=(1, 2), keepdims=True) - expected[2]
    density = (np.abs(actual[2] - expected[2]) / depth).max(axis=(1, 2))
    within = (
        (distance <= tolerance.absolute_m + tolerance.relative * least)
        & (covariance <= 2 * tolerance.relative)
        & (density <= 10 * tolerance.relative)
    )
    relative = np.maximum(distance / least, covariance / 2)
    result = BatchResult(batch_size, float(distance.max()), float(relative.max()), float(within.mean()), receivers)
    return result, np.where(np.isnan(distance), np.inf, distance)


def _worst(rows: SessionRows, distances: npt.NDArray[np.float64]) -> tuple[tuple[str, float], ...]:
    order = np.argsort(-distances, kind="stable")[:WORST]
    return tuple((f"session {rows.session_id[index]}", float(distances[index])) for index in order)


def _latency(module: nn.Module, session: Any, rows: SessionRows, repeats: int) -> dict[str, float]:
    one = rows.select(slice(0, 1))
    inputs = one.inputs("features")
    calls = {"torch": lambda: run_torch(module, one), "onnx": lambda: session.run(None, inputs)}
    latency_ms = median_latencies_ms(calls, repeats)
    return {**latency_ms, "speedup": latency_ms["torch"] / latency_ms["onnx"] if latency_ms["onnx"] else math.nan}
