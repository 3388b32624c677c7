"""The merged segment of a feature set: what it will hold, and how it comes to be written, one task per chunk."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from featurestore.care.compact.copy_chunks import MergeChunk, Source, merge_chunk
from featurestore.care.compact.row_order import Index, SetRows
from featurestore.cluster.runner import open_runner
from featurestore.objects.objects import Objects
from featurestore.progress import Progress
from featurestore.store import write_segments
from featurestore.store.chunks import read_array
from featurestore.store.feature_set import FeatureSet
from featurestore.store.read_segments import READERS, begun_segment, read_features_crcs, read_marker, read_parts, read_rejected
from featurestore.store.rows import RowFacts
from featurestore.store.segments import COMPUTED, REASON, Part, Segment, complete_segment, features_name
from featurestore.store.split import Split
from featurestore.tensor.rejection import Reason, RejectedRows


class Compaction:
    """The merged segment of a set: what it will hold, and the tasks that write it."""

    def __init__(self, opened: FeatureSet) -> None:
        self._opened = opened
        self._objects: Objects = opened.objects
        self._features = features_name(opened.manifest.basis)
        self.sources = opened.segments
        markers = [read_marker(self._objects, opened.manifest.spec, source.segment) for source in self.sources]
        self._crcs = [
            {"logmel": marker["chunks"]["logmel"], self._features: opened.checksums(source)}
            for marker, source in zip(markers, self.sources, strict=True)
        ]
        self._starts = np.cumsum([0, *(source.n_rows for source in self.sources)])
        self.facts, reason = self._read_facts()
        self.served = np.not_equal(opened.labels.split, Split.ABSENT)
        rejections = {
            int(start) + row: what
            for start, marker in zip(self._starts, markers, strict=False)
            for row, what in read_rejected(marker).items()
        }
        n_windows = opened.spec.windows_per_capture
        self.index: Index = SetRows(self.facts, reason, self.served, rejections, opened.rejected, n_windows).merged()
        bad = np.flatnonzero(reason[self.index] != Reason.VALID).tolist()
        self.rejected: RejectedRows = {row: rejections[int(self.index[row])] for row in bad}
        name = self.facts.take(self.index).segment_id(opened.spec.id)
        self.segment = self._target(name)

    @property
    def n_rows(self) -> int:
        """Rows of all segments that are merged."""
        return len(self.facts)

    @property
    def bytes_to_read(self) -> int:
        """Of the chunks that rows are taken from, each once."""
        source, chunk = self._locate(self.index)
        return sum(
            self.sources[number].layout(name).chunk_bytes
            for number, _ in set(zip(source.tolist(), chunk.tolist(), strict=True))
            for name in ("logmel", self._features)
        )

    @property
    def bytes_to_write(self) -> int:
        """Of all chunks of the tensor arrays."""
        return sum(self.segment.layout(name).chunk_bytes * self.segment.n_chunks for name in (*COMPUTED, self._features))

    def run(self, progress: Progress, workers: int | None, scheduler: str | None) -> int:
        """Write what is missing of the merged segment, its marker last; returns the bytes that were read."""
        try:
            marker = read_marker(self._objects, self._opened.spec.id, self.segment.segment)
        except FileNotFoundError:
            return self._write(progress, workers, scheduler)
        if read_features_crcs(self._objects, self.segment, self._opened.manifest.basis, marker) is not None:
            return 0
        basis = self._opened.manifest.basis
        write_segments.declare_features(self._objects, self.segment, basis)
        parts, n_bytes = self._copy(progress, workers, scheduler, {}, (self._features,))
        crcs = [parts[chunk].crc32c[self._features] for chunk in range(self.segment.n_chunks)]
        write_segments.add_features(self._objects, self.segment, basis, crcs)
        return n_bytes

    def _write(self, progress: Progress, workers: int | None, scheduler: str | None) -> int:
        arrays = (*COMPUTED, self._features)
        noted = read_parts(self._objects, self.segment)
        whole = {chunk: part for chunk, part in noted.items() if part.crc32c.keys() >= {*arrays}}
        write_segments.begin(self._objects, self.segment, self.facts.take(self.index), self._opened.manifest.basis)
        parts, n_bytes = self._copy(progress, workers, scheduler, whole, arrays)
        of_this_basis = {
            chunk: Part({name: part.crc32c[name] for name in arrays}, part.rejected) for chunk, part in parts.items()
        }
        marker = write_segments.finish(self._objects, self.segment, of_this_basis)
        if self._features not in marker["chunks"]:  # somebody else's marker, completed with another basis
            crcs = [of_this_basis[chunk].crc32c[self._features] for chunk in range(self.segment.n_chunks)]
            write_segments.add_features(self._objects, self.segment, self._opened.manifest.basis, crcs)
        return n_bytes

    def _copy(
        self, progress: Progress, workers: int | None, scheduler: str | None, whole: dict[int, Part], arrays: tuple[str, ...]
    ) -> tuple[dict[int, Part], int]:
        """Run the tasks of all chunks that are not whole yet."""
        parts, n_bytes = dict(whole), 0
        progress.start("merge segments", self.segment.n_rows, "rows")
        layout = self.segment.logmel
        progress.advance(sum(len(layout.rows(chunk)) for chunk in whole))
        with open_runner(workers, scheduler, progress, self.segment.n_chunks - len(whole)) as runner:
            for done in runner.run(merge_chunk, self._tasks(whole, arrays)):
                if done.part is not None:
                    parts[done.chunk] = done.part
                n_bytes += done.n_bytes
                progress.advance(done.rows, done.n_bytes)
        return parts, n_bytes

    def _tasks(self, whole: dict[int, Part], arrays: tuple[str, ...]) -> Iterator[MergeChunk]:
        source, chunk = self._locate(self.index)
        first_chunk = np.cumsum([0, *(segment.n_chunks for segment in self.sources)])
        unit = first_chunk[source] + chunk  # (row,) number of its source chunk among all
        last_use = np.zeros(first_chunk[-1], np.int64)
        np.maximum.at(last_use, unit, np.arange(len(unit)) // self.segment.chunk_rows)
        for number in range(self.segment.n_chunks):
            if number in whole:
                continue
            rows = self.segment.logmel.rows(number)
            here = slice(rows.start, rows.stop)
            order = np.argsort(unit[here], kind="stable")
            units, starts = np.unique(unit[here][order], return_index=True)
            yield MergeChunk(
                self._objects.location.url,
                self.segment,
                number,
                arrays,
                tuple(
                    self._source(int(source[rows.start + targets[0]]), self.index[here][targets], targets, int(last_use[which]))
                    for which, targets in zip(units.tolist(), np.split(order, starts[1:]), strict=True)
                ),
                {row: self.rejected[row] for row in rows if row in self.rejected},
            )

    def _source(self, number: int, index: Index, targets: Index, last_use: int) -> Source:
        segment = self.sources[number]
        rows = index - self._starts[number]
        chunk = int(rows[0]) // segment.chunk_rows
        crcs = {name: crcs[chunk] for name, crcs in self._crcs[number].items()}
        return Source(segment, chunk, crcs, rows - chunk * segment.chunk_rows, targets, last_use)

    def _locate(self, index: Index) -> tuple[Index, Index]:
        """The segment of each of the set's rows, and the chunk there."""
        source = np.searchsorted(self._starts, index, side="right") - 1
        per_chunk = np.array([segment.chunk_rows for segment in self.sources])
        return source, (index - self._starts[source]) // per_chunk[source]

    def _target(self, name: str) -> Segment:
        """The merged segment, cut as it is or was begun, or as is usual."""
        try:
            return complete_segment(self._opened.spec, read_marker(self._objects, self._opened.spec.id, name))
        except FileNotFoundError:
            return begun_segment(self._objects, self._opened.spec, name, len(self.index))

    def _read_facts(self) -> tuple[RowFacts, npt.NDArray[np.uint8]]:
        names = [*(field.name for field in fields(RowFacts)), REASON]
        with ThreadPoolExecutor(READERS) as pool:
            columns = [np.concatenate(list(pool.map(partial(self._read_column, name), self.sources))) for name in names]
        return RowFacts(*columns[:-1]), columns[-1]

    def _read_column(self, name: str, source: Segment) -> npt.NDArray[Any]:
        return read_array(self._objects, f"{source.path}/{name}")
