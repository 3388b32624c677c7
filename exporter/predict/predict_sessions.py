"""`heimdall predict` with a model that locates sessions: captures by session, or sessions of a set → predictions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from exporter.predict.capture_input import CaptureInput, find_captures
from exporter.predict.request import PredictRequest
from exporter.predict.session_files import by_path, by_table, gather
from exporter.predict.session_predictor import Heard, PredictedSession, SessionPredictor
from exporter.predict.session_table import SessionPredictionTable
from featurestore.errors import DataQualityError, UsageError
from featurestore.progress import Progress
from featurestore.store.feature_set import open_set
from featurestore.store.split import Split


def predict_sessions(
    predictor: SessionPredictor, request: PredictRequest, origin: Mapping[str, str], progress: Progress
) -> SessionPredictionTable:
    """Say where the transmitter of each session is; see `predict`."""
    if request.store is None:
        return SessionPredictionTable(list(_of_files(predictor, request, progress)), None, origin)
    feature_set = open_set(request.store, request.version or predictor.info.feature_set)
    rows = predictor.read_set(feature_set, Split[request.split.upper()], request.limit)
    origin = {**origin, "feature_set": feature_set.version, "split": request.split}
    return SessionPredictionTable(list(predictor.predict(rows)), rows.position.tolist(), origin)


def _of_files(predictor: SessionPredictor, request: PredictRequest, progress: Progress) -> Iterator[PredictedSession]:
    """One prediction for each session that has a usable capture; what is left out is told."""
    if predictor.info.input != "iq":
        raise UsageError(
            f"{predictor.name} takes {predictor.info.input}, not captures; use the model-iq.onnx of the same release"
        )
    captures = CaptureInput(predictor.info.spec, predictor.name)
    captures.require_rate(request.sample_rate_hz)
    paths = find_captures(request.captures)
    sessions = gather(by_path(paths) if request.sessions is None else by_table(request.sessions, paths))
    progress.start("predict", len(sessions), "sessions")
    n_usable = 0
    for session in sessions:
        usable = _usable(captures, session, progress)
        unknown = np.setdiff1d(usable.receiver_id, _known(predictor, usable))
        for number in unknown.tolist():
            progress.say(f"session {session.session_id}: receiver {number} says nothing, as the model does not know it")
        if len(usable.paths) > len(unknown):
            yield from predictor.predict(predictor.read_files([usable], request.sample_rate_hz))
            n_usable += 1
        else:
            progress.say(f"left out: session {session.session_id} has no capture that can be used")
        progress.advance(1)
    if not n_usable:
        raise DataQualityError(f"none of {len(sessions)} sessions is usable; without --quiet, the reasons are told")


def _usable(captures: CaptureInput, session: Heard, progress: Progress) -> Heard:
    kept = []
    for index, path in enumerate(session.paths):
        try:
            captures.read_windows(path)
        except UsageError as error:
            progress.say(f"left out: {error}")
        else:
            kept.append(index)
    paths = tuple(session.paths[index] for index in kept)
    return replace(
        session, paths=paths, receiver_id=session.receiver_id[kept], receiver_position=session.receiver_position[kept]
    )


def _known(predictor: SessionPredictor, session: Heard) -> list[int]:
    """Receivers that the network can use: by their number, or by where they stand."""
    about = predictor.info.session or {}
    numbers = {entry["websdr_id"] for entry in about["receivers"]} if about["receivers_by"] != "position" else set()
    stands = np.isfinite(session.receiver_position).all(axis=1)
    stands |= np.isfinite(predictor.receivers.positions_of(session.receiver_id)).all(axis=1)
    by_position = stands & (about["receivers_by"] != "identity")
    return [
        number
        for number, placed in zip(session.receiver_id.tolist(), by_position.tolist(), strict=True)
        if placed or number in numbers
    ]
