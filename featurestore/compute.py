"""What workers do, one chunk at a time: read windows and compute log-mel; fit; normalize. Each task owns what it writes."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby, islice
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from featurestore.bases import Basis, represent
from featurestore.captures import CaptureRead, CaptureReader, Samples, not_finite
from featurestore.chunks import ChunkBuffer, read_chunk
from featurestore.mel import LogMel
from featurestore.moments import Moments
from featurestore.objects import open_objects
from featurestore.rejection import Reason, Rejection
from featurestore.segments import Part, Segment, features_name
from featurestore.spec import FeatureSpec

READERS = 16
"""Requests in flight per task at a remote store; a local file is read faster than a thread is woken."""

READ_AHEAD = 32
"""Captures read before they are needed, at most: they are what a worker's memory goes to."""

Item = TypeVar("Item")
Result = TypeVar("Result")
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class ComputeChunk:
    """Compute one chunk of a segment from raw captures.

    Attributes:
        raw_url: where the captures are.
        store_url: where the segment is.
        segment: which one.
        chunk: number of the chunk.
        keys: object key of each row's capture; rows of one capture are neighbours.
        size_bytes: its size, as listed.
        windows: number of each row's window.
        wanted: rows to compute; the others are given up as `missing_object`.
        train: rows whose moments are to be returned, if valid.
        basis: normalize with it at once; `None` when there is none yet.
    """

    raw_url: str
    store_url: str
    segment: Segment
    chunk: int
    keys: Sequence[str]
    size_bytes: Sequence[int]
    windows: Sequence[int]
    wanted: Mask
    train: Mask
    basis: Basis | None


@dataclass(frozen=True)
class FitChunk:
    """Moments of some rows of a chunk whose log-mel is in the store."""

    store_url: str
    segment: Segment
    chunk: int
    crc: int
    train: Mask


@dataclass(frozen=True)
class NormalizeChunk:
    """Features of a chunk whose log-mel is in the store."""

    store_url: str
    segment: Segment
    chunk: int
    crc: int
    basis: Basis


@dataclass(frozen=True)
class ChunkDone:
    """What became of one chunk.

    Attributes:
        segment: name of its segment.
        chunk: its number.
        rows: how many it has.
        n_bytes: bytes read for it.
        part: what was written; `None` when only moments were asked for.
        moments: of the train rows, where asked for.
    """

    segment: str
    chunk: int
    rows: int
    n_bytes: int
    part: Part | None = None
    moments: Moments | None = None


class Workbench:
    """Scratch memory for chunks of one segment layout, used again from chunk to chunk."""

    def __init__(self, segment: Segment) -> None:
        self.logmel = ChunkBuffer(segment.logmel())
        self.features = ChunkBuffer(segment.features(""))
        self.compute = LogMel(segment.spec)


class _Local(threading.local):
    """One workbench per thread: fresh memory for every chunk would be faulted in page by page (see docs/log.md)."""

    key: tuple[FeatureSpec, tuple[int, ...]] | None = None
    bench: Workbench


_local = _Local()


def _workbench(segment: Segment) -> Workbench:
    key = segment.spec, segment.logmel().chunk_shape
    if _local.key != key:
        _local.bench, _local.key = Workbench(segment), key
    return _local.bench


def compute_chunk(task: ComputeChunk) -> ChunkDone:
    """Read, compute, write log-mel (and features, when there is a basis), and note what was written."""
    segment, bench = task.segment, _workbench(task.segment)
    objects = open_objects(task.store_url)
    logmel: npt.NDArray[np.float32] = bench.logmel.rows
    n_bytes, rejected = _compute_rows(task, bench.compute, logmel)
    n_rows = len(task.keys)
    for row in rejected:
        logmel[row] = np.nan
    valid = np.ones(n_rows, bool)
    valid[list(rejected)] = False
    crcs = {"logmel": bench.logmel.seal(n_rows)}
    objects.put(f"{segment.path}/logmel/{segment.logmel().key(task.chunk)}", bench.logmel.data)
    moments = None
    if task.basis is None:
        moments = _moments(segment.spec, logmel, valid & task.train)
    else:
        crcs[features_name(task.basis.id)] = _write_features(task, task.basis, logmel[:n_rows], bench)
    start = segment.logmel().rows(task.chunk).start
    part = Part(crcs, {start + row: (found.reason, found.detail) for row, found in rejected.items()})
    objects.put_json(segment.part_path(task.chunk), part.to_json())
    return ChunkDone(segment.segment, task.chunk, n_rows, n_bytes, part, moments)


def fit_chunk(task: FitChunk) -> ChunkDone:
    """Moments of the train rows of a chunk."""
    layout = task.segment.logmel()
    rows = read_chunk(open_objects(task.store_url), f"{task.segment.path}/logmel", layout, task.chunk, task.crc)
    moments = _moments(task.segment.spec, rows, task.train)
    return ChunkDone(task.segment.segment, task.chunk, len(rows), rows.nbytes, moments=moments)


def normalize_chunk(task: NormalizeChunk) -> ChunkDone:
    """Write the features of a chunk."""
    layout = task.segment.logmel()
    rows = read_chunk(open_objects(task.store_url), f"{task.segment.path}/logmel", layout, task.chunk, task.crc)
    crc = _write_features(task, task.basis, rows, _workbench(task.segment))
    part = Part({features_name(task.basis.id): crc}, {})
    return ChunkDone(task.segment.segment, task.chunk, len(rows), rows.nbytes, part)


def _moments(spec: FeatureSpec, logmel: npt.NDArray[np.float32], train: Mask) -> Moments:
    rows = (represent(spec, logmel[row]) for row in np.flatnonzero(train))  # one by one: no copy of a whole chunk
    return Moments.of(rows, spec.tensor_shape[:2])


def _write_features(
    task: ComputeChunk | NormalizeChunk, basis: Basis, logmel: npt.NDArray[np.float32], bench: Workbench
) -> int:
    segment = task.segment
    basis.normalize((represent(segment.spec, row) for row in logmel), bench.features.rows)
    crc = bench.features.seal(len(logmel))
    path = f"{segment.path}/{features_name(basis.id)}"
    open_objects(task.store_url).put(f"{path}/{segment.features(basis.id).key(task.chunk)}", bench.features.data)
    return crc


def _compute_rows(task: ComputeChunk, compute: LogMel, out: npt.NDArray[np.float32]) -> tuple[int, dict[int, Rejection]]:
    """Fill the wanted rows of `out`; returns the bytes read and the rows that are rejected."""
    raw = open_objects(task.raw_url)
    reader = CaptureReader(raw, task.segment.spec)
    given_up = Rejection(Reason.MISSING_OBJECT, "was withdrawn or replaced before it was computed")
    rejected = {int(row): given_up for row in np.flatnonzero(~task.wanted)}
    groups = [list(group) for _, group in groupby(np.flatnonzero(task.wanted).tolist(), key=task.keys.__getitem__)]

    def read(rows: list[int]) -> CaptureRead:
        first = rows[0]
        return reader.read(task.keys[first], task.size_bytes[first], [task.windows[row] for row in rows])

    n_bytes = 0
    for rows, capture in zip(groups, _read_ahead(read, groups, threads=not raw.location.is_local), strict=True):
        n_bytes += capture.n_bytes
        for row, window in zip(rows, capture.windows, strict=True):
            found = window if isinstance(window, Rejection) else _compute_row(compute, window, out[row])
            if found is not None:
                rejected[row] = found
    return n_bytes, rejected


def _compute_row(compute: LogMel, z: Samples, out: npt.NDArray[np.float32]) -> Rejection | None:
    compute(z, out)
    return None if np.isfinite(out).all() else not_finite(z)


def _read_ahead(read: Callable[[Item], Result], items: Iterable[Item], *, threads: bool) -> Iterator[Result]:
    """The results in order, several being fetched while one is used."""
    if not threads:
        yield from map(read, items)
        return
    remaining = iter(items)
    with ThreadPoolExecutor(READERS) as pool:
        pending: deque[Future[Result]] = deque(pool.submit(read, item) for item in islice(remaining, READ_AHEAD))
        while pending:
            result = pending.popleft().result()
            pending.extend(pool.submit(read, item) for item in islice(remaining, 1))
            yield result
