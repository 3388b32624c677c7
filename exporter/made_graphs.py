"""The graphs of a release that locates captures: exported, validated, in each precision, and the one that is chosen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from exporter.draft import Draft
from exporter.graph.features_graph import export_graph
from exporter.graph.iq_graph import export_iq_graph
from exporter.graph.onnx_file import ExportedGraph
from exporter.graph.precision import PRECISIONS, convert
from exporter.release.release import IQ_MODEL, MODEL
from exporter.validate.precision_table import choose, measure
from exporter.validate.raw_captures import fetch_captures
from exporter.validate.validate import Validation, validate
from exporter.validate.validate_iq import validate_iq
from featurestore.errors import UsageError
from featurestore.store.split import Split

FP32 = "fp32"
RAW = "raw"


def make_graphs(draft: Draft) -> None:
    """Export, validate, convert, measure and choose.

    Raises:
        DataQualityError: when a graph does not compute what PyTorch computes; the worst rows are named.
        UsageError: when no precision that may be chosen fits, or something is not usable.
    """
    request, captures = draft.request, list[Path]()
    with draft.stage(f"export {MODEL}"):
        graphs = [export_graph(draft.checkpoint, draft.file(FP32, MODEL), draft.release)]
    with draft.stage(f"validate {MODEL}"):
        found = validate(str(graphs[0].path), draft.checkpoint, draft.feature_set, tolerance=request.tolerance)
        draft.accept(replace(found, graph=MODEL))
    if request.raw is not None and request.with_iq:
        with draft.stage("fetch captures"):
            captures = fetch_captures(draft.feature_set, Split.VAL, request.raw, draft.directory / RAW, request.captures)
        with draft.stage(f"export {IQ_MODEL}"):
            graphs.append(export_iq_graph(draft.checkpoint, draft.file(FP32, IQ_MODEL), draft.release))
        with draft.stage(f"validate {IQ_MODEL}"):
            draft.accept(_validate_iq(draft, graphs[1], captures))
    variants = _convert(draft, graphs)
    with draft.stage("measure precisions"):
        draft.measured = measure([variant[0] for variant in variants.values()], draft.feature_set, draft.measured_split)
    # Every graph of a precision must fit.
    largest = [replace(each, size_bytes=max(one.size_bytes for one in variants[each.precision])) for each in draft.measured]
    draft.graphs = variants[choose(largest, request.precision, request.max_size_mb).precision]
    if captures and draft.graphs[1].info.precision != FP32:
        draft.iq_difference_m = _validate_iq(draft, draft.graphs[1], captures).difference_m


def _validate_iq(draft: Draft, graph: ExportedGraph, captures: list[Path]) -> Validation:
    found = validate_iq(graph.path, draft.checkpoint, captures, draft.request.iq_tolerance)
    start = f"capture {draft.directory / RAW}/"
    worst = tuple((f"capture {name.removeprefix(start)}", metres) for name, metres in found.worst)
    return replace(found, graph=graph.path.name, split="val", feature_set=draft.feature_set.version, worst=worst)


def _convert(draft: Draft, graphs: list[ExportedGraph]) -> dict[str, list[ExportedGraph]]:
    """Each precision that this network has; the draft notes why one is missing."""
    variants = {FP32: graphs}
    for precision in PRECISIONS[1:]:
        try:
            with draft.stage(f"convert to {precision}"):
                variants[precision] = [
                    convert(graph.path, draft.file(precision, graph.path.name), precision) for graph in graphs
                ]
        except UsageError as error:
            if draft.request.precision == precision:
                raise
            draft.notes.append(f"no {precision}: {error}")
    return variants
