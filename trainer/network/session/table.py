"""Sessions of a split as lines of equal length, one place for each capture: what loaders, metrics and baselines index."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from featurestore.source.receivers import Receivers
from featurestore.store.feature_set import FeatureSet
from featurestore.store.split import Split

Float64 = npt.NDArray[np.float64]
ABSENT = -1


@dataclass(frozen=True, eq=False)
class SessionTable:
    """n sessions with room for r captures each; places are those of `SessionBatch`.

    Attributes:
        session_id: (n, 16) uint8.
        row: (n, r) int64, index in the set, −1 where absent.
        receiver: (n, r) int64, −1 where absent.
        snr_db: (n, r) NaN where unknown or absent.
        position: (n, 2) of the transmitters, degrees.
        timestamp: (n,) int64 ns of the first capture.
    """

    session_id: npt.NDArray[np.uint8]
    row: npt.NDArray[np.int64]
    receiver: npt.NDArray[np.int64]
    snr_db: Float64
    position: Float64
    timestamp: npt.NDArray[np.int64]

    @classmethod
    def of(cls, feature_set: FeatureSet, split: Split) -> Self:
        """The sessions of a split, in the order of the stream's numbers."""
        sessions = feature_set.sessions(split)
        shape = (len(sessions), sessions.largest)
        line = sessions.of_row()
        place = np.arange(len(line)) - sessions.begin[line]
        row, receiver = np.full(shape, ABSENT), np.full(shape, ABSENT)
        row[line, place], receiver[line, place] = sessions.rows, sessions.websdr_id
        snr_db = np.full(shape, np.nan)
        snr_db[line, place] = feature_set.labels.snr_db[sessions.rows]
        return cls(sessions.session_id, row, receiver, snr_db, sessions.position, sessions.timestamp[sessions.begin[:-1]])

    def __len__(self) -> int:
        return len(self.row)

    @property
    def present(self) -> npt.NDArray[np.bool_]:
        """(n, r) whether there is a capture."""
        return np.asarray(self.row != ABSENT)


def positions_of(receivers: Receivers, receiver: npt.NDArray[np.int64]) -> Float64:
    """(n, r, 2) where the receivers (n, r) stand, degrees; NaN where that is not known."""
    return receivers.positions_of(receiver.reshape(-1)).reshape(*receiver.shape, 2)
