"""Two releases on the same rows, offline: which one errs less, or that these rows cannot tell.

Rows of a session share transmitter, time and path, so that their errors are not independent: what is drawn with
replacement, for the confidence interval, is sessions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from exporter.graph.metadata import GraphInfo
from exporter.graph.rows import Rows, read_rows
from exporter.graph.runtime import Outputs, median_latencies_ms, open_session, run
from exporter.release.latest import read_release
from exporter.release.release import MODEL, Release
from featurestore.errors import DataQualityError, StoreError, UsageError
from featurestore.page.charts import require_matplotlib
from featurestore.page.page import require_place
from featurestore.progress import Progress, Silent
from featurestore.store.feature_set import FeatureSet, open_set
from featurestore.store.sets import read_manifest
from featurestore.store.split import Split
from trainer.evaluate.metrics import Int64, Predictions, summary, thresholds_m
from trainer.network.geometry import Region, geodesic_m

BATCHES = (1, 32)
MIN_SESSIONS = 10
"""With fewer, an interval from resampling is too narrow to be trusted."""
DRAWS_AT_ONCE = 100
COLUMNS = (
    ("error_mean_m", "mean error, km", 1000.0, ".2f"),
    ("error_median_m", "median error, km", 1000.0, ".2f"),
    ("error_p90_m", "90% within, km", 1000.0, ".2f"),
    ("expected_error_m", "mean error expected from σ, km", 1000.0, ".2f"),
    ("calibration_error_m", "calibration error, km", 1000.0, ".2f"),
    ("coverage_1_sigma", "in the 1 σ ellipse, % (39.3 when right)", 0.01, ".1f"),
    ("coverage_2_sigma", "in the 2 σ ellipse, % (86.5 when right)", 0.01, ".1f"),
    ("nll", "negative log-likelihood, nats", 1.0, ".2f"),
)


@dataclass(frozen=True)
class CompareRequest:
    """What to compare on what.

    Attributes:
        models: where releases are.
        a: number of a release, or `latest`.
        b: of the other one.
        store: of the feature set.
        version: of the feature set, or a tag; `None` is the one that `a` was trained on.
        split: which rows.
        confidence: of the interval.
        draws: of the bootstrap.
        seed: of the bootstrap.
        html: file for the report.

    Raises:
        UsageError: when a value is impossible.
    """

    models: str
    a: str
    b: str
    store: str
    version: str | None = None
    split: str = "test"
    confidence: float = 0.95
    draws: int = 5000
    seed: int = 0
    html: Path | None = None

    def __post_init__(self) -> None:
        if not 0.5 <= self.confidence < 1 or self.draws < 100:
            raise UsageError(
                f"confidence is {self.confidence}, draws {self.draws}; wanted from 0.5 to below 1, and 100 or more"
            )


@dataclass(frozen=True)
class Interval:
    """The mean difference of paired errors, B less A, in metres: below 0, B errs less.

    Attributes:
        mean_m: over all rows.
        low_m: lower end of the confidence interval.
        high_m: upper end.
        confidence: of the interval.
        sessions: that were drawn from.
    """

    mean_m: float
    low_m: float
    high_m: float
    confidence: float
    sessions: int

    @property
    def verdict(self) -> str:
        """`a`, `b`, or `unknown`."""
        if self.sessions < MIN_SESSIONS or self.low_m <= 0 <= self.high_m:
            return "unknown"
        return "b" if self.high_m < 0 else "a"


@dataclass(frozen=True)
class Side:
    """One release, measured.

    Attributes:
        release: its number.
        precision: of its graph.
        feature_set: that it was trained on.
        size_bytes: of `model.onnx`.
        latency_ms: batch size → median of one call; both releases in turns.
        metrics: see `trainer.evaluate.metrics.summary`.
    """

    release: str
    precision: str
    feature_set: str
    size_bytes: int
    latency_ms: dict[int, float]
    metrics: dict[str, float]


@dataclass(frozen=True, eq=False)
class Paired:
    """What both releases make of the same n rows.

    Attributes:
        row: (n,) index in the feature set.
        capture_id: (n,) in the catalog.
        session_id: (n, 16).
        a: predictions of one.
        b: of the other.
    """

    row: Int64
    capture_id: Int64
    session_id: npt.NDArray[np.uint8]
    a: Predictions
    b: Predictions


@dataclass(frozen=True)
class Comparison:
    """What was found; `paired` is for reports, and no part of its JSON."""

    a: Side
    b: Side
    feature_set: str
    split: str
    rows: int
    difference: Interval
    notes: tuple[str, ...]
    paired: Paired | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values, and the `verdict`."""
        found = asdict(replace(self, paired=None))
        del found["paired"]
        for side in (found["a"], found["b"]):
            side["latency_ms"] = {str(size): value for size, value in side["latency_ms"].items()}
        return {**found, "notes": list(self.notes), "verdict": self.difference.verdict}

    def side_by_side(self) -> list[list[str]]:
        """What was measured, A beside B; the first line names them."""
        sides = (self.a, self.b)
        table = [["", *(side.release for side in sides)]]
        table += [[label, *(format(side.metrics[name] / unit, form) for side in sides)] for name, label, unit, form in COLUMNS]
        table += [[f"ms at batch {size}", *(f"{side.latency_ms[size]:.2f}" for side in sides)] for size in BATCHES]
        table.append(["model.onnx, MB", *(f"{side.size_bytes / 1e6:.1f}" for side in sides)])
        table.append(["precision", *(side.precision for side in sides)])
        return table

    def lines(self) -> Iterator[str]:
        """For people: both side by side, then the difference, then the verdict."""
        table = self.side_by_side()
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        yield f"on {self.rows:,} rows of the {self.split} split of feature set {self.feature_set}"
        for row in table:
            yield "  ".join([row[0].ljust(widths[0]), row[1].rjust(widths[1]), row[2].rjust(widths[2])])
        found = self.difference
        yield (
            f"error of {self.b.release} less that of {self.a.release}, row by row: {found.mean_m / 1000:+.3f} km on average, "
            f"{100 * found.confidence:g}% interval {found.low_m / 1000:+.3f} to {found.high_m / 1000:+.3f} km "
            f"({found.sessions} sessions)"
        )
        yield from (f"note: {note}" for note in self.notes)
        yield self.verdict

    @property
    def verdict(self) -> str:
        """In a sentence."""
        found = self.difference
        if found.verdict != "unknown":
            better = self.b if found.verdict == "b" else self.a
            return f"{better.release} is better: it errs less by {abs(found.mean_m) / 1000:.3f} km on average"
        if found.sessions < MIN_SESSIONS:
            return f"cannot tell: {found.sessions} sessions are too few, wanted {MIN_SESSIONS}; use a larger {self.split} split"
        if found.low_m == found.high_m == 0:
            return "cannot tell: both err alike in every row"
        return "cannot tell: the interval holds 0; more sessions would narrow it"


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
    opened = [_open(release, feature_set) for release in releases]
    rows = read_rows(feature_set, Split[request.split.upper()])
    progress = progress or Silent()
    progress.start("predict", 2 * len(rows.features), "rows")
    outputs = [run(session, rows.features, BATCHES[-1], progress) for session, _ in opened]
    predictions = [
        _predictions(found, rows, feature_set, info, release)
        for found, (_, info), release in zip(outputs, opened, releases, strict=True)
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
    notes = tuple(note for side in sides for note in _maybe_trained_on(feature_set, side))
    paired = Paired(rows.row, rows.capture_id, sessions, *predictions)
    compared = Comparison(sides[0], sides[1], feature_set.version, request.split, len(rows), difference, notes, paired)
    if request.html is not None:
        from exporter.release.compare_report import describe_comparison  # which imports this module

        describe_comparison(compared, paired).save(request.html)
    return compared


def paired_interval(
    difference_m: npt.NDArray[np.float64],
    sessions: npt.NDArray[np.uint8],
    confidence: float = 0.95,
    draws: int = 5000,
    seed: int = 0,
) -> Interval:
    """The mean of paired differences, and its percentile interval from a bootstrap over sessions.

    Args:
        difference_m: (n,) of each row.
        sessions: (n, 16) id of the session of each row.
        confidence: of the interval.
        draws: how often as many sessions as there are are drawn with replacement.
        seed: of the draws; the same seed gives the same interval.
    """
    _, member = np.unique(sessions, axis=0, return_inverse=True)
    member = member.reshape(-1)
    totals, counts = np.bincount(member, difference_m), np.bincount(member).astype(np.float64)  # (session,)
    rng, means = np.random.default_rng(seed), []
    for start in range(0, draws, DRAWS_AT_ONCE):
        drawn = rng.integers(0, len(counts), (min(DRAWS_AT_ONCE, draws - start), len(counts)))  # (draw, session)
        means.append(totals[drawn].sum(axis=1) / counts[drawn].sum(axis=1))
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail]).tolist()
    return Interval(float(difference_m.mean()), low, high, confidence, len(counts))


def _open(release: Release, feature_set: FeatureSet) -> tuple[Any, GraphInfo]:
    name = f"{release.url}/{MODEL}"
    session = open_session(release.read(MODEL))
    info = GraphInfo.from_props(session.get_modelmeta().custom_metadata_map, name)
    info.require_takes(feature_set, name)
    return session, info


def _predictions(found: Outputs, rows: Rows, feature_set: FeatureSet, info: GraphInfo, release: Release) -> Predictions:
    """As `trainer.evaluate.metrics` wants them."""
    position, sigma = found[0], found[1].astype(np.float64)
    bad = np.flatnonzero(~(np.isfinite(position) & np.isfinite(sigma)).all(axis=1))
    if len(bad):
        raise DataQualityError(
            f"{release.url} makes no numbers of {len(bad)} of {len(rows)} rows, the first being {rows.name(int(bad[0]))}; "
            "export it again with --precision fp32"
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
    found: list[dict[int, float]] = [{} for _ in sessions]
    for size in BATCHES:
        features = np.resize(rows.features, (size, *rows.features.shape[1:]))
        calls = {
            str(index): lambda session=session: session.run(None, {"features": features})  # noqa: B023 - called in this turn
            for index, session in enumerate(sessions)
        }
        for index, milliseconds in median_latencies_ms(calls, 15).items():
            found[int(index)][size] = milliseconds
        progress.advance(1)
    return found


def _maybe_trained_on(feature_set: FeatureSet, side: Side) -> Iterator[str]:
    """Whether a network may know these rows from its training, which would flatter it."""
    if side.feature_set == feature_set.version:
        return
    try:
        same = read_manifest(feature_set.objects, side.feature_set).split == feature_set.manifest.split
    except (UsageError, StoreError):
        yield f"feature set {side.feature_set} is not here: {side.release} may have been trained on some of these rows"
    else:
        if not same:
            yield f"{side.release} was trained on {side.feature_set}, which is split otherwise: it may know some of these rows"
