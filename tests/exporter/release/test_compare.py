"""Which release is better: intervals against closed forms, and whole comparisons whose outcome is known beforehand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from corpus_for_tests import SMALL
from exports_for_tests import Built, invoke, json_of, published
from onnx import helper, numpy_helper

from exporter.graph.onnx_file import ExportedGraph, describe, read_model, write
from exporter.release.compare import compare
from exporter.release.comparison import Interval
from exporter.release.paired import CompareRequest, paired_interval
from featurestore.errors import UsageError
from featurestore.store.split import Split
from featurestore.tensor.spec import FeatureSpec
from trainer.network.checkpoints import Checkpoint
from trainer.network.geometry import geodesic_m


def ids(numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    """(n, 16) uint8, one for each number."""
    wide = np.zeros((len(numbers), 2), np.int64)
    wide[:, 0] = numbers
    return wide.view(np.uint8)


def test_the_interval_is_that_of_a_mean() -> None:
    """Independent rows, one for each session: mean ± 1.96 s/√n."""
    n = 400
    difference = np.random.default_rng(3).normal(50, 300, n)
    found = paired_interval(difference, ids(np.arange(n)), seed=1)
    half = 1.96 * difference.std() / math.sqrt(n)
    assert found.mean_m == pytest.approx(difference.mean())
    assert found.low_m == pytest.approx(difference.mean() - half, abs=0.1 * half)
    assert found.high_m == pytest.approx(difference.mean() + half, abs=0.1 * half)
    assert found == paired_interval(difference, ids(np.arange(n)), seed=1)


def test_rows_of_a_session_count_as_one() -> None:
    """Nine equal rows of each session tell no more than one: resampling rows would give a third of the interval."""
    n = 100
    difference = np.random.default_rng(4).normal(0, 100, n)
    one = paired_interval(difference, ids(np.arange(n)), seed=2)
    nine = paired_interval(np.repeat(difference, 9), ids(np.repeat(np.arange(n), 9)), seed=2)
    assert nine.sessions == n
    assert (nine.mean_m, nine.low_m, nine.high_m) == pytest.approx((one.mean_m, one.low_m, one.high_m))


def test_sessions_weigh_by_their_rows() -> None:
    difference = np.array([10.0, 10.0, 10.0, -30.0])
    found = paired_interval(difference, ids(np.array([1, 1, 1, 2])))
    assert found.mean_m == 0
    assert (found.low_m, found.high_m) == (-30, 10)  # one session drawn twice


@pytest.mark.parametrize(
    ("shift", "spread", "sessions", "verdict"),
    [
        (-100, 0, 40, "b"),
        (100, 0, 40, "a"),
        (0, 0, 40, "unknown"),
        (-100, 50, 40, "b"),
        (10, 500, 40, "unknown"),
        (-100, 0, 9, "unknown"),
    ],
)
def test_verdicts(shift: float, spread: float, sessions: int, verdict: str) -> None:
    noise = np.resize([1.0, -1.0], sessions) * spread
    assert paired_interval(shift + noise, ids(np.arange(sessions))).verdict == verdict


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """95% of 300 repetitions, ± 4 standard errors, with sessions whose rows are correlated."""
    rng, held = np.random.default_rng(5), 0
    for repetition in range(300):
        effects = np.repeat(rng.normal(0, 80, 40), 5) + rng.normal(0, 40, 200)
        found = paired_interval(20 + effects, ids(np.repeat(np.arange(40), 5)), draws=400, seed=repetition)
        held += found.low_m <= 20 <= found.high_m
    assert held / 300 == pytest.approx(0.95, abs=4 * math.sqrt(0.95 * 0.05 / 300))


def always(graph: ExportedGraph, place: npt.NDArray[np.float64], path: Path) -> ExportedGraph:
    """The graph, but its position head gives the same place, in units of the region, whatever it sees."""
    model, info = read_model(graph.path)
    weight = next(tensor for tensor in model.graph.initializer if "position_head.6.weight" in tensor.name)
    weight.CopyFrom(numpy_helper.from_array(np.zeros(weight.dims, np.float32), weight.name))
    at, product = next((index, node) for index, node in enumerate(model.graph.node) if weight.name in node.input)
    model.graph.initializer.append(numpy_helper.from_array(place.astype(np.float32), "place"))
    moved = helper.make_node("Add", ["still", "place"], [product.output[0]], "moved")
    product.output[0] = "still"
    model.graph.node.insert(at + 1, moved)
    return write(model, path, info)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, graph: ExportedGraph, checkpoint: Checkpoint, built: Built) -> str:
    """1.0.0 as it is; 1.1.0 always near the middle of all positions; 1.2.0 always in the far corner; 1.3.0 as 1.0.0."""
    directory = tmp_path_factory.mktemp("compare")
    url = str(directory / "models")
    split = built.feature_set.labels.split != Split.ABSENT
    middle = checkpoint.region.encode(built.feature_set.labels.position[split]).mean(axis=0)
    published(url, "1.0.0", graph)
    for number, place in (("1.1.0", middle), ("1.2.0", np.array([0.9, -0.9]))):
        published(url, number, always(graph, place, directory / "model.onnx"))
    published(url, "1.3.0", graph)
    return url


def test_better_worse_and_the_same(models: str, built: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exporter.release.comparison.MIN_SESSIONS", 3)  # the set is small
    verdicts = {}
    for a, b in (("1.1.0", "1.2.0"), ("1.2.0", "1.1.0"), ("1.0.0", "1.3.0")):
        found = compare(CompareRequest(models, a, b, str(built.corpus.store), draws=500))
        verdicts[a, b] = found.to_json()["verdict"]
        last = list(found.lines())[-1]
        assert last.startswith(
            {"a": f"{a} is better", "b": f"{b} is better", "unknown": "cannot tell: both err alike"}[verdicts[a, b]]
        )
    assert verdicts == {("1.1.0", "1.2.0"): "a", ("1.2.0", "1.1.0"): "b", ("1.0.0", "1.3.0"): "unknown"}


def test_errors_are_those_of_proj_and_a_small_set_does_not_tell(models: str, built: Built, checkpoint: Checkpoint) -> None:
    options = ["--models", models, "--store", built.corpus.store]
    found = json_of("releases", "compare", "1.1.0", "1.2.0", *options)
    labels = built.feature_set.labels
    true = labels.position[labels.split == Split.TEST]
    corner = checkpoint.region.decode(np.array([[0.9, -0.9]]))[0]
    assert found["rows"] == len(true)
    assert found["b"]["metrics"]["error_mean_m"] == pytest.approx(geodesic_m(corner, true).mean(), abs=0.5)
    gap = found["b"]["metrics"]["error_mean_m"] - found["a"]["metrics"]["error_mean_m"]
    assert found["difference"]["mean_m"] == pytest.approx(gap)
    assert found["a"]["latency_ms"].keys() == {"1", "32"}
    assert 0 <= found["a"]["metrics"]["coverage_1_sigma"] <= 1
    assert found["verdict"] == "unknown"
    assert "sessions are too few, expected 10" in invoke("releases", "compare", "1.1.0", "1.2.0", *options).stdout


def test_only_features_that_both_know(models: str, built: Built, graph: ExportedGraph, tmp_path: Path) -> None:
    other = FeatureSpec(**{**SMALL.to_json(), "hop_length": 32})
    model, info = read_model(graph.path)
    changed = type(info)(**{**{name: getattr(info, name) for name in info.__dataclass_fields__}, "spec": other})
    describe(model, changed)
    published(models, "2.0.0", write(model, tmp_path / "model.onnx", changed))
    with pytest.raises(UsageError, match=rf"v2\.0\.0/model\.onnx takes features of spec {other.id}.*and .* has {SMALL.id}"):
        compare(CompareRequest(models, "1.0.0", "2.0.0", str(built.corpus.store)))
    done = invoke("releases", "compare", "1.0.0", "9.0.0", "--models", models, "--store", built.corpus.store)
    assert (done.exit_code, "9.0.0" in done.stderr) == (2, True)


def test_a_release_of_an_unknown_set_may_know_the_rows(models: str, built: Built, graph: ExportedGraph, tmp_path: Path) -> None:
    from dataclasses import replace

    model, info = read_model(graph.path)
    published(models, "3.0.0", write(model, tmp_path / "model.onnx", replace(info, feature_set="f" * 12)))
    found = compare(CompareRequest(models, "1.0.0", "3.0.0", str(built.corpus.store)))
    assert found.notes == (f"feature set {'f' * 12} is not here: 3.0.0 may have been trained on some of these rows",)


def test_impossible_requests() -> None:
    with pytest.raises(UsageError, match="confidence is 1"):
        CompareRequest("m", "1.0.0", "1.1.0", "s", confidence=1)
    assert Interval(0, 1, 2, 0.95, 50).verdict == "a"
