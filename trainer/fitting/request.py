"""What is asked of a training, and what it gives."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from featurestore.errors import UsageError
from featurestore.objects.location import CREDENTIALS_ELSEWHERE
from featurestore.option import DATA, HARDWARE, NETWORK, OPTIMIZER, OUTPUT, TRACKING, option
from featurestore.progress import format_seconds
from featurestore.redaction import require_no_credentials
from trainer.network.session.spec import SessionSpec
from trainer.network.training_spec import TrainingSpec, usual_training
from trainer.stream.options import StreamOptions

PRECISIONS = {"auto": "", "32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}
LAST = "last"


@dataclass(frozen=True)
class Hardware:
    """On what to train; the words are Lightning's.

    Raises:
        UsageError: when the precision is unknown.
    """

    accelerator: str = option("auto", "What to train on: auto, gpu or cpu.", HARDWARE)
    devices: str = option("auto", "How many devices of each node, or which ones, as 0,1.", HARDWARE)
    num_nodes: int = option(1, "Number of machines that train together.", HARDWARE)
    strategy: str = option(
        "auto", "How devices share the work, in Lightning's words: ddp, ... auto: ddp on several devices.", HARDWARE
    )
    precision: str = option(
        "auto",
        "Precision of the arithmetic in bits, bf16 being mixed. auto: bf16 on GPUs that have it.",
        HARDWARE,
        choices=tuple(PRECISIONS),
    )
    compile: bool = option(False, "Compile the whole step, into graphs on CUDA. The first step takes a minute or so.", HARDWARE)

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise UsageError(f"precision is {self.precision!r}; expected one of {', '.join(PRECISIONS)}")

    @property
    def lightning_precision(self) -> Any:
        """In Lightning's words."""
        if self.precision == "auto":
            import torch

            usable = self.accelerator != "cpu" and torch.cuda.is_available() and torch.cuda.is_bf16_supported()
            return PRECISIONS["bf16" if usable else "32"]
        return PRECISIONS[self.precision]


@dataclass(frozen=True)
class TrackingRequest:
    """Where a run is tracked.

    Attributes:
        parent: run of which this one is a part, as a trial is of a sweep.
        files: keep checkpoints and pictures with the run.
    """

    uri: str = option(
        "sqlite:///mlflow.db",
        "Address of MLflow: sqlite:///FILE, postgresql+psycopg://... or http://...",
        TRACKING,
        name="tracking-uri",
        key="tracking_uri",
        envvar="MLFLOW_TRACKING_URI",
        show=False,  # it may hold a password
    )
    experiment: str = option("heimdall", "Name of the experiment in MLflow, which is created when there is none.", TRACKING)
    run_name: str | None = option(None, "Name of the run in MLflow.", TRACKING, unset="MLflow draws one")
    artifacts: str | None = option(
        None,
        "Where a new experiment keeps files, as s3://BUCKET/PREFIX.",
        TRACKING,
        metavar="URL",
        unset="beside an SQLite file, else where the tracking server keeps them",
    )
    parent: str | None = None
    files: bool = True

    def __post_init__(self) -> None:
        if self.artifacts is not None:  # MLflow keeps it, as it is, with the experiment
            require_no_credentials(self.artifacts, "--artifacts", CREDENTIALS_ELSEWHERE)

    @property
    def artifact_location(self) -> str | None:
        """Where files go, as MLflow wants it; its own choice would be the current directory, wherever that is."""
        path = self.uri.removeprefix("sqlite:///")
        if self.artifacts is None and path != self.uri:
            return (Path(path).absolute().parent / "mlartifacts").as_uri()
        return self.artifacts


@dataclass(frozen=True)
class TrainRequest:
    """What to train on what, and where the results go.

    Attributes:
        store: of the feature set.
        training: network, loss, augmentation, optimizer, seed.
        stream: threads and cache.
        hardware: devices and precision.
        tracking: where the run is tracked; `None` leaves it out.
    """

    store: str
    version: str = option("latest", "Feature set to train on: a version or a tag.", DATA, name="features", key="version")
    directory: Path = option(
        Path("checkpoints"),
        "Directory for checkpoints: the three best and the last.",
        OUTPUT,
        name="dir",
        path="directory",
    )
    training: TrainingSpec = TrainingSpec()  # noqa: RUF009 - frozen, as all of them are
    batch_size: int = option(256, "Number of captures, or sessions, in the batch of one device.", OPTIMIZER)
    stream: StreamOptions = StreamOptions()  # noqa: RUF009
    hardware: Hardware = Hardware()
    patience: int = option(10, "Number of epochs without a better validation loss until training stops.", OPTIMIZER)
    weights: Path | None = option(
        None, "Begin with the backbone of a timm checkpoint (.safetensors). This needs no hub.", NETWORK, path="file"
    )
    pretrained: bool = option(False, "Begin with the backbone's weights from timm's hub.", NETWORK)
    resume: str | None = option(
        None, "Continue exactly from a checkpoint: the last one in --dir, or any.", OUTPUT, metavar="last|PATH"
    )
    upload_to: str | None = option(
        None, "Copy checkpoints there, too, as s3://BUCKET/PREFIX.", OUTPUT, name="checkpoints", metavar="URL"
    )
    tracking: TrackingRequest | None = None
    profile: bool = option(False, "See where the time of a step goes: a table, and a trace in DIR/profile.", OUTPUT)

    @property
    def last(self) -> Path:
        """The checkpoint that `--resume last` means."""
        return self.directory / f"{LAST}.ckpt"


def usual_request(store: str, session: SessionSpec | None) -> TrainRequest:
    """The training of captures, or of sessions, where nothing else is said."""
    return TrainRequest(store, training=usual_training(session), batch_size=256 if session is None else 32)


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
