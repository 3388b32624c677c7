"""Lightning, imported after the operators are declared without which its import fails beside a CPU build of torch.

Lightning imports torchmetrics, and that torchvision; everything here that uses Lightning takes it from this door.
"""

from __future__ import annotations

from trainer.network.torchvision_ops import declare_missing_ops

declare_missing_ops()

import lightning  # noqa: E402
from lightning.pytorch import callbacks, loggers  # noqa: E402

__all__ = ["callbacks", "lightning", "loggers"]
