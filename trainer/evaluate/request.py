"""What to evaluate on what, and where the results go: checked before anything is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from featurestore.errors import UsageError
from featurestore.store.split import SPLITS
from trainer.evaluate.predictions import require_format

DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True)
class EvaluateRequest:
    """What to evaluate on what, and where the results go.

    Attributes:
        checkpoint: a file, or `s3://…/NAME.ckpt`.
        store: of the feature set.
        version: of the feature set, or a tag; `None` is the one that the network was trained on.
        split: train, val or test.
        batch_size: rows at a time.
        threads: that fetch chunks.
        k: neighbours of the baseline; 0 leaves it out.
        out: directory for plots and `metrics.json`.
        predictions: file for one row per prediction, `.parquet` or `.csv`.
        html: file for the report.
        tracking_uri: of MLflow, which the report asks how the training went; it need not answer.
        receivers: CSV of where receivers stand, before what the set says, for maps and for errors by distance: a file or
            `s3://…`.
        device: auto takes a GPU when there is one.
        against: another checkpoint to compare with on the same sessions.

    Raises:
        UsageError: when a value is impossible.
    """

    checkpoint: str
    store: str
    version: str | None = None
    split: str = "val"
    batch_size: int = 256
    threads: int = 4
    k: int = 5
    out: Path | None = None
    predictions: Path | None = None
    html: Path | None = None
    tracking_uri: str | None = None
    receivers: str | None = None
    device: str = "auto"
    against: str | None = None

    def __post_init__(self) -> None:
        for name, known in (("split", SPLITS), ("device", DEVICES)):
            if getattr(self, name) not in known:
                raise UsageError(f"{name} is {getattr(self, name)!r}; expected one of {', '.join(known)}")
        for name, least in (("batch_size", 1), ("threads", 1), ("k", 0)):
            if getattr(self, name) < least:
                raise UsageError(f"{name} is {getattr(self, name)}; expected {least} or more")
        if self.predictions is not None:
            require_format(self.predictions)
