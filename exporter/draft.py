"""A release while it is being made: each step of an export adds its part, and card, config and metrics read it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from exporter.graph.metadata import GraphInfo
from exporter.graph.onnx_file import ExportedGraph
from exporter.release.publish import describe_file
from exporter.release.release import MODEL, now
from exporter.request import ExportRequest
from exporter.validate.precision_table import Measured, table
from exporter.validate.validate import Validation
from featurestore.progress import Progress
from featurestore.store.feature_set import FeatureSet
from featurestore.store.split import Split, count_splits
from trainer.evaluate.evaluation import Evaluation
from trainer.evaluate.session_evaluation import SessionEvaluation
from trainer.network.checkpoints import Checkpoint

HEADLINES = (
    "rows",
    "error_mean_m",
    "error_median_m",
    "error_p90_m",
    "nll",
    "calibration_error_m",
    "coverage_1_sigma",
    "coverage_2_sigma",
)
"""The metrics that reports, the registry and the release's marker show."""
EVALUATED = ("version", "split", "located", "sessions", "rows", "metrics", "baselines", "notes")
"""What `metrics.json` holds of an evaluation."""


@dataclass
class Draft:
    """What a release is made of, and what there is of it so far.

    Attributes:
        request: what was asked for.
        checkpoint: the network.
        feature_set: that graphs are validated and measured on.
        release: its number.
        directory: where files are made.
        progress: is told of each step.
        created: when the export began.
        graphs: that will be published, `model.onnx` first.
        validation: of the fp32 graphs against PyTorch, by name.
        iq_difference_m: largest distance of the published IQ graph from PyTorch, when it is not in fp32.
        measured: each precision of `model.onnx`.
        evaluations: of the network, by split.
        notes: what a reader should know.
    """

    request: ExportRequest
    checkpoint: Checkpoint
    feature_set: FeatureSet
    release: str
    directory: Path
    progress: Progress
    created: str = field(default_factory=now)
    graphs: list[ExportedGraph] = field(default_factory=list)
    validation: dict[str, Validation] = field(default_factory=dict)
    iq_difference_m: float | None = None
    measured: list[Measured] = field(default_factory=list)
    evaluations: dict[str, Evaluation | SessionEvaluation] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Tell that a stage begins, and that it is done."""
        self.progress.start(name, 1, "step")
        yield
        self.progress.advance(1)

    def file(self, precision: str, name: str) -> Path:
        """Where a graph in some precision goes: each has its own directory, so that files have their final names."""
        directory = self.directory / precision
        directory.mkdir(exist_ok=True)
        return directory / name

    def accept(self, found: Validation) -> None:
        """Keep a graph's validation; `DataQualityError` when the graph differs from PyTorch."""
        self.validation[found.graph] = found
        found.require()

    @property
    def measured_split(self) -> Split:
        """On what precisions are measured: the test split, or val where that has no rows."""
        return Split.TEST if count_splits(self.feature_set.labels.split)["test"] else Split.VAL

    @property
    def info(self) -> GraphInfo:
        """What `model.onnx` says of itself."""
        return self.graphs[0].info

    @property
    def table(self) -> str:
        """Each precision, measured; Markdown."""
        return table(self.measured)

    @property
    def headlines(self) -> dict[str, dict[str, float]]:
        """The most important metrics, by split."""
        return {split: {name: found.metrics[name] for name in HEADLINES} for split, found in self.evaluations.items()}

    def metrics(self) -> dict[str, Any]:
        """The content of `metrics.json`."""
        measured = [
            {**each.to_json(), "path": MODEL, "chosen": each.precision == self.info.precision} for each in self.measured
        ]
        differs = {} if self.iq_difference_m is None else {"iq_difference_max_m": self.iq_difference_m}
        evaluation = {
            split: {name: content for name, content in found.to_json().items() if name in EVALUATED}
            for split, found in self.evaluations.items()
        }
        return {
            "release": self.release,
            "evaluation": evaluation,
            "precision": {"split": self.measured_split.name.lower(), "measured": measured, **differs},
            "validation": {name: found.to_json() for name, found in self.validation.items()},
            "files": {graph.path.name: describe_file(graph.path) for graph in self.graphs},
            "notes": self.notes,
        }

    def config(self) -> dict[str, Any]:
        """The content of `config.yaml`: all that made the release what it is."""
        checkpoint, info = self.checkpoint, self.info
        properties = info.to_props()
        return {
            "release": self.release,
            "created": self.created,
            "precision": info.precision,
            "checkpoint": {name: getattr(checkpoint, name) for name in ("source", "sha256", "epoch", "step", "run_id")},
            "features": {
                "store": self.feature_set.objects.location.url,
                "version": info.feature_set,
                "validated_on": self.feature_set.version,
                "spec_id": info.spec.id,
                "spec": info.spec.to_json(),
                "basis": info.basis,
            },
            "region": dict(info.region),
            **({} if info.session is None else {"located": info.located, "session": dict(info.session)}),
            "training": checkpoint.training.to_json(),
            "software": dict(info.software),
            **{name: json.loads(properties[name]) for name in ("units", "mean", "std")},
        }

    def marker(self) -> dict[str, Any]:
        """What `release.json` holds beside the files."""
        info = self.info
        return {
            "feature_set": info.feature_set,
            "spec": info.spec.id,
            "basis": info.basis,
            "backbone": info.backbone,
            "precision": info.precision,
            "checkpoint_sha256": self.checkpoint.sha256,
            "located": info.located,
            "measured_on": self.feature_set.version,
            "metrics": self.headlines,
        }
