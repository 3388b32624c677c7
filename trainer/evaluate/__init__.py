"""Evaluate a network on a feature set: metrics, baselines, predictions, plots, page. Enter by `evaluate`."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainer.evaluate.request import EvaluateRequest
    from trainer.evaluate.run import evaluate

ROOMS = {"EvaluateRequest": "request", "evaluate": "run"}

__all__ = ["EvaluateRequest", "evaluate"]


def __getattr__(name: str) -> Any:
    """Import on first use: what needs one room of this wing does not load the others."""
    if name not in ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{ROOMS[name]}"), name)
