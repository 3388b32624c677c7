"""What located sessions are compared with: the mean, the nearest sessions by levels, and one capture of a network at a time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from featurestore.errors import UsageError
from featurestore.progress import Progress
from featurestore.store.feature_set import FeatureSet
from featurestore.store.split import Split
from trainer.evaluate.baselines import Baseline, predict_the_mean
from trainer.network.geometry import Float64, Region, geodesic_m
from trainer.network.session.table import SessionTable
from trainer.stream.feature_stream import DataOptions, FeatureStream
from trainer.stream.options import StreamOptions

ROWS_AT_ONCE = 1024
QUERIES_AT_ONCE = 256


def mean_sessions(train: SessionTable, table: SessionTable) -> Baseline:
    """The mean of the train sessions' positions, for each session."""
    return Baseline("predict the mean", predict_the_mean(train.position, table.position), len(train))


def nearest_sessions(  # noqa: PLR0913, PLR0917 - see `encode_sessions`
    feature_set: FeatureSet, train: SessionTable, table: SessionTable, split: Split, k: int, threads: int, progress: Progress
) -> Baseline:
    """The mean position of the k train sessions whose level vectors are nearest: one level for each receiver.

    A level is the mean of a normalized tensor; sessions are compared over the receivers that both have.
    """
    wanted = np.unique(np.concatenate([train.receiver[train.present], table.receiver[table.present]]))
    known = level_vectors(feature_set, train, Split.TRAIN, wanted, threads, progress)
    asked = level_vectors(feature_set, table, split, wanted, threads, progress)
    positions = predict_nearest(known, train.position, asked, k)
    return Baseline(f"{k} nearest sessions", geodesic_m(positions, table.position), len(train))


def level_vectors(  # noqa: PLR0913, PLR0917
    feature_set: FeatureSet, table: SessionTable, split: Split, receivers: np.ndarray, threads: int, progress: Progress
) -> Float64:
    """(n, R) mean of each receiver's tensors, NaN where a session has none."""
    row = table.row[table.present]
    level = dict(_levels(feature_set, split, threads, progress, len(row)))
    values = np.full(table.row.shape, np.nan)
    values[table.present] = [level[number] for number in row.tolist()]
    levels = np.full((len(table), len(receivers)), np.nan)
    for column, number in enumerate(receivers.tolist()):
        mine = (table.receiver == number) & table.present
        count = mine.sum(axis=1)
        levels[:, column] = np.where(count > 0, np.where(mine, values, 0.0).sum(axis=1) / np.maximum(count, 1), np.nan)
    return levels


def predict_nearest(known: Float64, positions: Float64, asked: Float64, k: int) -> Float64:
    """(n, 2) degrees: the mean of the k nearest, by mean squared difference of the levels that both have.

    Args:
        known: (m, R) level vectors, NaN where absent.
        positions: (m, 2) degrees.
        asked: (n, R) likewise.
        k: neighbours, from 1 to m.

    Raises:
        UsageError: when k is out of range.
    """
    if not 1 <= k <= len(known):
        raise UsageError(f"k is {k}; it must lie between 1 and the number of train sessions, {len(known)}")
    region = Region.around(positions)
    plane, heard, level = region.to_plane(positions), np.isfinite(known).astype(float), np.nan_to_num(known)
    parts = []
    for start in range(0, len(asked), QUERIES_AT_ONCE):
        part = asked[start : start + QUERIES_AT_ONCE]
        theirs, here = np.isfinite(part).astype(float), np.nan_to_num(part)
        common = theirs @ heard.T
        squared = (here**2) @ heard.T - 2 * here @ level.T + theirs @ (level**2).T
        distance = np.where(common > 0, squared / np.maximum(common, 1), np.inf)
        nearest = np.argsort(distance, axis=1, kind="stable")[:, :k]
        parts.append(plane[nearest].mean(axis=1))
    return region.from_plane(np.concatenate(parts))


def _levels(
    feature_set: FeatureSet, split: Split, threads: int, progress: Progress, n_rows: int
) -> Iterator[tuple[int, float]]:
    progress.start(f"levels of {split.name.lower()}", n_rows, "rows")
    data = FeatureStream(feature_set, DataOptions(ROWS_AT_ONCE), StreamOptions(threads=threads, cache="off"))
    try:
        for batch in data.evaluate(split):
            yield from zip(batch.row.tolist(), batch.features.float().mean(dim=(1, 2, 3)).tolist(), strict=True)
            progress.advance(len(batch))
    finally:
        data.close()
