"""All graphs of a release in a directory: exported, validated, in each precision, and the one that is chosen."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from exporter.graph.features_graph import export_graph
from exporter.graph.iq_graph import export_iq_graph
from exporter.graph.metadata import GraphInfo
from exporter.graph.onnx_file import ExportedGraph
from exporter.graph.precision import PRECISIONS, convert
from exporter.release.release import IQ_MODEL, MODEL
from exporter.request import ExportRequest
from exporter.validate.precision_table import Measured, choose, measure, table
from exporter.validate.raw_captures import fetch_captures
from exporter.validate.validate import Validation, validate
from exporter.validate.validate_iq import validate_iq
from featurestore.errors import UsageError
from featurestore.progress import Progress
from featurestore.store.feature_set import FeatureSet
from featurestore.store.split import Split, count_splits
from trainer.network.checkpoints import Checkpoint

RAW = "raw"


@dataclass(frozen=True)
class MadeGraphs:
    """Graphs that may be published.

    Attributes:
        chosen: in the precision that was chosen, `model.onnx` first.
        validation: of the fp32 graphs against PyTorch, by name.
        iq_difference_m: largest distance of the chosen IQ graph from PyTorch, when it is not in fp32.
        measured: each precision of `model.onnx`.
        split: that it was measured on.
        notes: what a reader should know.
    """

    chosen: tuple[ExportedGraph, ...]
    validation: dict[str, Validation]
    iq_difference_m: float | None
    measured: tuple[Measured, ...]
    split: str
    notes: tuple[str, ...]

    @property
    def info(self) -> GraphInfo:
        """What `model.onnx` says of itself."""
        return self.chosen[0].info

    @property
    def table(self) -> str:
        """Each precision, measured; Markdown."""
        return table(self.measured)

    def to_json(self) -> dict[str, Any]:
        """For `metrics.json`."""
        measured = [
            {**item.to_json(), "path": MODEL, "chosen": item.precision == self.info.precision} for item in self.measured
        ]
        found: dict[str, Any] = {
            "precision": {"split": self.split, "measured": measured},
            "validation": {name: found.to_json() for name, found in self.validation.items()},
        }
        if self.iq_difference_m is not None:
            found["precision"]["iq_difference_max_m"] = self.iq_difference_m
        return found


@dataclass(frozen=True)
class ExportContext:
    """What graphs are made of, and where."""

    request: ExportRequest
    checkpoint: Checkpoint
    feature_set: FeatureSet
    release: str
    directory: Path
    progress: Progress

    def file(self, precision: str, name: str) -> Path:
        """Where a graph in some precision goes: each has its own directory, so that files have their final names."""
        directory = self.directory / precision
        directory.mkdir(exist_ok=True)
        return directory / name

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Tell that a stage begins, and that it is done."""
        self.progress.start(name, 1, "step")
        yield
        self.progress.advance(1)


def make_graphs(context: ExportContext) -> MadeGraphs:
    """Export, validate, convert, measure and choose.

    Raises:
        DataQualityError: when a graph does not compute what PyTorch computes; the worst rows are named.
        UsageError: when no precision that may be chosen fits, or something is not usable.
    """
    request, feature_set = context.request, context.feature_set
    graphs, validation, captures = [], {}, []
    with context.stage(f"export {MODEL}"):
        graphs.append(export_graph(context.checkpoint, context.file("fp32", MODEL), context.release))
    with context.stage(f"validate {MODEL}"):
        validation[MODEL] = _validate(context, graphs[0])
    if request.raw is not None and request.with_iq:
        with context.stage("fetch captures"):
            captures = fetch_captures(feature_set, Split.VAL, request.raw, context.directory / RAW, request.captures)
        with context.stage(f"export {IQ_MODEL}"):
            graphs.append(export_iq_graph(context.checkpoint, context.file("fp32", IQ_MODEL), context.release))
        with context.stage(f"validate {IQ_MODEL}"):
            validation[IQ_MODEL] = _validate_iq(context, graphs[1], captures)
            validation[IQ_MODEL].require()
    variants, notes = _convert(context, graphs)
    split, note = measured_split(feature_set)
    with context.stage("measure precisions"):
        measured = measure([variant[0] for variant in variants.values()], feature_set, split)
    chosen = variants[_choose(request, measured, variants)]
    differs = len(chosen) > 1 and chosen[1].info.precision != "fp32"
    return MadeGraphs(
        chosen=tuple(chosen),
        validation=validation,
        iq_difference_m=_validate_iq(context, chosen[1], captures).difference_m if differs else None,
        measured=tuple(measured),
        split=split.name.lower(),
        notes=(*notes, *note),
    )


def _validate(context: ExportContext, graph: ExportedGraph) -> Validation:
    found = validate(str(graph.path), context.checkpoint, context.feature_set, tolerance=context.request.tolerance)
    found = replace(found, graph=graph.path.name)
    found.require()
    return found


def _validate_iq(context: ExportContext, graph: ExportedGraph, captures: list[Path]) -> Validation:
    found = validate_iq(graph.path, context.checkpoint, captures, context.request.iq_tolerance)
    start = f"capture {context.directory / RAW}/"
    worst = tuple((f"capture {name.removeprefix(start)}", metres) for name, metres in found.worst)
    return replace(found, graph=graph.path.name, split="val", feature_set=context.feature_set.version, worst=worst)


def _convert(context: ExportContext, graphs: list[ExportedGraph]) -> tuple[dict[str, list[ExportedGraph]], list[str]]:
    """Each precision that this network has, and why one is missing."""
    variants, notes = {"fp32": graphs}, []
    for precision in PRECISIONS[1:]:
        try:
            with context.stage(f"convert to {precision}"):
                variants[precision] = [
                    convert(graph.path, context.file(precision, graph.path.name), precision) for graph in graphs
                ]
        except UsageError as error:
            if context.request.precision == precision:
                raise
            notes.append(f"no {precision}: {error}")
    return variants, notes


def measured_split(feature_set: FeatureSet) -> tuple[Split, list[str]]:
    """On what to measure, and a note where that is not the test split."""
    if count_splits(feature_set.labels.split)["test"]:
        return Split.TEST, []
    return Split.VAL, [f"the test split of {feature_set.version} has no rows: precisions were measured on val"]


def _choose(request: ExportRequest, measured: list[Measured], variants: dict[str, list[ExportedGraph]]) -> str:
    """The precision to publish; every graph of it must fit."""
    largest = [replace(item, size_bytes=max(graph.size_bytes for graph in variants[item.precision])) for item in measured]
    return choose(largest, request.precision, request.max_size_mb).precision


def units_of(info: GraphInfo) -> dict[str, Any]:
    """What the graph's metadata say of units, mean and std, as plain values: for `config.yaml`."""
    props = info.to_props()
    return {name: json.loads(props[name]) for name in ("units", "mean", "std")}
