"""`model-iq.onnx`: the tensors of a build, from raw samples, whatever the spec; and one prediction for each capture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import independent
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import scipy.fft
import torch
from corpus_for_tests import SMALL
from exports_for_tests import Built
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from exporter.graph.iq_graph import combine, export_iq_graph
from exporter.graph.onnx_file import ExportedGraph, check
from exporter.graph.rows import read_rows
from exporter.graph.runtime import open_session
from exporter.validate.validate_iq import validate_iq
from featurestore.errors import DataQualityError, UsageError
from featurestore.store.split import Split
from featurestore.tensor.spec import FeatureSpec
from trainer.network.checkpoints import Checkpoint

SPECS = {
    "cepstra of three windows": {"n_mfcc": 13, "windows_per_capture": 3},
    "part of the band, 500 points": {"n_fft": 500, "window": "blackman", "f_min_hz": 300, "f_max_hz": 8000, "n_mels": 40},
}


def with_features(graph: ExportedGraph) -> Any:
    """A session whose third output is what the graph normalized, before it is rounded to float16."""
    model = onnx.load(graph.path)
    rounding = [node for node in model.graph.node if node.op_type == "Cast" and node.attribute[0].i == onnx.TensorProto.FLOAT16]
    assert len(rounding) == 1
    value = onnx.helper.make_tensor_value_info(rounding[0].input[0], onnx.TensorProto.FLOAT, None)
    model.graph.output.append(value)
    return onnxruntime.InferenceSession(model.SerializeToString())


def check_features(graph: ExportedGraph, built: Built) -> None:
    """The tensors in the graph are those of float64 librosa and scipy; those stored, but for roundings, are the same."""
    spec, basis = built.feature_set.spec, built.feature_set.basis
    session, files = with_features(graph), built.capture_files()
    rows = read_rows(built.feature_set, Split.VAL)
    for index in range(0, len(rows), 5):
        z = np.load(files[int(rows.capture_id[index])])
        window = int(rows.window[index])
        features = session.run(None, {"iq": np.stack([z.real, z.imag])[None].astype(np.float32)})[2][window]
        exact = independent.log_mel(z.astype(np.complex64), spec.to_json(), window)
        if spec.n_mfcc:
            exact = scipy.fft.dct(exact, type=2, norm="ortho", axis=1)[:, : spec.n_mfcc]
        difference = features - (exact - basis.mean[..., None]) / basis.std[..., None]
        assert np.abs(difference * basis.std[..., None]).max() < 1e-4  # dB: those are float32 numbers of some -100
        steps = np.spacing(np.abs(rows.features[index]).astype(np.float16)).astype(np.float32)
        rounded = features.astype(np.float16).astype(np.float32)
        assert (np.abs(rounded - rows.features[index]) <= steps + 1e-4).all()
        assert (rounded == rows.features[index]).mean() > 0.9


def test_it_computes_the_features_that_are_stored(built: Built, iq_graph: ExportedGraph) -> None:
    check_features(iq_graph, built)


@pytest.mark.parametrize("changes", SPECS.values(), ids=SPECS)
def test_whatever_the_spec(build_set: Callable[[FeatureSpec], Built], changes: dict[str, Any], tmp_path: Path) -> None:
    built = build_set(FeatureSpec(**{**SMALL.to_json(), **changes}))
    checkpoint = built.checkpoint()
    graph = export_iq_graph(checkpoint, tmp_path / "model-iq.onnx")
    check_features(graph, built)
    found = validate_iq(graph.path, checkpoint, list(built.capture_files().values())[:9])
    found.require()
    assert found.difference_m < 100


def test_it_predicts_what_featurestore_and_network_predict(
    built: Built, checkpoint: Checkpoint, iq_graph: ExportedGraph
) -> None:
    found = validate_iq(iq_graph.path, checkpoint, list(built.capture_files().values())[:30])
    found.require()
    assert found.share == 1
    assert found.difference_m < 100  # of 50 km of σ: single float16 steps of stored features
    assert "capture " in found.worst[0][0]


def test_a_wrong_filter_is_refused(built: Built, checkpoint: Checkpoint, iq_graph: ExportedGraph) -> None:
    model = onnx.load(iq_graph.path)
    filters = next(tensor for tensor in model.graph.initializer if tuple(tensor.dims) == (129, 24))
    values = onnx.numpy_helper.to_array(filters).copy()
    values[:, 7] *= 2  # 3 dB
    filters.CopyFrom(onnx.numpy_helper.from_array(values, filters.name))
    found = validate_iq(model.SerializeToString(), checkpoint, list(built.capture_files().values())[:5])
    with pytest.raises(DataQualityError, match=r"worst: capture .*\.npy: "):
        found.require()


def test_validation_wants_captures(checkpoint: Checkpoint, iq_graph: ExportedGraph, tmp_path: Path) -> None:
    with pytest.raises(DataQualityError, match="there is no capture"):
        validate_iq(iq_graph.path, checkpoint, [])
    np.save(tmp_path / "short.npy", np.ones(10, np.complex64))
    with pytest.raises(UsageError, match="has 10 samples"):
        validate_iq(iq_graph.path, checkpoint, [tmp_path / "short.npy"])


@pytest.mark.parametrize("batch_size", [1, 2, 7, 64])
@pytest.mark.parametrize("n_samples", [SMALL.span, 1000, 5001])
def test_batch_and_samples_are_free(iq_graph: ExportedGraph, batch_size: int, n_samples: int) -> None:
    """Each capture is on its own, and only its middle counts."""
    rng = np.random.default_rng(n_samples)
    iq = rng.normal(scale=0.1, size=(batch_size, 2, n_samples)).astype(np.float32)
    session = open_session(iq_graph.path)
    positions, uncertainties = session.run(None, {"iq": iq})
    assert positions.shape == uncertainties.shape == (batch_size, 2)
    start = SMALL.starts(n_samples)[0]
    alone, _ = session.run(None, {"iq": iq[-1:, :, start : start + SMALL.span]})
    np.testing.assert_allclose(alone[0], positions[-1], atol=1e-5)  # degrees


@pytest.mark.parametrize("missing", [1, 2, 600])
def test_samples_that_are_too_few_are_an_error_in_the_graph_itself(iq_graph: ExportedGraph, missing: int) -> None:
    iq = np.ones((1, 2, SMALL.span - missing), np.float32)
    with pytest.raises(Exception, match="indices element out of data bounds"):
        open_session(iq_graph.path).run(None, {"iq": iq})


def test_inputs_and_outputs_have_names_types_and_free_axes(iq_graph: ExportedGraph) -> None:
    model = onnx.load(iq_graph.path)
    check(model, "model-iq.onnx")
    shapes = {
        value.name: [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert shapes == {"iq": ["batch", 2, "samples"], "positions": ["batch", 2], "uncertainties": ["batch", 2]}
    assert iq_graph.info.input == "iq"


@given(
    arrays.arrays(np.float64, (2, 3, 2), elements=st.floats(-2, 2)),
    arrays.arrays(np.float64, (2, 3, 2), elements=st.floats(0.01, 1)),
)
def test_windows_become_the_gaussian_with_the_moments_of_their_mixture(
    mean: npt.NDArray[np.float64], sigma: npt.NDArray[np.float64]
) -> None:
    """Second moments about zero add up: E[x²] = mean of (σₖ² + μₖ²)."""
    spec = FeatureSpec(windows_per_capture=3)
    outputs = torch.from_numpy(np.concatenate([mean, sigma], axis=2).reshape(6, 4))
    combined = combine(outputs, spec).numpy()
    np.testing.assert_allclose(combined[:, :2], mean.mean(axis=1), atol=1e-12)
    second = (sigma**2 + mean**2).mean(axis=1)
    np.testing.assert_allclose(combined[:, 2:] ** 2 + combined[:, :2] ** 2, second, rtol=1e-9)


def test_one_window_is_left_as_it_is() -> None:
    outputs = torch.randn(5, 4)
    assert combine(outputs, FeatureSpec()) is outputs
