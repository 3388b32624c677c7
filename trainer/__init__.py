"""Lean trainer: streams a feature set into a ConvNeXt that says where a transmitter is, and how sure that is.

    from trainer import FeatureStream, LocalizationNet, TrainRequest, fit

Importing this package costs nothing; torch and Lightning are loaded when one of these is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainer.fitting.request import Hardware, TrackingRequest, TrainReport, TrainRequest
    from trainer.fitting.run import fit
    from trainer.network.checkpoints import Checkpoint, read_checkpoint
    from trainer.network.model import LocalizationNet
    from trainer.network.network_spec import NetworkSpec
    from trainer.network.training_spec import OptimizerSpec, TrainingSpec
    from trainer.stream.batches import Batch, SessionBatch
    from trainer.stream.feature_stream import DataOptions, FeatureStream

ROOMS = {
    "Batch": "stream.batches",
    "Checkpoint": "network.checkpoints",
    "DataOptions": "stream.feature_stream",
    "FeatureStream": "stream.feature_stream",
    "Hardware": "fitting.request",
    "LocalizationNet": "network.model",
    "NetworkSpec": "network.network_spec",
    "OptimizerSpec": "network.training_spec",
    "SessionBatch": "stream.batches",
    "TrackingRequest": "fitting.request",
    "TrainReport": "fitting.request",
    "TrainRequest": "fitting.request",
    "TrainingSpec": "network.training_spec",
    "fit": "fitting.run",
    "read_checkpoint": "network.checkpoints",
}

__all__ = [
    "Batch",
    "Checkpoint",
    "DataOptions",
    "FeatureStream",
    "Hardware",
    "LocalizationNet",
    "NetworkSpec",
    "OptimizerSpec",
    "SessionBatch",
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
