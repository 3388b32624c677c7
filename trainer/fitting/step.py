"""What every Lightning module of ours inherits: a training step in which the host never waits for the device.

A subclass says what a batch's losses are. What is around them is here: random numbers that belong to the place in the run,
gradients that are clipped or skipped on the device, one fused optimizer, an epoch's means, and outputs of a validation that
stay on the device until its end.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from trainer.fitting.engine import lightning
from trainer.fitting.guard import adamw, clip_or_skip, is_fused
from trainer.fitting.step_log import StepLog, StepSums
from trainer.network.augment import step_seed
from trainer.network.training_spec import OptimizerSpec

B = TypeVar("B")
Value = TypeVar("Value")


class StepLosses(NamedTuple):
    """What a batch gives.

    Attributes:
        mean: () is minimized.
        each: (b,) of each row, or session; those that are not finite are named, and left out of the epoch's mean.
        row: (b,) int64 of what in the feature set.
    """

    mean: Tensor
    each: Tensor
    row: Tensor


class StepModule(lightning.LightningModule, Generic[B]):
    """A network under training; `losses` is for the subclass to say.

    Args:
        optimizer: rate, decay, schedule.
        seed: of all that is drawn in a step.
        version: of the feature set, for messages.
    """

    def __init__(self, optimizer: OptimizerSpec, seed: int, version: str) -> None:
        super().__init__()
        self._optimizer_spec = optimizer
        self._seed = seed
        self._steps = StepLog(version)
        self._collected: list[tuple[Tensor, ...]] = []

    def __setattr__(self, name: str, value: Any) -> None:
        """As in `nn.Module`, which looks for parameters in whatever is set; Lightning sets this name 44 times a step."""
        if name == "_current_fx_name":
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    @abstractmethod
    def losses(self, batch: B) -> StepLosses:
        """The losses of a train batch. Whatever is drawn comes from torch's own generators, which are seeded for this step."""

    def training_step(self, batch: B, batch_idx: int) -> Tensor:
        """One step. All that it draws (augmentation, dropout) depends on its place alone, so that a run can be resumed."""
        seed_step(self.device, self._seed, self.current_epoch, batch_idx, self.global_rank)
        if batch_idx == 0:
            self._steps.begin_epoch()
        losses = self.losses(batch)
        self._steps.add_losses(losses.row, losses.each.detach())
        return losses.mean

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Clips gradients, or sees to it that a step without finite ones is skipped: by all ranks, as all have the same."""
        self._steps.add_norm(clip_or_skip(optimizer))

    def configure_optimizers(self) -> Any:
        """AdamW and the schedule, stepped after every batch."""
        spec = self._optimizer_spec
        self._steps.scaled = self.trainer.precision == "16-mixed"
        optimizer = adamw(list(self.parameters()), spec, scaled=self._steps.scaled)
        # Not `trainer.estimated_stepping_batches`: reading it loses the loader's place on resume (Lightning #20550).
        steps: int = getattr(self.trainer, "datamodule").steps_per_epoch  # noqa: B009 - set, but not declared
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: spec.factor(step / steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the epoch's means so far; Lightning's own would forget them on resume."""
        sums = self._steps.sums()
        checkpoint["epoch_sums"] = torch.tensor([sums.loss, sums.rows, sums.norm, sums.steps], dtype=torch.float64)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Goes on within an epoch's means; see `on_save_checkpoint`."""
        # How the optimizer computes is no part of its state, but torch saves it there: it may have been saved elsewhere.
        fused = is_fused(self.trainer.strategy.root_device, scaled=self.trainer.precision == "16-mixed")
        for state in checkpoint["optimizer_states"]:
            for group in state["param_groups"]:
                group["fused"] = fused or None
        self._steps.resume(StepSums(*checkpoint["epoch_sums"].tolist()))

    def collect(self, *outputs: Tensor) -> None:
        """Keep what a validation step gave, on the device; tensors (b, …) of as many rows each, in memory of their own."""
        self._collected.append(outputs)

    def gather_collected(self) -> Sequence[Tensor]:
        """All that was kept since the last time, of all ranks, one after the other, on the host."""
        mine = [torch.cat(parts).cpu() for parts in zip(*self._collected, strict=True)]
        self._collected = []
        shares = self.of_all_ranks(mine)
        return mine if len(shares) == 1 else [torch.cat(parts) for parts in zip(*shares, strict=True)]

    def of_all_ranks(self, mine: Value) -> list[Value]:
        """What each rank has, in their order; on one, what it has itself."""
        if self.trainer.world_size == 1:
            return [mine]
        shares: list[Any] = [None] * self.trainer.world_size
        torch.distributed.all_gather_object(shares, mine)
        return shares

    def log_means(self) -> None:
        """Log the epoch's `train/loss` and `train/gradient_norm`; called when its validation ends."""
        sums = self._steps.sums()
        self.log("train/loss", sums.mean_loss, sync_dist=True)
        self.log("train/gradient_norm", sums.mean_norm, sync_dist=True)


def seed_step(device: torch.device, *place: int) -> None:
    """Seed the generators that a step draws from, by its place.

    Those alone: `torch.manual_seed` goes through every kind of device that torch knows, and takes over a millisecond for kinds
    that are absent.

    Args:
        device: of the network.
        place: numbers, such as seed, epoch, batch, rank.
    """
    seed = step_seed(*place)
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(seed)
    elif device.type != "cpu":
        torch.manual_seed(seed)
