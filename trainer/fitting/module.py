"""What Lightning trains: a step on a batch, an epoch's validation in metres, optimizer and schedule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from trainer.evaluate.metrics import Predictions, measure
from trainer.fitting.compiled import Compiled
from trainer.fitting.step import StepLosses, StepModule
from trainer.network.augment import augment
from trainer.network.checkpoints import TrainedOn
from trainer.network.geometry import Region
from trainer.network.loss import Loss, localization_loss
from trainer.network.model import LocalizationNet
from trainer.network.training_spec import LossSpec, TrainingSpec
from trainer.stream.batches import Batch
from trainer.stream.order import PADDING


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


class LocalizationModule(StepModule[Batch]):
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
        super().__init__(spec.optimizer, spec.seed, features.version)
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
        self._losses: Callable[..., Loss] = augmented_losses
        self._outputs: Callable[[Tensor], Tensor] = self.forward
        self._full_batch = 0

    def forward(self, features: Tensor) -> Tensor:
        """(B, 3, band, frame) → (B, 4), see `LocalizationNet`."""
        outputs: Tensor = self.net(features.float().contiguous(memory_format=torch.channels_last))
        return outputs

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what the network was trained on; see `trainer.network.checkpoints`."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["features"] = self.features.to_state()

    def compile_steps(self, say: Callable[[str], None], batch_size: int) -> None:
        """Compile augmentation, network and loss of a step in one, and the network of validation.

        Args:
            say: prints a line for the user, should it not work.
            batch_size: rows of every batch; a smaller one is padded, so that nothing is compiled twice.
        """
        self._losses = Compiled(augmented_losses, say)
        self._outputs = Compiled(self.forward, say)
        self._full_batch = batch_size

    def on_train_start(self) -> None:
        """Try what is compiled, on a batch of zeros; weights and random numbers stay as they are."""
        losses = self._losses
        if not isinstance(losses, Compiled):
            return
        spec, device = self.spec, self.device
        features = torch.zeros((self._full_batch, *self.features.spec.tensor_shape), dtype=torch.float16, device=device)
        targets = torch.zeros((self._full_batch, 2), device=device)
        learning = [each for each in self.net.parameters() if each.requires_grad]
        epochs = range(self.current_epoch, self.trainer.max_epochs or 1)
        devices = [device] if device.type == "cuda" else []
        # Each of the two is a graph of its own.
        for hold_sigma in {spec.loss.holds_sigma(epoch) for epoch in epochs}:

            def step(losses: Callable[..., Loss], hold_sigma: bool = hold_sigma) -> None:
                with self.trainer.precision_plugin.train_step_context():
                    mean = losses(self.net, features, targets, spec, hold_sigma).mean
                torch.autograd.grad(mean, learning, allow_unused=True)

            with torch.random.fork_rng(devices):
                losses.rehearse(step)

    def losses(self, batch: Batch) -> StepLosses:
        """Of augmented tensors, each row drawing its own numbers."""
        spec = self.spec
        targets = self.targets.index_select(0, batch.row)
        each, mean = self._losses(self.net, batch.features, targets, spec, spec.loss.holds_sigma(self.current_epoch))
        return StepLosses(mean, each.detach().clone() if self._full_batch else each, batch.row)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:  # noqa: ARG002 - Lightning's signature
        """Keeps outputs."""
        features, n_rows = batch.features, len(batch)
        if n_rows < self._full_batch:
            features = functional.pad(features, (0, 0) * (features.ndim - 1) + (0, self._full_batch - n_rows))
        outputs = self._outputs(features)[:n_rows].float()
        self.collect(batch.row, outputs.clone() if self._full_batch else outputs)

    def on_validation_epoch_end(self) -> None:
        """Metrics of the whole split, in metres, by every rank from all ranks' rows; and means of the epoch before it."""
        self.log_means()
        row, outputs = self.gather_collected()
        row, outputs = row[row != PADDING], outputs[row != PADDING]  # of the last batch of a rank
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


def augmented_losses(net: LocalizationNet, features: Tensor, targets: Tensor, spec: TrainingSpec, hold_sigma: bool) -> Loss:
    """All that the device computes in a step, but for gradients and optimizer: in one function, to be compiled in one.

    Args:
        net: under training.
        features: (b, 3, band, frame), as stored.
        targets: (b, 2) east, north.
        spec: augmentation and loss.
        hold_sigma: see `localization_loss`.
    """
    x = augment(features, spec.augment)
    return localization_loss(net(x.contiguous(memory_format=torch.channels_last)), targets, spec.loss, hold_sigma=hold_sigma)
