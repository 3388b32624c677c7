"""Evaluate: a checkpoint on a split of a feature set → metrics, baselines beside them, predictions and plots."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from featurestore.errors import StoreError, UsageError
from featurestore.page import page
from featurestore.page.charts import require_matplotlib
from featurestore.progress import Progress, Silent
from featurestore.source.receivers import read_receivers
from featurestore.store.feature_set import FeatureSet
from featurestore.store.sets import read_manifest
from featurestore.store.split import Split, count_splits
from featurestore.whole_file import whole_file
from trainer.evaluate import plots
from trainer.evaluate.baselines import Baseline, mean_baseline, nearest_baseline
from trainer.evaluate.captures import run_captures
from trainer.evaluate.evaluation import Evaluation
from trainer.evaluate.metrics import Predictions, measure
from trainer.evaluate.page import describe_evaluation
from trainer.evaluate.predictions import columns, require_directory, write_predictions
from trainer.evaluate.request import EvaluateRequest
from trainer.evaluate.session_evaluation import SessionEvaluation
from trainer.evaluate.session_run import SessionRequest, evaluate_sessions
from trainer.network.checkpoints import Checkpoint, read_checkpoint


def evaluate(request: EvaluateRequest, progress: Progress | None = None) -> Evaluation | SessionEvaluation:
    """Run a network over a split, every row of it, and measure.

    Args:
        request: what, on what, and where to.
        progress: is told how far it is.

    Raises:
        UsageError: when checkpoint, set, split or an output cannot be used, or do not fit each other.
        DataQualityError: when the network returns NaN or infinity.
        StoreError: when the set is damaged.
        ServiceUnavailableError: when the store does not answer.
    """
    began, progress = time.monotonic(), progress or Silent()
    given = None if request.receivers is None else read_receivers(request.receivers)
    checkpoint = read_checkpoint(request.checkpoint)
    feature_set = checkpoint.open_features(request.store, request.version)
    receivers = feature_set.receivers if given is None else given.or_else(feature_set.receivers)
    _require_rows(feature_set, request)
    _require_outputs(request)
    device = _device(request.device)
    if checkpoint.training.session is not None:
        known = tuple(_maybe_trained_on(feature_set, checkpoint, request.split))
        return evaluate_sessions(SessionRequest(request, checkpoint, feature_set, receivers, device, known), progress)
    if request.pair_set is not None:
        raise UsageError(f"pairs locate sessions, and {checkpoint.source} locates captures; leave --pairs and --fusion out")
    if request.against is not None:
        raise UsageError(f"--against compares networks for sessions, and {checkpoint.source} locates captures; leave it out")
    row, outputs = run_captures(checkpoint, feature_set, request, device, progress)
    labels, region = feature_set.labels, checkpoint.region
    websdr_id = feature_set.fact("websdr_id")[row]
    predictions = Predictions.from_outputs(region, outputs, labels.position[row], websdr_id, labels.snr_db[row])
    baselines, notes = _baselines(feature_set, request, progress)
    evaluation = Evaluation(
        checkpoint=checkpoint,
        version=feature_set.version,
        split=request.split,
        row=row,
        predictions=predictions,
        metrics=measure(predictions, region.half_extent_m),
        baselines=baselines,
        notes=(*_maybe_trained_on(feature_set, checkpoint, request.split), *notes),
        receivers=receivers if len(receivers) else None,
        device=device.type,
        seconds=round(time.monotonic() - began, 3),
    )
    return replace(evaluation, files=tuple(_write(evaluation, feature_set, request)))


def _require_rows(feature_set: FeatureSet, request: EvaluateRequest) -> None:
    counts = count_splits(feature_set.labels.split)
    if not counts[request.split]:
        filled = ", ".join(f"{name} ({count:,})" for name, count in counts.items() if count)
        raise UsageError(
            f"the {request.split} split of {feature_set.url} has no rows; evaluate on one that has: "
            f"{filled or 'none of this set has'}"
        )
    if 0 < counts["train"] < request.k and request.split != "train":
        raise UsageError(
            f"k is {request.k}, but {feature_set.url} has {counts['train']} train rows; give a --k up to that, or 0 for none"
        )


def _require_outputs(request: EvaluateRequest) -> None:
    if request.predictions is not None:
        require_directory(request.predictions.parent)
    if request.out is not None:
        require_directory(request.out)
        require_matplotlib()
    if request.html is not None:
        page.require_place(request.html)
        require_matplotlib()


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("device is 'cuda', and torch finds no GPU; take 'auto' or 'cpu'")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def _baselines(feature_set: FeatureSet, request: EvaluateRequest, progress: Progress) -> tuple[dict[str, Baseline], list[str]]:
    """What the set and the split allow, and why something is missing."""
    if not count_splits(feature_set.labels.split)["train"]:
        return {}, [f"no baselines: feature set {feature_set.version} has no train rows"]
    baselines, notes, split = {}, [], Split[request.split.upper()]
    if split is Split.TRAIN and request.k:
        notes.append(f"{request.k} nearest: left out, as each row of the train split is its own nearest")
    elif request.k:
        baselines["k_nearest"] = nearest_baseline(feature_set, split, request.k, request.threads, progress)
    baselines["predict_the_mean"] = mean_baseline(feature_set, split)
    return baselines, notes + [note for baseline in baselines.values() for note in baseline.notes]


def _maybe_trained_on(feature_set: FeatureSet, checkpoint: Checkpoint, split: str) -> Iterator[str]:
    """Whether the network may know rows that it is evaluated on: errors look smaller then than they are."""
    trained_on = checkpoint.features.version
    if split == "train":
        yield "these are rows of a train split: the network may have been trained on them"
    elif feature_set.version != trained_on:
        try:
            same_split = read_manifest(feature_set.objects, trained_on).split == feature_set.manifest.split
        except (UsageError, StoreError):
            yield f"feature set {trained_on} is not here: it is not known which of these rows the network was trained on"
        else:
            if not same_split:
                yield f"feature set {trained_on} is split otherwise: the network may have been trained on some of these rows"


def _write(evaluation: Evaluation, feature_set: FeatureSet, request: EvaluateRequest) -> Iterator[Path]:
    if request.predictions is not None:
        about = {"checkpoint": evaluation.checkpoint.sha256, "version": evaluation.version, "split": evaluation.split}
        write_predictions(request.predictions, columns(feature_set, evaluation.row, evaluation.predictions), about)
        yield request.predictions
    if request.out is not None:
        yield from plots.draw(evaluation.picture(), request.out)
        metrics = request.out / "metrics.json"
        with whole_file(metrics) as file:
            file.write((json.dumps(evaluation.to_json(), indent=2, allow_nan=False) + "\n").encode())
        yield metrics
    if request.html is not None:
        describe_evaluation(evaluation, feature_set, request.tracking_uri).save(request.html)
        yield request.html
