"""Validation: it lets a right graph pass, and names the rows of a wrong one."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from corpus_for_tests import SMALL
from exports_for_tests import Built
from onnx import numpy_helper

from exporter.graph.onnx_file import ExportedGraph, describe
from exporter.graph.rows import read_rows
from exporter.validate.validate import Tolerance, Validation, validate
from featurestore.errors import DataQualityError, UsageError
from featurestore.store.split import Split
from featurestore.tensor.spec import FeatureSpec
from trainer.network.checkpoints import Checkpoint


def with_weight(graph: ExportedGraph, name: str, factor: float) -> bytes:
    """The graph with one weight multiplied."""
    model = onnx.load(graph.path)
    tensor = next(tensor for tensor in model.graph.initializer if name in tensor.name)
    values = numpy_helper.to_array(tensor).copy()
    values.flat[np.abs(values).argmax()] *= factor
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return bytes(model.SerializeToString())


def check(graph: str | bytes, checkpoint: Checkpoint, built: Built) -> Validation:
    return validate(graph, checkpoint, built.feature_set, batch_sizes=(1, 7, 64), repeats=2)


def test_a_right_graph_passes(graph: ExportedGraph, checkpoint: Checkpoint, built: Built) -> None:
    found = check(str(graph.path), checkpoint, built)
    found.require()
    assert found.rows == built.feature_set.manifest.counts["val"]
    assert found.share == 1
    assert found.difference_m < 0.1
    assert found.relative < 1e-4
    assert len(found.worst) == 5
    report = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert report["passed"] is True
    assert [batch["batch_size"] for batch in report["batches"]] == [1, 7, 64]
    assert report["latency_ms"].keys() == {"1", "32"}
    for times in found.latency_ms.values():
        assert times["speedup"] == pytest.approx(times["torch"] / times["onnx"])


@pytest.mark.parametrize(
    ("name", "factor"), [("position_head.6.weight", 1.01), ("uncertainty_head.6.weight", 1.1), ("neck.1.weight", 2)]
)
def test_a_wrong_weight_is_refused_and_the_worst_rows_are_named(
    graph: ExportedGraph, checkpoint: Checkpoint, built: Built, name: str, factor: float
) -> None:
    found = check(with_weight(graph, name, factor), checkpoint, built)
    assert not found.passed
    with pytest.raises(DataQualityError, match=r"differs from PyTorch.*worst: row \d+ \(capture \d+, window 0\): ") as error:
        found.require()
    assert error.value.exit_code == 3
    distances = [metres for _, metres in found.worst]
    assert distances == sorted(distances, reverse=True)


def test_outputs_that_are_no_numbers_are_refused(graph: ExportedGraph, checkpoint: Checkpoint, built: Built) -> None:
    found = check(with_weight(graph, "position_head.6.weight", np.nan), checkpoint, built)
    assert found.share == 0
    with pytest.raises(DataQualityError, match="inf m"):
        found.require()
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["difference_m"] is None


def test_it_wants_the_features_that_the_network_knows(
    graph: ExportedGraph,
    checkpoint: Checkpoint,
    built: Built,
    build_set: Callable[[FeatureSpec], Built],
) -> None:
    model = onnx.load(graph.path)
    describe(model, replace(graph.info, input="iq"))
    with pytest.raises(UsageError, match="takes iq, and rows of a set are features"):
        check(bytes(model.SerializeToString()), checkpoint, built)
    other = build_set(FeatureSpec(**{**SMALL.to_json(), "hop_length": 32}))
    with pytest.raises(UsageError, match=f"takes features of spec {SMALL.id}"):
        check(str(graph.path), checkpoint, other)


def test_rows_of_a_split(built: Built) -> None:
    whole = read_rows(built.feature_set, Split.TEST)
    assert (built.feature_set.labels.split[whole.row] == Split.TEST).all()
    assert len(whole) == built.feature_set.manifest.counts["test"]
    stored = np.asarray(built.feature_set.to_xarray().features)
    np.testing.assert_array_equal(whole.features, stored[whole.row].astype(np.float32))
    some = read_rows(built.feature_set, Split.TEST, 4)
    assert set(some.row) < set(whole.row)
    np.testing.assert_array_equal(some.features, stored[some.row].astype(np.float32))


def test_files_that_are_no_graphs(checkpoint: Checkpoint, built: Built, graph: ExportedGraph, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        check(str(tmp_path / "absent.onnx"), checkpoint, built)
    with pytest.raises(UsageError, match="damaged, cut short"):
        check(graph.path.read_bytes()[:-1000], checkpoint, built)


@pytest.mark.parametrize("change", [{"absolute_m": -1.0}, {"relative": float("nan")}, {"min_share": 1.0}])
def test_impossible_tolerances(change: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="the tolerance"):
        Tolerance(**change)
