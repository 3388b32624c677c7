"""`model.onnx`: it computes what PyTorch computes, in batches of any size, and says what it is."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from exports_for_tests import Built

from exporter.graph.features_graph import Located, export_graph, network_to_export
from exporter.graph.metadata import STRUCTURED, UNITS, GraphInfo
from exporter.graph.onnx_file import BACKBONE, ExportedGraph, check, describe
from exporter.graph.runtime import open_session
from featurestore.errors import UsageError
from trainer.network.checkpoints import Checkpoint
from trainer.network.geometry import geodesic_m


@pytest.mark.parametrize("batch_size", [1, 2, 7, 64])
def test_it_computes_what_pytorch_computes(checkpoint: Checkpoint, graph: ExportedGraph, batch_size: int) -> None:
    rng = np.random.default_rng(batch_size)
    features = rng.normal(size=(batch_size, *checkpoint.features.spec.tensor_shape)).astype(np.float32)
    session = onnxruntime.InferenceSession(graph.path)
    positions, uncertainties = session.run(None, {"features": features})
    with torch.inference_mode():
        expected = Located(network_to_export(checkpoint), checkpoint.region)(torch.from_numpy(features))
    assert positions.dtype == np.float64
    assert uncertainties.dtype == np.float32
    assert geodesic_m(expected[0].numpy(), positions).max() < 0.1
    np.testing.assert_allclose(uncertainties, expected[1].numpy(), rtol=1e-5)


def test_the_geometry_is_the_one_of_the_region(checkpoint: Checkpoint, graph: ExportedGraph) -> None:
    """Against PROJ, in float64."""
    features = np.random.default_rng(1).normal(size=(16, *checkpoint.features.spec.tensor_shape)).astype(np.float32)
    positions, uncertainties = open_session(graph.path).run(None, {"features": features})
    with torch.inference_mode():
        outputs = checkpoint.network()(torch.from_numpy(features)).numpy().astype(np.float64)
    assert geodesic_m(checkpoint.region.decode(outputs[:, :2]), positions).max() < 0.2
    np.testing.assert_allclose(uncertainties, outputs[:, 2:] * checkpoint.region.half_extent_m, rtol=1e-5)


def test_backbones_of_convolutions_only_and_without_a_word(
    built: Built, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """convnext_atto has no matrix products. The exporter's own notes reach neither stdout nor stderr."""
    checkpoint = built.checkpoint("convnext_atto", gradient_checkpointing=False)
    capfd.readouterr()
    exported = export_graph(checkpoint, tmp_path / "model.onnx")
    assert capfd.readouterr() == ("", "")
    assert exported.sha256 == hashlib.sha256(exported.path.read_bytes()).hexdigest()
    assert exported.size_bytes == exported.path.stat().st_size
    features = np.random.default_rng(2).normal(size=(3, *checkpoint.features.spec.tensor_shape)).astype(np.float32)
    positions, _ = open_session(exported.path).run(None, {"features": features})
    with torch.inference_mode():
        expected = Located(network_to_export(checkpoint), checkpoint.region)(torch.from_numpy(features))
    assert geodesic_m(expected[0].numpy(), positions).max() < 0.1


def test_a_lone_file_says_what_it_is(checkpoint: Checkpoint, graph: ExportedGraph) -> None:
    model = onnx.load(graph.path)
    info = GraphInfo.from_props({prop.key: prop.value for prop in model.metadata_props}, "file")
    assert info.spec == checkpoint.features.spec
    assert info.mean.tobytes() == checkpoint.features.mean.tobytes()
    assert info.std.tobytes() == checkpoint.features.std.tobytes()
    assert (info.input, info.release, info.precision) == ("features", "1.2.3", "fp32")
    assert (info.feature_set, info.basis) == (checkpoint.features.version, checkpoint.features.basis)
    assert info.region == checkpoint.region.to_json()
    assert info.checkpoint_sha256 == checkpoint.sha256
    assert info.backbone == "test_convnext2"
    assert {"python", "torch", "onnx", "timm"} <= info.software.keys()
    assert set(UNITS) == {"features", "iq", "mean", "std", "positions", "uncertainties", "region"}


def test_it_tells_nothing_of_the_machine_that_exported_it(graph: ExportedGraph) -> None:
    content = graph.path.read_bytes()
    for text in (str(Path(__file__).parents[3]), str(Path.home()), "stack_trace", 'File "'):
        assert text.encode() not in content


def test_inputs_and_outputs_have_names_types_and_a_free_batch(graph: ExportedGraph) -> None:
    model = onnx.load(graph.path)
    check(model, "model.onnx")
    values = {value.name: value.type.tensor_type for value in (*model.graph.input, *model.graph.output)}
    shapes = {name: [axis.dim_param or axis.dim_value for axis in found.shape.dim] for name, found in values.items()}
    assert shapes == {"features": ["batch", 3, 24, 8], "positions": ["batch", 2], "uncertainties": ["batch", 2]}
    assert [values[name].elem_type for name in shapes] == [
        onnx.TensorProto.FLOAT,
        onnx.TensorProto.DOUBLE,
        onnx.TensorProto.FLOAT,
    ]
    assert sum(node.name.startswith(BACKBONE) for node in model.graph.node) > 50


def test_weights_beyond_one_protobuf_are_refused(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("exporter.graph.onnx_file.PROTOBUF_LIMIT_BYTES", 1_000_000)
    with pytest.raises(UsageError, match=r"GB of weights.*smaller backbone"):
        export_graph(checkpoint, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written(checkpoint: Checkpoint, graph: ExportedGraph) -> None:
    from exporter.graph.onnx_file import write

    with pytest.raises(UsageError, match="cannot be written"):
        write(onnx.load(graph.path), "/nowhere/model.onnx", graph.info)


def test_a_graph_that_is_not_valid_is_refused(graph: ExportedGraph) -> None:
    model = onnx.load(graph.path)
    del model.graph.node[3]
    with pytest.raises(UsageError, match="no valid ONNX model"):
        check(model, "model.onnx")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": "other/9"}, "schema 'other/9'"),
        ({"spec": "{}"}, "is not a spec"),
        ({"mean": "[[1, 2]]"}, "mean"),
        ({"mean": "{"}, "damaged metadata"),
        *(({name: None}, f"lacks the metadata {name}") for name in (*STRUCTURED, "basis")),
    ],
)
def test_metadata_that_are_not_ours_or_incomplete_are_refused(
    graph: ExportedGraph, change: dict[str, str | None], message: str
) -> None:
    model = onnx.load(graph.path)
    describe(model, graph.info)
    props = {**graph.info.to_props(), **change}
    with pytest.raises(UsageError, match=message):
        GraphInfo.from_props({name: text for name, text in props.items() if text is not None}, "file")
