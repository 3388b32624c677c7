"""The rows that a feature set serves, as columns; and the tensors of some of them, read chunk by chunk."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from featurestore.source.snapshot import NO_TIMESTAMP
from featurestore.store.feature_set import FeatureSet
from featurestore.store.split import SPLITS, unique_sessions

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class LabelledRows:
    """Labels and facts of n rows, in the order of the set.

    Attributes:
        row: (n,) index in the set.
        split: (n,) 0 train, 1 val, 2 test.
        position: (n, 2) latitude, longitude of the transmitter in degrees.
        snr_db: (n,) NaN where unknown.
        frequency_mhz: (n,) NaN where unknown.
        timestamp: (n,) datetime64[ns], NaT where unknown.
        capture_id: (n,) in the catalog.
        websdr_id: (n,) receiver.
        session: (n,) number of the session, from 0.
    """

    row: Int64
    split: npt.NDArray[np.uint8]
    position: npt.NDArray[np.float64]
    snr_db: npt.NDArray[np.float32]
    frequency_mhz: npt.NDArray[np.float32]
    timestamp: npt.NDArray[np.datetime64]
    capture_id: Int64
    websdr_id: npt.NDArray[np.int32]
    session: Int64

    @classmethod
    def read(cls, feature_set: FeatureSet) -> Self:
        """Those of a set.

        Raises:
            StoreError: when labels or facts are damaged.
        """
        labels = feature_set.labels
        row = np.flatnonzero(labels.split < len(SPLITS))
        timestamp = labels.timestamp[row]
        return cls(
            row=row,
            split=labels.split[row],
            position=labels.position[row],
            snr_db=labels.snr_db[row],
            frequency_mhz=labels.frequency_mhz[row],
            timestamp=np.where(timestamp == NO_TIMESTAMP, np.datetime64("NaT"), timestamp.view("datetime64[ns]")),
            capture_id=feature_set.fact("capture_id")[row],
            websdr_id=feature_set.fact("websdr_id")[row],
            session=unique_sessions(np.ascontiguousarray(feature_set.fact("session_id")[row]))[1],
        )

    def __len__(self) -> int:
        return len(self.row)

    def select(self, chosen: npt.NDArray[Any]) -> Self:
        """Some of the rows, by mask or by place."""
        return type(self)(**{field.name: getattr(self, field.name)[chosen] for field in fields(self)})

    @cached_property
    def captures(self) -> Self:
        """The first row of each capture: captures may have several windows."""
        return self.select(np.sort(np.unique(self.capture_id, return_index=True)[1]))
