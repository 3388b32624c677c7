"""What comparisons of captures and of sessions share: the request, the interval of paired differences, and a warning."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from exporter.release.comparison import Interval, Side
from featurestore.errors import StoreError, UsageError
from featurestore.store.feature_set import FeatureSet
from featurestore.store.sets import read_manifest

DRAWS_AT_ONCE = 100


@dataclass(frozen=True)
class CompareRequest:
    """What to compare on what.

    Attributes:
        models: where releases are.
        a: number of a release, or `latest`.
        b: of the other one.
        store: of the feature set.
        version: of the feature set, or a tag; `None` is the one that `a` was trained on.
        split: which rows.
        confidence: of the interval.
        draws: of the bootstrap.
        seed: of the bootstrap.
        html: file for the report.

    Raises:
        UsageError: when a value is impossible.
    """

    models: str
    a: str
    b: str
    store: str
    version: str | None = None
    split: str = "test"
    confidence: float = 0.95
    draws: int = 5000
    seed: int = 0
    html: Path | None = None

    def __post_init__(self) -> None:
        if not 0.5 <= self.confidence < 1 or self.draws < 100:
            raise UsageError(
                f"confidence is {self.confidence}, draws {self.draws}; expected from 0.5 to below 1, and 100 or more"
            )


def paired_interval(
    difference_m: npt.NDArray[np.float64],
    sessions: npt.NDArray[np.uint8],
    confidence: float = 0.95,
    draws: int = 5000,
    seed: int = 0,
) -> Interval:
    """The mean of paired differences, and its percentile interval from a bootstrap over sessions.

    Args:
        difference_m: (n,) of each row.
        sessions: (n, 16) id of the session of each row.
        confidence: of the interval.
        draws: how often as many sessions as there are are drawn with replacement.
        seed: of the draws; the same seed gives the same interval.
    """
    _, member = np.unique(sessions, axis=0, return_inverse=True)
    member = member.reshape(-1)
    totals, counts = np.bincount(member, difference_m), np.bincount(member).astype(np.float64)  # (session,)
    rng, means = np.random.default_rng(seed), []
    for start in range(0, draws, DRAWS_AT_ONCE):
        drawn = rng.integers(0, len(counts), (min(DRAWS_AT_ONCE, draws - start), len(counts)))  # (draw, session)
        means.append(totals[drawn].sum(axis=1) / counts[drawn].sum(axis=1))
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail]).tolist()
    return Interval(float(difference_m.mean()), low, high, confidence, len(counts))


def maybe_trained_on(feature_set: FeatureSet, side: Side) -> Iterator[str]:
    """Whether a network may know these rows from its training, which would flatter it."""
    if side.feature_set == feature_set.version:
        return
    try:
        same = read_manifest(feature_set.objects, side.feature_set).split == feature_set.manifest.split
    except (UsageError, StoreError):
        yield f"feature set {side.feature_set} is not here: {side.release} may have been trained on some of these rows"
    else:
        if not same:
            yield f"{side.release} was trained on {side.feature_set}, which is split otherwise: it may know some of these rows"
