"""Evaluate a network for sessions: metrics by subsets of receivers, baselines, and what is written of it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from featurestore.pairs.pair_set import open_pair_set
from featurestore.progress import Progress
from featurestore.source.receivers import Receivers
from featurestore.source.snapshot import format_sessions
from featurestore.store.feature_set import FeatureSet
from featurestore.store.split import Split
from featurestore.whole_file import whole_file
from trainer.evaluate.baselines import Baseline
from trainer.evaluate.captures import run_captures
from trainer.evaluate.fusion import SessionFusion, side_by_side
from trainer.evaluate.predictions import write_predictions
from trainer.evaluate.request import EVIDENCE, EvaluateRequest
from trainer.evaluate.session_baselines import mean_sessions, nearest_sessions
from trainer.evaluate.session_evaluation import SessionEvaluation
from trainer.evaluate.session_metrics import SessionPredictions, measure_sessions
from trainer.evaluate.sessions import EncodedSessions, encode_sessions
from trainer.network.checkpoints import Checkpoint, read_checkpoint
from trainer.network.geometry import geodesic_m
from trainer.network.session.table import SessionTable


@dataclass(frozen=True, eq=False)
class SessionRequest:
    """What `evaluate` found out before it knew that sessions are located.

    Attributes:
        request: what was asked for.
        checkpoint: of a network for sessions.
        feature_set: whose features it knows.
        receivers: where receivers stand.
        device: of the network.
        notes: what a reader should know.
    """

    request: EvaluateRequest
    checkpoint: Checkpoint
    feature_set: FeatureSet
    receivers: Receivers
    device: torch.device
    notes: tuple[str, ...]


def evaluate_sessions(asked: SessionRequest, progress: Progress) -> SessionEvaluation:
    """Locate all sessions of the split, and random subsets of their captures, and measure; see `evaluate`."""
    began, request, feature_set = time.monotonic(), asked.request, asked.feature_set
    pair_set = None if request.pair_set is None else open_pair_set(request.store, request.pair_set)
    split = Split[request.split.upper()]
    encoded = encode_sessions(asked.checkpoint, feature_set, split, asked.receivers, asked.device, request.threads, progress)
    table, fusion, beside = encoded.table, None, None
    if pair_set is not None:
        fusion = SessionFusion.of(encoded, pair_set, asked.receivers, request.path_sigma_us * 1e-6)
        beside = side_by_side(fusion, request.evidence, EVIDENCE, progress)

    def located(present: npt.NDArray[np.bool_]) -> SessionPredictions:
        if fusion is None:
            return encoded.predictions(present, progress)
        return fusion.predictions(request.evidence, present, progress)

    progress.start("posteriors", len(table) * (table.row.shape[1] + 1), "sessions")
    predictions = located(table.present) if beside is None else beside.predictions[request.evidence]
    metrics = measure_sessions(
        predictions, asked.checkpoint.region.half_extent_m, table.receiver, table.snr_db, table.timestamp
    )
    metrics["by_receivers_present"] = encoded.by_receivers_present(located)
    baselines, notes = _baselines(asked, table, split, progress)
    evaluation = SessionEvaluation(
        checkpoint=asked.checkpoint,
        version=feature_set.version,
        split=request.split,
        split_by=str(feature_set.manifest.split.get("split_by", "session")),
        encoded=encoded,
        fusion=fusion,
        beside=beside,
        predictions=predictions,
        metrics=metrics,
        baselines=baselines,
        notes=(*asked.notes, *([] if beside is None else [beside.note()]), *_unknown_receivers(asked, table), *notes),
        receivers=asked.receivers,
        device=asked.device.type,
        seconds=round(time.monotonic() - began, 3),
    )
    return replace(evaluation, files=tuple(_write(evaluation, asked)))


def _unknown_receivers(asked: SessionRequest, table: SessionTable) -> Iterator[str]:
    place = asked.checkpoint.place
    if place is None:
        return
    unseen = np.setdiff1d(table.receiver[table.present], place.websdr_id)
    if len(unseen):
        placed = np.asarray(np.isfinite(asked.receivers.positions_of(unseen)).all(axis=1))
        session = asked.checkpoint.training.session
        by_position = placed & (session is not None and session.receivers_by != "identity")
        for number, used in zip(unseen.tolist(), by_position.tolist(), strict=True):
            how = "known by its position alone" if used else "left out, as nothing is known of it"
            yield f"receiver {number} was not in training: {how}"


def _baselines(
    asked: SessionRequest, table: SessionTable, split: Split, progress: Progress
) -> tuple[dict[str, Baseline], list[str]]:
    """What the set and the split allow, and why something is missing."""
    request, feature_set = asked.request, asked.feature_set
    baselines: dict[str, Baseline] = {}
    notes = []
    train = SessionTable.of(feature_set, Split.TRAIN)
    if request.against is not None:
        baselines["against"] = _against(asked, split, progress)
    if not len(train):
        return baselines, [f"no baselines: feature set {feature_set.version} has no train rows"]
    if split is Split.TRAIN and request.k:
        notes.append(f"{request.k} nearest: left out, as each session of the train split is its own nearest")
    elif request.k:
        k = min(request.k, len(train))
        baselines["k_nearest"] = nearest_sessions(feature_set, train, table, split, k, request.threads, progress)
    baselines["predict_the_mean"] = mean_sessions(train, table)
    return baselines, notes


def _against(asked: SessionRequest, split: Split, progress: Progress) -> Baseline:
    """Another network on the same split: its errors by session, or by capture when it locates captures."""
    other = read_checkpoint(str(asked.request.against))
    feature_set = asked.feature_set
    other.features.require_same(feature_set, other.source)
    name = Path(other.source).name
    if other.training.session is not None:
        encoded = encode_sessions(other, feature_set, split, asked.receivers, asked.device, asked.request.threads, progress)
        progress.start(f"posteriors of {name}", len(encoded.table), "sessions")
        errors = encoded.predictions(encoded.table.present, progress).error_m
        return Baseline(f"{other.training.title} ({name})", errors, len(encoded.table))
    row, outputs = run_captures(other, feature_set, asked.request, asked.device, progress)
    errors = geodesic_m(other.region.decode(outputs[:, :2]), feature_set.labels.position[row])
    return Baseline(f"one capture: {other.training.title} ({name})", errors, len(row))


def session_columns(encoded: EncodedSessions, evaluation: SessionEvaluation) -> dict[str, Any]:
    """One row for each session: truth, prediction, covariance, and how sure it is."""
    predictions, table = evaluation.predictions, encoded.table
    return {
        "session_id": format_sessions(table.session_id),
        "receivers": table.present.sum(axis=1),
        "latitude": predictions.position_true[:, 0],
        "longitude": predictions.position_true[:, 1],
        "predicted_latitude": predictions.position[:, 0],
        "predicted_longitude": predictions.position[:, 1],
        "variance_east_m2": predictions.covariance_m2[:, 0, 0],
        "covariance_m2": predictions.covariance_m2[:, 0, 1],
        "variance_north_m2": predictions.covariance_m2[:, 1, 1],
        "error_m": predictions.error_m,
        "expected_error_m": predictions.expected_error_m,
        "nll": predictions.nll,
        "level": predictions.level,
        "area_86_km2": predictions.area_km2,
    }


def _write(evaluation: SessionEvaluation, asked: SessionRequest) -> Iterator[Path]:
    request = asked.request
    if request.predictions is not None:
        about = {"checkpoint": evaluation.checkpoint.sha256, "version": evaluation.version, "split": evaluation.split}
        write_predictions(request.predictions, session_columns(evaluation.encoded, evaluation), about)
        yield request.predictions
    if request.out is not None:
        from trainer.evaluate.session_plots import draw_sessions

        yield from draw_sessions(evaluation, request.out)
        metrics = request.out / "metrics.json"
        with whole_file(metrics) as file:
            file.write((json.dumps(evaluation.to_json(), indent=2, allow_nan=False) + "\n").encode())
        yield metrics
    if request.html is not None:
        from trainer.evaluate.session_page import describe_sessions

        describe_sessions(evaluation, asked.feature_set, request.tracking_uri).save(request.html)
        yield request.html
