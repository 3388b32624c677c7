"""From a traced module to one checked, self-describing ONNX file."""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import ModelProto

from exporter.graph.metadata import GraphInfo
from exporter.graph.repeated import Repeated, repeat
from featurestore.errors import UsageError, first_line
from featurestore.whole_file import whole_file

PROTOBUF_LIMIT_BYTES = 2**31 - 2**20
"""A protobuf message ends at 2 GiB; the megabyte is for the graph around the weights."""

OUTPUTS = ("positions", "uncertainties")
BACKBONE = "backbone/"
"""What the names of the backbone's nodes begin with. Only these may be computed in fewer bits: heads, geometry and everything
before the network may not."""


@dataclass(frozen=True)
class ExportedGraph:
    """A graph that was written.

    Attributes:
        path: the file.
        sha256: of the file, in hex.
        size_bytes: of the file.
        info: what it says of itself.
    """

    path: Path
    sha256: str
    size_bytes: int
    info: GraphInfo


def trace(
    module: torch.nn.Module,
    example: tuple[torch.Tensor, ...],
    dynamic: tuple[dict[int, Any], ...],
    outputs: tuple[str, ...] = OUTPUTS,
    loop: Repeated | None = None,
) -> ModelProto:
    """The graph of a module.

    Args:
        module: in evaluation mode; the names of `forward`'s arguments become those of the inputs.
        example: inputs with at least two rows: of one row the exporter would make a constant.
        dynamic: axes of each input that may have any length.
        outputs: their names.
        loop: a step that is to be repeated.

    Returns:
        A model in memory, its nodes named after the part they belong to.

    Raises:
        UsageError: when the weights do not fit one file.
    """
    n_bytes = sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values())
    if n_bytes >= PROTOBUF_LIMIT_BYTES:
        raise UsageError(
            f"the network has {n_bytes / 1e9:.2f} GB of weights, and one ONNX file holds less than "
            f"{PROTOBUF_LIMIT_BYTES / 1e9:.2f} GB (the limit of protobuf); export a smaller backbone, such as large"
        )
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # the exporter's own use of what torch deprecates; its errors are exceptions
        program = torch.onnx.export(
            module,
            example,
            dynamo=True,
            external_data=False,
            verbose=False,
            output_names=outputs,
            dynamic_shapes=dynamic,
        )
    if program is None:  # only with dynamo=False
        raise RuntimeError("torch.onnx.export gave no program")
    model = program.model_proto
    if loop is not None:
        repeat(model, loop)
    _tidy(model)
    return model


def _tidy(model: ModelProto) -> None:
    """Keep of the exporter's notes (stack traces, paths of this machine) only which nodes are the backbone's."""
    inner = [node for loop in model.graph.node for body in loop.attribute for node in body.g.node]
    for node in (*model.graph.node, *inner):
        scopes = next((prop.value for prop in node.metadata_props if prop.key == "pkg.torch.onnx.name_scopes"), "")
        if "'network.backbone" in scopes:
            node.name = BACKBONE + node.name
        del node.metadata_props[:]
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        del value.metadata_props[:]
    del model.graph.metadata_props[:]
    for tensor in model.graph.initializer:
        del tensor.metadata_props[:]


def read_model(path: Path | str) -> tuple[ModelProto, GraphInfo]:
    """A graph that was written, and what it says of itself.

    Raises:
        UsageError: when it is absent, damaged, or not one of ours.
    """
    try:
        model = onnx.load(path)
    except OSError as error:
        raise UsageError(f"model {path} cannot be read ({error.strerror}); give a .onnx file that exists") from error
    except Exception as error:  # protobuf's DecodeError, of a package without types
        raise UsageError(f"{path} is damaged, cut short or no ONNX model ({error}); fetch it again") from error
    return model, GraphInfo.from_props({prop.key: prop.value for prop in model.metadata_props}, str(path))


def describe(model: ModelProto, info: GraphInfo) -> None:
    """Put the metadata into a model, instead of what was there."""
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, info.to_props())
    outputs = ", ".join(output.name for output in model.graph.output)
    model.doc_string = f"Radio source localization, release {info.release}: {info.input} → {outputs}"


def check(model: ModelProto, name: str) -> None:
    """Everything that ONNX itself can say: types, attributes, and shapes by strict inference.

    Raises:
        UsageError: when the model is not valid; its maker is wrong then, or the file is damaged.
    """
    try:
        onnx.checker.check_model(model)
        inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise UsageError(f"{name} is no valid ONNX model ({first_line(error)}); export it again") from error
    for output in inferred.graph.output:
        if len(output.type.tensor_type.shape.dim) < 2:
            raise UsageError(f"output {output.name} of {name} has no known shape; wanted (batch, …): export it again")


def write(model: ModelProto, path: Path | str, info: GraphInfo) -> ExportedGraph:
    """Describe, check and write a model; the file appears whole or not at all.

    Raises:
        UsageError: when it is not valid, or cannot be written.
    """
    path = Path(path)
    describe(model, info)
    check(model, path.name)
    data = model.SerializeToString(deterministic=True)
    with whole_file(path) as file:
        file.write(data)
    return ExportedGraph(path, hashlib.sha256(data).hexdigest(), len(data), info)
