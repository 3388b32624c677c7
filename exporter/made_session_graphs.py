"""The graphs of a release that locates sessions: exported, validated and measured, in fp32."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from exporter.draft import Draft
from exporter.graph.onnx_file import ExportedGraph
from exporter.graph.opened_graph import OpenedGraph
from exporter.graph.session_graph import export_session_graph, export_session_iq_graph
from exporter.graph.session_runtime import session_latencies
from exporter.made_graphs import FP32, RAW
from exporter.predict.session_files import by_path, gather
from exporter.predict.session_predictor import SessionPredictor
from exporter.release.release import IQ_MODEL, MODEL
from exporter.validate.precision_table import AUTO, Measured, choose
from exporter.validate.raw_captures import fetch_sessions
from exporter.validate.validate import Validation
from exporter.validate.validate_sessions import validate_session_iq, validate_sessions
from featurestore.errors import UsageError
from featurestore.store.feature_set import FeatureSet
from featurestore.store.split import Split
from trainer.network.geometry import geodesic_m

MAX_SESSIONS = 128


def make_session_graphs(draft: Draft) -> None:
    """Export, validate and measure; see `exporter.made_graphs.make_graphs`.

    Raises:
        DataQualityError: when a graph does not compute what PyTorch computes; the worst sessions are named.
        UsageError: when another precision is asked for, a graph is too large, or something is not usable.
    """
    request = draft.request
    if request.precision not in (FP32, AUTO):
        raise UsageError(
            f"precision is {request.precision!r}, and {draft.checkpoint.source} locates sessions, in {FP32} only; use "
            f"--precision {FP32}"
        )
    draft.notes.append("a network for sessions is published in fp32 only")
    with draft.stage(f"export {MODEL}"):
        draft.graphs = [export_session_graph(draft.checkpoint, draft.file(FP32, MODEL), draft.release)]
    with draft.stage(f"validate {MODEL}"):
        found = validate_sessions(draft.graphs[0].path, draft.checkpoint, draft.feature_set, tolerance=request.tolerance)
        draft.accept(replace(found, graph=MODEL))
    if request.raw is not None and request.with_iq:
        with draft.stage(f"export {IQ_MODEL}"):
            draft.graphs.append(export_session_iq_graph(draft.checkpoint, draft.file(FP32, IQ_MODEL), draft.release))
        with draft.stage(f"validate {IQ_MODEL}"):
            draft.accept(_validate_iq(draft, draft.graphs[1], request.raw))
    with draft.stage("measure"):
        draft.measured = [measure_sessions(draft.graphs[0], draft.feature_set, draft.measured_split)]
    largest = replace(draft.measured[0], size_bytes=max(graph.size_bytes for graph in draft.graphs))
    choose([largest], request.precision, request.max_size_mb)


def measure_sessions(graph: ExportedGraph, feature_set: FeatureSet, split: Split) -> Measured:
    """What a graph costs, and how far it errs on some sessions of a split.

    Raises:
        DataQualityError: when the split has no sessions.
    """
    opened = OpenedGraph.open(graph.path)
    predictor = SessionPredictor(opened)
    rows = predictor.read_set(feature_set, split, MAX_SESSIONS)
    error = geodesic_m(rows.position, predictor.run(rows)[0])
    return Measured(
        precision=graph.info.precision,
        path=graph.path,
        size_bytes=graph.size_bytes,
        rows=len(rows),
        difference_mean_m=0.0,
        difference_max_m=0.0,
        sigma_difference=0.0,
        error_mean_m=float(error.mean()),
        error_median_m=float(np.median(error)),
        latency_ms=session_latencies({graph.path.name: opened.session}, rows)[graph.path.name],
    )


def _validate_iq(draft: Draft, graph: ExportedGraph, raw: str) -> Validation:
    paths = fetch_sessions(draft.feature_set, Split.VAL, raw, draft.directory / RAW, draft.request.captures)
    found = validate_session_iq(graph.path, draft.checkpoint, gather(by_path(paths)), draft.request.iq_tolerance)
    return replace(found, graph=graph.path.name, split="val", feature_set=draft.feature_set.version)
