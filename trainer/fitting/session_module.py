"""What Lightning trains on sessions: a reader of levels with its radio map, or attention over receivers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from featurestore.errors import DataQualityError, UsageError
from featurestore.source.receivers import Receivers
from featurestore.store.feature_set import FeatureSet
from featurestore.store.split import Split
from trainer.evaluate.session_metrics import SessionPredictions, session_summary
from trainer.fitting.step import StepLosses, StepModule, Value
from trainer.network.augment import augment
from trainer.network.checkpoints import TrainedOn
from trainer.network.loss import HALF_LOG_2PI, bounded_sigma
from trainer.network.session.density import locate
from trainer.network.session.nets import AttentionNet, RadioMapNet, make_session_net
from trainer.network.session.place import SessionPlace
from trainer.network.session.radio_map import Sessions, fit_radio_map, law_basis
from trainer.network.session.spec import SessionSpec
from trainer.network.session.table import SessionTable, positions_of
from trainer.network.session.temperature import best_temperature, nats_by_temperature
from trainer.network.training_spec import TrainingSpec
from trainer.stream.batches import SessionBatch

SLOPE_DB = -32.0
LEAST_LABELS = 10
PRIOR_CELLS = 2.0
"""Bandwidth of the density of train positions, in cells; half of the prior is that, half is even over the grid."""


@dataclass(frozen=True, eq=False)
class SessionLabels:
    """What the module must know of the sessions of a set.

    Attributes:
        train: sessions of the train split.
        val: of the validation split.
        receivers: where receivers stand, as far as the set knows.
    """

    train: SessionTable
    val: SessionTable
    receivers: Receivers

    @classmethod
    def of(cls, feature_set: FeatureSet) -> SessionLabels:
        """Those of a set."""
        return cls(SessionTable.of(feature_set, Split.TRAIN), SessionTable.of(feature_set, Split.VAL), feature_set.receivers)

    def place(self, spec: SessionSpec, region: Any) -> SessionPlace:
        """Region, receivers and grid of a training on them.

        Raises:
            UsageError: when no receiver is left.
        """
        heard = np.unique(self.train.receiver[self.train.present])
        remaining = np.setdiff1d(heard, spec.exclude_receivers)
        if not len(remaining):
            raise UsageError(
                f"--exclude-receiver leaves none of the set's receivers {', '.join(map(str, heard.tolist()))}; keep one or more"
            )
        return SessionPlace.around(region, self.train.position, remaining, self.receivers.positions_of(remaining), spec.grid_km)


class SessionModule(StepModule[SessionBatch]):
    """A network for sessions under training.

    With `radio-map`, steps train the reader of levels alone, capture by capture: the negative log-likelihood of the catalog's
    SNR, or, where a set has none, of a distance law. Before every validation the maps are fitted anew, in closed form, to what
    the reader reads in the train sessions now. So each checkpoint is whole, and going on from one needs nothing else.

    With `attention`, steps minimize the negative log-likelihood of the mixture.

    Args:
        spec: what is trained, and how; its `session` is set.
        place: region, receivers and grid; saved with the checkpoint.
        features: on what; likewise.
        labels: of the sessions.
        pretrained: begin a ConvNeXt encoder with the weights of timm's hub.
    """

    def __init__(
        self, spec: TrainingSpec, place: SessionPlace, features: TrainedOn, labels: SessionLabels, *, pretrained: bool = False
    ) -> None:
        super().__init__(spec.optimizer, spec.seed, features.version)
        self.spec = spec
        self.features = features
        if spec.session is None:
            raise ValueError("a session module needs a session spec")
        self.place = place
        self.region = place.region
        self.labels = labels
        # Plain values only, so that a checkpoint can be loaded without executing anything (weights_only=True).
        saved = {"training": spec.to_json(), "region": self.region.to_json(), "place": place.to_json()}
        self.save_hyperparameters(saved, logger=False)
        n_bands = features.spec.tensor_shape[1]
        self.net = make_session_net(spec.session, spec.network, place, n_bands, pretrained=pretrained)
        self.register_buffer("excluded", torch.tensor(spec.session.exclude_receivers, dtype=torch.int64), persistent=False)
        self.register_buffer("targets", torch.from_numpy(self._targets()), persistent=False)
        self.excluded: Tensor
        self.targets: Tensor
        self._validated: list[SessionPredictions] = []
        self._nats: list[npt.NDArray[np.float64]] = []

    def _targets(self) -> npt.NDArray[np.float32]:
        """What steps compare with, by train session: positions (n, 2) in units; or levels (n, r), NaN where there is none."""
        train = self.labels.train
        if not isinstance(self.net, RadioMapNet):
            return np.asarray(self.region.encode(train.position), np.float32)
        level = train.snr_db
        if np.isfinite(level).sum() < LEAST_LABELS:
            where = positions_of(self.labels.receivers, train.receiver)
            decades = [law_basis(train.position[[s]], place)[0, 1] for s, line in enumerate(where) for place in line]
            level = np.where(np.isfinite(where).all(axis=-1), SLOPE_DB * np.reshape(decades, train.row.shape), np.nan)
        level = np.where(train.present & np.isin(train.receiver, self.place.websdr_id), level, np.nan)
        known = level[np.isfinite(level)]
        if len(known) < LEAST_LABELS:
            raise UsageError(
                "a radio map needs levels to learn to read them from: the catalog's snr_db, or where receivers stand; this set "
                "has neither (docs/training.md), take --fusion attention"
            )
        self.net.level_unit.copy_(torch.tensor([float(known.mean()), max(float(known.std()), 1.0)]))
        return np.asarray((level - known.mean()) / max(float(known.std()), 1.0), np.float32)

    def positions_of(self, receiver: Tensor) -> Tensor:
        """(b, r, 2) float32 degrees; NaN where the set does not know."""
        positions = positions_of(self.labels.receivers, receiver.cpu().numpy())
        return torch.from_numpy(positions.astype(np.float32)).to(receiver.device)

    def present(self, batch: SessionBatch) -> Tensor:
        """(b, r) captures that training may see."""
        return batch.present & ~torch.isin(batch.receiver, self.excluded)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what the network was trained on; see `trainer.network.checkpoints`."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["features"] = self.features.to_state()

    def compile_steps(self, say: Callable[[str], None], batch_size: int) -> None:  # noqa: ARG002 - as for captures
        """Compile the encoder, which is nearly all of the work."""
        self.net.encoder.compile()

    def losses(self, batch: SessionBatch) -> StepLosses:
        """Of the levels of each session, or of its mixture."""
        shape, present = batch.features.shape, self.present(batch)
        features = augment(batch.features.reshape(-1, *shape[2:]), self.spec.augment).reshape(shape)
        target = self.targets[batch.session]
        with torch.autocast(device_type=features.device.type, enabled=False):
            if isinstance(self.net, RadioMapNet):
                each = self._level_loss(features, target, present)
            else:
                each = self._mixture_loss(features, target, batch.receiver, self._hidden(present))
        return StepLosses(each.mean(), each, batch.session)

    def _gather(self, parts: list[Value]) -> list[Value]:
        """What all ranks have, one after the other."""
        return [part for share in self.of_all_ranks(parts) for part in share]

    def _level_loss(self, features: Tensor, target: Tensor, present: Tensor) -> Tensor:
        """(b,) mean nats of the levels of each session; 0 where it has none."""
        token = self.net.encode(features, present)
        wanted = target[:, : token.shape[1]]
        usable = present & wanted.isfinite()
        sigma = bounded_sigma(token[..., 1])
        rest = torch.where(usable, wanted - token[..., 0], 0.0)
        nats = 0.5 * (rest / sigma).square() + sigma.log() + HALF_LOG_2PI
        return torch.where(usable, nats, 0.0).sum(dim=1) / usable.sum(dim=1).clamp(min=1)

    def _mixture_loss(self, features: Tensor, target: Tensor, receiver: Tensor, present: Tensor) -> Tensor:
        """(b,) nats per square unit."""
        assert isinstance(self.net, AttentionNet)
        mixture = self.net.mixture(self.net.encode(features, present), receiver, self.positions_of(receiver), present)
        return -mixture.log_density(target[:, None])[:, 0]

    def _hidden(self, present: Tensor) -> Tensor:
        """Receiver dropout: each capture is hidden with the spec's probability, but never all of a session."""
        assert self.spec.session is not None
        key = torch.rand(present.shape, device=present.device)
        remaining = present & (key >= self.spec.session.receiver_dropout)
        best = torch.where(present, key, -1.0).argmax(dim=1, keepdim=True)
        return remaining | (present & (torch.arange(present.shape[1], device=present.device) == best))

    def on_validation_epoch_start(self) -> None:
        """Fit the maps to what the reader reads now."""
        if isinstance(self.net, RadioMapNet):
            fit_map(self.net, self.place, self.labels.train, self._read_train())
            self.net.temperature.fill_(1.0)  # metrics are of the maps as they are; their temperature comes at the end

    def _read_train(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Levels and variances of reading of all train sessions, (n, r) each, NaN where absent: of all ranks."""
        assert isinstance(self.net, RadioMapNet)
        parts = []
        for batch in getattr(self.trainer, "datamodule").train_in_order():  # noqa: B009 - set, but not declared
            served = batch.session >= 0
            present = self.present(batch)
            level, variance = self.net.levels(self.net.encode(batch.features, present))
            read = torch.where(present[None], torch.stack([level, variance]), torch.nan)[:, served]
            parts.append((batch.session[served].cpu().numpy(), read.double().cpu().numpy()))
        by_session = np.full((2, *self.labels.train.row.shape), np.nan)
        for session, levels in self._gather(parts):
            by_session[:, session, : levels.shape[2]] = levels
        return by_session[0], by_session[1]

    def validation_step(self, batch: SessionBatch, batch_idx: int) -> None:  # noqa: ARG002 - Lightning's signature
        """Sums posteriors up; padding of the last batch of a rank is left out."""
        served = batch.session >= 0
        token = self.net.encode(batch.features, present := self.present(batch))
        log_density = self.net.log_density(token, batch.receiver, self.positions_of(batch.receiver), present)[served]
        if len(log_density):
            truth = self.labels.val.position[batch.session[served].cpu().numpy()]
            self._validated.append(
                SessionPredictions.of(locate(log_density, self.net.points, self.net.cell), self.place, truth)
            )
            if isinstance(self.net, RadioMapNet):
                cell, inside = self._cells(truth)
                nats = nats_by_temperature(log_density[inside].double(), cell.to(log_density.device))
                self._nats.append(nats.cpu().numpy())

    def _cells(self, position: npt.NDArray[np.float64]) -> tuple[Tensor, Tensor]:
        """(m,) cells of those of (b, 2) positions that lie on the grid, and (b,) which these are."""
        grid = self.place.grid
        cells = np.rint(grid.cells_of(grid.plane.to_plane(position))).astype(np.int64)  # (b, row and column)
        inside = ((cells >= 0) & (cells < grid.shape)).all(axis=1)
        row, column = cells[inside].T
        return torch.from_numpy(row * grid.shape[1] + column), torch.from_numpy(inside)

    def on_validation_epoch_end(self) -> None:
        """Metrics of the whole split, by every rank from all ranks' sessions; and means of the epoch before it."""
        self.log_means()
        predictions = SessionPredictions.join(self._gather(self._validated))
        self._validated = []
        nats, self._nats = self._gather(self._nats), []
        if isinstance(self.net, RadioMapNet) and nats:
            self.net.temperature.fill_(best_temperature(np.concatenate(nats)))
        if not np.isfinite(predictions.nll).all():
            raise DataQualityError(
                "posteriors of validation sessions are NaN or infinite: training diverged, lower --learning-rate"
            )
        # Per square unit, as the loss of captures is.
        self.log("val/loss", float(predictions.nll.mean() - 2 * np.log(self.region.half_extent_m)), sync_dist=True)
        for name, value in session_summary(predictions, ()).items():
            if isinstance(value, float):
                self.log(f"val/{name}", value, sync_dist=True)


def fit_map(
    net: RadioMapNet, place: SessionPlace, train: SessionTable, read: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]
) -> None:
    """Fit the maps of a network to levels that were read in train sessions.

    Args:
        net: takes the maps over.
        place: its region, receivers and grid.
        train: sessions.
        read: levels and variances of reading (n, r), NaN where absent.
    """
    level, variance = read
    known = np.isfinite(train.position).all(axis=1)
    by_receiver = np.full((len(train), len(place.websdr_id)), np.nan)
    for column, number in enumerate(place.websdr_id.tolist()):
        mine = np.where((train.receiver == number) & np.isfinite(level), level, np.nan)
        count = np.isfinite(mine).sum(axis=1)  # windows of one capture: their mean
        by_receiver[:, column] = np.where(count > 0, np.nansum(mine, axis=1) / np.maximum(count, 1), np.nan)
    points = place.grid.plane.to_plane(train.position[known])
    radio_map = fit_radio_map(Sessions(points, train.position[known], by_receiver[known]), place.position, place.grid)
    net.set_map(radio_map, log_prior(points, place), float(np.nanmedian(variance)))


def log_prior(points_m: npt.NDArray[np.float64], place: SessionPlace) -> npt.NDArray[np.float64]:
    """(cells,) log of where transmitters may be expected: half even over the grid, half where those of the training were."""
    from scipy.ndimage import gaussian_filter

    grid = place.grid
    row, column = np.rint(grid.cells_of(points_m)).astype(int).T
    inside = (row >= 0) & (row < grid.shape[0]) & (column >= 0) & (column < grid.shape[1])
    count = np.zeros(grid.shape)
    np.add.at(count, (row[inside], column[inside]), 1.0)
    dense = gaussian_filter(count, PRIOR_CELLS, mode="constant") / max(float(inside.sum()), 1.0)
    return np.asarray(np.log(0.5 * dense + 0.5 / dense.size).ravel())
