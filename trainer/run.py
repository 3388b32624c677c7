"""Train: a feature set → checkpoints and metrics. Wires data, module, callbacks and tracker together."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from featurestore.errors import UsageError
from featurestore.feature_set import FeatureSet, open_set
from featurestore.split import Split
from trainer.callbacks import DataWait
from trainer.checkpoints import TrainedOn
from trainer.chunk_source import StreamOptions
from trainer.engine import callbacks, lightning
from trainer.geometry import Region
from trainer.loader import FeatureDataModule
from trainer.model import load_weights
from trainer.module import LocalizationModule, RowLabels
from trainer.tracking import open_tracker
from trainer.training_spec import TrainingSpec

PRECISIONS = ("auto", "32", "bf16", "16")
GRADIENT_CLIP = 1.0
BEST_CHECKPOINTS = 3
LAST = "last"


@dataclass(frozen=True)
class TrainRequest:
    """What to train on what, and where the results go.

    Attributes:
        store: of the feature set.
        version: of the feature set; a tag or `latest`.
        directory: for checkpoints.
        training: network, loss, augmentation, optimizer, seed.
        batch_size: rows of one device's batch.
        stream: threads and cache.
        weights: a timm checkpoint (.safetensors) for the backbone to begin with.
        resume: `last`, or a checkpoint to go on from.
        precision: one of `PRECISIONS`; auto is bf16 on GPUs that have it.
        patience: epochs without a better validation loss until training stops.
        tracking_uri: of MLflow; `None` leaves it out.
        experiment: of MLflow.
        run_name: of MLflow.
    """

    store: str
    version: str
    directory: Path
    training: TrainingSpec
    batch_size: int = 256
    stream: StreamOptions = StreamOptions()  # noqa: RUF009 - frozen
    weights: Path | None = None
    resume: str | None = None
    precision: str = "auto"
    patience: int = 10
    tracking_uri: str | None = None
    experiment: str = "heimdall"
    run_name: str | None = None


@dataclass(frozen=True)
class TrainReport:
    """What a training gave."""

    version: str
    epochs: int
    best: str
    last: str
    val_loss: float
    metrics: dict[str, float]
    seconds: float
    run_id: str | None

    def to_json(self) -> dict[str, Any]:
        """All fields."""
        return asdict(self)

    def lines(self) -> list[str]:
        """For people."""
        errors = [
            f"{name} {self.metrics[key] / 1000:.2f} km"
            for name, key in (("mean", "error_mean_m"), ("median", "error_median_m"), ("90%", "error_p90_m"))
            if key in self.metrics
        ]
        return [
            f"trained {self.epochs} epochs on feature set {self.version} in {self.seconds:.0f} s",
            f"  val/loss {self.val_loss:.4f}" + (f"; error on the validation split: {', '.join(errors)}" if errors else ""),
            f"  best: {self.best}",
            f"  last: {self.last}",
        ]


def train(request: TrainRequest, say: Callable[[str], None]) -> TrainReport:
    """Train a network on a feature set.

    Args:
        request: what, on what, and where to.
        say: prints a line for the user.

    Raises:
        UsageError: when an option, the set or a checkpoint cannot be used.
        StoreError: when the set is damaged.
        ServiceUnavailableError: when store or tracker do not answer.
    """
    began = time.monotonic()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # it tells of hardware and of its maker's products
    lightning.seed_everything(request.training.seed, verbose=False)
    feature_set = open_set(request.store, request.version)
    say(f"feature set {feature_set.version}: {feature_set.manifest.counts['train']:,} train rows")
    module = _module(request, feature_set, say)
    data = FeatureDataModule(feature_set, request.batch_size, request.training.seed, request.stream)
    resume_from = _checkpoint(request)
    tracker = None
    if request.tracking_uri is not None:
        tags = {"feature_set": feature_set.version, "store": feature_set.objects.location.url}
        tracker = open_tracker(request.tracking_uri, request.experiment, request.run_name, tags)
    checkpoints = callbacks.ModelCheckpoint(
        dirpath=request.directory,
        filename="{epoch:03d}",
        monitor="val/loss",
        save_top_k=BEST_CHECKPOINTS,
        save_last=True,
    )
    stopping = callbacks.EarlyStopping("val/loss", patience=request.patience, min_delta=1e-4)
    watchers: list[callbacks.Callback] = [checkpoints, stopping, DataWait()]
    if tracker is not None:
        watchers.append(callbacks.LearningRateMonitor("epoch"))
    trainer = lightning.Trainer(
        max_epochs=request.training.optimizer.max_epochs,
        logger=tracker or False,
        callbacks=watchers,
        precision=_precision(request.precision),
        gradient_clip_val=GRADIENT_CLIP,
        use_distributed_sampler=False,  # the stream shares rows out among ranks itself
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        enable_model_summary=False,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Checkpoint directory .* exists and is not empty")  # as it is when a run goes on
        trainer.fit(module, datamodule=data, ckpt_path=resume_from, weights_only=True)
    measured = {name.removeprefix("val/"): float(value) for name, value in trainer.callback_metrics.items() if "val/" in name}
    return TrainReport(
        version=feature_set.version,
        epochs=trainer.current_epoch,
        best=checkpoints.best_model_path,
        last=checkpoints.last_model_path,
        val_loss=measured.pop("loss"),
        metrics=measured,
        seconds=round(time.monotonic() - began, 3),
        run_id=tracker.run_id if tracker is not None else None,
    )


def _module(request: TrainRequest, feature_set: FeatureSet, say: Callable[[str], None]) -> LocalizationModule:
    labels = RowLabels(feature_set.labels.position, feature_set.fact("websdr_id"), feature_set.labels.snr_db)
    region = Region.around(labels.position[feature_set.labels.split == Split.TRAIN])
    say(
        f"region: {region.half_extent_m / 1000:,.1f} km around {region.latitude:.4f}, {region.longitude:.4f}; "
        "a unit of the targets is that many km"
    )
    module = LocalizationModule(request.training, region, TrainedOn.of(feature_set), labels)
    if request.weights is not None:
        say(str(load_weights(module.net, request.weights)))
    return module


def _checkpoint(request: TrainRequest) -> str | None:
    if request.resume is None:
        return None
    path = request.directory / f"{LAST}.ckpt" if request.resume == LAST else Path(request.resume)
    if not path.is_file():
        raise UsageError(f"there is no checkpoint {path} to resume from; look in {path.parent}, or leave --resume out")
    return str(path)


def _precision(name: str) -> Any:
    if name not in PRECISIONS:
        raise UsageError(f"precision is {name!r}; wanted one of {', '.join(PRECISIONS)}")
    if name == "auto":
        return "bf16-mixed" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "32-true"
    return {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}[name]
