"""A feature set with its captures, and a checkpoint that knows its features, without training one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from corpus_for_tests import Corpus

from featurestore.feature_set import FeatureSet
from trainer.checkpoints import Checkpoint, TrainedOn
from trainer.geometry import Region
from trainer.model import LocalizationNet, NetworkSpec
from trainer.training_spec import TrainingSpec

SMALLEST = "test_convnext"  # timm's own for tests: of the code of tiny to large, with 0.5 M parameters


@dataclass(frozen=True)
class Built:
    """A feature set with the captures behind it."""

    corpus: Corpus
    feature_set: FeatureSet

    def capture_files(self) -> dict[int, Path]:
        """Capture id → file."""
        return {key: found[0] for key, found in self.corpus.captures().items()}

    def checkpoint(self, backbone: str = SMALLEST, *, gradient_checkpointing: bool = True) -> Checkpoint:
        """Random weights, of sizes that training gives them: new blocks of a ConvNeXt are scaled by 10⁻⁶, and do nothing.

        Gradient checkpointing is of no use to an exported graph, and must not be in its way.
        """
        torch.manual_seed(0)
        network = NetworkSpec(backbone, gradient_checkpointing=gradient_checkpointing)
        net = LocalizationNet(network)
        for name, parameter in net.named_parameters():
            if name.endswith("gamma"):
                parameter.data = torch.randn(parameter.shape) * 0.3
        return Checkpoint(
            source="made.ckpt",
            sha256="5e" * 32,
            training=TrainingSpec(network),
            region=Region(45.1, 7.2, 100_000.0),
            features=TrainedOn.of(self.feature_set),
            epoch=3,
            step=12,
            run_id=None,
            weights=net.state_dict(),
        )
