"""`torch.compile` for a whole step, and a way back: where it does not work, the step runs uncompiled, and the user is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, ParamSpec, TypeVar

import torch

from featurestore.errors import first_line

P = ParamSpec("P")
T = TypeVar("T")

MODE = "reduce-overhead"
"""On CUDA all kernels of a call become one graph, which the host launches at once; elsewhere it says nothing."""


class Compiled(Generic[P, T]):
    """A function of tensors of fixed shapes, compiled at its first call.

    On CUDA what it returns is overwritten by the next call of a step: keep copies.

    Args:
        function: what is to be quick.
        say: prints a line for the user.
    """

    def __init__(self, function: Callable[P, T], say: Callable[[str], None]) -> None:
        self._plain = function
        self._quick: Callable[P, T] | None = torch.compile(function, mode=MODE, dynamic=False)
        self._say = say

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """What the function returns."""
        if self._quick is not None:
            try:
                torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]  # torch's
                return self._quick(*args, **kwargs)
            except torch._dynamo.exc.TorchDynamoException as error:  # noqa: SLF001 - torch documents it under this name
                self._say(f"warning: --compile does not work here ({first_line(error)}); training goes on without it")
                self._quick = None
        return self._plain(*args, **kwargs)
