"""Two releases on the same rows, offline: which one errs less, or that these rows cannot tell.

Rows of a session share transmitter, time and path, so that their errors are not independent: what is drawn with
replacement, for the confidence interval, is sessions.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from exporter.graph.metadata import GraphInfo
from exporter.graph.opened_graph import OpenedGraph
from exporter.graph.rows import Rows, read_rows
from exporter.graph.runtime import Outputs, median_latencies_ms, run
from exporter.release.compare_report import describe_comparison
from exporter.release.comparison import BATCHES, Comparison, Paired, Side
from exporter.release.latest import read_release
from exporter.release.paired import CompareRequest, maybe_trained_on, paired_interval
from exporter.release.release import MODEL, Release
from featurestore.errors import DataQualityError, UsageError
from featurestore.page.charts import require_matplotlib
from featurestore.page.page import require_place
from featurestore.progress import Progress, Silent
from featurestore.store.feature_set import FeatureSet, open_set
from featurestore.store.split import Split
from trainer.evaluate.metrics import Predictions, summary, thresholds_m
from trainer.network.geometry import Region, geodesic_m


def compare(request: CompareRequest, progress: Progress | None = None) -> Comparison:
    """Run both releases over the same rows.

    Raises:
        UsageError: when a release or the set is absent, or a release takes other features than the set has.
        DataQualityError: when the split has no rows, or an output is not a number.
        StoreError: when something is damaged.
    """
    if request.html is not None:
        require_place(request.html)
        require_matplotlib()
    releases = [read_release(request.models, name) for name in (request.a, request.b)]
    version = request.version or str(releases[0].about.get("feature_set"))
    feature_set = open_set(request.store, version)
    graphs = [_open(release, feature_set) for release in releases]
    progress = progress or Silent()
    if len(kinds := {graph.info.located for graph in graphs}) > 1:
        of = " and ".join(f"{graph.name} locates {graph.info.located}s" for graph in graphs)
        raise UsageError(f"{of}: these have no rows in common; compare releases of one kind")
    if kinds == {"session"}:
        from exporter.release.compare_sessions import compare_sessions

        return compare_sessions(request, list(zip(releases, graphs, strict=True)), feature_set, progress)
    opened = [(graph.session, graph.info) for graph in graphs]
    rows = read_rows(feature_set, Split[request.split.upper()])
    progress.start("predict", 2 * len(rows.features), "rows")
    outputs = [run(session, rows.features, BATCHES[-1], progress) for session, _ in opened]
    predictions = [
        _predictions(output, rows, feature_set, info, release)
        for output, (_, info), release in zip(outputs, opened, releases, strict=True)
    ]
    progress.start("measure latency", len(BATCHES), "batch sizes")
    latency = _latencies([session for session, _ in opened], rows, progress)
    sessions = feature_set.fact("session_id")[rows.row]
    difference = paired_interval(
        predictions[1].error_m - predictions[0].error_m, sessions, request.confidence, request.draws, request.seed
    )
    sides = [
        Side(
            release=str(release.version),
            precision=info.precision,
            feature_set=info.feature_set,
            size_bytes=release.size_bytes,
            latency_ms=latency[index],
            metrics=summary(predictions[index], thresholds_m(info.region["half_extent_m"])),
        )
        for index, (release, (_, info)) in enumerate(zip(releases, opened, strict=True))
    ]
    notes = tuple(note for side in sides for note in maybe_trained_on(feature_set, side))
    paired = Paired(rows.row, rows.capture_id, sessions, *predictions)
    compared = Comparison(sides[0], sides[1], feature_set.version, request.split, len(rows), difference, notes, paired)
    if request.html is not None:
        describe_comparison(compared, paired).save(request.html)
    return compared


def _open(release: Release, feature_set: FeatureSet) -> OpenedGraph:
    graph = replace(OpenedGraph.open(release.read(MODEL)), name=f"{release.url}/{MODEL}")
    graph.info.require_takes(feature_set, graph.name)
    return graph


def _predictions(output: Outputs, rows: Rows, feature_set: FeatureSet, info: GraphInfo, release: Release) -> Predictions:
    """As `trainer.evaluate.metrics` wants them."""
    position, sigma = output[0], output[1].astype(np.float64)
    bad = np.flatnonzero(~(np.isfinite(position) & np.isfinite(sigma)).all(axis=1))
    if len(bad):
        raise DataQualityError(
            f"{release.url} returned NaN or infinity for {len(bad)} of {len(rows)} rows, the first being "
            f"{rows.name(int(bad[0]))}; export it again with --precision fp32"
        )
    region = Region.from_json(dict(info.region), release.url)
    offset = (region.encode(position) - region.encode(rows.position)) * region.half_extent_m  # (row, axis)
    return Predictions(
        position_true=rows.position,
        position=position,
        error_m=geodesic_m(rows.position, position),
        east_error_m=offset[:, 0],
        north_error_m=offset[:, 1],
        sigma_east_m=sigma[:, 0],
        sigma_north_m=sigma[:, 1],
        websdr_id=feature_set.fact("websdr_id")[rows.row].astype(np.int64),
        snr_db=feature_set.labels.snr_db[rows.row].astype(np.float64),
    )


def _latencies(sessions: list[Any], rows: Rows, progress: Progress) -> list[dict[int, float]]:
    latencies: list[dict[int, float]] = [{} for _ in sessions]
    for size in BATCHES:
        features = np.resize(rows.features, (size, *rows.features.shape[1:]))
        calls = {
            str(index): lambda session=session: session.run(None, {"features": features})  # noqa: B023 - called in this turn
            for index, session in enumerate(sessions)
        }
        for index, milliseconds in median_latencies_ms(calls, 15).items():
            latencies[int(index)][size] = milliseconds
        progress.advance(1)
    return latencies
