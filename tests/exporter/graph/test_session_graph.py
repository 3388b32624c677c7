"""Graphs for sessions: PyTorch's numbers at any batch and number of receivers, and nothing from captures that are absent."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from exports_for_tests import Built, with_weight

from exporter.graph.iq_graph import Features
from exporter.graph.metadata import GraphInfo
from exporter.graph.onnx_file import ExportedGraph, read_model
from exporter.graph.runtime import open_session
from exporter.graph.session_graph import LocatedSessionsFromIq, export_session_graph, sessions_to_export
from exporter.predict.predictor import Predictor
from exporter.predict.session_files import by_path, gather
from exporter.predict.session_predictor import SessionPredictor
from exporter.validate.validate_sessions import validate_session_iq, validate_sessions
from featurestore.errors import DataQualityError, UsageError
from featurestore.store.split import Split
from trainer.network.checkpoints import Checkpoint

Inputs = dict[str, npt.NDArray[Any]]


def drawn(name: str, shape: tuple[int, ...], seed: int) -> Inputs:
    """Sessions with some captures absent, some receivers unknown by number, some by position."""
    rng = np.random.default_rng(seed)
    position = rng.normal([45, 7], 0.2, (*shape[:2], 2))
    position[rng.random(shape[:2]) < 0.3] = np.nan
    return {
        name: rng.normal(0, 0.1 if name == "iq" else 1, shape).astype(np.float32),
        "receiver_id": rng.integers(1, 6, shape[:2]),
        "receiver_position": position.astype(np.float32),
        "present": rng.random(shape[:2]) < 0.7,
    }


def with_rubbish(inputs: Inputs) -> Inputs:
    """The same, with what is impossible where captures are absent."""
    present = inputs["present"]
    fills = {"receiver_id": -99, "receiver_position": np.inf}
    changed = {}
    for name, values in inputs.items():
        mask = present.reshape(*present.shape, *[1] * (values.ndim - 2))
        changed[name] = values if name == "present" else np.where(mask, values, fills.get(name, np.nan)).astype(values.dtype)
    return changed


def require_close(found: list[npt.NDArray[Any]], module: torch.nn.Module, inputs: Inputs, rtol: float) -> None:
    with torch.inference_mode():
        expected = [values.numpy() for values in module(*map(torch.from_numpy, inputs.values()))]
    spread = np.sqrt(np.linalg.eigvalsh(expected[1])[:, 0])
    np.testing.assert_array_less(np.abs(found[0] - expected[0]).max(axis=1) * 111_000, 0.1 + rtol * spread)
    scale = np.abs(expected[1]).max(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(found[1] / scale, expected[1] / scale, atol=2 * rtol)
    np.testing.assert_allclose(found[2], expected[2], rtol=10 * rtol, atol=10 * rtol)
    assert [values.dtype for values in found] == [np.float64, np.float64, np.float32]


@pytest.fixture(scope="module")
def attention(built: Built, tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkpoint, ExportedGraph]:
    checkpoint = built.session_checkpoint("attention")
    return checkpoint, export_session_graph(checkpoint, tmp_path_factory.mktemp("graph") / "model.onnx")


@pytest.mark.parametrize("shape", [(batch, n_receivers) for batch in (1, 2, 7) for n_receivers in (1, 3, 7, 12)], ids=str)
def test_graphs_compute_what_pytorch_computes(
    session_checkpoint: Checkpoint,
    session_graph: ExportedGraph,
    session_iq_graph: ExportedGraph,
    attention: tuple[Checkpoint, ExportedGraph],
    shape: tuple[int, int],
) -> None:
    spec = session_checkpoint.features.spec
    inputs = drawn("features", (*shape, *spec.tensor_shape), sum(shape))
    for checkpoint, graph in ((session_checkpoint, session_graph), attention):
        found = open_session(graph.path).run(None, with_rubbish(inputs))
        require_close(found, sessions_to_export(checkpoint), inputs, 1e-4)
    inputs = drawn("iq", (*shape, 2, spec.span + 50), sum(shape))
    found = open_session(session_iq_graph.path).run(None, with_rubbish(inputs))
    module = LocatedSessionsFromIq(Features(session_checkpoint.features), sessions_to_export(session_checkpoint))
    require_close(found, module.eval(), inputs, 5e-3)


def test_the_order_of_receivers_does_not_matter(session_graph: ExportedGraph, session_checkpoint: Checkpoint) -> None:
    inputs = drawn("features", (3, 5, *session_checkpoint.features.spec.tensor_shape), 4)
    session, order = open_session(session_graph.path), [3, 0, 4, 2, 1]
    turned = {name: values[:, order] for name, values in inputs.items()}
    for one, other in zip(session.run(None, inputs), session.run(None, turned), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4)


def test_what_is_no_number_stays_none(session_graph: ExportedGraph, session_checkpoint: Checkpoint) -> None:
    inputs = drawn("features", (2, 3, *session_checkpoint.features.spec.tensor_shape), 5)
    inputs["present"][:] = True
    inputs["receiver_id"][:] = 1
    inputs["features"][1, 0] = np.nan
    positions, covariances, _ = open_session(session_graph.path).run(None, inputs)
    assert np.isfinite(positions[0]).all()
    assert np.isnan(positions[1]).all()
    assert np.isnan(covariances[1]).all()


def test_a_graph_says_where_receivers_stand_and_what_its_grid_is(
    session_graph: ExportedGraph, session_checkpoint: Checkpoint
) -> None:
    model, info = read_model(session_graph.path)
    place, about = session_checkpoint.place, info.session
    assert place is not None
    assert about is not None
    assert info.located == "session"
    assert [entry["websdr_id"] for entry in about["receivers"]] == [1, 2, 3]
    assert about["receivers"][0]["latitude"] == 45.05
    assert about["receivers"][2]["longitude"] is None
    grid = SessionPredictor(session_graph.path).grid
    np.testing.assert_allclose(grid.degrees, place.grid.degrees, atol=1e-9)
    assert [node.op_type for node in model.graph.node].count("Loop") == 1
    assert GraphInfo.from_props(info.to_props(), "it").session == about
    assert "uncertainties" not in info.units


def test_right_graphs_pass_validation(
    session_checkpoint: Checkpoint, session_graph: ExportedGraph, session_iq_graph: ExportedGraph, built: Built
) -> None:
    found = validate_sessions(session_graph.path, session_checkpoint, built.feature_set, repeats=1)
    found.require()
    assert found.unit == "sessions"
    assert {(batch.batch_size, batch.receivers) for batch in found.batches} >= {(1, 3), (2, 3), (7, 1), (7, 7), (7, 12)}
    files = [path for path, *_ in built.corpus.captures().values()][:9]
    by_iq = validate_session_iq(session_iq_graph.path, session_checkpoint, gather(by_path(files)))
    by_iq.require()
    assert by_iq.rows == 3


def test_a_wrong_map_is_refused_and_sessions_are_named(
    session_checkpoint: Checkpoint, session_graph: ExportedGraph, built: Built, tmp_path: Path
) -> None:
    wrong = with_weight(session_graph, "network.noise", tmp_path / "wrong.onnx", factor=1.5)
    found = validate_sessions(wrong.path, session_checkpoint, built.feature_set, repeats=1)
    with pytest.raises(DataQualityError, match=r"differs from PyTorch: .* sessions of .*; worst: session "):
        found.require()


def test_graphs_of_both_kinds_are_told_apart(
    session_graph: ExportedGraph, graph: ExportedGraph, session_checkpoint: Checkpoint, checkpoint: Checkpoint
) -> None:
    with pytest.raises(UsageError, match="locates sessions, and captures were asked for"):
        Predictor(session_graph.path)
    with pytest.raises(UsageError, match="locates captures, and sessions were asked for"):
        SessionPredictor(graph.path)
    with pytest.raises(UsageError, match="locates captures"):
        sessions_to_export(checkpoint)
    bare = replace(session_checkpoint, place=None)
    with pytest.raises(UsageError, match="sessions"):
        sessions_to_export(bare)


def test_sessions_of_a_set(session_graph: ExportedGraph, built: Built) -> None:
    predictor = SessionPredictor(session_graph.path)
    rows = predictor.read_set(built.feature_set, Split.TEST, 3)
    assert len(rows) == 3
    assert rows.present.all()
    found = list(predictor.predict(rows))
    assert [one.session_id for one in found] == list(rows.session_id)
    assert found[0].receivers == (1, 2, 3)
    # The graph's point and covariance are those of its own density, computed by another way.
    np.testing.assert_allclose(found[0].posterior.point, found[0].position, atol=2e-4)  # Weiszfeld's last steps
    np.testing.assert_allclose(found[0].posterior.covariance_m2, found[0].covariance_m2, rtol=1e-3, atol=1e3)
    assert onnx.load(session_graph.path).ByteSize() == session_graph.size_bytes
