"""What to evaluate on what, and where the results go: checked before anything is read."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from featurestore.errors import UsageError
from featurestore.option import SESSIONS, option

DEVICES = ("auto", "cpu", "cuda")
LEVELS_ALONE, TIME_ALONE, ALL = EVIDENCE = ("levels", "time", "all")
"""What a session is located by: what a network makes of its levels, the delays of its pairs, or both together."""


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
        pairs: pair set of the same store, a version or a tag; `None` is none, or the latest when `fusion` wants one.
        fusion: one of `EVIDENCE`; `None` is both with pairs, and levels without.
        path_sigma_us: one standard deviation of each path's delay.

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
    pairs: str | None = option(
        None,
        "Pair set of the same store, a version or a tag (latest), whose delays locate sessions, too; levels, time and both are "
        "shown side by side.",
        SESSIONS,
        unset="none; latest with --fusion time or all",
        metavar="SET",
    )
    fusion: str | None = option(
        None,
        "What sessions are located by: what the network makes of levels (levels), delays of pairs (time), or the product of "
        "both (all). A session without pairs is located by levels.",
        SESSIONS,
        choices=EVIDENCE,
        unset="all with --pairs, else levels",
    )
    path_sigma_us: float = option(
        0.1,
        "One standard deviation of each path's delay about that of light along the ground, in µs: 0.1 in sight, 10 on long "
        "wave by day, 100 by sky wave.",
        SESSIONS,
    )

    def __post_init__(self) -> None:
        from featurestore.store.split import SPLITS  # here, because the help of `evaluate` reads this record, and is quick

        for name, known in (("split", SPLITS), ("device", DEVICES)):
            if getattr(self, name) not in known:
                raise UsageError(f"{name} is {getattr(self, name)!r}; expected one of {', '.join(known)}")
        for name, least in (("batch_size", 1), ("threads", 1), ("k", 0)):
            if getattr(self, name) < least:
                raise UsageError(f"{name} is {getattr(self, name)}; expected {least} or more")
        if self.fusion not in (None, *EVIDENCE):
            raise UsageError(f"fusion is {self.fusion!r}; expected one of {', '.join(EVIDENCE)}")
        if not (math.isfinite(self.path_sigma_us) and self.path_sigma_us >= 0):
            raise UsageError(f"path_sigma_us is {self.path_sigma_us}; expected microseconds from 0")
        if self.predictions is not None:
            from trainer.evaluate.predictions import require_format  # as above

            require_format(self.predictions)

    @property
    def pair_set(self) -> str | None:
        """The pair set to open, if any."""
        return "latest" if self.pairs is None and self.fusion in (TIME_ALONE, ALL) else self.pairs

    @property
    def evidence(self) -> str:
        """What sessions are located by."""
        return self.fusion or (LEVELS_ALONE if self.pairs is None else ALL)
