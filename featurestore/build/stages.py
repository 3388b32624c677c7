"""Make the tensors of a plan exist: compute what is missing, fit or keep a basis, normalize, complete the segments."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from featurestore.build.batch import Batch
from featurestore.build.chunk_tasks import (
    ChunkDone,
    ComputeChunk,
    FitChunk,
    NormalizeChunk,
    compute_chunk,
    fit_chunk,
    normalize_chunk,
)
from featurestore.build.plan import Plan, SegmentUse
from featurestore.build.rows_from_iq import Aligned
from featurestore.cluster.runner import Runner
from featurestore.objects.concurrently import map_concurrently
from featurestore.objects.objects import Objects
from featurestore.progress import Progress
from featurestore.store import write_segments
from featurestore.store.bases import Basis, current_basis, write_basis
from featurestore.store.gc_notices import gone
from featurestore.store.read_segments import open_begun, read_features_crcs, read_marker
from featurestore.store.segments import COMPUTED, Part, complete_segment, features_name, segments_path
from featurestore.store.split import Split
from featurestore.tensor.moments import merge_all
from featurestore.tensor.rejection import RejectedRows

REFIT_GROWTH = 2
"""A basis is fitted anew when a set has more than so many times the train rows that it came from."""


class TensorBuild:
    """The middle of a build, step by step: `open`, `compute`, `fit`, `normalize`, `complete`."""

    def __init__(self, plan: Plan, raw_url: str, objects: Objects, progress: Progress) -> None:
        self._plan = plan
        self._raw_url = raw_url
        self._objects = objects
        self._progress = progress
        self.n_bytes = 0
        self.batches = map_concurrently(objects, self._open, plan.segments)

    def _open(self, use: SegmentUse) -> Batch:
        spec = self._plan.spec
        if use.reason is not None:
            try:
                marker = read_marker(self._objects, spec.id, use.segment)
            except FileNotFoundError as error:  # it was there when the plan was made
                raise gone(self._objects, f"{segments_path(spec.id)}/{use.segment}") from error
            return Batch(use, complete_segment(spec, marker), marker)
        segment, parts = open_begun(self._objects, spec, use.segment, len(use.rows))
        return Batch(use, segment, parts=parts, found_parts=frozenset(parts))

    def current_basis(self) -> Basis | None:
        """The basis that builds keep, as the store has it now."""
        return current_basis(self._objects, self._plan.spec.id)

    def chunks_to_compute(self) -> int:
        """Chunks that no build has written yet."""
        return sum(len(batch.missing_chunks) for batch in self.batches)

    def chunks_to_normalize(self, basis: Basis | None) -> list[tuple[Batch, int]]:
        """Chunks whose log-mel exists, and whose features of a basis do not: all of them when it is still to be fitted."""
        if basis is None:
            return [(batch, chunk) for batch in self.batches for chunk in batch.written_chunks]
        known = map_concurrently(self._objects, lambda batch: self._known_crcs(batch, basis), self.batches)
        name = features_name(basis.id)
        return [
            (batch, chunk)
            for batch, crcs in zip(self.batches, known, strict=True)
            for chunk in batch.written_chunks
            if crcs is None and (batch.marker is not None or name not in batch.parts[chunk].crc32c)
        ]

    def _known_crcs(self, batch: Batch, basis: Basis) -> list[int] | None:
        if batch.marker is None:
            return None
        return read_features_crcs(self._objects, batch.segment, basis.id, batch.marker)

    def train_mask(self, batch: Batch, served: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """(n,) rows among `served` that are in the train split."""
        split = np.where(batch.use.wanted, self._plan.capture_split[batch.use.capture], Split.ABSENT)
        train: npt.NDArray[np.bool_] = served & (split == Split.TRAIN)
        return train

    def train_rows(self) -> int:
        """Valid rows of the train split; before `compute`, those that are not known to be rejected."""
        return sum(int(self.train_mask(batch, batch.served).sum()) for batch in self.batches)

    def compute(self, runner: Runner, basis: Basis | None, on_part: Callable[[SegmentUse, RejectedRows], None]) -> None:
        """Compute and write every chunk that is missing; normalized at once when there is a basis already.

        Args:
            runner: where tasks run.
            basis: to normalize with.
            on_part: is told of the rows that each chunk rejects; may raise to give up.
        """
        to_begin = [batch for batch in self.batches if batch.marker is None]
        name = None if basis is None else basis.id
        map_concurrently(
            self._objects, lambda batch: write_segments.begin(self._objects, batch.segment, batch.use.rows, name), to_begin
        )
        n_rows = sum(int(batch.use.wanted.sum()) for batch in self.batches if batch.marker is None)
        if not n_rows:
            return
        self._progress.start("compute tensors", n_rows, "rows")
        for batch in self.batches:
            for chunk in sorted(batch.found_parts):
                self._progress.advance(int(batch.use.wanted[batch.rows(chunk)].sum()))
        by_name = {batch.segment.segment: batch for batch in self.batches}
        for done in runner.run(compute_chunk, self._compute_tasks(basis)):
            batch = by_name[done.segment]
            _keep_moments(batch, done)
            self.n_bytes += done.n_bytes
            self._progress.advance(int(batch.use.wanted[batch.rows(done.chunk)].sum()), done.n_bytes)
            if done.part is not None:
                batch.parts[done.chunk] = done.part
                on_part(batch.use, done.part.rejected)

    def _compute_tasks(self, basis: Basis | None) -> Iterator[ComputeChunk]:
        plan = self._plan
        for batch in self.batches:
            use = batch.use
            train = self.train_mask(batch, use.wanted)
            for chunk in batch.missing_chunks:
                rows = batch.rows(chunk)
                keys = plan.snapshot.keys_at(use.capture[rows])  # of a row that is not wanted: some other capture's
                yield ComputeChunk(
                    self._raw_url,
                    self._objects.location.url,
                    batch.segment,
                    chunk,
                    [key if wanted else "" for key, wanted in zip(keys, use.wanted[rows].tolist(), strict=True)],
                    plan.listing.size_bytes[use.capture[rows]].tolist(),
                    use.rows.window[rows].tolist(),
                    use.wanted[rows],
                    train[rows],
                    basis,
                    self._aligned(use.capture[rows], use.wanted[rows]),
                )

    def _aligned(self, capture: npt.NDArray[np.int64], wanted: npt.NDArray[np.bool_]) -> list[Aligned | None]:
        """Of each row, with which captures its windows begin together."""
        plan = self._plan
        if plan.alignment is None:
            return []
        return [
            plan.alignment.recordings(each, plan.snapshot, plan.listing) if is_wanted else None
            for each, is_wanted in zip(capture.tolist(), wanted.tolist(), strict=True)
        ]

    def fit(self, runner: Runner) -> Basis:
        """Fit a basis to the train rows, and write it. Moments that `compute` did not leave come from stored log-mel."""
        masks = [self.train_mask(batch, batch.served) for batch in self.batches]
        by_name = {batch.segment.segment: batch for batch in self.batches}
        tasks = [
            FitChunk(self._objects.location.url, batch.segment, chunk, batch.logmel_crc(chunk), mask[batch.rows(chunk)])
            for batch, mask in zip(self.batches, masks, strict=True)
            for chunk in range(batch.segment.n_chunks)
            if chunk not in batch.moments and mask[batch.rows(chunk)].any()
        ]
        if tasks:
            self._run("fit basis", runner, fit_chunk, tasks, lambda done: _keep_moments(by_name[done.segment], done))
        parts = (batch.moments[chunk] for batch in self.batches for chunk in sorted(batch.moments))
        moments = merge_all(parts, self._plan.spec.tensor_shape[:2])
        segments = [batch.segment.segment for batch in self.batches]
        origin = {"split": self._plan.split.to_json(), "segments": segments}
        basis = Basis.fit(moments, sum(int(mask.sum()) for mask in masks), origin)
        write_basis(self._objects, self._plan.spec, basis)
        return basis

    def normalize(self, runner: Runner, basis: Basis) -> None:
        """Write the features of every chunk that has none of this basis."""
        name = features_name(basis.id)
        tasks = []
        known_crcs = map_concurrently(self._objects, lambda batch: self._known_crcs(batch, basis), self.batches)
        undeclared = []
        for batch, known in zip(self.batches, known_crcs, strict=True):
            batch.crcs = {chunk: part.crc32c[name] for chunk, part in batch.parts.items() if name in part.crc32c}
            if known is not None:
                batch.crcs, batch.is_normalized = dict(enumerate(known)), True
            missing = [chunk for chunk in range(batch.segment.n_chunks) if chunk not in batch.crcs]
            undeclared += [batch] if missing else []
            tasks += [
                NormalizeChunk(self._objects.location.url, batch.segment, chunk, batch.logmel_crc(chunk), basis)
                for chunk in missing
            ]
        by_name = {batch.segment.segment: batch for batch in self.batches}
        with ThreadPoolExecutor(1, "declare features") as pool:  # what they are needed for comes later
            declared = pool.submit(self._declare, undeclared, basis)
            if tasks:
                self._run(
                    "normalize", runner, normalize_chunk, tasks, lambda done: _keep_crc(by_name[done.segment], done, name)
                )
            declared.result()

    def _declare(self, batches: list[Batch], basis: Basis) -> None:
        map_concurrently(
            self._objects, lambda batch: write_segments.declare_features(self._objects, batch.segment, basis.id), batches
        )

    def complete(self, basis: Basis) -> None:
        """Write the markers: `segment.json` of new segments, `features-{basis}.json` of old ones."""
        map_concurrently(self._objects, lambda batch: self._complete(batch, basis.id), self.batches)

    def _complete(self, batch: Batch, basis: str) -> None:
        name = features_name(basis)
        crcs = [batch.crcs[chunk] for chunk in range(batch.segment.n_chunks)]
        if batch.marker is not None:
            if not batch.is_normalized:
                write_segments.add_features(self._objects, batch.segment, basis, crcs)
            return
        parts = {
            chunk: Part({**{kind: part.crc32c[kind] for kind in COMPUTED}, name: batch.crcs[chunk]}, part.rejected)
            for chunk, part in batch.parts.items()
        }
        batch.marker = write_segments.finish(self._objects, batch.segment, parts)
        if name not in batch.marker["chunks"]:  # another build completed it first, with a basis of its own
            write_segments.add_features(self._objects, batch.segment, basis, crcs)

    def _run(
        self,
        stage: str,
        runner: Runner,
        function: Callable[[Any], ChunkDone],
        tasks: list[Any],
        keep: Callable[[ChunkDone], None],
    ) -> None:
        self._progress.start(stage, sum(len(task.segment.logmel.rows(task.chunk)) for task in tasks), "rows")
        for done in runner.run(function, tasks):
            keep(done)
            self._progress.advance(done.rows, done.n_bytes)


def _keep_moments(batch: Batch, done: ChunkDone) -> None:
    if done.moments is not None:
        batch.moments[done.chunk] = done.moments


def _keep_crc(batch: Batch, done: ChunkDone, name: str) -> None:
    if done.part is not None:
        batch.crcs[done.chunk] = done.part.crc32c[name]


def needs_fit(refit: str, basis: Basis | None, train_rows: int) -> bool:
    """Whether a set with so many train rows gets a new basis, under `--refit auto|always|never`."""
    if basis is None or refit == "always":
        return True
    return refit == "auto" and train_rows > REFIT_GROWTH * basis.rows
