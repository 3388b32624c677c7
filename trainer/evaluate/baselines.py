"""What an evaluation is compared with: always predicting the mean position, and the nearest training rows by features."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from featurestore.errors import UsageError
from featurestore.progress import Progress
from featurestore.store.feature_set import FeatureSet
from featurestore.store.split import Split, count_splits
from trainer.evaluate.metrics import error_summary, sample_evenly
from trainer.network.geometry import Float64, Region, geodesic_m
from trainer.stream.feature_stream import DataOptions, FeatureStream
from trainer.stream.options import StreamOptions

BLOCK_BYTES = 64 * 2**20
"""Memory for one block of float32 features in `k_nearest`, which needs about five times as much at most."""
MAX_TRAIN_ROWS = 20_000
MAX_TRAIN_BYTES = 2**30
MAX_QUERIES = 10_000
"""With 20,000 training rows of the default spec these are 5 TFLOP: one to four minutes on two cores."""
QUERIES_AT_ONCE = 1024
"""The training rows are converted to float32 once for so many."""


@dataclass(frozen=True)
class Baseline:
    """How far off a baseline is on a split.

    Attributes:
        label: its name for people.
        error_m: (n,) of the rows it was asked for.
        train_rows: that it knows.
        notes: what it was not given, or not asked, for people.
    """

    label: str
    error_m: Float64
    train_rows: int
    notes: tuple[str, ...] = ()

    def to_json(self, thresholds: tuple[int, ...]) -> dict[str, Any]:
        """The metrics of `error_summary`, and the training rows behind them."""
        return {**error_summary(self.error_m, thresholds), "train_rows": self.train_rows}


def predict_the_mean(train_positions: Float64, true: Float64) -> Float64:
    """Errors in metres, (n,), of always predicting the mean of the training positions: what knowing nothing achieves.

    Args:
        train_positions: (m, 2) latitude, longitude in degrees.
        true: (n, 2) likewise.
    """
    region = Region.around(train_positions)
    # On the plane, because the mean of longitudes is wrong across the antimeridian.
    mean = np.nanmean(region.to_plane(train_positions), axis=0, keepdims=True)
    return geodesic_m(region.from_plane(mean), true)


def k_nearest(
    train_features: npt.NDArray[np.floating],
    train_positions: Float64,
    features: npt.NDArray[np.floating],
    k: int,
    block_bytes: int = BLOCK_BYTES,
) -> Float64:
    """Positions predicted as the mean of those of the k training rows whose features are nearest (Euclidean).

    Exact search in float32 by blocks: features may be memory-mapped, and of any size. Of equally near rows the earlier win.

    Args:
        train_features: (m, …) of any float type.
        train_positions: (m, 2) latitude, longitude in degrees.
        features: (n, …) with the same trailing shape.
        k: neighbours, from 1 to m.
        block_bytes: memory for a block of features.

    Returns:
        (n, 2) latitude, longitude in degrees; errors are `geodesic_m` of these and the true ones.

    Raises:
        UsageError: when k is out of range.
        ValueError: when shapes do not fit.
    """
    if len(train_positions) != len(train_features) or train_features.shape[1:] != features.shape[1:]:
        raise ValueError(
            f"train_features {train_features.shape}, train_positions {train_positions.shape} and features {features.shape} do "
            "not fit: rows of the first two, and all other axes of the features, must be equal"
        )
    if not 1 <= k <= len(train_features):
        raise UsageError(f"k is {k}; it must lie between 1 and the number of training rows, {len(train_features)}")
    region = Region.around(train_positions)
    plane = region.to_plane(train_positions)  # (row, axis)
    neighbours = [_nearest(block, train_features, k, block_bytes) for block in _blocks(features, block_bytes)]
    rows = np.concatenate([*neighbours, np.empty((0, k), np.int64)])
    return region.from_plane(plane[rows].mean(axis=1))


def mean_baseline(feature_set: FeatureSet, split: Split) -> Baseline:
    """`predict_the_mean` for all rows of a split."""
    position, splits = feature_set.labels.position, feature_set.labels.split
    train = position[splits == Split.TRAIN]
    return Baseline("predict the mean", predict_the_mean(train, position[splits == split]), len(train))


def nearest_baseline(feature_set: FeatureSet, split: Split, k: int, threads: int, progress: Progress) -> Baseline:
    """`k_nearest` for the rows of a split: for at most `MAX_QUERIES` of them, spread evenly, from at most `MAX_TRAIN_ROWS`.

    Args:
        feature_set: with rows in train and in the split.
        split: not train, whose rows are their own nearest.
        k: neighbours.
        threads: that fetch chunks.
        progress: is told how far it is.

    Raises:
        UsageError: when there are fewer than k training rows.
        StoreError: when a chunk is damaged.
    """
    train_features, train_row = _train_features(feature_set, threads, progress)
    counts = count_splits(feature_set.labels.split)
    position, n_rows = feature_set.labels.position, counts[split.name.lower()]
    asked = np.zeros(n_rows, bool)
    asked[sample_evenly(n_rows, MAX_QUERIES)] = True
    progress.start(f"{k} nearest", n_rows, "rows")
    data = FeatureStream(feature_set, DataOptions(QUERIES_AT_ONCE), StreamOptions(threads=threads, cache="off"))
    errors, start = [np.empty(0)], 0
    try:
        for batch in data.evaluate(split):
            chosen = asked[start : start + len(batch)]
            start += len(batch)
            queries, row = batch.features.numpy()[chosen], batch.row.numpy()[chosen]
            errors.append(geodesic_m(k_nearest(train_features, position[train_row], queries, k), position[row]))
            progress.advance(len(batch))
    finally:
        data.close()
    notes = []
    if len(train_row) < counts["train"]:
        notes.append(f"{k} nearest: among {len(train_row):,} of the {counts['train']:,} train rows, chosen at random")
    if n_rows > MAX_QUERIES:
        notes.append(f"{k} nearest: for {MAX_QUERIES:,} of the {n_rows:,} rows, spread evenly; the others for all")
    return Baseline(f"{k} nearest", np.concatenate(errors), len(train_row), tuple(notes))


def _train_features(
    feature_set: FeatureSet, threads: int, progress: Progress
) -> tuple[npt.NDArray[np.float16], npt.NDArray[np.int64]]:
    """Features of the training rows, as many as fit, and their index in the set."""
    shape = feature_set.spec.tensor_shape
    n_rows = count_splits(feature_set.labels.split)["train"]
    n_wanted = min(n_rows, MAX_TRAIN_ROWS, MAX_TRAIN_BYTES // (2 * math.prod(shape)))
    data = FeatureStream(feature_set, DataOptions(min(n_wanted, QUERIES_AT_ONCE)), StreamOptions(threads=threads, cache="off"))
    # An epoch's order is drawn chunk by chunk, so its beginning is a sample for which only its own chunks are read.
    batches = data.evaluate(Split.TRAIN) if n_wanted == n_rows else data.train()
    features, row, count = np.empty((n_wanted, *shape), np.float16), np.empty(n_wanted, np.int64), 0
    progress.start("train rows", n_wanted, "rows")
    try:
        for batch in batches:
            taken = min(len(batch), n_wanted - count)
            features[count : count + taken] = batch.features[:taken].numpy()
            row[count : count + taken] = batch.row[:taken].numpy()
            count += taken
            progress.advance(taken)
            if count == n_wanted:
                break
    finally:
        batches.close()
        data.close()
    return features[:count], row[:count]  # an epoch leaves its last incomplete batch out


def _nearest(
    queries: npt.NDArray[np.float32], train_features: npt.NDArray[np.floating], k: int, block_bytes: int
) -> npt.NDArray[np.int64]:
    """(query, k) rows of the nearest, nearest first."""
    best = np.empty((len(queries), 0), np.float32)  # squared distance, less the query's own square: the same order
    rows = np.empty((len(queries), 0), np.int64)
    start = 0
    for block in _blocks(train_features, block_bytes):
        distance = np.einsum("ij,ij->i", block, block) - 2 * (queries @ block.T)  # (query, train row)
        best = np.concatenate([best, distance], axis=1)
        own_rows = np.broadcast_to(np.arange(start, start + len(block)), distance.shape)
        rows = np.concatenate([rows, own_rows], axis=1)
        order = np.argsort(best, axis=1, kind="stable")[:, :k]
        best, rows = np.take_along_axis(best, order, axis=1), np.take_along_axis(rows, order, axis=1)
        start += len(block)
    return rows


def _blocks(features: npt.NDArray[np.floating], block_bytes: int) -> Iterator[npt.NDArray[np.float32]]:
    """(row, feature) in float32, as many rows at a time as fit."""
    width = math.prod(features.shape[1:])
    # Of narrow features that would be so many rows that the matrix of distances outgrows the blocks: it gets a quarter.
    count = max(1, min(block_bytes // (4 * max(width, 1)), math.isqrt(block_bytes // 16)))
    for start in range(0, len(features), count):
        yield np.asarray(features[start : start + count], dtype=np.float32).reshape(-1, width)
