"""What workers do to merge segments: one chunk of the merged one at a time, from checked chunks of those it comes from."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from featurestore.build.chunk_tasks import ChunkDone, content_digest
from featurestore.objects.objects import Objects, open_objects
from featurestore.store.chunks import ChunkBuffer, read_chunk
from featurestore.store.segments import Part, Segment
from featurestore.tensor.rejection import RejectedRows

CACHE_BYTES = 256 * 2**20
"""Source chunks that a process keeps for its next tasks: those of small segments have rows for almost every chunk."""

READERS = 4
"""Chunks read at once from a remote store; they are what a task's memory goes to."""

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Source:
    """A chunk of a source segment, and which of its rows go where.

    Attributes:
        segment: that it belongs to.
        chunk: its number there.
        crcs: its checksum in each array that is copied.
        rows: (m,) rows within the chunk.
        targets: (m,) rows within the chunk that is written.
        last_use: number of the last chunk to be written that takes rows from it.
    """

    segment: Segment
    chunk: int
    crcs: dict[str, int]
    rows: npt.NDArray[np.int64]
    targets: npt.NDArray[np.int64]
    last_use: int


@dataclass(frozen=True)
class MergeChunk:
    """Write one chunk of a merged segment.

    Attributes:
        store_url: where all of it is.
        segment: the merged one.
        chunk: number of the chunk.
        arrays: to be written: `logmel`, `content` and features, or only features, of a segment that is complete otherwise.
        sources: where its rows come from.
        rejected: its rejected rows, by their number in the merged segment.
    """

    store_url: str
    segment: Segment
    chunk: int
    arrays: tuple[str, ...]
    sources: tuple[Source, ...]
    rejected: RejectedRows


def merge_chunk(task: MergeChunk) -> ChunkDone:
    """Copy the rows, write the chunk of every array, and note what was written."""
    objects, segment = open_objects(task.store_url), task.segment
    buffers = {name: ChunkBuffer(segment.layout(name)) for name in task.arrays}
    rows = segment.logmel.rows(task.chunk)
    n_bytes = 0
    for source, name, found, n_read in _read_ahead(objects, task):
        buffers[name].rows[source.targets] = found[source.rows]
        n_bytes += n_read
    if "content" in buffers:  # cheaper to make than to fetch
        for row, number in enumerate(rows):
            digest = 0 if number in task.rejected else content_digest(buffers["logmel"].rows[row])
            buffers["content"].rows[row] = digest
    crcs = {}
    for name, buffer in buffers.items():
        crcs[name] = buffer.seal(len(rows))
        objects.put(f"{segment.path}/{name}/{segment.layout(name).key(task.chunk)}", buffer.data)
    part = Part(crcs, task.rejected)
    if "logmel" in crcs:
        objects.put_json(segment.part_path(task.chunk), part.to_json())
    return ChunkDone(segment.segment, task.chunk, len(rows), n_bytes, part)


def _read_ahead(objects: Objects, task: MergeChunk) -> Iterator[tuple[Source, str, Array, int]]:
    """The chunks that a task copies from, with the bytes that were read for each."""

    def read(wanted: tuple[Source, str]) -> tuple[Source, str, Array, int]:
        source, name = wanted
        return source, name, *_cache.read(objects, task, source, name)

    remaining = iter([(source, name) for source in task.sources for name in task.arrays if name != "content"])
    if objects.location.is_local:
        yield from map(read, remaining)
        return
    with ThreadPoolExecutor(READERS) as pool:
        while batch := list(islice(remaining, READERS)):
            yield from pool.map(read, batch)


@dataclass
class _Cache:
    """Source chunks that later chunks of the same merged segment take rows from, too; used by several threads.

    Tasks come in the order of their chunks, and so do the rows that they take. So what is in use stays until its last use,
    and what has no room is read again: nothing is thrown out just before it is wanted.
    """

    chunks: dict[tuple[str, str, int], tuple[Array, int]] = field(default_factory=dict)
    target: str = ""
    n_bytes: int = 0
    lock: Lock = field(default_factory=Lock)

    def read(self, objects: Objects, task: MergeChunk, source: Source, name: str) -> tuple[Array, int]:
        """A chunk, checked, and the bytes read for it: none if it was kept."""
        path = f"{source.segment.path}/{name}"
        key = task.store_url, path, source.chunk
        with self.lock:
            self._forget(task)
            if key in self.chunks:
                return self.chunks[key][0], 0
        rows = read_chunk(objects, path, source.segment.layout(name), source.chunk, source.crcs[name])
        with self.lock:
            if source.last_use > task.chunk and self.n_bytes + rows.nbytes <= CACHE_BYTES and key not in self.chunks:
                self.chunks[key] = rows, source.last_use
                self.n_bytes += rows.nbytes
        return rows, rows.nbytes

    def _forget(self, task: MergeChunk) -> None:
        """Drop what no task wants any more."""
        if self.target != task.segment.path:
            self.chunks.clear()
            self.target = task.segment.path
        self.chunks = {key: kept for key, kept in self.chunks.items() if kept[1] >= task.chunk}
        self.n_bytes = sum(rows.nbytes for rows, _ in self.chunks.values())


_cache = _Cache()
