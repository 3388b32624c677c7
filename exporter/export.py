"""Export: checkpoint → validated graphs → a release, registered, and found by whoever should use it."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx
import yaml

from exporter.made_graphs import ExportContext, MadeGraphs, make_graphs, units_of
from exporter.made_session_graphs import make_session_graphs
from exporter.release.card import card
from exporter.release.latest import promote, read_latest
from exporter.release.publish import claimed, describe_file, publish
from exporter.release.registry import Registry, mlmodel, open_registry, signature
from exporter.release.release import CARD, CONFIG, METRICS, MLMODEL, Release, now
from exporter.request import ExportReport, ExportRequest
from featurestore.errors import HeimdallError, UsageError
from featurestore.objects.objects import Location, open_objects
from featurestore.progress import Progress, Silent
from featurestore.store.split import count_splits
from trainer.evaluate.evaluation import Evaluation
from trainer.evaluate.request import EvaluateRequest
from trainer.evaluate.run import evaluate
from trainer.evaluate.session_evaluation import SessionEvaluation
from trainer.network.checkpoints import read_checkpoint

MEASURED = ("val", "test")
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


@dataclass(frozen=True)
class Made:
    """All files of a release, in a directory of their own."""

    graphs: MadeGraphs
    paths: tuple[Path, ...]
    about: dict[str, Any]
    notes: tuple[str, ...]


def export(request: ExportRequest, progress: Progress | None = None) -> ExportReport:
    """Publish a checkpoint as a release.

    Store, registry and number are made sure of first; nothing is published unless the graphs compute what PyTorch computes;
    `latest.json` is moved last, if this is the first release or `request.promote` is set.

    Args:
        request: what, how, and where to.
        progress: is told how far it is.

    Raises:
        UsageError: when something given is not usable, or the release exists or is being written.
        DataQualityError: when a graph differs from PyTorch, naming the worst rows; nothing was published.
        StoreError: when the store refuses, or the set is damaged.
        ServiceUnavailableError: when store or registry do not answer.
    """
    began, progress = time.monotonic(), progress or Silent()
    objects = open_objects(Location.parse(request.models).url)
    if not objects.location.is_local:
        objects.check()
    registry = None if request.registry is None else open_registry(request.registry)
    checkpoint = read_checkpoint(request.checkpoint)
    feature_set = checkpoint.open_features(request.store, request.version)
    with claimed(objects, request.number, progress.say) as version, TemporaryDirectory(prefix="heimdall-export-") as directory:
        context = ExportContext(request, checkpoint, feature_set, str(version), Path(directory), progress)
        made = _make(context)
        with context.stage(f"publish {version}"):
            release = publish(objects, version, made.paths, made.about)
    registered, latest = _announce(release, registry, checkpoint.run_id, promoted=request.promote)
    return ExportReport(
        release=str(version),
        url=release.url,
        latest=latest,
        files={name: facts["size_bytes"] for name, facts in release.files.items()},
        precision=made.graphs.info.precision,
        located=made.graphs.info.located,
        feature_set=feature_set.version,
        validation=_validation_in_short(made.graphs),
        metrics=made.about["metrics"],
        table=made.graphs.table,
        registered=registered,
        notes=made.notes,
        seconds=round(time.monotonic() - began, 3),
    )


def _make(context: ExportContext) -> Made:
    make = make_graphs if context.checkpoint.training.session is None else make_session_graphs
    graphs = make(context)
    evaluations = _evaluate(context)
    files = {graph.path.name: describe_file(graph.path) for graph in graphs.chosen}
    checkpoint, info = context.checkpoint, graphs.info
    shape = signature(info)
    notes = tuple(dict.fromkeys([*graphs.notes, *(note for found in evaluations.values() for note in found.notes)]))
    config = _config(context, graphs)
    metrics = {
        "release": context.release,
        "evaluation": {split: _plain(found) for split, found in evaluations.items()},
        **graphs.to_json(),
        "files": files,
        "notes": list(notes),
    }
    texts = {
        CONFIG: yaml.safe_dump(config, sort_keys=False, allow_unicode=True, default_flow_style=None, width=120),
        METRICS: json.dumps(metrics, indent=1, allow_nan=False) + "\n",
        CARD: card(config, metrics, graphs.table),
        MLMODEL: yaml.safe_dump(mlmodel(shape, context.release, onnx.__version__, now()), sort_keys=False),
    }
    for name, text in texts.items():
        (context.directory / name).write_text(text, encoding="utf-8")
    about = {
        "feature_set": info.feature_set,
        "spec": info.spec.id,
        "basis": info.basis,
        "backbone": info.backbone,
        "precision": info.precision,
        "checkpoint_sha256": checkpoint.sha256,
        "located": info.located,
        "measured_on": context.feature_set.version,
        "metrics": {split: {name: found.metrics[name] for name in HEADLINES} for split, found in evaluations.items()},
        "signature": shape,
    }
    paths = (*(graph.path for graph in graphs.chosen), *(context.directory / name for name in texts))
    return Made(graphs, paths, about, notes)


def _evaluate(context: ExportContext) -> dict[str, Evaluation | SessionEvaluation]:
    """The network on the splits that were not trained on, as far as they have rows."""
    request, counts = context.request, count_splits(context.feature_set.labels.split)
    found: dict[str, Evaluation | SessionEvaluation] = {}
    for split in MEASURED:
        if not counts[split]:
            continue
        asked = EvaluateRequest(request.checkpoint, request.store, context.feature_set.version, split, k=0)
        found[split] = evaluate(asked, context.progress)
        if found[split].checkpoint.sha256 != context.checkpoint.sha256:
            raise UsageError(
                f"{request.checkpoint} has changed since the export began; export one that no training writes to any more"
            )
    return found


def _plain(found: Evaluation | SessionEvaluation) -> dict[str, Any]:
    content = found.to_json()
    names = ("version", "split", "located", "sessions", "rows", "metrics", "baselines", "notes")
    return {name: content[name] for name in names if name in content}


def _config(context: ExportContext, graphs: MadeGraphs) -> dict[str, Any]:
    """All that made the release what it is."""
    checkpoint, info = context.checkpoint, graphs.info
    return {
        "release": context.release,
        "created": now(),
        "precision": info.precision,
        "checkpoint": {
            "source": checkpoint.source,
            "sha256": checkpoint.sha256,
            "epoch": checkpoint.epoch,
            "step": checkpoint.step,
            "run_id": checkpoint.run_id,
        },
        "features": {
            "store": context.feature_set.objects.location.url,
            "version": info.feature_set,
            "validated_on": context.feature_set.version,
            "spec_id": info.spec.id,
            "spec": info.spec.to_json(),
            "basis": info.basis,
        },
        "region": dict(info.region),
        **({} if info.session is None else {"located": info.located, "session": dict(info.session)}),
        "training": checkpoint.training.to_json(),
        "software": dict(info.software),
        **units_of(info),
    }


def _announce(release: Release, registry: Registry | None, run_id: str | None, *, promoted: bool) -> tuple[str | None, str]:
    """Tell the registry, then, if services are to use the release, `latest.json`; returns what both say now."""
    try:
        number = None if registry is None else registry.make_candidate(release, run_id)
        latest = read_latest(release.objects)
        if latest is None or promoted:
            promote(release, registry)
    except HeimdallError as error:
        raise type(error)(
            f"release {release.version} is published at {release.url}, but {error}. Then: heimdall releases promote "
            f"{release.version}, which registers it, too"
        ) from error
    registered = None if registry is None else f"{registry.request.model} version {number}"
    return registered, str(release.version if latest is None or promoted else latest.version)


def _validation_in_short(graphs: MadeGraphs) -> Mapping[str, Mapping[str, Any]]:
    found = {}
    for name, validation in graphs.validation.items():
        speed = {"speedup": validation.latency_ms[1]["speedup"]} if validation.latency_ms else {}
        found[name] = {
            "rows": validation.rows,
            "unit": validation.unit,
            "share": validation.share,
            "difference_m": validation.difference_m,
            **speed,
        }
    return found
