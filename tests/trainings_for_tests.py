"""A training that takes seconds."""

from __future__ import annotations

from trainer.network.network_spec import NetworkSpec
from trainer.network.training_spec import OptimizerSpec, TrainingSpec


def tiny_training(epochs: int) -> TrainingSpec:
    return TrainingSpec(NetworkSpec(backbone="test_convnext2"), OptimizerSpec(warmup_epochs=1, max_epochs=epochs))
