"""A step that a network repeats, as one ONNX `Loop`: unrolled forty times, the exporter works on it for a minute."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

SCOPES = "pkg.torch.onnx.name_scopes"
"""Where torch's exporter says of which modules a node is."""


@dataclass(frozen=True)
class Repeated:
    """A step that is traced twice, each time as a module of its own.

    Attributes:
        first: ending of the name of the module that comes before the loop.
        second: of the same step again: it becomes the loop's body.
        times: that `second` runs.
    """

    first: str
    second: str
    times: int


def repeat(model: ModelProto, step: Repeated) -> None:
    """Put a step into a loop, in place; the exporter's notes must still be there.

    What `second` takes from `first` is what it gives itself the next time; all else that it takes stays the same.

    Raises:
        ValueError: when the two do not hang together by one tensor each.
    """
    first, second = step.first, step.second
    body = nodes_of(model, second)
    before = {name for node in nodes_of(model, first) for name in node.output}
    made = {name for node in body for name in node.output}
    place = next(index for index, node in enumerate(model.graph.node) if node.output[0] in made)
    rest = [node for node in model.graph.node if node.output[0] not in made]
    wanted = {name for node in rest for name in node.input} | {output.name for output in model.graph.output}
    given = sorted({name for node in body for name in node.input} & before)
    if len(given) != 1 or len(made & wanted) != 1:
        raise ValueError(f"{second} takes {given} from {first} and gives {sorted(made & wanted)}; one of each is wanted")
    state, result = given[0], (made & wanted).pop()
    kind = next(info.type for info in model.graph.value_info if info.name == state)
    inside = {state: f"{second}/state", result: f"{second}/next"}
    for node in body:
        for names in (node.input, node.output):
            names[:] = [inside.get(name, name) for name in names]
    number, again, more, count = (f"{second}/{name}" for name in ("number", "again", "more", "count"))
    graph = helper.make_graph(
        [helper.make_node("Identity", [again], [more]), *body],
        second,
        [
            helper.make_tensor_value_info(number, TensorProto.INT64, []),
            helper.make_tensor_value_info(again, TensorProto.BOOL, []),
            helper.make_value_info(inside[state], kind),
        ],
        [helper.make_tensor_value_info(more, TensorProto.BOOL, []), helper.make_value_info(inside[result], kind)],
    )
    loop = helper.make_node("Loop", [count, "", state], [result], f"{second}/loop", body=graph)
    ordered = [*rest[:place], loop, *rest[place:]]
    inner = made - {result}
    infos = [info for info in model.graph.value_info if info.name not in inner]
    del model.graph.node[:], model.graph.value_info[:]
    model.graph.node.extend(ordered)
    model.graph.value_info.extend(infos)
    model.graph.initializer.append(numpy_helper.from_array(np.array(step.times, np.int64), count))


def nodes_of(model: ModelProto, module: str) -> list[NodeProto]:
    """The nodes that a module's `forward` made."""
    return [
        node
        for node in model.graph.node
        if any(prop.key == SCOPES and f"{module}'" in prop.value for prop in node.metadata_props)
    ]
