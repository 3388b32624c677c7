"""The raw listing joined to the catalog: size and source digest of every capture, without one request per capture."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from itertools import compress, islice
from json.encoder import encode_basestring_ascii as _quote
from queue import Full, Queue
from threading import Event, Thread
from typing import Self

import numpy as np
import numpy.typing as npt

from featurestore.objects.objects import ObjectInfo, Objects
from featurestore.progress import Progress
from featurestore.source.snapshot import MISSING, Listing, Snapshot

USUAL_PREFIX = "sessions"
BATCH = 2_500
BATCHES_AHEAD = 50
"""So many are kept at most while the catalog is being read: 125,000 objects, some 30 MB."""

PATIENCE_S = 0.2
"""How soon the listing ends when it is not wanted any more."""


class RawListing:
    """Lists the raw location while the catalog is still being read: both take about as long, and wait for others mostly.

        with RawListing(raw) as listed:
            snapshot = read_snapshot(…)
            listing = listed.join(snapshot, progress)

    Only `sessions/` is listed, unless the catalog names objects elsewhere.
    """

    def __init__(self, raw: Objects) -> None:
        self._raw = raw
        self._batches: Queue[list[ObjectInfo] | BaseException | None] = Queue(BATCHES_AHEAD)
        self._given_up = Event()
        self._thread = Thread(target=self._list, name="list raw captures", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._given_up.set()
        self._thread.join()

    def join(self, snapshot: Snapshot, progress: Progress) -> Listing:
        """The listing, joined to the snapshot; to be called once.

        Raises:
            StoreError, ServiceUnavailableError: when the location cannot be listed.
        """
        elsewhere = any(not key.startswith(f"{USUAL_PREFIX}/") for key in snapshot.custom_keys.values())
        progress.start("list raw captures", len(snapshot), "captures")
        objects = self._raw.walk() if elsewhere else self._listed()
        # A local file's inode and the like are not kept by a copy or a restored backup; its time is.
        return join(objects, snapshot, progress, by_etag=not self._raw.location.is_local)

    def _listed(self) -> Iterator[ObjectInfo]:
        while (batch := self._batches.get()) is not None:
            if isinstance(batch, BaseException):
                raise batch
            yield from batch

    def _list(self) -> None:
        try:
            for batch in _batches(self._raw.walk(USUAL_PREFIX)):
                if not self._hand_over(batch):
                    return
        except BaseException as error:  # noqa: BLE001 - raised where the listing is used
            self._hand_over(error)
        else:
            self._hand_over(None)

    def _hand_over(self, batch: list[ObjectInfo] | BaseException | None) -> bool:
        """Whether anybody still wants it."""
        while not self._given_up.is_set():
            try:
                self._batches.put(batch, timeout=PATIENCE_S)
            except Full:
                continue
            return True
        return False


def read_listing(raw: Objects, snapshot: Snapshot, progress: Progress) -> Listing:
    """List the raw location once, and join it to a snapshot that is there already; see `RawListing`."""
    with RawListing(raw) as listed:
        return listed.join(snapshot, progress)


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
        candidates = [batch[place] for place in which.tolist()]
        same = [info.key == key for info, key in zip(candidates, snapshot.keys_at(captures), strict=True)]
        known, infos = captures[same], list(compress(candidates, same))
        size[known] = [info.size_bytes for info in infos]
        joined = b"".join([source_digest(info, by_etag=by_etag) for info in infos])
        digests[known] = np.frombuffer(joined, np.uint8).reshape(-1, 16)
        progress.advance(len(infos))
    return Listing(size, digests)


def source_digest(info: ObjectInfo, *, by_etag: bool) -> bytes:
    """16 bytes that change when the object does: SHA-256 over `[key, size, ETag]`, or mtime in µs instead of the ETag."""
    etag = "null" if info.etag is None else _quote(info.etag)
    stamp = etag if by_etag else str(info.modified_us)
    text = f"[{_quote(info.key)},{info.size_bytes},{stamp}]"  # JSON; by way of a list it would take five times as long
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
