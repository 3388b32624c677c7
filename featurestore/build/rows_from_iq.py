"""Windows of raw captures → log-mel: read ahead, computed in order; what every tensor comes from."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby, islice
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from featurestore.objects.objects import Objects
from featurestore.source.captures import CaptureRead, CaptureReader, Layout, Samples, not_finite
from featurestore.source.recording import Recording
from featurestore.source.timed import overlap, read_layout
from featurestore.tensor.mel import LogMel
from featurestore.tensor.rejection import Reason, Rejection

READERS = 16
"""Requests in flight per task at a remote store; a local file is read faster than a thread is woken."""

READ_AHEAD = 32
"""Captures read before they are needed, at most: they are what a worker's memory goes to."""

Aligned = tuple[int, tuple[Recording, ...]]

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class RawWindows:
    """Windows of raw captures, one per row.

    Attributes:
        keys: object key of each row's capture; rows of one capture are neighbours.
        size_bytes: its size, as listed.
        windows: number of each row's window.
        wanted: rows to compute; the others are given up as `missing_object`.
        aligned: of each row, its capture's place among the captures whose windows begin together, and those; or `None`.
            Empty where nothing is aligned.
    """

    keys: Sequence[str]
    size_bytes: Sequence[int]
    windows: Sequence[int]
    wanted: npt.NDArray[np.bool_]
    aligned: Sequence[Aligned | None] = ()


def compute_rows(
    raw: Objects, task: RawWindows, compute: LogMel, out: npt.NDArray[np.float32]
) -> tuple[int, dict[int, Rejection]]:
    """Log-mel of windows of raw captures; what every tensor comes from.

    Args:
        raw: where the captures are.
        task: which windows.
        compute: of the spec.
        out: (row, 3, n_mels, n_frames); its wanted rows are filled.

    Returns:
        The bytes read, and the rows that are rejected.
    """
    reader, layouts = CaptureReader(raw, compute.spec), _Layouts(raw)
    given_up = Rejection(Reason.MISSING_OBJECT, "was withdrawn or replaced before it was computed")
    rejected = {int(row): given_up for row in np.flatnonzero(~task.wanted)}
    groups = [list(group) for _, group in groupby(np.flatnonzero(task.wanted).tolist(), key=task.keys.__getitem__)]

    def read(rows: list[int]) -> CaptureRead:
        first = rows[0]
        within = layouts.overlap(task.aligned[first]) if task.aligned else None
        return reader.read(task.keys[first], task.size_bytes[first], [task.windows[row] for row in rows], within)

    n_bytes = 0
    for rows, capture in zip(groups, read_ahead(read, groups, threads=not raw.location.is_local), strict=True):
        n_bytes += capture.n_bytes
        for row, window in zip(rows, capture.windows, strict=True):
            rejection = window if isinstance(window, Rejection) else _compute_row(compute, window, out[row])
            if rejection is not None:
                rejected[row] = rejection
    return n_bytes, rejected


class _Layouts:
    """The headers of aligned captures, each read once in a chunk."""

    def __init__(self, raw: Objects) -> None:
        self._raw = raw
        self._known: dict[str, Layout | Rejection] = {}

    def overlap(self, aligned: Aligned | None) -> tuple[int, int] | None:
        """The samples of a capture from which its windows are taken; `None`: from all of it."""
        if aligned is None:
            return None
        own, recordings = aligned
        for recording in recordings:
            if recording.key not in self._known:
                self._known[recording.key] = read_layout(self._raw, recording)
        return overlap(own, recordings, [self._known[recording.key] for recording in recordings])


def _compute_row(compute: LogMel, z: Samples, out: npt.NDArray[np.float32]) -> Rejection | None:
    compute(z, out)
    return None if np.isfinite(out).all() else not_finite(z)


def read_ahead(read: Callable[[Item], Result], items: Iterable[Item], *, threads: bool) -> Iterator[Result]:
    """The results in order, several being fetched while one is used."""
    if not threads:
        yield from map(read, items)
        return
    remaining = iter(items)
    with ThreadPoolExecutor(READERS) as pool:
        pending: deque[Future[Result]] = deque(pool.submit(read, item) for item in islice(remaining, READ_AHEAD))
        try:
            while pending:
                result = pending.popleft().result()
                pending.extend(pool.submit(read, item) for item in islice(remaining, 1))
                yield result
        except BaseException:  # a server that stays away is not asked for the rest
            pool.shutdown(wait=False, cancel_futures=True)
            raise
