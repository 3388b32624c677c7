"""Lightning, imported after the operators are declared without which its import fails beside a CPU build of torch.

Lightning imports torchmetrics, and that torchvision; everything here that uses Lightning takes it from this door.
"""

from __future__ import annotations

from trainer.network.torchvision_ops import declare_missing_ops

declare_missing_ops()

import lightning  # noqa: E402
from lightning.pytorch import callbacks, loggers, strategies  # noqa: E402
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop as TrainingEpochLoop  # noqa: E402

__all__ = ["TrainingEpochLoop", "callbacks", "lightning", "loggers", "strategies"]
