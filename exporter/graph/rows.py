"""Rows of a split, read from the store: what a graph is validated and measured on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from featurestore.errors import DataQualityError
from featurestore.store.feature_set import FeatureSet
from featurestore.store.split import Split


@dataclass(frozen=True)
class Rows:
    """Some rows of a feature set, in storage order.

    Attributes:
        features: (n, 3, band, frame) float32, normalized.
        row: (n,) int64, index in the set.
        capture_id: (n,) int64, of the catalog.
        window: (n,) int64, number of the window in its capture.
        position: (n, 2) float64 latitude, longitude in degrees, true.
    """

    features: npt.NDArray[np.float32]
    row: npt.NDArray[np.int64]
    capture_id: npt.NDArray[np.int64]
    window: npt.NDArray[np.int64]
    position: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.row)

    def name(self, index: int) -> str:
        """How the row at this place is spoken of."""
        return f"row {self.row[index]} (capture {self.capture_id[index]}, window {self.window[index]})"


def read_rows(feature_set: FeatureSet, split: Split, limit: int | None = None) -> Rows:
    """Rows of a split; only the chunks that hold them are read, each once.

    Args:
        feature_set: an open set.
        split: which one.
        limit: at most so many, spread evenly over the split; all of them without it.

    Raises:
        DataQualityError: when the split has no rows.
        StoreError: when the set is damaged.
    """
    wanted = np.flatnonzero(feature_set.labels.split == split)
    if not len(wanted):
        raise DataQualityError(
            f"the {split.name.lower()} split of {feature_set.url} has no rows; use a set with other shares of its splits"
        )
    if limit is not None and limit < len(wanted):
        wanted = wanted[np.arange(limit) * len(wanted) // limit]
    return Rows(
        feature_set.read_rows(wanted).astype(np.float32),
        wanted,
        feature_set.fact("capture_id")[wanted],
        feature_set.fact("window")[wanted].astype(np.int64),
        feature_set.labels.position[wanted],
    )
