"""Export: checkpoint → validated graphs → a release, registered, and found by whoever should use it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
import yaml

from exporter.draft import Draft
from exporter.made_graphs import make_graphs
from exporter.made_session_graphs import make_session_graphs
from exporter.release.card import card
from exporter.release.latest import promote, read_latest
from exporter.release.publish import claimed, publish
from exporter.release.registry import Registry, mlmodel, open_registry, signature
from exporter.release.release import CARD, CONFIG, METRICS, MLMODEL, Release
from exporter.report import ExportReport
from exporter.request import ExportRequest
from featurestore.errors import HeimdallError, UsageError
from featurestore.objects.objects import Location, open_objects
from featurestore.progress import Progress, Silent
from featurestore.store.split import Split, count_splits
from trainer.evaluate.request import EvaluateRequest
from trainer.evaluate.run import evaluate
from trainer.network.checkpoints import read_checkpoint

MEASURED = ("val", "test")


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
        draft = Draft(request, checkpoint, feature_set, str(version), Path(directory), progress)
        make = make_graphs if checkpoint.training.session is None else make_session_graphs
        make(draft)
        _evaluate(draft)
        texts = _write_texts(draft)
        with draft.stage(f"publish {version}"):
            paths = [*(graph.path for graph in draft.graphs), *texts]
            release = publish(objects, version, paths, {**draft.marker(), "signature": signature(draft.info)})
    registered, latest = _announce(release, registry, checkpoint.run_id, promoted=request.promote)
    return ExportReport(draft, release, latest, registered, round(time.monotonic() - began, 3))


def _evaluate(draft: Draft) -> None:
    """The network on the splits that were not trained on, as far as they have rows."""
    request, counts = draft.request, count_splits(draft.feature_set.labels.split)
    if draft.measured_split is not Split.TEST:
        draft.notes.append(f"the test split of {draft.feature_set.version} has no rows: precisions were measured on val")
    for split in MEASURED:
        if not counts[split]:
            continue
        asked = EvaluateRequest(request.checkpoint, request.store, draft.feature_set.version, split, k=0)
        found = draft.evaluations[split] = evaluate(asked, draft.progress)
        if found.checkpoint.sha256 != draft.checkpoint.sha256:
            raise UsageError(
                f"{request.checkpoint} has changed since the export began; export one that no training writes to any more"
            )
        draft.notes += [note for note in found.notes if note not in draft.notes]


def _write_texts(draft: Draft) -> list[Path]:
    """Config, metrics, model card, and what MLflow wants to know of the model."""
    config, metrics = draft.config(), draft.metrics()
    model = mlmodel(signature(draft.info), draft.release, onnx.__version__, draft.created)
    texts = {
        CONFIG: yaml.safe_dump(config, sort_keys=False, allow_unicode=True, default_flow_style=None, width=120),
        METRICS: json.dumps(metrics, indent=1, allow_nan=False) + "\n",
        CARD: card(config, metrics, draft.table),
        MLMODEL: yaml.safe_dump(model, sort_keys=False),
    }
    for name, text in texts.items():
        (draft.directory / name).write_text(text, encoding="utf-8")
    return [draft.directory / name for name in texts]


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
