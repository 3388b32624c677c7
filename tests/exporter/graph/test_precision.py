"""Fewer bits: what may be rounded and what may not, how it is measured, and which one is chosen."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from exports_for_tests import Built

from exporter.graph.onnx_file import BACKBONE, ExportedGraph, write
from exporter.graph.precision import PRECISIONS, convert
from exporter.graph.runtime import open_session
from exporter.validate.precision_table import Measured, choose, measure, table
from featurestore.errors import DataQualityError, UsageError


@pytest.fixture(scope="module")
def variants(graph: ExportedGraph, tmp_path_factory: pytest.TempPathFactory) -> list[ExportedGraph]:
    directory = tmp_path_factory.mktemp("precision")
    return [convert(graph.path, directory / f"model-{precision}.onnx", precision) for precision in PRECISIONS]


@pytest.fixture(scope="module")
def measured(variants: list[ExportedGraph], built: Built) -> list[Measured]:
    return measure(variants, built.feature_set, repeats=2)


def test_each_is_smaller_and_says_what_it_is(variants: list[ExportedGraph]) -> None:
    fp32, fp16, int8 = variants
    assert [item.info.precision for item in variants] == list(PRECISIONS)
    assert int8.size_bytes < fp16.size_bytes < fp32.size_bytes
    for item in variants:
        assert dict(open_session(item.path).get_modelmeta().custom_metadata_map) == item.info.to_props()


def test_neck_heads_and_geometry_keep_their_bits(variants: list[ExportedGraph]) -> None:
    for item in variants:
        tensors = {tensor.name: tensor.data_type for tensor in onnx.load(item.path).graph.initializer}
        outside = {name: kind for name, kind in tensors.items() if "head" in name or "neck" in name}
        assert len(outside) >= 7
        assert set(outside.values()) == {onnx.TensorProto.FLOAT}


def test_they_differ_from_fp32_by_little(measured: list[Measured], built: Built) -> None:
    fp32, fp16, int8 = measured
    assert fp32.difference_max_m == 0
    for item in (fp16, int8):
        assert item.rows == built.feature_set.manifest.counts["test"]
        assert item.difference_mean_m is not None
        assert item.error_mean_m is not None
        assert 0 < item.difference_mean_m < 0.01 * item.error_mean_m
        assert item.latency_ms.keys() == {1, 32}
    json.dumps([item.to_json() for item in measured], allow_nan=False)


def test_the_table_has_a_line_for_each(measured: list[Measured]) -> None:
    lines = table([*measured, replace(measured[0], difference_mean_m=None)]).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert [line.split(" | ")[0].strip("| ") for line in lines[2:]] == [*PRECISIONS, "fp32"]
    assert "overflows" in lines[-1]


def test_the_iq_graph_keeps_its_signal_processing(
    iq_graph: ExportedGraph, tmp_path: Path, captures: np.ndarray[tuple[int, int], np.dtype[np.complex128]]
) -> None:
    iq = np.stack([captures.real, captures.imag], axis=1).astype(np.float32)
    expected, sigma = open_session(iq_graph.path).run(None, {"iq": iq})
    for precision in ("fp16", "int8-weights"):
        item = convert(iq_graph.path, tmp_path / "model-iq.onnx", precision)
        positions, uncertainties = open_session(item.path).run(None, {"iq": iq})
        np.testing.assert_allclose(positions, expected, atol=0.02)  # degrees; σ is some 50 km here
        np.testing.assert_allclose(uncertainties, sigma, rtol=0.02)


def test_rounding_twice_and_unknown_precisions_are_refused(variants: list[ExportedGraph], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is in fp16; convert the fp32 graph"):
        convert(variants[1].path, tmp_path / "model.onnx", "int8-weights")
    with pytest.raises(UsageError, match="precision is 'int4'"):
        convert(variants[0].path, tmp_path / "model.onnx", "int4")


def test_files_that_are_no_graphs(graph: ExportedGraph, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        convert(tmp_path / "absent.onnx", tmp_path / "model.onnx", "fp16")
    (tmp_path / "cut.onnx").write_bytes(graph.path.read_bytes()[:5000])
    with pytest.raises(UsageError, match=r"cut\.onnx is damaged, cut short"):
        convert(tmp_path / "cut.onnx", tmp_path / "model.onnx", "fp16")


def test_a_backbone_without_matrix_products_is_refused(graph: ExportedGraph, tmp_path: Path) -> None:
    model = onnx.load(graph.path)
    for node in model.graph.node:
        if node.op_type == "MatMul":
            node.name = node.name.removeprefix(BACKBONE)  # which is what it is when there is none
    write(model, tmp_path / "model.onnx", graph.info)
    with pytest.raises(UsageError, match="computes with convolutions only"):
        convert(tmp_path / "model.onnx", tmp_path / "int8.onnx", "int8-weights")


def sized(precision: str, size_mb: float, difference_m: float | None) -> Measured:
    return Measured(
        precision,
        Path("model.onnx"),
        int(size_mb * 1e6),
        8,
        difference_m,
        difference_m,
        difference_m,
        difference_m,
        difference_m,
        {1: 1.0, 32: 9.0},
    )


SIZED = [sized("fp32", 112, 0.0), sized("fp16", 58, 30.0), sized("int8-weights", 36, 150.0)]


@pytest.mark.parametrize(
    ("precision", "limit", "chosen"),
    [
        ("auto", None, "fp32"),
        ("auto", 112, "fp32"),
        ("auto", 100, "fp16"),
        ("auto", 40, "int8-weights"),
        ("fp16", 100, "fp16"),
        ("int8-weights", None, "int8-weights"),
    ],
)
def test_the_most_accurate_that_fits_is_chosen(precision: str, limit: float | None, chosen: str) -> None:
    assert choose(SIZED, precision, limit).precision == chosen


@pytest.mark.parametrize(("precision", "limit"), [("fp32", 100), ("auto", 10)])
def test_nothing_that_fits_is_refused_with_all_sizes(precision: str, limit: float) -> None:
    with pytest.raises(UsageError, match=rf"{limit} MB \(fp32 112.0 MB, fp16 58.0 MB, int8-weights 36.0 MB\)"):
        choose(SIZED, precision, limit)


def test_a_precision_that_overflows_is_never_chosen() -> None:
    items = [SIZED[0], sized("fp16", 58, None), SIZED[2]]
    assert choose(items, "auto", 100).precision == "int8-weights"
    with pytest.raises(DataQualityError, match="in fp16, outputs overflow"):
        choose(items, "fp16")
    with pytest.raises(UsageError, match="expected auto or one of fp32"):
        choose(SIZED[:1], "fp16")
