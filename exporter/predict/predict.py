"""`heimdall predict`: a release or a file, and captures or rows of a set → predictions. Needs no torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from exporter.graph.opened_graph import OpenedGraph
from exporter.predict.capture_input import find_captures
from exporter.predict.predict_sessions import predict_sessions
from exporter.predict.predictor import Predicted, Predictor
from exporter.predict.request import PredictRequest
from exporter.predict.session_predictor import SessionPredictor
from exporter.predict.session_table import SessionPredictionTable
from exporter.predict.table import FORMATS, SUFFIXES, PredictionTable
from exporter.release.latest import LATEST, read_release
from exporter.release.release import IQ_MODEL, MODEL, NUMBER
from featurestore.errors import DataQualityError, UsageError
from featurestore.progress import Progress, Silent
from featurestore.store.feature_set import open_set
from featurestore.store.split import Split


def predict(request: PredictRequest, progress: Progress | None = None) -> PredictionTable | SessionPredictionTable:
    """Say where transmitters are: one for each capture or row, or for each session, as the model locates.

    Raises:
        UsageError: when model, captures or set are not usable, or do not fit each other.
        DataQualityError: when none of the captures is usable, or an output is not a number.
        StoreError: when the release or the set is damaged.
    """
    progress = progress or Silent()
    predictor, origin = open_model(request, MODEL if request.store is not None else IQ_MODEL)
    origin |= {"release": predictor.info.release, "precision": predictor.info.precision}
    if isinstance(predictor, SessionPredictor):
        return predict_sessions(predictor, request, origin, progress)
    if request.sessions is not None:
        raise UsageError(f"--sessions {request.sessions}: {predictor.name} locates captures, each by itself; leave it out")
    if request.store is not None:
        return _rows(predictor, request, request.store, origin)
    return _captures(predictor, request, origin, progress)


def open_model(request: PredictRequest, name: str) -> tuple[Predictor | SessionPredictor, dict[str, str]]:
    """The graph of a file, or this one of a release; and where it is from."""
    if request.model.endswith(".onnx") and "://" not in request.model and request.models is None:
        return open_predictor(Path(request.model)), {"model": request.model}
    models, number = request.models, request.model
    if models is None:
        parent, _, last = request.model.rstrip("/").rpartition("/")
        is_release = NUMBER.fullmatch(last) is not None and last.startswith("v")
        models, number = (parent or ".", last) if is_release else (request.model, LATEST)
    release = read_release(models, number)
    predictor = open_predictor(release.read(name))
    predictor.name = f"{release.url}/{name}"
    return predictor, {"model": predictor.name}


def open_predictor(source: Path | bytes) -> Predictor | SessionPredictor:
    """What a graph needs that locates captures, or sessions."""
    graph = OpenedGraph.open(source)
    return SessionPredictor(graph) if graph.info.located == "session" else Predictor(graph)


def _rows(predictor: Predictor, request: PredictRequest, store: str, origin: dict[str, str]) -> PredictionTable:
    feature_set = open_set(store, request.version or predictor.info.feature_set)
    rows, predicted = predictor.predict_set(feature_set, Split[request.split.upper()], request.limit)
    about = {
        "row": rows.row.tolist(),
        "capture_id": rows.capture_id.tolist(),
        "window": rows.window.tolist(),
        "true_latitude": np.round(rows.position[:, 0], 7).tolist(),
        "true_longitude": np.round(rows.position[:, 1], 7).tolist(),
    }
    return PredictionTable(about, predicted, {**origin, "feature_set": feature_set.version, "split": request.split})


def _captures(predictor: Predictor, request: PredictRequest, origin: dict[str, str], progress: Progress) -> PredictionTable:
    """One prediction for each usable capture; the others are told."""
    if predictor.info.input != "iq":
        raise UsageError(f"{predictor.name} takes {predictor.info.input}, not captures; use the {IQ_MODEL} of the same release")
    wanted = predictor.info.spec.sample_rate_hz
    if request.sample_rate_hz != wanted:
        rate = "unknown" if request.sample_rate_hz is None else f"{request.sample_rate_hz:g} Hz"
        raise UsageError(
            f"the captures' sample rate is {rate}; {predictor.name} takes {wanted:g} Hz: give --sample-rate-hz {wanted:g} if "
            "they have it, else resample them"
        )
    names, found_positions, found_sigmas = [], [], []
    paths = find_captures(request.captures)
    progress.start("predict", len(paths), "captures")
    for path in paths:
        try:
            (one,) = predictor.predict_files([path], wanted)
        except UsageError as error:
            progress.say(f"left out: {error}")
        else:
            names.append(str(path))
            found_positions.append(one.positions)
            found_sigmas.append(one.uncertainties)
        progress.advance(1)
    if not names:
        raise DataQualityError(f"none of {len(paths)} captures is usable; without --quiet, the reasons are told")
    predicted = Predicted(np.concatenate(found_positions), np.concatenate(found_sigmas))
    return PredictionTable({"capture": names}, predicted, origin)


def format_of(form: str | None, out: Path | None, *, ellipses: bool) -> str:
    """How to write: as was said, else as the file's name says, else as a table.

    Raises:
        UsageError: when the name says nothing, or ellipses are wanted of something else than GeoJSON.
    """
    chosen = form or ("table" if out is None else SUFFIXES.get(out.suffix.lower(), ""))
    if chosen not in FORMATS:
        raise UsageError(f"{out} does not say how to write it; give --format {', '.join(FORMATS)}, or a name that ends in .csv")
    if ellipses and chosen != "geojson":
        raise UsageError(f"--ellipses with a {chosen}: only GeoJSON has them; add --format geojson")
    return chosen
