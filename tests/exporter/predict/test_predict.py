"""Inference without torch: the same predictions, and a clear word for every input that is not one."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from exports_for_tests import Built

from exporter.graph.onnx_file import ExportedGraph
from exporter.graph.runtime import open_session
from exporter.predict.predictor import Predictor
from featurestore.errors import DataQualityError, UsageError
from featurestore.store.split import Split

ROOT = Path(__file__).resolve().parents[3]
RATE = 48_000.0

CONSUMER = """
import json, sys
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession(sys.argv[1])
metadata = session.get_modelmeta().custom_metadata_map
z = np.load(sys.argv[2])
iq = np.stack([z.real, z.imag])[None].astype(np.float32)
positions, uncertainties = session.run(None, {"iq": iq})
ours = {"torch", "timm", "trainer", "featurestore", "exporter", "scipy", "onnx"} & set(sys.modules)
rate = json.loads(metadata["spec"])["sample_rate_hz"]
print(json.dumps([positions.tolist(), uncertainties.tolist(), rate, sorted(ours)]))
"""

TORCH_FREE = """
import sys
import numpy as np
from exporter.predict.predictor import Predictor
from featurestore.store.feature_set import open_set
from featurestore.store.split import Split
model, iq_model, capture, store = sys.argv[1:]
found, = Predictor(iq_model).predict_files([capture], 48000)
rows, more = Predictor(model).predict_set(open_set(store), Split.TEST, 3)
assert len(found) == 1 and len(more) == len(rows) == 3 and np.isfinite(more.positions).all()
print(sorted({"torch", "trainer", "timm", "onnx", "dask", "psycopg"} & set(sys.modules)))
"""


@pytest.fixture(scope="module")
def capture(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("capture") / "capture.npy"
    np.save(path, built.corpus.samples(3, 2))
    return path


def output_of(code: str, *arguments: object, cwd: Path) -> Any:
    command = [sys.executable, "-W", "error", "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return json.loads(done.stdout.replace("'", '"'))


def test_a_script_without_this_project_predicts_the_same(iq_graph: ExportedGraph, capture: Path, tmp_path: Path) -> None:
    positions, uncertainties, rate, imported = output_of(CONSUMER, iq_graph.path, capture, cwd=tmp_path)
    found = Predictor(iq_graph.path).predict_iq(np.load(capture), RATE)
    np.testing.assert_allclose(positions, found.positions, atol=1e-6)  # degrees: 0.1 m
    np.testing.assert_allclose(uncertainties, found.uncertainties, rtol=1e-5)
    assert rate == RATE
    assert imported == []


def test_torch_and_trainer_are_never_imported(
    graph: ExportedGraph, iq_graph: ExportedGraph, capture: Path, built: Built
) -> None:
    assert output_of(TORCH_FREE, graph.path, iq_graph.path, capture, built.corpus.store, cwd=ROOT) == []


def test_rows_of_a_set(graph: ExportedGraph, built: Built) -> None:
    predictor = Predictor(graph.path.read_bytes())
    rows, found = predictor.predict_set(built.feature_set, Split.VAL)
    positions, uncertainties = open_session(graph.path).run(None, {"features": rows.features})
    np.testing.assert_allclose(found.positions, positions, atol=1e-6)
    np.testing.assert_allclose(found.uncertainties, uncertainties, rtol=1e-5)
    half = predictor.predict_features(rows.features.astype(np.float16))
    np.testing.assert_array_equal(half.positions, found.positions)


def test_every_way_to_give_a_capture_is_the_same(
    iq_graph: ExportedGraph, captures: npt.NDArray[np.complex128], tmp_path: Path
) -> None:
    predictor = Predictor(iq_graph.path, threads=1)
    together = predictor.predict_iq(captures, RATE)
    pairs = np.stack([captures.real, captures.imag], axis=1).astype(np.float32)
    np.testing.assert_array_equal(predictor.predict_iq(pairs, RATE).positions, together.positions)
    np.testing.assert_allclose(predictor.predict_iq(captures[2], RATE).positions[0], together.positions[2], atol=1e-6)
    paths = [tmp_path / f"{index}.npy" for index in range(4)]
    for path, samples, dtype in zip(paths, captures, ("<c16", ">c16", "<c8", ">c8"), strict=True):
        np.save(path, samples.astype(dtype))
    found = np.concatenate([item.positions for item in predictor.predict_files(paths, RATE)])
    np.testing.assert_allclose(found, together.positions, atol=1e-6)


def spoilt(samples: npt.NDArray[np.complex128], value: complex) -> npt.NDArray[np.complex128]:
    samples = samples.copy()
    samples[1, 1500] = value
    return samples


IQ_MISTAKES: list[tuple[Callable[[npt.NDArray[np.complex128]], npt.NDArray[Any]], float | None, str]] = [
    (lambda z: z, None, "sample rate is unknown"),
    (lambda z: z, 192_000, "are sampled at 192000 Hz.*takes 48000 Hz"),
    (lambda z: z[:, :703], RATE, "have 703 samples; one window needs 704"),
    (lambda z: z.real, RATE, "iq is float64 of shape"),
    (lambda z: z[None], RATE, r"of shape \(1, 4, 3000\)"),
    (lambda z: z.real.astype(np.float32)[:, None], RATE, "iq is float32 of shape"),
    (lambda z: z[:, :0], RATE, "have 0 samples"),
    (lambda z: spoilt(z, complex(np.nan)), RATE, "capture 1 of 4 has samples that are NaN"),
    (lambda z: spoilt(z, complex(1e39)), RATE, "beyond float32"),
    (lambda z: np.full_like(z, 0.5), RATE, "capture 0 of 4 is silent"),
]


@pytest.mark.parametrize(("change", "rate", "message"), IQ_MISTAKES)
def test_captures_that_are_none(
    iq_graph: ExportedGraph,
    captures: npt.NDArray[np.complex128],
    change: Callable[[npt.NDArray[np.complex128]], npt.NDArray[Any]],
    rate: float | None,
    message: str,
) -> None:
    with pytest.raises(UsageError, match=message):
        Predictor(iq_graph.path).predict_iq(change(captures), rate)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"nothing", "is no .npy file"),
        (None, "cannot be read"),
        (np.ones(10, np.complex64), "has 10 samples; one window needs 704"),
        (np.ones(4000, np.float32), "holds float32"),
        (np.ones((2, 4000), np.complex64), "expected one dimension"),
    ],
)
def test_files_that_are_no_captures(iq_graph: ExportedGraph, tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "capture.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        np.save(path, content)
    with pytest.raises(UsageError, match=message) as error:
        list(Predictor(iq_graph.path).predict_files([path], RATE))
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (np.zeros((2, 3, 24), np.float32), r"takes \(n, 3, 24, 8\)"),
        (np.zeros((2, 3, 128, 32), np.float32), r"shape \(2, 3, 128, 32\)"),
        (np.zeros((2, 3, 24, 8)), "features are float64"),
        (np.full((2, 3, 24, 8), np.nan, np.float32), "2 of 2 tensors, the first at 0, are not finite"),
    ],
)
def test_tensors_that_are_none(graph: ExportedGraph, features: npt.NDArray[Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Predictor(graph.path).predict_features(features)


def test_the_other_graph_is_named(graph: ExportedGraph, iq_graph: ExportedGraph, captures: npt.NDArray[np.complex128]) -> None:
    with pytest.raises(UsageError, match=r"use the model-iq\.onnx"):
        Predictor(graph.path).predict_iq(captures, RATE)
    with pytest.raises(UsageError, match=r"use the model\.onnx"):
        Predictor(iq_graph.path).predict_features(np.zeros((1, 3, 24, 8), np.float32))


def test_outputs_that_are_no_numbers_are_said(graph: ExportedGraph) -> None:
    """Not made a plausible place of, which is what clipping does to NaN."""
    model = onnx.load(graph.path)
    weight = next(tensor for tensor in model.graph.initializer if "position_head.6.weight" in tensor.name)
    values = onnx.numpy_helper.to_array(weight).copy()
    values[0, 0] = np.nan
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    with pytest.raises(DataQualityError, match="returned NaN or infinity for 2 of 2 inputs, the first at 0"):
        Predictor(model.SerializeToString()).predict_features(np.ones((2, 3, 24, 8), np.float32))


def test_models_that_are_none(graph: ExportedGraph, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        Predictor(tmp_path / "absent.onnx")
    (tmp_path / "model.onnx").write_bytes(graph.path.read_bytes()[:5000])
    with pytest.raises(UsageError, match=r"model\.onnx is damaged, cut short"):
        Predictor(tmp_path / "model.onnx")
    model = onnx.load(graph.path)
    del model.metadata_props[:]
    with pytest.raises(UsageError, match="schema None"):
        Predictor(model.SerializeToString())
