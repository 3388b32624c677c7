"""The report of an evaluation: `evaluate --html`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from featurestore.look.report.spectrograms import Scale, draw_tensor, to_decibels
from featurestore.page.page import Card, Chart, Page, Table
from featurestore.store.feature_set import FeatureSet
from featurestore.store.split import Split
from trainer.evaluate.charts import (
    CASE,
    calibration_figures,
    case_cells,
    cdf_figure,
    distance_groups,
    group_figure,
    in_degrees,
    map_figure,
    nearest_km,
    receiver_groups,
)
from trainer.evaluate.curves import read_run, training_section
from trainer.evaluate.evaluation import Evaluation, by_group
from trainer.evaluate.metrics import Int64, error_summary, expected_error_m, snr_bands, squared_deviations
from trainer.network.geometry import Float64, geodesic_m

WORST = 6
LISTED = 12


def describe_evaluation(evaluation: Evaluation, feature_set: FeatureSet, tracking_uri: str | None) -> Page:
    """The report.

    Args:
        evaluation: the evaluation.
        feature_set: that it was made on.
        tracking_uri: of MLflow, for the curves; that it does not answer is said on the page, and is no error.

    Raises:
        StoreError: when the set is damaged.
    """
    checkpoint = evaluation.checkpoint
    network = checkpoint.training.title
    header, *rows = evaluation.comparison()
    return Page(
        "trainer.evaluate/evaluation.html",
        title=f"Evaluation of {checkpoint.source}",
        lead=(f"{network}, epoch {checkpoint.epoch}: {len(evaluation.row):,} {evaluation.split} rows of {feature_set.url}.",),
        cards=list(_cards(evaluation)),
        data={
            "notes": evaluation.notes,
            "errors": cdf_figure({"network": evaluation.predictions.error_m, **evaluation.picture().baselines}),
            "comparison": Table("Network and baselines", header, rows),
            "calibration": {**calibration_figures(evaluation.predictions), "numbers": _calibration(evaluation)},
            "map": map_figure(evaluation.picture()),
            "groups": _groups(evaluation, feature_set),
            "worst": _worst_cases(evaluation, feature_set),
            "training": training_section(read_run(tracking_uri, checkpoint.run_id), checkpoint.epoch),
            "identity": _identity(evaluation, feature_set),
        },
    )


def _cards(evaluation: Evaluation) -> Iterable[Card]:
    metrics = evaluation.metrics
    yield Card("median error", f"{metrics['error_median_m'] / 1000:,.2f} km", f"mean {metrics['error_mean_m'] / 1000:,.2f} km")
    yield Card(
        "90% of rows within", f"{metrics['error_p90_m'] / 1000:,.2f} km", f"95% within {metrics['error_p95_m'] / 1000:,.2f} km"
    )
    for baseline in evaluation.baselines.values():
        theirs = baseline.to_json(evaluation.thresholds_m)
        yield Card(baseline.label, f"{theirs['error_median_m'] / 1000:,.2f} km", "median error of this baseline")
    yield Card("in the 1 σ ellipse", f"{metrics['coverage_1_sigma']:.1%}", "39.3% when σ is right")
    yield Card("in the 2 σ ellipse", f"{metrics['coverage_2_sigma']:.1%}", "86.5% when σ is right")
    yield Card("rows", f"{len(evaluation.row):,}", f"{len(metrics['by_receiver'])} receivers")


def _calibration(evaluation: Evaluation) -> Table:
    metrics = evaluation.metrics
    rows = [
        ("mean error found", f"{metrics['error_mean_m'] / 1000:,.2f} km"),
        ("mean error expected from σ", f"{metrics['expected_error_m'] / 1000:,.2f} km"),
        ("calibration error", f"{metrics['calibration_error_m'] / 1000:,.2f} km"),
        ("in the 1 σ ellipse (39.3% when right)", f"{metrics['coverage_1_sigma']:.1%}"),
        ("in the 2 σ ellipse (86.5% when right)", f"{metrics['coverage_2_sigma']:.1%}"),
        ("negative log-likelihood", f"{metrics['nll']:.2f} nats"),
    ]
    return Table("In numbers", ("", "network"), rows)


def _groups(evaluation: Evaluation, feature_set: FeatureSet) -> dict[str, Any]:
    predictions, metrics = evaluation.predictions, evaluation.metrics
    errors = [("network", "blue", predictions.error_m)]
    receivers, bands = receiver_groups(predictions), list(snr_bands(predictions.snr_db))
    figures = [group_figure("Error by receiver", errors, receivers), group_figure("Error by SNR", errors, bands)]
    tables = [_table("By receiver", by_group("receiver", metrics["by_receiver"]))]
    tables.append(_table("By SNR", by_group("SNR", metrics["by_snr"])))
    for what, distance_km in _distances(evaluation, feature_set):
        groups = list(distance_groups(distance_km))
        figures.append(group_figure(f"Error by distance {what}", errors, groups))
        rows = [(name, *_numbers(error_summary(predictions.error_m[group], evaluation.thresholds_m))) for name, group in groups]
        header = ("distance", "rows", "mean, km", "median", "p68", "p90", "p95")
        tables.append(Table(f"By distance {what}", header, rows))
    return {"receivers_known": evaluation.receivers is not None, "charts": figures, "tables": tables}


def _distances(evaluation: Evaluation, feature_set: FeatureSet) -> Iterator[tuple[str, Float64]]:
    """What is known of how far each transmitter is from something: in words, and (n,) km, NaN where not known."""
    predictions, labels = evaluation.predictions, feature_set.labels
    if evaluation.receivers is not None:
        stands = evaluation.receivers.positions_of(predictions.websdr_id)
        yield "from the receiver", geodesic_m(stands, predictions.position_true) / 1000
    train = labels.position[labels.split == Split.TRAIN]
    known = np.unique(train[np.isfinite(train).all(axis=1)], axis=0)
    if evaluation.split != "train" and len(known):
        yield "to the nearest transmitter of the train split", nearest_km(predictions.position_true, known)


def _numbers(summary: dict[str, float]) -> list[str]:
    keys = ("mean", "median", "p68", "p90", "p95")
    return [f"{summary['rows']:,}", *(f"{summary[f'error_{key}_m'] / 1000:,.2f}" for key in keys)]


def _table(caption: str, lines: Iterable[Sequence[str]]) -> Table:
    header, *rows = lines
    return Table(caption, header, rows)


def _worst_cases(evaluation: Evaluation, feature_set: FeatureSet) -> dict[str, Any]:
    predictions = evaluation.predictions
    order = np.argsort(-predictions.error_m, kind="stable")
    drawn = order[:WORST]
    tensors = feature_set.read_rows(evaluation.row[drawn])
    scale = Scale.of(to_decibels(feature_set.basis, tensors))
    capture = feature_set.fact("capture_id")[evaluation.row]
    figures = []
    for place, tensor in zip(drawn.tolist(), tensors, strict=True):
        title = f"Capture {capture[place]}: {predictions.error_m[place] / 1000:,.2f} km off"
        label = f"{title}, receiver {predictions.websdr_id[place]}: spectrograms of I, Q and magnitude in dB and normalized"
        picture = draw_tensor(feature_set.spec, feature_set.basis, tensor, scale, label)
        figures.append(Chart(title, picture, _story(evaluation, place)))
    header = (*CASE, "predicted", "error, km", "expected, km", "σ east, km", "σ north, km", "error in σ")
    rows = [_case(evaluation, capture, place) for place in order[:LISTED].tolist()]
    return {"charts": figures, "table": Table(f"The {len(rows)} largest errors", header, rows)}


def _story(evaluation: Evaluation, place: int) -> str:
    predictions = evaluation.predictions
    east, north = predictions.sigma_east_m[place] / 1000, predictions.sigma_north_m[place] / 1000
    return (
        f"Receiver {predictions.websdr_id[place]}, {_snr(evaluation, place)}. True "
        f"{in_degrees(predictions.position_true[place])}, "
        f"predicted {in_degrees(predictions.position[place])} with σ {east:.2f} km east, {north:.2f} km north."
    )


def _case(evaluation: Evaluation, capture: Int64, place: int) -> tuple[str, ...]:
    predictions = evaluation.predictions
    one = np.arange(len(predictions)) == place
    expected = expected_error_m(predictions.sigma_east_m[one], predictions.sigma_north_m[one])[0]
    return (
        *case_cells(predictions, capture, place),
        in_degrees(predictions.position[place]),
        *(
            f"{metres / 1000:,.2f}"
            for metres in (
                predictions.error_m[place],
                expected,
                predictions.sigma_east_m[place],
                predictions.sigma_north_m[place],
            )
        ),
        f"{float(np.sqrt(squared_deviations(predictions.select(one))[0])):.1f}",
    )


def _snr(evaluation: Evaluation, place: int) -> str:
    snr = evaluation.predictions.snr_db[place]
    return f"SNR {snr:.1f} dB" if np.isfinite(snr) else "SNR unknown"


def _identity(evaluation: Evaluation, feature_set: FeatureSet) -> Table:
    checkpoint = evaluation.checkpoint
    training, region = checkpoint.training, checkpoint.region
    rows = [
        ("checkpoint", checkpoint.source),
        ("SHA-256", checkpoint.sha256),
        ("network", training.title),
        ("epoch (from 0) and step", f"{checkpoint.epoch}, {checkpoint.step:,}"),
        ("trained on feature set", checkpoint.features.version),
        ("evaluated on", f"{evaluation.split} split of {feature_set.url}"),
        ("region", f"{region.half_extent_m / 1000:,.1f} km around {region.latitude:.4f}°, {region.longitude:.4f}°"),
        ("device", f"{evaluation.device}, {evaluation.seconds:,.1f} s"),
    ]
    return Table("Network and data", ("what", "value"), rows, text=(0,), long=(1,))
