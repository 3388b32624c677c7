"""Which split a capture is in: sessions lie on a circle by their hash, the seed turns it, and shares are arcs of it.

A session keeps its place when captures are added, and all its captures have one place, so that the receivers that heard
one transmission never stand on both sides.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from featurestore.source.snapshot import format_sessions
from featurestore.tensor.spec import SplitSpec

CIRCLE = 2.0**64


SPLITS = ("train", "val", "test")


class Split(IntEnum):
    """What the `split` array of a feature set holds; the numbers are part of the format."""

    TRAIN = 0
    VAL = 1
    TEST = 2
    ABSENT = 255


def count_splits(splits: npt.NDArray[np.uint8]) -> dict[str, int]:
    """Rows in each split: `{"train": n, "val": n, "test": n}`."""
    return {split.name.lower(): int((splits == split).sum()) for split in (Split.TRAIN, Split.VAL, Split.TEST)}


def hash_text(text: str) -> int:
    """The first 16 hex digits of SHA-256, as a number below 2^64."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def hash_sessions(session_id: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint64]:
    """The hash of each session, of its id written as usual (`h · 2^64`).

    Args:
        session_id: (n, 16).

    Returns:
        (n,) uint64.
    """
    first, inverse = unique_sessions(session_id)
    return _hash_all(format_sessions(session_id[first]), len(first))[inverse]


def unique_sessions(session_id: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Index of each session's first row, and each row's place among these."""
    high, low = session_id.view(">u8").T.astype(np.uint64)
    order = np.lexsort((low, high))
    new = np.empty(len(order), bool)
    new[:1] = True
    new[1:] = (np.diff(high[order]) != 0) | (np.diff(low[order]) != 0)
    inverse = np.empty(len(order), np.int64)
    inverse[order] = np.cumsum(new) - 1
    return order[new], inverse


def assign(spec: SplitSpec, session_id: npt.NDArray[np.uint8], position: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
    """The split of every capture.

    Args:
        spec: shares, seed and what stays together.
        session_id: (n, 16), in order of capture id.
        position: (n, 2) latitude, longitude in degrees; asked only when split by region.

    Returns:
        (n,) uint8, a `Split` each.
    """
    hashes = _hash_regions(spec, session_id, position) if spec.by == "region" else hash_sessions(session_id)
    u = (hashes.astype(np.float64) / CIRCLE + hash_text(str(spec.seed)) / CIRCLE) % 1.0
    if spec.fold is not None:
        i, k = spec.fold
        return np.where((u >= i / k) & (u < (i + 1) / k), Split.VAL, Split.TRAIN).astype(np.uint8)
    train_end, val_end = spec.bounds
    return np.where(u < train_end, Split.TRAIN, np.where(u < val_end, Split.VAL, Split.TEST)).astype(np.uint8)


def on_earth(position: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Which positions can be true: finite, in range, and not the (0, 0) that stands for "unknown" in many tables.

    Args:
        position: (n, 2) latitude, longitude in degrees.
    """
    latitude, longitude = position.T
    with np.errstate(invalid="ignore"):
        good: npt.NDArray[np.bool_] = (np.abs(latitude) <= 90) & (np.abs(longitude) <= 180) & (position != 0).any(axis=1)
    return good


def _hash_regions(
    spec: SplitSpec, session_id: npt.NDArray[np.uint8], position: npt.NDArray[np.float64]
) -> npt.NDArray[np.uint64]:
    """The hash of the grid cell of each capture's session: the cell of its first capture with a good position."""
    first, inverse = unique_sessions(session_id)
    known = np.flatnonzero(on_earth(position))[::-1]  # backwards: the first one is written last
    cells = np.zeros((len(first), 2))
    cells[inverse[known]] = np.floor(position[known] / (spec.region_degrees or 1.0)) + 0.0  # there is no cell -0
    return _hash_all((f"{row:.0f},{column:.0f}" for row, column in cells), len(first))[inverse]


def _hash_all(texts: Iterable[str], count: int) -> npt.NDArray[np.uint64]:
    return np.fromiter(map(hash_text, texts), np.uint64, count)
