"""Some captures of a split, fetched from the raw location: what an IQ graph is validated on."""

from __future__ import annotations

from pathlib import Path

import numpy as np

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
    objects = open_objects(Location.parse(raw).url)
    objects.check()
    row = np.flatnonzero(feature_set.labels.split == split)
    _, first = np.unique(feature_set.fact("capture_id")[row], return_index=True)
    row = row[np.sort(first)]
    row = row[np.arange(min(limit, len(row))) * len(row) // max(1, min(limit, len(row)))]
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
