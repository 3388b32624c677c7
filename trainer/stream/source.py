"""The chunks of a feature set, each checked when it is read, once more if need be, and kept in memory on request."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from featurestore.errors import HeimdallError, StoreError
from featurestore.objects.objects import ReadBytes
from featurestore.store.chunks import CRC_BYTES, REPAIR, ArrayLayout, decode_chunk, read_array
from featurestore.store.feature_set import FeatureSet
from featurestore.store.segments import Segment, features_name
from trainer.stream.chunk_table import ChunkTable
from trainer.stream.mapped import map_file
from trainer.stream.options import StreamOptions

MAX_NAMED = 32
"""Captures that an error names; of a chunk with more, the message says how many."""

Tensors = npt.NDArray[np.float16]
Key = tuple[int, int]
"""Number of a segment in its set, and of a chunk in its segment."""


class ChunkError(StoreError):
    """A chunk that stays missing or damaged.

    Attributes:
        key: its URL.
        capture_ids: of the captures whose tensors it holds, in ascending order; empty when they cannot be read either.
    """

    def __init__(self, reason: str, key: str, capture_ids: list[int]) -> None:
        self.key = key
        self.capture_ids = capture_ids
        named = ", ".join(map(str, capture_ids[:MAX_NAMED])) or "unknown, as the segment's facts cannot be read either"
        more = f" and {len(capture_ids) - MAX_NAMED} more" if len(capture_ids) > MAX_NAMED else ""
        super().__init__(f"{reason}. It was fetched twice. It holds the captures {named}{more}")


def free_memory_bytes() -> int:
    """Memory that nobody uses, page cache not counted."""
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def huge_empty(n_bytes: int) -> npt.NDArray[np.uint8]:
    """Memory to be used again and again, at a multiple of 64 bytes.

    numpy asks for huge pages where torch, bytes objects and obstore do not: they are gathered from and into with half the
    effort. And on AMD's Zen 3 a copy to memory that does not begin at a multiple of 32 bytes, as numpy's own does, runs at a
    tenth of the speed.
    """
    memory = np.empty(n_bytes + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + n_bytes]


@dataclass(frozen=True)
class Fetched:
    """A chunk, and what it took.

    Attributes:
        rows: (row, 3, band, frame) float16, padding included.
        memory: in which they are, to be given back; `None` where they are a file's.
        n_bytes: that were read.
        again: whether it was fetched twice.
    """

    rows: Tensors
    memory: npt.NDArray[np.uint8] | None
    n_bytes: int
    again: bool


class ChunkSource:
    """The chunks of a set's features, each checked against the set's checksum; of chosen splits they are kept in memory.

    Args:
        feature_set: to be read.
        options: of the stream.

    Raises:
        StoreError: when a segment, or its features, are not there.
    """

    def __init__(self, feature_set: FeatureSet, options: StreamOptions) -> None:
        self.feature_set = feature_set
        self.segments: list[Segment] = feature_set.segments
        basis = feature_set.manifest.basis
        self._array = features_name(basis)
        self._layouts: list[ArrayLayout] = [segment.features(basis) for segment in self.segments]
        self._crcs = [feature_set.checksums(segment) for segment in self.segments]
        self._budget_bytes = options.cache_bytes if options.cache_bytes is not None else free_memory_bytes() // 2
        self._to_cache: set[Key] = set()
        self._cache: dict[Key, Fetched] = {}
        self._free: dict[int, list[npt.NDArray[np.uint8]]] = {}

    @property
    def tensor_shape(self) -> tuple[int, ...]:
        """(3, band, frame)."""
        return self.feature_set.spec.tensor_shape

    def table(self, wanted: int) -> ChunkTable:
        """The chunks that hold rows of a split."""
        sizes = [(segment.n_rows, segment.chunk_rows) for segment in self.segments]
        return ChunkTable.of(sizes, self.feature_set.labels.split, wanted)

    def cache(self, table: ChunkTable, *, always: bool) -> bool:
        """Keep the chunks of a table in memory from their first use on, if they fit, or always; returns whether it will."""
        keys = set(zip(table.segment.tolist(), table.chunk.tolist(), strict=True)) - self._to_cache
        n_bytes = sum(self._layouts[segment].chunk_bytes for segment, _ in keys)
        if n_bytes > self._budget_bytes and not always:
            return False
        self._budget_bytes -= n_bytes
        self._to_cache |= keys
        return True

    def cached(self, key: Key) -> Fetched | None:
        """A chunk, if it is in memory."""
        return self._cache.get(key)

    def fetch(self, key: Key) -> Fetched:
        """Read a chunk; once more if it is missing or damaged.

        Raises:
            ChunkError: when it still is.
            ServiceUnavailableError: when the store does not answer.
        """
        segment, chunk = key
        layout = self._layouts[segment]
        name = f"{self.segments[segment].path}/{self._array}/{layout.key(chunk)}"
        url, n_bytes, failed = f"{self.feature_set.objects.location}/{name}", 0, ""
        # A local file that need not stay is mapped instead of being read.
        in_place = self.feature_set.objects.location.is_local and key not in self._to_cache
        memory = None if in_place else self._take(layout.chunk_bytes + CRC_BYTES)
        for again in (False, True):
            try:
                data = self._read(name, layout.chunk_bytes + CRC_BYTES, memory)
                n_bytes += len(data)
                rows: Tensors = decode_chunk(data, layout, url, self._crcs[segment][chunk])
            except FileNotFoundError:
                failed = f"{url} is missing; {REPAIR}"
            except StoreError as error:
                failed = str(error)
            else:
                fetched = Fetched(rows, memory, n_bytes, again)
                if key in self._to_cache:
                    self._cache[key] = fetched
                return fetched
        raise ChunkError(failed, url, self._captures(key))

    def release(self, key: Key, fetched: Fetched) -> None:
        """Say that nobody looks at a chunk any more: its memory is for the next one, unless it is to be kept."""
        if key not in self._to_cache and fetched.memory is not None:
            self._free.setdefault(len(fetched.memory), []).append(fetched.memory)

    def _read(self, name: str, n_bytes: int, memory: npt.NDArray[np.uint8] | None) -> ReadBytes | memoryview:
        objects = self.feature_set.objects
        if memory is not None:
            return objects.read_into(name, memory.data)
        mapped = map_file(objects.location.directory / name, n_bytes)
        return mapped if mapped is not None else objects.read(name)

    def _take(self, n_bytes: int) -> npt.NDArray[np.uint8]:
        try:
            return self._free[n_bytes].pop()
        except LookupError:
            return huge_empty(n_bytes)

    def _captures(self, key: Key) -> list[int]:
        segment, chunk = key
        rows = self._layouts[segment].rows(chunk)
        try:
            capture_id = read_array(self.feature_set.objects, f"{self.segments[segment].path}/capture_id")
        except HeimdallError:  # the chunk is what is to be reported
            return []
        return sorted(set(capture_id[rows.start : rows.stop].tolist()))
