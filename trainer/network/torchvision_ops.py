"""Lets timm be imported beside a torchvision whose compiled operators do not fit the installed torch.

timm imports torchvision for its Python parts (image transforms, `FrozenBatchNorm2d`); no ConvNeXt needs a compiled operator.
But torchvision registers shape functions for `nms` and `qnms` when it is imported, whether its compiled library could be loaded
or not. PyPI has a CPU build of torch and none of torchvision, so that beside a CPU torch the library looks for CUDA, does not
load, and `import torchvision` ends with `operator torchvision::nms does not exist`. Declaring the two operators, without an
implementation, is all that the import needs; calling one still ends in torchvision's own explanation.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch

SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
OPERATORS = ("nms", "qnms")  # those for which torchvision/_meta_registrations.py registers unconditionally


@cache  # declaring twice is an error, and a Library that nobody holds takes its declarations with it
def declare_missing_ops() -> torch.library.Library | None:
    """Declares what torchvision's compiled library would; call it before the first `import timm` or `import torchvision`.

    Returns:
        The declarations; None where the compiled operators are there, or torchvision is not, and nothing was done.
    """
    if find_spec("torchvision") is None or _compiled_ops_load():
        return None
    library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]  # torch leaves it untyped
    for name in OPERATORS:
        library.define(name + SCHEMA)  # type: ignore[no-untyped-call]  # as above
    return library


def _compiled_ops_load() -> bool:
    """Whether the operators exist, after trying to load them the way torchvision does (a second load is a no-op)."""
    spec = find_spec("torchvision")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for library in Path(folder).glob("_C.*"):  # _C.so, _C.pyd, _C.cpython-311-….so
            try:
                torch.ops.load_library(library)  # type: ignore[no-untyped-call]  # as above
            except OSError:  # built for another torch, or for a CUDA that is not here
                continue
    return all(hasattr(torch.ops.torchvision, name) for name in OPERATORS)
