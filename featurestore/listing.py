"""The raw listing joined to the catalog: size and source digest of every capture, without one request per capture."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice

import numpy as np
import numpy.typing as npt

from featurestore.objects import ObjectInfo, Objects
from featurestore.progress import Progress
from featurestore.snapshot import Snapshot

USUAL_PREFIX = "sessions"
BATCH = 10_000
MISSING = -1
"""Size of a capture whose object was not listed."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_encode = json.JSONEncoder().encode


@dataclass(frozen=True)
class Listing:
    """What the raw location says of each capture of a snapshot, in its order.

    Attributes:
        size_bytes: (n,) int64; `MISSING` where there is no object.
        source_digest: (n, 16) uint8; zeros where there is no object.
    """

    size_bytes: npt.NDArray[np.int64]
    source_digest: npt.NDArray[np.uint8]


def read_listing(raw: Objects, snapshot: Snapshot, progress: Progress) -> Listing:
    """List the raw location once, and join it to the snapshot.

    Only `sessions/` is listed, unless the catalog names objects elsewhere.
    """
    elsewhere = any(not key.startswith(f"{USUAL_PREFIX}/") for key in snapshot.custom_keys.values())
    progress.start("list raw captures", len(snapshot), "captures")
    objects = raw.walk("" if elsewhere else USUAL_PREFIX)
    # A local file's "ETag" holds its inode, which a copy or a restored backup does not keep.
    return join(objects, snapshot, progress, by_etag=not raw.location.is_local)


def join(objects: Iterable[ObjectInfo], snapshot: Snapshot, progress: Progress, *, by_etag: bool) -> Listing:
    """Find the capture of every listed object.

    Keys are compared by 64-bit hash first, so that ten million of them fit in arrays, and then for real.

    Args:
        objects: the listing, in any order.
        snapshot: the captures; several may share one object.
        progress: is told of captures found.
        by_etag: digest the ETag; else the time of the last change.
    """
    size = np.full(len(snapshot), MISSING, np.int64)
    digests = np.zeros((len(snapshot), 16), np.uint8)
    hashes = np.fromiter(map(hash, snapshot.keys()), np.int64, len(snapshot))
    order = np.argsort(hashes, kind="stable")
    ordered = hashes[order]
    for batch in _batches(objects):
        found = np.fromiter((hash(info.key) for info in batch), np.int64, len(batch))
        first, last = np.searchsorted(ordered, found, "left"), np.searchsorted(ordered, found, "right")
        which = np.repeat(np.arange(len(batch)), last - first)  # (candidate,) place in the batch
        captures = order[_ranges(first, last)]  # (candidate,)
        same = [
            (capture, batch[i])
            for i, capture, key in zip(which.tolist(), captures.tolist(), snapshot.keys_at(captures), strict=True)
            if batch[i].key == key
        ]
        known = np.array([capture for capture, _ in same], np.int64)
        size[known] = [info.size_bytes for _, info in same]
        joined = b"".join(source_digest(info, by_etag=by_etag) for _, info in same)
        digests[known] = np.frombuffer(joined, np.uint8).reshape(-1, 16)
        progress.advance(len(same))
    return Listing(size, digests)


def source_digest(info: ObjectInfo, *, by_etag: bool) -> bytes:
    """16 bytes that change when the object does: SHA-256 over `[key, size, ETag]`, or mtime in µs instead of the ETag."""
    stamp: str | int | None = info.etag if by_etag else (info.modified - _EPOCH) // timedelta(microseconds=1)
    text = f"[{_encode(info.key)},{info.size_bytes},{_encode(stamp)}]"  # JSON; as a list it would take three times as long
    return hashlib.sha256(text.encode()).digest()[:16]


def _ranges(first: npt.NDArray[np.int64], last: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """All of `first[0] … last[0] − 1, first[1] … last[1] − 1, …`, one after the other."""
    lengths = last - first
    ranges: npt.NDArray[np.int64] = np.arange(lengths.sum()) + np.repeat(first - (np.cumsum(lengths) - lengths), lengths)
    return ranges


def _batches(objects: Iterable[ObjectInfo]) -> Iterator[list[ObjectInfo]]:
    remaining = iter(objects)
    while batch := list(islice(remaining, BATCH)):
        yield batch
