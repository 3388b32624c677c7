"""The rows that a feature set serves, as columns; and the tensors of some of them, read chunk by chunk."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from featurestore.look.overview import SPLITS
from featurestore.source.snapshot import NO_TIMESTAMP
from featurestore.store.feature_set import FeatureSet
from featurestore.store.split import unique_sessions

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


def sample_chunks(feature_set: FeatureSet, wanted: int, seed: int = 0) -> list[tuple[int, int]]:
    """(segment, chunk) of some of a set's chunks, drawn without replacement, in order: all of them when they are so few.

    Rows are in order of their sessions' hash, so that whole chunks are a fair sample of sessions.
    """
    all_chunks = list(_all_chunks(feature_set))
    drawn = np.random.default_rng(seed).permutation(len(all_chunks))[:wanted]
    return [all_chunks[index] for index in np.sort(drawn)]


def chunk_rows(feature_set: FeatureSet, chunk: tuple[int, int]) -> range:
    """The rows of the set that a chunk holds."""
    first = sum(segment.n_rows for segment in feature_set.segments[: chunk[0]])
    rows = feature_set.segments[chunk[0]].features(feature_set.manifest.basis).rows(chunk[1])
    return range(first + rows.start, first + rows.stop)


def read_chunk_rows(feature_set: FeatureSet, chunk: tuple[int, int]) -> npt.NDArray[np.float16]:
    """The tensors of a chunk, (row, 3, band, frame), checked; NaN where a row was rejected."""
    segment = feature_set.segments[chunk[0]]
    return feature_set.read_features(segment, chunk[1], feature_set.checksums(segment)[chunk[1]])


def read_tensors(feature_set: FeatureSet, rows: Int64) -> npt.NDArray[np.float16]:
    """The tensors of a few rows, (row, 3, band, frame): only the chunks that hold them are read, each once.

    Raises:
        StoreError: when a chunk is missing or damaged.
    """
    found = np.empty((len(rows), *feature_set.spec.tensor_shape), np.float16)
    for chunk in _all_chunks(feature_set):
        held = chunk_rows(feature_set, chunk)
        places = np.flatnonzero((rows >= held.start) & (rows < held.stop))
        if len(places):
            found[places] = read_chunk_rows(feature_set, chunk)[rows[places] - held.start]
    return found


def _all_chunks(feature_set: FeatureSet) -> Iterator[tuple[int, int]]:
    for number, segment in enumerate(feature_set.segments):
        for chunk in range(segment.n_chunks):
            yield number, chunk
