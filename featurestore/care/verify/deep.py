"""Are the tensors of a set what its recordings say? A sample of rows is computed from IQ again and compared."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from featurestore.build.align import SESSION
from featurestore.build.rows_from_iq import compute_rows
from featurestore.care.verify.agreement import TOLERANCE_DB, features_agree, logmel_difference
from featurestore.care.verify.inspection import Inspector
from featurestore.care.verify.recordings import Sources, find_aligned_sources, find_sources
from featurestore.objects.objects import Location, Objects, open_objects
from featurestore.progress import Progress
from featurestore.source.catalog import asked_again, read_snapshot
from featurestore.store.bases import represent
from featurestore.store.chunks import ArrayLayout
from featurestore.store.feature_set import FeatureSet
from featurestore.store.segments import Segment, features_name
from featurestore.store.split import Split
from featurestore.tensor.mel import LogMel

DIFFERS = "differs"
ROWS_AT_ONCE = 64
"""As many tensors are in memory."""

Index = npt.NDArray[np.int64]


@dataclass(frozen=True)
class DeepCheck:
    """What to compare.

    Attributes:
        raw: where the captures are.
        rows: how many rows to compute again, at most.
        seed: decides which.
        catalog: PostgreSQL connection string; asked where a row comes from all recordings of a session.
    """

    raw: Location
    rows: int = 64
    seed: int = 0
    catalog: str = field(default="", repr=False)  # it may hold a password


@dataclass(frozen=True)
class SampleReport:
    """What comparing a sample with the recordings gave.

    Attributes:
        rows: compared.
        served: rows of the set, of which they are a sample.
        differ: rows that differ, or can't be computed any more; each in a problem, too.
        not_found: ids of sampled captures whose recording is gone or was replaced since; their rows are not compared.
        skipped: sampled rows in chunks that are damaged.
    """

    rows: int
    served: int
    differ: int
    not_found: tuple[int, ...]
    skipped: int

    def largest(self) -> str:
        """The largest difference, and what is allowed; empty when nothing was compared."""
        return ""

    def lines(self) -> Iterator[str]:
        """For people."""
        yield f"  {self.rows:,} of {self.served:,} rows computed from IQ again: {self.differ:,} differ"
        if self.largest():
            yield f"  largest difference {self.largest()}"
        if self.not_found:
            some = ", ".join(map(str, self.not_found[:10])) + (", …" if len(self.not_found) > 10 else "")
            yield f"  not compared, as their recording is gone or was replaced since: captures {some}"
        if self.skipped:
            yield f"  not compared, as their chunks are not intact: {self.skipped:,} rows"


@dataclass(frozen=True)
class DeepReport(SampleReport):
    """The same of tensors.

    Attributes:
        largest_db: largest difference of log-mel, within 80 dB of a frame's peak; `None` when no row was compared.
    """

    largest_db: float | None

    def largest(self) -> str:
        """In dB."""
        return "" if self.largest_db is None else f"{self.largest_db:.2g} dB, of {TOLERANCE_DB} dB allowed"


def spread(n: int, count: int, seed: int) -> Index:
    """`count` of `0 … n − 1` (all, when there are no more), ascending: one from each of as many equal parts, by chance."""
    edges = np.linspace(0, n, min(n, count) + 1).astype(np.int64)
    return np.random.default_rng(seed).integers(edges[:-1], edges[1:])


def check_deep(inspector: Inspector, opened: FeatureSet, deep: DeepCheck, progress: Progress) -> DeepReport:
    """Compare a sample of the rows that a set serves; what differs becomes a problem.

    Args:
        inspector: has checked all objects of the set; damaged chunks of tensors are skipped, all else must be sound.
        opened: the set.
        deep: what to compare.
        progress: where to report.

    Raises:
        StoreError: when the raw location or the store refuses.
        ServiceUnavailableError: when it does not answer, or the catalog, if that is asked.
    """
    served = np.flatnonzero(opened.labels.split != Split.ABSENT)
    rows = served[spread(len(served), deep.rows, deep.seed)]
    facts = {name: opened.fact(name)[rows] for name in ("capture_id", "window", "source_digest")}
    digests = facts["source_digest"]
    if opened.spec.align == SESSION:
        snapshot = read_snapshot(deep.catalog, asked_again(str(opened.manifest.snapshot["query"])))
        sources = find_aligned_sources(deep.raw, opened.spec, snapshot, map(bytes, digests), progress)
    else:
        sources = find_sources(deep.raw, map(bytes, digests), progress)
    here = sources.has(digests)
    not_found = tuple(np.unique(facts["capture_id"][~here]).tolist())
    comparison = _Comparison(inspector, opened, sources)
    progress.start("compare with IQ", int(here.sum()), "rows")
    start = 0
    for segment in opened.segments:
        inside = np.flatnonzero(here & (rows >= start) & (rows < start + segment.n_rows))
        for group in np.split(inside, range(ROWS_AT_ONCE, len(inside), ROWS_AT_ONCE)):
            comparison.compare(segment, rows[group] - start, {name: column[group] for name, column in facts.items()})
            progress.advance(len(group))
        start += segment.n_rows
    largest = comparison.largest_db if comparison.n_rows else None
    return DeepReport(comparison.n_rows, len(served), comparison.n_differ, not_found, comparison.n_skipped, largest)


class _Comparison:
    """Compares rows, segment by segment, and counts."""

    def __init__(self, inspector: Inspector, opened: FeatureSet, sources: Sources) -> None:
        self._inspector = inspector
        self._opened = opened
        self._sources = sources
        self._raw = open_objects(sources.raw.url)
        self._compute = LogMel(opened.spec)
        self._damaged = {problem.url for problem in inspector.problems}
        self.n_rows = self.n_differ = self.n_skipped = 0
        self.largest_db = 0.0

    def compare(self, segment: Segment, rows: Index, facts: dict[str, npt.NDArray[Any]]) -> None:
        """Compare some rows of a segment, given their facts."""
        intact = np.array([not self._damaged.intersection(self._urls(segment, row)) for row in rows.tolist()], bool)
        self.n_skipped += int((~intact).sum())
        rows, facts = rows[intact], {name: column[intact] for name, column in facts.items()}
        if not len(rows):
            return
        self.n_rows += len(rows)
        for i, (array, finding) in self._findings(segment, rows, facts).items():
            capture, window = facts["capture_id"][i].item(), facts["window"][i].item()
            detail = f"row {rows[i]} (capture {capture}, window {window}), computed from IQ again: {finding}"
            self.n_differ += 1
            key = self._urls(segment, int(rows[i]))[array].removeprefix(f"{self._opened.objects.location}/")
            self._inspector.note(DIFFERS, key, detail, (capture,))

    def _findings(self, segment: Segment, rows: Index, facts: dict[str, npt.NDArray[Any]]) -> dict[int, tuple[int, str]]:
        """What is wrong: row, among those given → which array (0 logmel, 1 features), and in words."""
        spec, basis, objects = self._opened.spec, self._opened.basis, self._opened.objects
        exact = np.zeros((len(rows), 3, spec.n_mels, spec.n_frames), np.float32)
        windows = self._sources.windows(facts["source_digest"], facts["window"].tolist(), np.ones(len(rows), bool))
        _, rejected = compute_rows(self._raw, windows, self._compute, exact)
        exact[list(rejected)] = 0
        normalized = np.stack([(represent(spec, row) - basis.mean[..., None]) / basis.std[..., None] for row in exact])
        logmel = read_rows(objects, f"{segment.path}/logmel", segment.logmel, rows)
        features = read_rows(objects, f"{segment.path}/{features_name(basis.id)}", segment.features(basis.id), rows)
        difference = logmel_difference(logmel, exact)
        agree = features_agree(spec, features, exact, normalized, basis.std)
        findings = {}
        for i in range(len(rows)):
            if i in rejected:
                findings[i] = 0, f"it can't be any more: {rejected[i].reason.label}, {rejected[i].detail}"
                continue
            if np.isfinite(difference[i]):
                self.largest_db = max(self.largest_db, float(difference[i]))
            if not difference[i] <= TOLERANCE_DB:  # or NaN
                findings[i] = 0, f"its log-mel differs by {difference[i]:.3g} dB, {TOLERANCE_DB} dB allowed"
            elif not agree[i]:
                findings[i] = 1, "its features are not what that normalizes to"
        return findings

    def _urls(self, segment: Segment, row: int) -> tuple[str, str]:
        """The chunks that hold a row: of logmel, and of features."""
        root, basis = f"{self._opened.objects.location}/{segment.path}", self._opened.basis.id
        key = segment.logmel.key(row // segment.chunk_rows)
        return f"{root}/logmel/{key}", f"{root}/{features_name(basis)}/{key}"


def read_rows(objects: Objects, path: str, layout: ArrayLayout, rows: Index) -> npt.NDArray[Any]:
    """Some rows of an array, and no more than their bytes: nothing is compressed, so each is where its number says.

    Their chunks' checksums are not looked at.
    """
    out = np.empty((len(rows), *layout.shape[1:]), layout.dtype)
    n_bytes = out.nbytes // len(rows)
    chunk, place = np.divmod(rows, layout.chunk_rows)
    for number in np.unique(chunk).tolist():
        inside = np.flatnonzero(chunk == number)
        starts = (place[inside] * n_bytes).tolist()
        parts = objects.get_ranges(f"{path}/{layout.key(number)}", starts, [start + n_bytes for start in starts])
        for i, part in zip(inside.tolist(), parts, strict=True):
            out[i] = np.frombuffer(memoryview(part), layout.dtype).reshape(layout.shape[1:])
    return out
