"""The tensors of some rows, or of some chunks, of an open set: only the chunks that hold them are read, each once."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from featurestore.store.feature_set import FeatureSet


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


def read_rows(feature_set: FeatureSet, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float16]:
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
