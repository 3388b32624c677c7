"""What is asked of a training, and what it gives."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from featurestore.errors import UsageError
from featurestore.progress import format_seconds
from trainer.fitting.tracking import TrackingRequest
from trainer.network.training_spec import TrainingSpec
from trainer.stream.source import StreamOptions

PRECISIONS = {"auto": "", "32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}
LAST = "last"


@dataclass(frozen=True)
class Hardware:
    """On what to train; the words are Lightning's.

    Attributes:
        accelerator: `auto`, `cpu`, `gpu`, …
        devices: `auto`, or how many on each node.
        num_nodes: machines that train together.
        strategy: `auto`, `ddp`, …
        precision: one of `PRECISIONS`; auto is bf16 on GPUs that have it.
        compile: `torch.compile` the whole step; on CUDA it becomes graphs.

    Raises:
        UsageError: when the precision is unknown.
    """

    accelerator: str = "auto"
    devices: str = "auto"
    num_nodes: int = 1
    strategy: str = "auto"
    precision: str = "auto"
    compile: bool = False

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise UsageError(f"precision is {self.precision!r}; wanted one of {', '.join(PRECISIONS)}")

    @property
    def lightning_precision(self) -> Any:
        """In Lightning's words."""
        if self.precision == "auto":
            usable = self.accelerator != "cpu" and torch.cuda.is_available() and torch.cuda.is_bf16_supported()
            return PRECISIONS["bf16" if usable else "32"]
        return PRECISIONS[self.precision]


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
        hardware: devices and precision.
        patience: epochs without a better validation loss until training stops.
        weights: a timm checkpoint (.safetensors) for the backbone to begin with.
        pretrained: begin with the weights that timm's hub has.
        resume: `last`, or a checkpoint to go on from.
        upload_to: where checkpoints are copied to, as `s3://bucket/prefix`.
        tracking: where the run is tracked; `None` leaves it out.
        profile: see where a step goes: a table and a trace in `directory/profile`.
    """

    store: str
    version: str = "latest"
    directory: Path = Path("checkpoints")
    training: TrainingSpec = TrainingSpec()  # noqa: RUF009 - frozen, as all of them are
    batch_size: int = 256
    stream: StreamOptions = StreamOptions()  # noqa: RUF009
    hardware: Hardware = Hardware()
    patience: int = 10
    weights: Path | None = None
    pretrained: bool = False
    resume: str | None = None
    upload_to: str | None = None
    tracking: TrackingRequest | None = None
    profile: bool = False

    @property
    def last(self) -> Path:
        """The checkpoint that `--resume last` means."""
        return self.directory / f"{LAST}.ckpt"


@dataclass(frozen=True)
class TrainReport:
    """What a training gave; `metrics` are those of the validation after the last epoch, `urls` of uploaded checkpoints."""

    version: str
    epochs: int
    best: str
    best_val_loss: float
    last: str
    val_loss: float
    metrics: dict[str, float]
    seconds: float
    run_id: str | None
    urls: dict[str, Any] | None

    def to_json(self) -> dict[str, Any]:
        """All fields."""
        return asdict(self)

    def lines(self) -> list[str]:
        """For people."""
        errors = [
            f"{name} {self.metrics[key] / 1000:.2f} km"
            for name, key in (("mean", "error_mean_m"), ("median", "error_median_m"), ("90%", "error_p90_m"))
        ]
        found = [
            f"trained to epoch {self.epochs} on feature set {self.version} in {format_seconds(self.seconds)}",
            f"  val/loss {self.val_loss:.4f}; error on the validation split: {', '.join(errors)}",
            f"  best: {self.best} (val/loss {self.best_val_loss:.4f})",
            f"  last: {self.last}",
        ]
        return found + ([f"  uploaded: {self.urls['best']}"] if self.urls else [])
