"""What to predict from, and with what: `PredictRequest`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from featurestore.errors import UsageError
from featurestore.store.split import SPLITS


@dataclass(frozen=True)
class PredictRequest:
    """What to predict from, with what.

    Attributes:
        model: an .onnx file; the URL or directory of a release, or of all (their latest); with `models`, a number or `latest`.
        models: where releases are.
        captures: .npy files, or directories of them.
        sample_rate_hz: of the captures.
        store: of the feature set, instead of captures.
        version: of the feature set, or a tag; `None` is the one that the network was trained on.
        split: of the feature set.
        limit: at most so many rows, or sessions, spread evenly over the split.
        sessions: a CSV that says which capture is of which session and receiver, for a model that locates sessions.

    Raises:
        UsageError: unless there are either captures or a store.
    """

    model: str
    models: str | None = None
    captures: tuple[Path, ...] = ()
    sample_rate_hz: float | None = None
    store: str | None = None
    version: str | None = None
    split: str = "test"
    limit: int | None = None
    sessions: Path | None = None

    def __post_init__(self) -> None:
        if bool(self.captures or self.sessions) == (self.store is not None):
            given = "both" if self.store is not None else "neither"
            raise UsageError(f"captures and --store: {given} given; give .npy files or directories, or a feature set's store")
        if self.split not in SPLITS:
            raise UsageError(f"split is {self.split!r}; expected one of {', '.join(SPLITS)}")
