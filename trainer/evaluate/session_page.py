"""The report of an evaluation of sessions: `evaluate --html`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from featurestore.page.charts import to_svg
from featurestore.page.page import Card, Chart, Key, Page, Table
from featurestore.store.feature_set import FeatureSet
from trainer.evaluate.charts import cdf_figure
from trainer.evaluate.curves import read_run, training_section
from trainer.evaluate.evaluation import km2
from trainer.evaluate.session_evaluation import GROUPS, SessionEvaluation, by_session_group
from trainer.evaluate.session_plots import (
    chosen_sessions,
    draw_by_receivers,
    draw_level_map,
    draw_posterior,
)
from trainer.network.session.nets import RadioMapNet

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from featurestore.place.posterior import Posterior

MAX_MAPS = 24
HEIGHT = 300
POSTERIOR_KEYS = (
    Key("blue", "39.3% (thick) and 86.5% contour, and the place of least expected distance"),
    Key("red", "true place"),
    Key("black", "receivers that took part", "▲"),
)


def describe_sessions(evaluation: SessionEvaluation, feature_set: FeatureSet, tracking_uri: str | None) -> Page:
    """The report.

    Args:
        evaluation: the evaluation.
        feature_set: that it was made on.
        tracking_uri: of MLflow, for the curves; that it does not answer is said on the page, and is no error.
    """
    checkpoint = evaluation.checkpoint
    title, count = checkpoint.training.title, len(evaluation.predictions)
    header, *rows = evaluation.comparison()
    errors = {"network": evaluation.predictions.error_m, **{each.label: each.error_m for each in evaluation.baselines.values()}}
    return Page(
        "trainer.evaluate/sessions.html",
        title=f"Evaluation of {checkpoint.source}",
        lead=(f"{title}, epoch {checkpoint.epoch}: {count:,} {evaluation.split} sessions of {feature_set.url}.",),
        cards=list(_cards(evaluation)),
        data={
            "notes": evaluation.notes,
            "errors": cdf_figure(errors),
            "comparison": Table("Network and baselines", header, rows),
            "fusion": _fusion(evaluation),
            "by_receivers": _by_receivers(evaluation),
            "posteriors": _posteriors(evaluation),
            "maps": _maps(evaluation),
            "groups": _groups(evaluation),
            "training": training_section(read_run(tracking_uri, checkpoint.run_id), checkpoint.epoch),
            "identity": _identity(evaluation, feature_set),
        },
    )


def _cards(evaluation: SessionEvaluation) -> Iterable[Card]:
    metrics = evaluation.metrics
    yield Card("median error", f"{metrics['error_median_m'] / 1000:,.2f} km", f"mean {metrics['error_mean_m'] / 1000:,.2f} km")
    yield Card(
        "90% of sessions within", f"{metrics['error_p90_m'] / 1000:,.2f} km", f"95% {metrics['error_p95_m'] / 1000:,.2f} km"
    )
    for baseline in evaluation.baselines.values():
        theirs = baseline.to_json(evaluation.thresholds_m)
        yield Card(baseline.label, f"{theirs['error_median_m'] / 1000:,.2f} km", "median error of this baseline")
    yield Card("in the 39.3% region", f"{metrics['coverage_1_sigma']:.1%}", "39.3% when posteriors are right")
    yield Card("in the 86.5% region", f"{metrics['coverage_2_sigma']:.1%}", "86.5% when posteriors are right")
    yield Card("86.5% region", f"{km2(metrics['area_86_median_km2'])} km²", "median area")
    yield Card("sessions", f"{len(evaluation.predictions):,}", f"{len(metrics['by_receiver'])} receivers")


def _fusion(evaluation: SessionEvaluation) -> dict[str, Any] | None:
    """The same sessions by levels, by time, and by both."""
    beside = evaluation.beside
    if beside is None or not beside.metrics:
        return None
    header, *rows = beside.table()
    errors = {f"by {name}": found.select(beside.timed).error_m for name, found in beside.predictions.items()}
    return {
        "count": f"{beside.n_timed:,} of {len(beside.timed):,}",
        "version": beside.version,
        "used": beside.used,
        "path_us": f"{beside.path_sigma_s * 1e6:g}",
        "chart": cdf_figure(errors),
        "table": Table("Located by levels, by time, and by all", header, rows),
    }


def _by_receivers(evaluation: SessionEvaluation) -> dict[str, Any]:
    groups = evaluation.metrics["by_receivers_present"]
    description = ", ".join(f"{name} {group['error_mean_m'] / 1000:.3g} km" for name, group in groups.items())

    def draw(drawn: Figure) -> None:
        draw_by_receivers(drawn.subplots(), evaluation)

    header, *rows = by_session_group("receivers present", groups)
    picture = to_svg(draw, f"Mean error by receivers present: {description}", HEIGHT)
    caption = "Each session is located from random subsets of its captures; a subset holds the smaller ones."
    return {
        "chart": Chart("Error by receivers present", picture, caption),
        "table": Table("By receivers present", header, rows),
    }


def _posteriors(evaluation: SessionEvaluation) -> list[Chart]:
    shown = chosen_sessions(evaluation.predictions.error_m)
    return [_posterior(evaluation, name, number, evaluation.posterior(number)) for name, number in shown]


def _posterior(evaluation: SessionEvaluation, name: str, number: int, posterior: Posterior) -> Chart:
    predictions = evaluation.predictions
    session = "".join(f"{byte:02x}" for byte in evaluation.encoded.table.session_id[number].tolist())
    error, area = predictions.error_m[number] / 1000, km2(predictions.area_km2[number])

    def draw(drawn: Figure) -> None:
        draw_posterior(drawn.subplots(), evaluation, number, posterior)

    description = f"Posterior of session {session}: {error:.1f} km off, 86.5% region of {area} km²"
    caption = f"Session {session[:8]}…: {area} km² hold 86.5%; the true place lies at {predictions.level[number]:.0%}."
    return Chart(f"{name.capitalize()}: {error:.1f} km off", to_svg(draw, description, HEIGHT), caption, POSTERIOR_KEYS)


def _maps(evaluation: SessionEvaluation) -> dict[str, Any] | None:
    net, place = evaluation.encoded.net, evaluation.encoded.place
    if not isinstance(net, RadioMapNet):
        return None
    figures, rows = [], []
    labels = dict(zip(evaluation.receivers.websdr_id.tolist(), evaluation.receivers.labels(), strict=True))
    for column, number in enumerate(place.websdr_id.tolist()):
        name = f"{number} {labels.get(number, '')}".strip()
        exponent, sigma, length, noise = net.table[column].tolist()
        rows.append((name, f"{exponent:.2f}", f"{sigma:.1f}", f"{length:.1f}", f"{noise:.1f}"))
        if column < MAX_MAPS:
            figures += [_map(evaluation, column, name, spread=spread) for spread in (False, True)]
    header = ("receiver", "path-loss exponent", "shadowing, dB", "length, km", "noise, dB")
    power_db = f"{float(net.power) ** 0.5:.1f}"
    return {"power_db": power_db, "fitted": Table("What was fitted", header, rows), "charts": figures}


def _map(evaluation: SessionEvaluation, column: int, name: str, *, spread: bool) -> Chart:
    what = "σ of the map" if spread else "level"

    def draw(drawn: Figure) -> None:
        axis = drawn.subplots()
        drawn.colorbar(draw_level_map(axis, evaluation, column, spread=spread), ax=axis, shrink=0.8)

    return Chart(f"Receiver {name}: {what}, dB", to_svg(draw, f"Map of receiver {name}: {what} in dB", HEIGHT))


def _groups(evaluation: SessionEvaluation) -> list[Table]:
    tables = []
    for title, name in GROUPS[1:]:
        if evaluation.metrics[name]:
            header, *rows = by_session_group(title, evaluation.metrics[name])
            tables.append(Table(f"By {title}", header, rows))
    return tables


def _identity(evaluation: SessionEvaluation, feature_set: FeatureSet) -> Table:
    checkpoint, place = evaluation.checkpoint, evaluation.encoded.place
    region = checkpoint.region
    rows: list[Sequence[str]] = [
        ("checkpoint", checkpoint.source),
        ("SHA-256", checkpoint.sha256),
        ("network", checkpoint.training.title),
        ("epoch (from 0) and step", f"{checkpoint.epoch}, {checkpoint.step:,}"),
        ("trained on feature set", checkpoint.features.version),
        ("receivers that it knows", ", ".join(map(str, place.websdr_id.tolist()))),
        ("grid", f"{place.grid.shape[1]} × {place.grid.shape[0]} cells of {place.cell_m / 1000:g} km"),
        ("evaluated on", f"{evaluation.split} split (by {evaluation.split_by}) of {feature_set.url}"),
        ("region", f"{region.half_extent_m / 1000:,.1f} km around {region.latitude:.4f}°, {region.longitude:.4f}°"),
        ("device", f"{evaluation.device}, {evaluation.seconds:,.1f} s"),
    ]
    return Table("Network and data", ("what", "value"), rows, text=(0,), long=(1,))
