"""`torch.compile` for a whole step, and a way back: where it does not work, the step runs uncompiled, and the user is told."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Generic, ParamSpec, TypeVar

import torch

from featurestore.errors import HeimdallError, first_line
from featurestore.progress import format_seconds

P = ParamSpec("P")
T = TypeVar("T")

MODE = "reduce-overhead"
"""On CUDA all kernels of a call become one graph, which the host launches at once; elsewhere it says nothing."""
REHEARSALS = 3
"""Calls until all has happened that can go wrong: graphs are captured at the second one, and replayed at the third."""


class Compiled(Generic[P, T]):
    """A function of tensors of fixed shapes, compiled at its first call, or by `rehearse`.

    On CUDA what it returns is overwritten by the next call of a step: keep copies.

    Args:
        function: what is to be quick.
        say: prints a line for the user.
    """

    def __init__(self, function: Callable[P, T], say: Callable[[str], None]) -> None:
        self._plain = function
        self._quick: Callable[P, T] | None = torch.compile(function, mode=MODE, dynamic=False)
        self._say = say

    def rehearse(self, step: Callable[[Callable[P, T]], object]) -> None:
        """Find out now whether it works, with forward and backward pass: torch compiles the latter within `backward()`.

        Args:
            step: a step on arguments as they will be, which leaves no trace; calls the function that it is given.
        """
        if self._quick is None:
            return
        began = time.perf_counter()
        try:
            for _ in range(REHEARSALS):
                step(self._run_quick)
        except HeimdallError:
            raise
        # A compiler that is absent or was killed, a library in torch's cache that was cut short, a kernel that does not fit …
        except Exception as error:  # noqa: BLE001 - whatever it is, there is a way without it
            self._give_up(error)
        else:
            self._say(f"the step is compiled, in {format_seconds(time.perf_counter() - began)}")

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """What the function returns."""
        if self._quick is not None:
            try:
                return self._run_quick(*args, **kwargs)
            except torch._dynamo.exc.TorchDynamoException as error:  # noqa: SLF001 - torch documents it under this name
                self._give_up(error)
        return self._plain(*args, **kwargs)

    def _run_quick(self, *args: P.args, **kwargs: P.kwargs) -> T:
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]  # torch's
        return (self._quick or self._plain)(*args, **kwargs)

    def _give_up(self, error: Exception) -> None:
        self._say(f"warning: --compile does not work here ({first_line(error)}); training goes on without it")
        self._quick = None
