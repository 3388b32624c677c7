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
import xxhash

from featurestore.errors import StoreError
from featurestore.objects.objects import Objects, open_objects
from featurestore.source.captures import CaptureRead, CaptureReader, Layout, Samples, not_finite
from featurestore.source.timed import Recording, overlap, read_layout
from featurestore.store.bases import Basis, represent
from featurestore.store.chunks import ArrayLayout, ChunkBuffer, decode_chunk, read_chunk
from featurestore.store.segments import Part, Segment, features_name
from featurestore.tensor.mel import LogMel
from featurestore.tensor.moments import Moments
from featurestore.tensor.rejection import Reason, Rejection
from featurestore.tensor.spec import FeatureSpec

READERS = 16
"""Requests in flight per task at a remote store; a local file is read faster than a thread is woken."""

READ_AHEAD = 32
"""Captures read before they are needed, at most: they are what a worker's memory goes to."""

Item = TypeVar("Item")
Result = TypeVar("Result")
Mask = npt.NDArray[np.bool_]
Aligned = tuple[int, tuple[Recording, ...]]


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
        aligned: of each row, its capture's place among the captures whose windows begin together, and those; or `None`.
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
    aligned: Sequence[Aligned | None] = ()


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


@dataclass(frozen=True)
class RawWindows:
    """Windows of raw captures, one per row.

    Attributes:
        keys: object key of each row's capture; rows of one capture are neighbours.
        size_bytes: its size, as listed.
        windows: number of each row's window.
        wanted: rows to compute; the others are given up as `missing_object`.
        aligned: see `ComputeChunk`; empty where nothing is.
    """

    keys: Sequence[str]
    size_bytes: Sequence[int]
    windows: Sequence[int]
    wanted: Mask
    aligned: Sequence[Aligned | None] = ()


class Workbench:
    """Scratch memory for chunks of one segment layout, used again from chunk to chunk."""

    def __init__(self, segment: Segment) -> None:
        self.logmel = ChunkBuffer(segment.logmel())
        self.content = ChunkBuffer(segment.content())
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
    """Read, compute, write log-mel (and features, when there is a basis), and note what was written.

    Another build may be at the same chunk, of another snapshot even, in which other captures are approved: the first to
    write its log-mel decides, and all the rest follows from that, whoever computes it.
    """
    segment, bench = task.segment, _workbench(task.segment)
    objects = open_objects(task.store_url)
    logmel: npt.NDArray[np.float32] = bench.logmel.rows
    windows = RawWindows(task.keys, task.size_bytes, task.windows, task.wanted, task.aligned)
    n_bytes, rejected = compute_rows(open_objects(task.raw_url), windows, bench.compute, logmel)
    n_rows = len(task.keys)
    for row in rejected:
        logmel[row] = np.nan
    crcs = {"logmel": put_once(objects, f"{segment.path}/logmel", segment.logmel(), task.chunk, bench.logmel)}
    rejected = _as_written(logmel[:n_rows], rejected)
    valid = np.ones(n_rows, bool)
    valid[list(rejected)] = False
    for row in range(n_rows):
        bench.content.rows[row] = content_digest(logmel[row]) if valid[row] else 0
    crcs["content"] = bench.content.seal(n_rows)
    objects.put(f"{segment.path}/content/{segment.content().key(task.chunk)}", bench.content.data)
    moments = None
    if task.basis is None:
        moments = chunk_moments(segment.spec, logmel, valid & task.train)
    else:
        crcs[features_name(task.basis.id)] = _write_features(task, task.basis, logmel[:n_rows], bench)
    start = segment.logmel().rows(task.chunk).start
    part = Part(crcs, {start + row: (found.reason, found.detail) for row, found in rejected.items()})
    objects.put_json(segment.part_path(task.chunk), part.to_json())
    return ChunkDone(segment.segment, task.chunk, n_rows, n_bytes, part, moments)


def put_once(objects: Objects, path: str, layout: ArrayLayout, chunk: int, buffer: ChunkBuffer) -> int:
    """Write a chunk, unless a whole one is there: then take that over into `buffer`. Returns its checksum."""
    n_rows = len(layout.rows(chunk))
    crc = buffer.seal(n_rows)
    key = f"{path}/{layout.key(chunk)}"
    if objects.put(key, buffer.data, create=True):
        return crc
    try:
        rows = decode_chunk(objects.read(key), layout, f"{objects.location}/{key}")
    except (StoreError, FileNotFoundError):  # cut off, when the machine lost its power; or gone again
        objects.put(key, buffer.data)
        return crc
    buffer.rows[:] = rows
    return buffer.seal(n_rows)


def _as_written(logmel: npt.NDArray[np.float32], rejected: dict[int, Rejection]) -> dict[int, Rejection]:
    """Which rows of a chunk are rejected: those without values, whoever wrote it."""
    given_up = Rejection(Reason.MISSING_OBJECT, "another build gave it up; the next build computes it")
    return {row: rejected.get(row, given_up) for row in np.flatnonzero(np.isnan(logmel[:, 0, 0, 0])).tolist()}


def content_digest(logmel: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """(16,) what tells one log-mel tensor from another: XXH3-128, which costs a thousandth of computing it."""
    return np.frombuffer(xxhash.xxh3_128_digest(np.ascontiguousarray(logmel, "<f4").data), np.uint8)


def fit_chunk(task: FitChunk) -> ChunkDone:
    """Moments of the train rows of a chunk."""
    layout = task.segment.logmel()
    rows = read_chunk(open_objects(task.store_url), f"{task.segment.path}/logmel", layout, task.chunk, task.crc)
    moments = chunk_moments(task.segment.spec, rows, task.train)
    return ChunkDone(task.segment.segment, task.chunk, len(rows), rows.nbytes, moments=moments)


def normalize_chunk(task: NormalizeChunk) -> ChunkDone:
    """Write the features of a chunk."""
    layout = task.segment.logmel()
    rows = read_chunk(open_objects(task.store_url), f"{task.segment.path}/logmel", layout, task.chunk, task.crc)
    crc = _write_features(task, task.basis, rows, _workbench(task.segment))
    part = Part({features_name(task.basis.id): crc}, {})
    return ChunkDone(task.segment.segment, task.chunk, len(rows), rows.nbytes, part)


def chunk_moments(spec: FeatureSpec, logmel: npt.NDArray[np.float32], train: Mask) -> Moments:
    """Moments of what is stored of the train rows of a chunk."""
    rows = (represent(spec, logmel[row]) for row in np.flatnonzero(train))  # one by one: no copy of a whole chunk
    return Moments.of(rows, spec.tensor_shape[:2])


def _write_features(
    task: ComputeChunk | NormalizeChunk, basis: Basis, logmel: npt.NDArray[np.float32], bench: Workbench
) -> int:
    segment = task.segment
    basis.normalize((represent(segment.spec, row) for row in logmel), bench.features.rows)
    path = f"{segment.path}/{features_name(basis.id)}"
    return put_once(open_objects(task.store_url), path, segment.features(basis.id), task.chunk, bench.features)


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
            found = window if isinstance(window, Rejection) else _compute_row(compute, window, out[row])
            if found is not None:
                rejected[row] = found
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
