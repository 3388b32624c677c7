"""What Lightning trains: a step on a batch, an epoch's validation in metres, optimizer and schedule."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from featurestore.errors import HeimdallError
from trainer.evaluate.metrics import Predictions, measure
from trainer.fitting.engine import lightning
from trainer.network.augment import augment, seeded, step_seed
from trainer.network.checkpoints import TrainedOn
from trainer.network.geometry import Region
from trainer.network.loss import LossSpec, finite_rows, localization_loss
from trainer.network.model import LocalizationNet
from trainer.network.training_spec import TrainingSpec
from trainer.stream.batches import Batch
from trainer.stream.order import PADDING

MAX_BAD_STEPS = 5
"""So many steps in a row without a finite loss, and there is no way back: the weights are lost."""


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
        features: on what; likewise.
        labels: of all rows of the feature set.
        pretrained: see `LocalizationNet`.
    """

    def __init__(
        self, spec: TrainingSpec, region: Region, features: TrainedOn, labels: RowLabels, *, pretrained: bool = False
    ) -> None:
        super().__init__()
        self.spec = spec
        self.region = region
        self.features = features
        self.labels = labels
        # Plain values only, so that a checkpoint can be loaded without executing anything (weights_only=True).
        self.save_hyperparameters({"training": spec.to_json(), "region": region.to_json()}, logger=False)
        self.net = LocalizationNet(spec.network, pretrained=pretrained)
        self.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
        targets = np.full(labels.position.shape, np.nan, np.float32)
        known = np.isfinite(labels.position).all(axis=1)
        targets[known] = region.encode(labels.position[known])
        self.targets: Tensor
        self.register_buffer("targets", torch.from_numpy(targets), persistent=False)
        # Of the epoch so far: loss and rows, gradient norms and steps. Lightning's own means would forget them on resume.
        self._sums: Tensor
        self.register_buffer("_sums", torch.zeros(4, dtype=torch.float64), persistent=False)
        self._bad_steps = 0
        self._not_finite: tuple[Tensor, Tensor]
        self._validated: list[tuple[Tensor, Tensor]] = []

    def forward(self, features: Tensor) -> Tensor:
        """(B, 3, band, frame) → (B, 4), see `LocalizationNet`."""
        outputs: Tensor = self.net(features.float().contiguous(memory_format=torch.channels_last))
        return outputs

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what the network was trained on; see `trainer.network.checkpoints`."""
        checkpoint["features"] = self.features.to_state()
        checkpoint["epoch_sums"] = self._sums.cpu()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Goes on within an epoch's means; see `on_save_checkpoint`."""
        self._sums.copy_(checkpoint["epoch_sums"])

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """One step. All that it draws (augmentation, dropout) depends on its place alone, so that a run can be resumed."""
        place = (self.spec.seed, self.current_epoch, batch_idx, self.global_rank)
        torch.manual_seed(step_seed(*place))
        features = augment(batch.features.float(), self.spec.augment, seeded(*place, device=batch.features.device))
        hold_sigma = self.spec.loss.holds_sigma(self.current_epoch)
        loss = localization_loss(self(features), self.targets[batch.row], self.spec.loss, hold_sigma=hold_sigma)
        finite = finite_rows(loss.per_row)
        if batch_idx == 0:
            self._sums.zero_()
        self._not_finite = (batch.row, finite)
        self._sums[:2] += torch.stack([torch.where(finite, loss.per_row.detach(), 0.0).sum(), finite.sum()])
        return loss.mean

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:  # noqa: ARG002 - Lightning's signature
        """Skips a step whose gradients are no numbers: of several ranks all skip it, since all have the same gradients."""
        parameters = [parameter for parameter in self.parameters() if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
        if bool(norm.isfinite()):
            self._bad_steps = 0
            self._sums[2:] += torch.stack([norm, torch.ones_like(norm)])
            return
        for parameter in parameters:
            parameter.grad = None
        self._tell_bad()

    def _tell_bad(self) -> None:
        row, finite = self._not_finite
        bad = row[~finite].tolist()
        if not bad and self.trainer.precision == "16-mixed":
            return  # the gradient scaler was too bold; it lowers its scale
        named = f"rows {', '.join(map(str, bad[:10]))}" if bad else f"a batch with row {int(row[0])}"
        found = f"no finite {'loss' if bad else 'gradient'} for {named} of feature set {self.features.version}"
        self._bad_steps += 1
        if self._bad_steps >= MAX_BAD_STEPS:
            raise HeimdallError(
                f"{MAX_BAD_STEPS} steps in a row had to be skipped, the last one with {found}; lower --learning-rate, or go on "
                "from an earlier checkpoint with --resume PATH"
            )
        print(f"warning: {found}; the step is skipped", file=sys.stderr)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:  # noqa: ARG002 - Lightning's signature
        """Keeps outputs; padding of the last batch of a rank is left out."""
        served = batch.row != PADDING
        row = batch.row[served]
        outputs = self(batch.features)[served].float()
        self._validated.append((row.cpu(), outputs.cpu()))

    def on_validation_epoch_end(self) -> None:
        """Metrics of the whole split, in metres, by every rank from all ranks' rows; and means of the epoch before it."""
        loss_sum, rows, norm_sum, steps = self._sums
        self.log("train/loss", loss_sum / rows, sync_dist=True)
        self.log("train/gradient_norm", norm_sum / steps, sync_dist=True)
        gathered = self._validated
        self._validated = []
        if self.trainer.world_size > 1:
            shares: list[Any] = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(shares, gathered)
            gathered = [part for share in shares for part in share]
        row, outputs = (torch.cat(parts) for parts in zip(*gathered, strict=True))
        loss = localization_loss(outputs, self.targets.cpu()[row], LossSpec())
        self.log("val/loss", loss.mean, sync_dist=True)
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
