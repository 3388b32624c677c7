"""Some captures of a split, fetched from the raw location: what an IQ graph is validated on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from featurestore.errors import UsageError
from featurestore.objects.objects import Location, open_objects
from featurestore.source.snapshot import default_key
from featurestore.store.feature_set import FeatureSet
from featurestore.store.split import Split


def fetch_captures(feature_set: FeatureSet, split: Split, raw: str, directory: Path, limit: int) -> list[Path]:
    """Copy captures of a split, spread evenly over it, into a directory, under their usual keys.

    Captures with a key of their own are not found, since sets do not hold keys; the others suffice.

    Args:
        feature_set: an open set.
        split: which rows.
        raw: location of the captures.
        directory: where to.
        limit: at most so many.

    Raises:
        UsageError: when none of them is there.
        StoreError, ServiceUnavailableError: when the location refuses, or does not answer.
    """
    row = np.flatnonzero(feature_set.labels.split == split)
    _, first = np.unique(feature_set.fact("capture_id")[row], return_index=True)
    row = row[np.sort(first)]
    row = row[np.arange(min(limit, len(row))) * len(row) // max(1, min(limit, len(row)))]
    return _fetch(feature_set, split, row, raw, directory)


def fetch_sessions(feature_set: FeatureSet, split: Split, raw: str, directory: Path, limit: int) -> list[Path]:
    """Copy captures of whole sessions, spread evenly over a split; see `fetch_captures`.

    Args:
        feature_set: an open set.
        split: which sessions.
        raw: location of the captures.
        directory: where to.
        limit: at most so many captures, but those of one session in any case.
    """
    sessions = feature_set.sessions(split)
    n_sessions = max(1, min(len(sessions), limit // max(1, sessions.largest)))
    chosen = np.arange(n_sessions) * len(sessions) // n_sessions
    row = sessions.rows[np.isin(sessions.of_row(), chosen)]
    _, first = np.unique(feature_set.fact("capture_id")[row], return_index=True)
    return _fetch(feature_set, split, row[np.sort(first)], raw, directory)


def _fetch(feature_set: FeatureSet, split: Split, row: npt.NDArray[np.int64], raw: str, directory: Path) -> list[Path]:
    """The captures of these rows."""
    objects = open_objects(Location.parse(raw).url)
    objects.check()
    sessions, receivers = feature_set.fact("session_id")[row], feature_set.fact("websdr_id")[row]
    paths, key = [], ""
    for session, receiver in zip(sessions, receivers, strict=True):
        key = default_key(session.tobytes(), receiver)
        try:
            content = objects.read(key)
        except FileNotFoundError:
            continue
        path = directory / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(memoryview(content))
        paths.append(path)
    if not paths:
        raise UsageError(
            f"{objects.location} holds none of {len(row)} captures of the {split.name.lower()} split of {feature_set.url}, "
            f"such as {key or 'none: it has no rows'}; give the raw location that the set was built from, or --input features"
        )
    return paths
