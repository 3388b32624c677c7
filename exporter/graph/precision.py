"""The same model in fewer bits; what that costs and saves is measured by `precision_table`.

Only the backbone is touched, which holds nearly all weights. Neck, heads and geometry stay as they are, and so does everything
before the network: a dynamic range of 120 dB does not fit float16.

* `fp16`: weights and activations in float16. A CPU has few kernels of that type; ONNX Runtime computes the rest in float32
  between casts, so that this halves the file but saves no time there. It is meant for GPUs.
* `int8-weights`: the weights of matrix products as 8-bit integers with a float32 scale for every 128 of them along the input
  axis (`MatMulNBits`, an operator of ONNX Runtime); the kernel rounds activations to 8 bits block by block as well. Weights of
  convolutions are kept as float16, and are float32 again once a session has loaded them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir
from onnx import ModelProto, TensorProto, helper, numpy_helper

from exporter.graph.metadata import GraphInfo
from exporter.graph.onnx_file import BACKBONE, ExportedGraph, read_model, write
from featurestore.errors import UsageError

PRECISIONS = ("fp32", "fp16", "int8-weights")
BLOCK = 128
"""Weights that share a scale. With 32 the error is a little smaller, and every weight takes 9 bits instead of 8.25."""
INT8_PRODUCTS = 4
"""`accuracy_level` of MatMulNBits; the others turn weights back into float32 in every call, and take several times as long."""


def convert(source: Path | str, path: Path | str, precision: str) -> ExportedGraph:
    """Write a graph in another precision; its metadata say so.

    Args:
        source: a graph in fp32, `features` or `iq`.
        path: where the result goes.
        precision: one of `PRECISIONS`; fp32 copies.

    Raises:
        UsageError: when the source is no such graph, or has no weights that this precision can change.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"precision is {precision!r}; expected one of {', '.join(PRECISIONS)}")
    model, info = read_model(source)
    if info.precision != "fp32":
        raise UsageError(f"{source} is in {info.precision}; convert the fp32 graph, so that nothing is rounded twice")
    if precision == "fp16":
        model = _to_float16(model)
    elif precision == "int8-weights":
        model = _to_int8_weights(model, info)
    return write(model, path, replace(info, precision=precision))


def _to_float16(model: ModelProto) -> ModelProto:
    from onnxruntime.transformers.float16 import convert_float_to_float16

    kept = [node.name for node in model.graph.node if not node.name.startswith(BACKBONE)]
    converted = convert_float_to_float16(model, keep_io_types=True, op_block_list=[], node_block_list=kept)
    del converted.graph.value_info[:]  # they tell the old types
    ordered = onnx_ir.from_proto(converted)
    ordered.graph.sort()  # the converter appends its casts
    result: ModelProto = onnx_ir.to_proto(ordered)
    return result


def _to_int8_weights(model: ModelProto, info: GraphInfo) -> ModelProto:
    with _quiet():
        from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer

    kept = [node.name for node in model.graph.node if not node.name.startswith(BACKBONE)]
    config = DefaultWeightOnlyQuantConfig(block_size=BLOCK, is_symmetric=True, bits=8, accuracy_level=INT8_PRODUCTS)
    quantizer = MatMulNBitsQuantizer(model, nodes_to_exclude=kept, algo_config=config)
    with _quiet():
        quantizer.process()
    converted: ModelProto = quantizer.model.model
    if not any(node.op_type == "MatMulNBits" for node in converted.graph.node):
        raise UsageError(
            f"the backbone {info.backbone} computes with convolutions only, and int8-weights changes matrix products; use "
            "fp16, or a backbone from tiny to large"
        )
    _store_convolutions_as_float16(converted)
    return converted


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the quantizer from logging each node, and from setting up the root logger for everybody when it is imported."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    logging.getLogger("onnxruntime.quantization").setLevel(logging.WARNING)
    logging.getLogger("onnxruntime.quantization.matmul_nbits_quantizer").setLevel(logging.WARNING)
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


def _store_convolutions_as_float16(model: ModelProto) -> None:
    """Weights of the backbone's convolutions become float16, with a cast to float32 that a session computes once."""
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    casts = {}
    for node in model.graph.node:
        if node.op_type != "Conv" or not node.name.startswith(BACKBONE) or node.input[1] not in weights:
            continue
        name = node.input[1]
        stored = f"{name}_float16"
        if name not in casts:
            values = numpy_helper.to_array(weights[name]).astype(np.float16)
            weights[name].CopyFrom(numpy_helper.from_array(values, stored))
            casts[name] = helper.make_node("Cast", [stored], [f"{name}_float32"], f"cast/{name}", to=TensorProto.FLOAT)
        node.input[1] = f"{name}_float32"
    nodes = [*casts.values(), *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
