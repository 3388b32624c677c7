"""The stream as Lightning wants it: loaders of train and validation batches that know their length and their place."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import fields, replace
from typing import Any

import torch

from featurestore.store.feature_set import FeatureSet
from featurestore.store.split import Split
from trainer.fitting.engine import lightning
from trainer.stream.batches import CPU, Batch
from trainer.stream.feature_stream import DataOptions, FeatureStream
from trainer.stream.options import StreamOptions


class TrainLoader:
    """What is left of the current train epoch; near its end, the validation behind it and the next epoch are prepared.

    Args:
        data: to be served.
        n_epochs: behind the last one nothing is prepared but its validation.
    """

    def __init__(self, data: FeatureStream, n_epochs: int) -> None:
        self._data = data
        self._n_epochs = n_epochs

    def __iter__(self) -> Iterator[Batch]:
        epoch = self._data.epoch

        def prepare_next() -> None:
            self._data.prepare(Split.VAL)
            if epoch + 1 < self._n_epochs:
                self._data.prepare(Split.TRAIN, epoch + 1)

        return self._data.train(prepare_next)

    def __len__(self) -> int:
        return self._data.order(Split.TRAIN, self._data.epoch).n_batches

    def state_dict(self) -> dict[str, Any]:
        """See `FeatureStream.state_dict`."""
        return self._data.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `FeatureStream.load_state_dict`."""
        self._data.load_state_dict(state)


class EvaluationLoader:
    """All rows of a split, in storage order."""

    def __init__(self, data: FeatureStream, split: Split) -> None:
        self._data = data
        self._split = split

    def __iter__(self) -> Iterator[Batch]:
        return self._data.evaluate(self._split)

    def __len__(self) -> int:
        return self._data.order(self._split).n_batches


class FeatureDataModule(lightning.LightningDataModule):
    """A feature set for a `lightning.Trainer`; each rank opens its own share once it knows which one it is.

    Args:
        feature_set: an open set.
        batch_size: rows, or sessions, of one rank's batch.
        seed: of the train order.
        stream: see `StreamOptions`.
        by: `row` or `session`, see `DataOptions`.
    """

    def __init__(self, feature_set: FeatureSet, batch_size: int, seed: int, stream: StreamOptions, *, by: str = "row") -> None:
        super().__init__()
        self._feature_set = feature_set
        self._batch_size = batch_size
        self._seed = seed
        self._stream = stream
        self._by = by
        self._data: FeatureStream | None = None

    @property
    def data(self) -> FeatureStream:
        """This rank's data."""
        if self._data is None:
            rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
            device = self.trainer.strategy.root_device if self.trainer else CPU
            options = DataOptions(self._batch_size, self._seed, world_size, by=self._by)
            self._data = FeatureStream(self._feature_set, options, self._stream, rank, device if device.type == "cuda" else CPU)
        return self._data

    @property
    def steps_per_epoch(self) -> int:
        """Train batches of one epoch, the same for every rank."""
        return self.data.order(Split.TRAIN, 0).n_batches

    # With the data module as well, since Lightning keeps a loader's own state in the middle of an epoch only.

    def state_dict(self) -> dict[str, Any]:
        """The next train batch, for checkpoints; see `FeatureStream.state_dict`."""
        return self.data.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on there; see `FeatureStream.load_state_dict`."""
        self.data.load_state_dict(state_dict)

    def train_dataloader(self) -> TrainLoader:
        """Drawn anew for every epoch."""
        return TrainLoader(self.data, (self.trainer.max_epochs if self.trainer else None) or 0)

    def val_dataloader(self) -> EvaluationLoader:
        """The validation split."""
        return EvaluationLoader(self.data, Split.VAL)

    def train_in_order(self) -> Generator[Batch]:
        """The train split in storage order, each rank its share: what is fitted in closed form sees all of it once."""
        return self.data.evaluate(Split.TRAIN)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:  # noqa: ARG002
        """Nothing, on a CPU or a GPU: batches are there already. Positions stay: the module has its targets on the device."""
        if batch.features.device == device:
            return batch
        names = [field.name for field in fields(batch) if field.name != "position"]
        return replace(batch, **{name: getattr(batch, name).to(device, non_blocking=True) for name in names})

    def teardown(self, stage: str) -> None:  # noqa: ARG002 - Lightning's signature
        """End the threads."""
        if self._data is not None:
            self._data.close()
