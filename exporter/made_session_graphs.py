"""All graphs of a release that locates sessions: exported, validated and measured, in fp32."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from exporter.graph.onnx_file import ExportedGraph
from exporter.graph.opened_graph import OpenedGraph
from exporter.graph.session_graph import export_session_graph, export_session_iq_graph
from exporter.graph.session_runtime import session_latencies
from exporter.made_graphs import RAW, ExportContext, MadeGraphs, measured_split
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

FP32 = "fp32"
MAX_SESSIONS = 128


def make_session_graphs(context: ExportContext) -> MadeGraphs:
    """Export, validate and measure; see `exporter.made_graphs.make_graphs`.

    Raises:
        DataQualityError: when a graph does not compute what PyTorch computes; the worst sessions are named.
        UsageError: when another precision is asked for, a graph is too large, or something is not usable.
    """
    request, feature_set = context.request, context.feature_set
    if request.precision not in (FP32, AUTO):
        raise UsageError(
            f"precision is {request.precision!r}, and {context.checkpoint.source} locates sessions, in {FP32} only; use "
            f"--precision {FP32}"
        )
    graphs, validation = [], {}
    with context.stage(f"export {MODEL}"):
        graphs.append(export_session_graph(context.checkpoint, context.file(FP32, MODEL), context.release))
    with context.stage(f"validate {MODEL}"):
        found = validate_sessions(graphs[0].path, context.checkpoint, feature_set, tolerance=request.tolerance)
        validation[MODEL] = replace(found, graph=MODEL)
        validation[MODEL].require()
    if request.raw is not None and request.with_iq:
        with context.stage(f"export {IQ_MODEL}"):
            graphs.append(export_session_iq_graph(context.checkpoint, context.file(FP32, IQ_MODEL), context.release))
        with context.stage(f"validate {IQ_MODEL}"):
            validation[IQ_MODEL] = _validate_iq(context, graphs[1], request.raw)
            validation[IQ_MODEL].require()
    split, notes = measured_split(feature_set)
    with context.stage("measure"):
        measured = measure_sessions(graphs[0], feature_set, split)
    largest = replace(measured, size_bytes=max(graph.size_bytes for graph in graphs))
    choose([largest], request.precision, request.max_size_mb)
    notes = ["a network for sessions is published in fp32 only", *notes]
    return MadeGraphs(tuple(graphs), validation, None, (measured,), split.name.lower(), tuple(notes))


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


def _validate_iq(context: ExportContext, graph: ExportedGraph, raw: str) -> Validation:
    directory = context.directory / RAW
    paths = fetch_sessions(context.feature_set, Split.VAL, raw, directory, context.request.captures)
    sessions = gather(by_path(paths))
    found = validate_session_iq(graph.path, context.checkpoint, sessions, context.request.iq_tolerance)
    return replace(found, graph=graph.path.name, split="val", feature_set=context.feature_set.version)
