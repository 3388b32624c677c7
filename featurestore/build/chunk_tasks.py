"""What workers do, one chunk at a time: read windows and compute log-mel; fit; normalize. Each task owns what it writes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import xxhash

from featurestore.build.rows_from_iq import Aligned, RawWindows, compute_rows
from featurestore.errors import StoreError
from featurestore.objects.concurrently import map_concurrently
from featurestore.objects.objects import Objects, open_objects
from featurestore.store.bases import Basis, represent
from featurestore.store.chunks import ArrayLayout, ChunkBuffer, decode_chunk, read_chunk
from featurestore.store.segments import Part, Segment, features_name
from featurestore.tensor.mel import LogMel
from featurestore.tensor.moments import Moments
from featurestore.tensor.rejection import Reason, Rejection
from featurestore.tensor.spec import FeatureSpec

Mask = npt.NDArray[np.bool_]
Fill = Callable[[npt.NDArray[np.float32]], tuple[int, Mapping[int, Rejection]]]


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


class ChunkMemory:
    """Scratch memory for chunks of one segment layout, used again from chunk to chunk."""

    def __init__(self, segment: Segment) -> None:
        self.logmel = ChunkBuffer(segment.logmel)
        self.content = ChunkBuffer(segment.content)
        self.features = ChunkBuffer(segment.features(""))
        self.compute = LogMel(segment.spec)
        self._spec = segment.spec

    def normalize(self, basis: Basis, logmel: npt.NDArray[np.float32]) -> None:
        """Fill `features` from rows of log-mel."""
        basis.normalize((represent(self._spec, row) for row in logmel), self.features.rows)


class _Local(threading.local):
    """One workbench per thread: fresh memory for every chunk would be faulted in page by page (see docs/log.md)."""

    key: tuple[FeatureSpec, tuple[int, ...]] | None = None
    memory: ChunkMemory


_local = _Local()


def _chunk_memory(segment: Segment) -> ChunkMemory:
    key = segment.spec, segment.logmel.chunk_shape
    if _local.key != key:
        _local.memory, _local.key = ChunkMemory(segment), key
    return _local.memory


def compute_chunk(task: ComputeChunk) -> ChunkDone:
    """Read, compute, write log-mel (and features, when there is a basis), and note what was written."""
    compute = _chunk_memory(task.segment).compute
    windows = RawWindows(task.keys, task.size_bytes, task.windows, task.wanted, task.aligned)
    return write_rows(task, lambda logmel: compute_rows(open_objects(task.raw_url), windows, compute, logmel))


def write_rows(task: ComputeChunk, fill: Fill) -> ChunkDone:
    """Write a chunk of log-mel, and all that follows from it.

    Another build may be at the same chunk, of another snapshot even, in which other captures are approved: the first to
    write its log-mel decides, and all the rest follows from that, whoever computes it.

    Args:
        task: which chunk.
        fill: fills (row, 3, n_mels, n_frames) with log-mel; returns the bytes it read, and the rows that it rejects.
    """
    segment, memory = task.segment, _chunk_memory(task.segment)
    objects = open_objects(task.store_url)
    logmel: npt.NDArray[np.float32] = memory.logmel.rows
    n_bytes, rejections = fill(logmel)
    n_rows = len(task.keys)
    for row in rejections:
        logmel[row] = np.nan
    crcs = {"logmel": put_once(objects, f"{segment.path}/logmel", segment.logmel, task.chunk, memory.logmel)}
    rejected = _as_written(logmel[:n_rows], rejections)
    valid = np.ones(n_rows, bool)
    valid[list(rejected)] = False
    for row in range(n_rows):
        memory.content.rows[row] = content_digest(logmel[row]) if valid[row] else 0
    crcs["content"] = memory.content.seal(n_rows)
    writes: list[Callable[[], object]] = [
        lambda: objects.put(f"{segment.path}/content/{segment.content.key(task.chunk)}", memory.content.data)
    ]
    moments = None
    if task.basis is None:
        moments = chunk_moments(segment.spec, logmel, valid & task.train)
    else:
        name, basis = features_name(task.basis.id), task.basis
        memory.normalize(basis, logmel[:n_rows])
        writes.append(lambda: crcs.update({name: _put_features(objects, segment, basis, task.chunk, memory)}))
    map_concurrently(objects, lambda write: write(), writes)
    start = segment.logmel.rows(task.chunk).start
    part = Part(crcs, {start + row: (rejections.reason, rejections.detail) for row, rejections in rejected.items()})
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


def _as_written(logmel: npt.NDArray[np.float32], rejected: Mapping[int, Rejection]) -> dict[int, Rejection]:
    """Which rows of a chunk are rejected: those without values, whoever wrote it."""
    given_up = Rejection(Reason.MISSING_OBJECT, "another build gave it up; the next build computes it")
    return {row: rejected.get(row, given_up) for row in np.flatnonzero(np.isnan(logmel[:, 0, 0, 0])).tolist()}


def content_digest(logmel: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """(16,) what tells one log-mel tensor from another: XXH3-128, which costs a thousandth of computing it."""
    return np.frombuffer(xxhash.xxh3_128_digest(np.ascontiguousarray(logmel, "<f4").data), np.uint8)


def fit_chunk(task: FitChunk) -> ChunkDone:
    """Moments of the train rows of a chunk."""
    layout = task.segment.logmel
    rows = read_chunk(open_objects(task.store_url), f"{task.segment.path}/logmel", layout, task.chunk, task.crc)
    moments = chunk_moments(task.segment.spec, rows, task.train)
    return ChunkDone(task.segment.segment, task.chunk, len(rows), rows.nbytes, moments=moments)


def normalize_chunk(task: NormalizeChunk) -> ChunkDone:
    """Write the features of a chunk."""
    objects, layout = open_objects(task.store_url), task.segment.logmel
    rows = read_chunk(objects, f"{task.segment.path}/logmel", layout, task.chunk, task.crc)
    memory = _chunk_memory(task.segment)
    memory.normalize(task.basis, rows)
    crc = _put_features(objects, task.segment, task.basis, task.chunk, memory)
    part = Part({features_name(task.basis.id): crc}, {})
    return ChunkDone(task.segment.segment, task.chunk, len(rows), rows.nbytes, part)


def chunk_moments(spec: FeatureSpec, logmel: npt.NDArray[np.float32], train: Mask) -> Moments:
    """Moments of what is stored of the train rows of a chunk."""
    rows = (represent(spec, logmel[row]) for row in np.flatnonzero(train))  # one by one: no copy of a whole chunk
    return Moments.of(rows, spec.tensor_shape[:2])


def _put_features(objects: Objects, segment: Segment, basis: Basis, chunk: int, memory: ChunkMemory) -> int:
    """Write what `memory.normalize` made."""
    path = f"{segment.path}/{features_name(basis.id)}"
    return put_once(objects, path, segment.features(basis.id), chunk, memory.features)
