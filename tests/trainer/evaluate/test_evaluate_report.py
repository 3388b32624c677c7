"""The report of an evaluation: the numbers of the evaluation and of MLflow, or why some are absent; and in a real browser."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pyarrow.parquet as pq  # type: ignore[import-untyped]  # it ships no types
import pytest
from browser import look
from click.testing import CliRunner
from corpus_for_tests import Corpus
from pages import read_page

from cli import main
from featurestore.objects.objects import Location
from featurestore.services import Running
from trainer import TrackingRequest, fit
from trainer.evaluate.charts import distance_groups, nearest_km
from trainer.evaluate.curves import read_run, training_section
from trainer.fitting.request import Hardware, TrainRequest
from trainer.network.geometry import geodesic_m
from trainer.network.network_spec import NetworkSpec
from trainer.network.training_spec import OptimizerSpec, TrainingSpec

SECTIONS = ["How well", "Is σ right?", "Map", "Where errors are", "Worst cases", "Training", "What was evaluated"]
EPOCHS = 2


@dataclass(frozen=True)
class World:
    """A network whose training was tracked, and its evaluation.

    Attributes:
        tracking: of MLflow.
        run_id: of the training.
        found: what `evaluate --json` printed.
        path: the report.
        predictions: row by row, as `evaluate --predictions` wrote them.
    """

    tracking: str
    run_id: str
    found: dict[str, Any]
    path: Path
    predictions: dict[str, Any]


@pytest.fixture(scope="module")
def world(training_corpus: Corpus, services: Running, tmp_path_factory: pytest.TempPathFactory) -> World:
    directory = tmp_path_factory.mktemp("evaluate-report")
    tracking, store = f"sqlite:///{directory / 'mlflow.db'}", str(training_corpus.store)
    training = TrainingSpec(NetworkSpec(backbone="test_convnext2"), OptimizerSpec(warmup_epochs=1, max_epochs=EPOCHS))
    request = TrainRequest(store, "small", directory / "run", training, batch_size=8, hardware=Hardware(accelerator="cpu"))
    report = fit(replace(request, tracking=TrackingRequest(tracking)))
    assert report is not None
    path, table = directory / "reports" / "evaluation.html", directory / "predictions.parquet"
    receivers = directory / "receivers.csv"
    receivers.write_text("websdr_id,latitude,longitude,name\n1,45.5,7.5,One\n2,45.05,7.1,Two\n77,0,0,nobody's\n")
    where = [
        "--receivers",
        str(receivers),
        "--store",
        store,
        "--split",
        "val",
        "--html",
        str(path),
        "--predictions",
        str(table),
        "--k",
        "3",
    ]
    options = [str(directory / "run" / "last.ckpt"), *where, "--tracking-uri", tracking, "--json"]
    done = CliRunner().invoke(main, ["evaluate", *options])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert str(path) in found["files"]
    return World(tracking, str(report.run_id), found, path, pq.read_table(table).to_pydict())


def km(metres: float) -> str:
    return f"{metres / 1000:,.2f}"


def test_the_page_says_what_the_evaluation_says(world: World) -> None:
    page, metrics, baselines = read_page(world.path), world.found["metrics"], world.found["baselines"]
    assert page.headings[1:] == SECTIONS
    assert page.cards["median error"] == f"{km(metrics['error_median_m'])} km"
    assert page.cards["in the 1 σ ellipse"] == f"{metrics['coverage_1_sigma']:.1%}"
    assert page.cards["rows"] == str(world.found["rows"])
    compared = page.rows("Network and baselines")
    everything = (metrics, baselines["k_nearest"], baselines["predict_the_mean"])
    assert compared["mean error, km"] == [km(each["error_mean_m"]) for each in everything]
    assert compared["p95 error, km"] == [km(each["error_p95_m"]) for each in everything]
    for caption, name in (("By receiver", "by_receiver"), ("By SNR", "by_snr")):
        assert {key: cells[:2] for key, cells in page.rows(caption).items()} == {
            key: [str(each["rows"]), km(each["error_mean_m"])] for key, each in metrics[name].items()
        }
    from_receiver = page.rows("By distance from the receiver")
    stands = {1: (45.5, 7.5), 2: (45.05, 7.1)}
    table = world.predictions
    known = [place for place, receiver in enumerate(table["websdr_id"]) if receiver in stands]
    truth = np.stack([table["latitude"], table["longitude"]], axis=1)[known]
    far = geodesic_m(np.array([stands[table["websdr_id"][place]] for place in known]), truth) / 1000
    assert 0 < len(known) < world.found["rows"]
    assert {name: int(cells[0]) for name, cells in from_receiver.items()} == {
        name: int(rows.sum()) for name, rows in distance_groups(far)
    }
    assert "needs to know where receivers stand" not in page.text
    by_distance = page.rows("By distance to the nearest transmitter of the train split")
    assert sum(int(cells[0]) for cells in by_distance.values()) == world.found["rows"]


def test_worst_cases_are_the_largest_errors(world: World) -> None:
    table, page = world.predictions, read_page(world.path)
    order = np.argsort(-np.array(table["error_m"]), kind="stable")
    caption = next(caption for caption in page.tables if caption.endswith("largest errors"))
    rows = page.tables[caption][1:]
    assert [row[0] for row in rows] == [str(table["capture_id"][place]) for place in order[: len(rows)]]
    assert [row[5] for row in rows] == [km(table["error_m"][place]) for place in order[: len(rows)]]
    worst = order[0]
    error = np.hypot(
        table["east_error_m"][worst] / table["sigma_east_m"][worst],
        table["north_error_m"][worst] / table["sigma_north_m"][worst],
    )
    assert rows[0][-1] == f"{error:.1f}"
    drawn = [label for label in page.labels if "spectrograms of I, Q and magnitude" in label]
    assert [label.partition(":")[0] for label in drawn] == [f"Capture {table['capture_id'][place]}" for place in order[:6]]


def test_curves_are_those_of_mlflow(world: World) -> None:
    curves = read_page(world.path).rows("Over the epochs")
    client = mlflow.MlflowClient(world.tracking)
    for line, metric, unit in (
        ("val/loss, loss", "val/loss", 1),
        ("val/error_median_m, km", "val/error_median_m", 1000),
        ("data/wait_share, % of the epoch", "data/wait_share", 0.01),
    ):
        values = [point.value / unit for point in client.get_metric_history(world.run_id, metric)]
        assert curves[line] == [*(f"{value:,.4g}" for value in (values[0], values[-1], min(values), max(values))), str(EPOCHS)]


def test_in_a_browser(world: World, tmp_path: Path) -> None:
    for view in look(world.path, tmp_path):
        assert view.found["headings"][1:] == SECTIONS
        labels = [chart["label"] for chart in view.found["charts"]]
        for beginning in ("Distribution of errors", "Share of transmitters", "Map of ", "Error by SNR", "Loss by epoch"):
            assert sum(label.startswith(beginning) for label in labels) == 1, beginning


def said(found: Any) -> str:
    return str(training_section(found, 0)["told"])


@pytest.mark.parametrize(
    ("uri", "run_id", "expected"),
    [
        ("sqlite:///mlflow.db", None, "The training was not tracked"),
        (None, "0" * 32, "give --tracking-uri to show how it went"),
        ("sqlite:///absent.db", "0" * 32, "there is no sqlite:///absent.db; --tracking-uri says where it is"),
        ("http://127.0.0.1:9", "0" * 32, "MLflow at http://127.0.0.1:9 does not show run"),
        ("nonsense", "0" * 32, "is not an address that MLflow accepts"),
    ],
)
def test_why_curves_are_absent(
    uri: str | None, run_id: str | None, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert expected in said(read_run(uri, run_id))
    assert not list(tmp_path.iterdir())  # SQLite makes what it is asked for


def test_a_tracker_that_has_no_such_run(world: World) -> None:
    assert f"does not show run {'0' * 32}" in said(read_run(world.tracking, "0" * 32))


def test_distances_to_what_is_known() -> None:
    rng = np.random.default_rng(2)
    position, known = rng.uniform((-60, -180), (60, 180), (50, 2)), rng.uniform((-60, -180), (60, 180), (40, 2))
    exact = np.array([geodesic_m(one, known).min() for one in position]) / 1000
    assert nearest_km(position, known) == pytest.approx(exact, rel=0.006)
    assert nearest_km(known, known) == pytest.approx(0, abs=1e-6)
    groups = dict(distance_groups(np.array([0, 0.05, 2.0, 500.0])))
    assert {name: rows.tolist() for name, rows in groups.items()} == {
        "0 to 0.1 km": [True, True, False, False],
        "1 to 3 km": [False, False, True, False],
        "over 100 km": [False, False, False, True],
    }


def test_places_that_the_set_knows_are_used_unasked(world: World, training_corpus: Corpus, tmp_path: Path) -> None:
    shutil.copytree(training_corpus.store.directory, tmp_path / "store")
    corpus = replace(training_corpus, store=Location.parse(str(tmp_path / "store")))
    (tmp_path / "r.csv").write_text("websdr_id,latitude,longitude,name\n1,45.5,7.5,One\n2,45.05,7.1,Two\n")
    corpus.build(tag="placed", receivers=str(tmp_path / "r.csv"))
    page = tmp_path / "page.html"
    where = ["--store", str(corpus.store), "--features", "placed", "--split", "val", "--html", str(page), "--k", "0", "--quiet"]
    done = CliRunner().invoke(main, ["evaluate", str(world.path.parents[1] / "run" / "last.ckpt"), *where])
    assert done.exit_code == 0, done.output
    assert "needs to know where receivers stand" not in page.read_text()
    assert "; receivers, too" in page.read_text()
