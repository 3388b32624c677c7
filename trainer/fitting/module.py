"""What Lightning trains on captures: a step on a batch, and an epoch's validation in metres."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trainer.evaluate.metrics import Predictions, measure
from trainer.fitting.base_module import TrainingModule
from trainer.network.augment import augment, seeded, step_seed
from trainer.network.checkpoints import TrainedOn
from trainer.network.geometry import Region
from trainer.network.loss import LossSpec, localization_loss
from trainer.network.model import LocalizationNet
from trainer.network.training_spec import TrainingSpec
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


class LocalizationModule(TrainingModule):
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
        super().__init__(spec, features)
        self.region = region
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
        self._validated: list[tuple[Tensor, Tensor]] = []

    def forward(self, features: Tensor) -> Tensor:
        """(B, 3, band, frame) → (B, 4), see `LocalizationNet`."""
        outputs: Tensor = self.net(features.float().contiguous(memory_format=torch.channels_last))
        return outputs

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """One step. All that it draws (augmentation, dropout) depends on its place alone, so that a run can be resumed."""
        place = (self.spec.seed, self.current_epoch, batch_idx, self.global_rank)
        torch.manual_seed(step_seed(*place))
        features = augment(batch.features.float(), self.spec.augment, seeded(*place, device=batch.features.device))
        hold_sigma = self.spec.loss.holds_sigma(self.current_epoch)
        loss = localization_loss(self(features), self.targets[batch.row], self.spec.loss, hold_sigma=hold_sigma)
        self.keep(batch.row, loss.per_row, batch_idx)
        return loss.mean

    def validation_step(self, batch: Batch, batch_idx: int) -> None:  # noqa: ARG002 - Lightning's signature
        """Keeps outputs; padding of the last batch of a rank is left out."""
        served = batch.row != PADDING
        row = batch.row[served]
        outputs = self(batch.features)[served].float()
        self._validated.append((row.cpu(), outputs.cpu()))

    def on_validation_epoch_end(self) -> None:
        """Metrics of the whole split, in metres, by every rank from all ranks' rows; and means of the epoch before it."""
        self.log_train()
        gathered = self.gather(self._validated)
        self._validated = []
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
