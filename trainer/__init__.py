"""Lean trainer: streams a feature set into a ConvNeXt that says where a transmitter is, and how sure that is.

    from trainer import FeatureStream, LocalizationNet, TrainRequest, fit

Importing this package costs nothing; torch and Lightning are loaded when one of these is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainer.checkpoints import Checkpoint, read_checkpoint
    from trainer.data import DataOptions, FeatureStream
    from trainer.model import LocalizationNet, NetworkSpec
    from trainer.request import Hardware, TrainReport, TrainRequest
    from trainer.run import fit
    from trainer.tracking import TrackingRequest
    from trainer.training_spec import OptimizerSpec, TrainingSpec

ROOMS = {
    "Checkpoint": "checkpoints",
    "DataOptions": "data",
    "FeatureStream": "data",
    "Hardware": "request",
    "LocalizationNet": "model",
    "NetworkSpec": "model",
    "OptimizerSpec": "training_spec",
    "TrackingRequest": "tracking",
    "TrainReport": "request",
    "TrainRequest": "request",
    "TrainingSpec": "training_spec",
    "fit": "run",
    "read_checkpoint": "checkpoints",
}

__all__ = [
    "Checkpoint",
    "DataOptions",
    "FeatureStream",
    "Hardware",
    "LocalizationNet",
    "NetworkSpec",
    "OptimizerSpec",
    "TrackingRequest",
    "TrainReport",
    "TrainRequest",
    "TrainingSpec",
    "fit",
    "read_checkpoint",
]


def __getattr__(name: str) -> Any:
    if name not in ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{ROOMS[name]}"), name)
