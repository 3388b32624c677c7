"""What Lightning trains: a step on a batch, an epoch's validation in metres, optimizer and schedule."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from featurestore.errors import HeimdallError, UsageError
from trainer.augment import AugmentSpec, augment, seeded
from trainer.engine import lightning
from trainer.geometry import Region
from trainer.loss import LossSpec, finite_rows, localization_loss
from trainer.metrics import Predictions, measure
from trainer.model import LocalizationNet, NetworkSpec
from trainer.order import PADDING
from trainer.stream import Batch

MAX_BAD_STEPS = 5
"""So many steps in a row without a finite loss, and there is no way back: the weights are lost."""


@dataclass(frozen=True)
class OptimizerSpec:
    """AdamW, and its rate over the epochs: a linear warm-up, then half a cosine to zero.

    Attributes:
        learning_rate: highest rate.
        weight_decay: of AdamW (Loshchilov & Hutter 2019); biases and norms have none.
        warmup_epochs: epochs until the rate is highest.
        max_epochs: epochs until it is zero, and training ends.

    Raises:
        UsageError: when a value is impossible.
    """

    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    warmup_epochs: int = 5
    max_epochs: int = 100

    def __post_init__(self) -> None:
        if not 0 < self.learning_rate < math.inf:
            raise UsageError(f"learning_rate is {self.learning_rate!r}; wanted a number above 0, as 0.001")
        if not 0 <= self.weight_decay < math.inf:
            raise UsageError(f"weight_decay is {self.weight_decay!r}; wanted a number from 0")
        if self.max_epochs < 1 or not self.warmup_epochs >= 0:
            raise UsageError(
                f"max_epochs is {self.max_epochs!r}, warmup_epochs {self.warmup_epochs!r}; wanted at least 1 and 0"
            )

    def factor(self, epochs: float) -> float:
        """The share of the highest rate after so many epochs."""
        warmup = min(self.warmup_epochs, self.max_epochs - 1)
        if epochs < warmup:
            return max(epochs, 1e-3) / warmup
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (epochs - warmup) / max(self.max_epochs - warmup, 1e-9))))


@dataclass(frozen=True)
class TrainingSpec:
    """Everything that makes a trained network what it is, but for the data."""

    network: NetworkSpec
    optimizer: OptimizerSpec
    loss: LossSpec
    augment: AugmentSpec
    seed: int = 42

    def to_json(self) -> dict[str, Any]:
        """All fields, nested; plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> TrainingSpec:
        """The spec that a checkpoint holds."""
        return cls(
            NetworkSpec(**content["network"]),
            OptimizerSpec(**content["optimizer"]),
            LossSpec(**content["loss"]),
            AugmentSpec(**content["augment"]),
            content["seed"],
        )


@dataclass(frozen=True)
class RowLabels:
    """What the module must know of the rows of a set, by row: targets, and what metrics are told apart by.

    Attributes:
        position: (N, 2) float64 degrees; NaN where a row is not served.
        websdr_id: (N,) receiver.
        snr_db: (N,) float32.
    """

    position: npt.NDArray[np.float64]
    websdr_id: npt.NDArray[np.int32]
    snr_db: npt.NDArray[np.float32]


class LocalizationModule(lightning.LightningModule):
    """A network under training.

    Args:
        spec: what is trained, and how.
        region: the unit of its targets; saved with the checkpoint.
        labels: of all rows of the feature set.
    """

    def __init__(self, spec: TrainingSpec, region: Region, labels: RowLabels) -> None:
        super().__init__()
        self.spec = spec
        self.region = region
        self.labels = labels
        # Plain values only, so that a checkpoint can be loaded without executing anything (weights_only=True).
        self.save_hyperparameters({"training": spec.to_json(), "region": region.to_json()})
        self.net = LocalizationNet(spec.network)
        targets = np.full(labels.position.shape, np.nan, np.float32)
        known = np.isfinite(labels.position).all(axis=1)
        targets[known] = region.encode(labels.position[known])
        self.targets: Tensor
        self.register_buffer("targets", torch.from_numpy(targets), persistent=False)
        self._bad_steps = 0
        self._validated: list[tuple[Tensor, Tensor]] = []

    def forward(self, features: Tensor) -> Tensor:
        """(B, 3, band, frame) → (B, 4), see `LocalizationNet`."""
        outputs: Tensor = self.net(features.float().contiguous(memory_format=torch.channels_last))
        return outputs

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        """One step; `None` skips it when a row has no finite loss."""
        generator = seeded(self.spec.seed, self.current_epoch, batch_idx, batch.features.device)
        outputs = self(augment(batch.features.float(), self.spec.augment, generator))
        hold_sigma = self.spec.loss.holds_sigma(self.current_epoch)
        loss = localization_loss(outputs, self._targets(batch), self.spec.loss, hold_sigma=hold_sigma)
        finite = finite_rows(loss.per_row)
        if not bool(finite.all()):
            self._tell_bad(batch.row[~finite])
            return None
        self._bad_steps = 0
        self.log("train/loss", loss.mean, on_step=False, on_epoch=True, prog_bar=True, batch_size=len(batch))
        return loss.mean

    def _tell_bad(self, rows: Tensor) -> None:
        self._bad_steps += 1
        named = ", ".join(map(str, rows[:10].tolist()))
        if self._bad_steps >= MAX_BAD_STEPS:
            raise HeimdallError(
                f"{MAX_BAD_STEPS} steps in a row had no finite loss, the last one for rows {named}; "
                "lower the learning rate, or resume from an earlier checkpoint"
            )
        print(f"warning: no finite loss for rows {named} of the feature set; the step is skipped")

    def validation_step(self, batch: Batch, batch_idx: int) -> None:  # noqa: ARG002 - Lightning's signature
        """Keeps outputs; padding of the last batch of a rank is left out."""
        served = batch.row != PADDING
        row = batch.row[served]
        outputs = self(batch.features)[served].float()
        self._validated.append((row.cpu(), outputs.cpu()))

    def on_validation_epoch_end(self) -> None:
        """Metrics of the whole split, in metres."""
        gathered = self._validated
        self._validated = []
        if not gathered:
            return
        row, outputs = (torch.cat(parts) for parts in zip(*gathered, strict=True))
        loss = localization_loss(outputs, self.targets.cpu()[row], LossSpec())
        self.log("val/loss", loss.mean, prog_bar=True, sync_dist=True)
        for name, value in measure(self.predictions(row, outputs), self.region.half_extent_m).items():
            if isinstance(value, float):
                self.log(f"val/{name}", value, sync_dist=True)

    def predictions(self, row: Tensor, outputs: Tensor) -> Predictions:
        """Outputs in degrees and metres, with what is known of their rows."""
        index, labels = row.numpy(), self.labels
        values = outputs.double().numpy()
        return Predictions.from_outputs(
            self.region, values, labels.position[index], labels.websdr_id[index], labels.snr_db[index]
        )

    def _targets(self, batch: Batch) -> Tensor:
        return self.targets[batch.row]

    def configure_optimizers(self) -> Any:
        """AdamW and the schedule, stepped after every batch."""
        spec = self.spec.optimizer
        decayed: list[Tensor] = []
        others: list[Tensor] = []
        for parameter in self.parameters():
            if parameter.requires_grad:
                (decayed if parameter.ndim > 1 else others).append(parameter)
        groups = [{"params": decayed, "weight_decay": spec.weight_decay}, {"params": others, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=spec.learning_rate)
        # Not `trainer.estimated_stepping_batches`: reading it loses the loader's place on resume (Lightning #20550).
        steps: int = getattr(self.trainer, "datamodule").steps_per_epoch  # noqa: B009 - set, but not declared
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: spec.factor(step / steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
