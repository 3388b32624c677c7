"""What all trainings share: steps without a finite loss are skipped, epochs have means, optimizer and schedule."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor

from featurestore.errors import HeimdallError
from trainer.fitting.engine import lightning
from trainer.network.checkpoints import TrainedOn
from trainer.network.loss import finite_rows
from trainer.network.training_spec import TrainingSpec

MAX_BAD_STEPS = 5
"""So many steps in a row without a finite loss, and there is no way back: the weights are lost."""


class TrainingModule(lightning.LightningModule):
    """A network under training; subclasses have `net`, `training_step` and validation.

    Args:
        spec: what is trained, and how.
        features: on what; saved with the checkpoint.
    """

    unit = "rows"
    """What a batch holds, for people."""

    def __init__(self, spec: TrainingSpec, features: TrainedOn) -> None:
        super().__init__()
        self.spec = spec
        self.features = features
        # Of the epoch so far: loss and rows, gradient norms and steps. Lightning's own means would forget them on resume.
        self._sums: Tensor
        self.register_buffer("_sums", torch.zeros(4, dtype=torch.float64), persistent=False)
        self._bad_steps = 0
        self._not_finite: tuple[Tensor, Tensor]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what the network was trained on; see `trainer.network.checkpoints`."""
        checkpoint["features"] = self.features.to_state()
        checkpoint["epoch_sums"] = self._sums.cpu()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Goes on within an epoch's means; see `on_save_checkpoint`."""
        self._sums.copy_(checkpoint["epoch_sums"])

    def keep(self, number: Tensor, per_row: Tensor, batch_idx: int) -> None:
        """Add a step to the epoch's means, and remember which of its rows (their numbers) have no finite loss."""
        finite = finite_rows(per_row)
        if batch_idx == 0:
            self._sums.zero_()
        self._not_finite = (number, finite)
        self._sums[:2] += torch.stack([torch.where(finite, per_row.detach(), 0.0).sum(), finite.sum()])

    def log_train(self) -> None:
        """Means of the epoch that was trained."""
        loss_sum, rows, norm_sum, steps = self._sums
        self.log("train/loss", loss_sum / rows, sync_dist=True)
        self.log("train/gradient_norm", norm_sum / steps, sync_dist=True)

    def gather(self, parts: list[Any]) -> list[Any]:
        """What all ranks have, one after the other."""
        if self.trainer.world_size == 1:
            return parts
        shares: list[Any] = [None] * self.trainer.world_size
        torch.distributed.all_gather_object(shares, parts)
        return [part for share in shares for part in share]

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
        named = f"{self.unit} {', '.join(map(str, bad[:10]))}" if bad else f"a batch with {self.unit} {int(row[0])}"
        found = f"no finite {'loss' if bad else 'gradient'} for {named} of feature set {self.features.version}"
        self._bad_steps += 1
        if self._bad_steps >= MAX_BAD_STEPS:
            raise HeimdallError(
                f"{MAX_BAD_STEPS} steps in a row had to be skipped, the last one with {found}; lower --learning-rate, or go on "
                "from an earlier checkpoint with --resume PATH"
            )
        print(f"warning: {found}; the step is skipped", file=sys.stderr)

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
