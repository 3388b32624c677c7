"""Are the pairs of a set what its recordings say? The pairs of a sample of sessions are computed again and compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from featurestore.care.verify.deep import DIFFERS, DeepCheck, SampleReport, spread
from featurestore.care.verify.inspection import Inspector
from featurestore.objects.objects import open_objects
from featurestore.pairs.care.recordings import Recordings, find_recordings
from featurestore.pairs.chunk_tasks import PairChunk, SessionTask, fill_chunk
from featurestore.pairs.pair_set import PairSet
from featurestore.pairs.rows import PairRows
from featurestore.pairs.segments import COMPUTED, MEASURED, PairSegment
from featurestore.progress import Progress
from featurestore.store.split import Split

SIGMA_SHARE = 0.05
"""Delays may differ by this share of their sigma: another FFT build rounds otherwise."""
CORRELATION = 0.005
"""So much may a correlation differ; it is stored as float16, and 1 where all of the band agrees."""

Columns = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class PairSampleReport(SampleReport):
    """What comparing a sample of pairs gave.

    Attributes:
        largest_sigma: largest difference of a delay, as a share of its sigma; `None` when no pair was compared.
    """

    largest_sigma: float | None

    def largest(self) -> str:
        """In sigmas."""
        return "" if self.largest_sigma is None else f"{self.largest_sigma:.2g} sigma of a delay, of {SIGMA_SHARE} allowed"


def check_pairs_deep(inspector: Inspector, opened: PairSet, deep: DeepCheck, progress: Progress) -> PairSampleReport:
    """Compare about `deep.rows` pairs that a set serves, those of whole sessions; what differs becomes a problem.

    Args:
        inspector: has checked all objects of the set; damaged chunks of pairs are skipped, all else must be sound.
        opened: the set.
        deep: what to compare.
        progress: where to report.

    Raises:
        StoreError: when the raw location or the store refuses.
        ServiceUnavailableError: when it does not answer, or the catalog.
    """
    recordings = find_recordings(opened, deep.raw, deep.catalog, progress)
    comparison = _Comparison(inspector, opened, deep, recordings)
    n_served = int((comparison.split != Split.ABSENT).sum())
    sessions = comparison.served_sessions()
    wanted = max(1, round(deep.rows * len(sessions) / max(1, n_served)))
    progress.start("compare with IQ", min(wanted, len(sessions)), "sessions")
    by_chunk: dict[tuple[int, int], list[tuple[bytes, int, int]]] = {}
    for number, *session in (sessions[i] for i in spread(len(sessions), wanted, deep.seed).tolist()):
        segment = opened.segments[number]
        by_chunk.setdefault((number, session[1] // segment.chunk_rows), []).append(tuple(session))
    for (number, chunk), chosen in by_chunk.items():
        comparison.compare(number, chunk, chosen)
        progress.advance(len(chosen))
    return comparison.report(n_served)


class _Comparison:
    """Compares sessions, chunk by chunk, and counts."""

    def __init__(self, inspector: Inspector, opened: PairSet, deep: DeepCheck, recordings: Recordings) -> None:
        self._inspector, self._opened, self._recordings = inspector, opened, recordings
        self._raw = open_objects(deep.raw.url)
        self._damaged = {problem.url for problem in inspector.problems}
        self.split = opened.label("split")
        self._starts = np.cumsum([0, *(segment.n_rows for segment in opened.segments)]).tolist()
        rows = opened.rows()
        self._rows = [rows.part(slice(*edges)) for edges in zip(self._starts[:-1], self._starts[1:], strict=True)]
        self._n_rows = self._n_differ = self._n_skipped = 0
        self._largest: float | None = None
        self._not_found: set[int] = set()

    def served_sessions(self) -> list[tuple[int, bytes, int, int]]:
        """Segment, digest, first row and end of each session of which the set serves a pair."""
        return [
            (number, *session)
            for number, rows in enumerate(self._rows)
            for session in rows.sessions()
            if self._served(number, session).any()
        ]

    def compare(self, number: int, chunk: int, sessions: list[tuple[bytes, int, int]]) -> None:
        """Compare some sessions of a chunk."""
        segment, rows = self._opened.segments[number], self._rows[number]
        root = self._opened.objects.location
        if {f"{root}/{_key(segment, array, chunk)}" for array in COMPUTED} & self._damaged:
            self._n_skipped += sum(int(self._served(number, session).sum()) for session in sessions)
            return
        here = [session for session in sessions if session[0] in self._recordings]
        for _, begin, end in (session for session in sessions if session[0] not in self._recordings):
            self._not_found |= {*rows.capture_a[begin:end].tolist(), *rows.capture_b[begin:end].tolist()}
        if not here:
            return
        tasks = tuple(SessionTask(begin, end - begin, self._recordings[digest]) for digest, begin, end in here)
        layouts = {array: segment.layout(array) for array in COMPUTED}
        exact: Columns = {
            name: np.empty((layout.chunk_rows, *layout.shape[1:]), layout.dtype) for name, layout in layouts.items()
        }
        fill_chunk(self._raw, PairChunk(self._raw.location.url, "", segment, chunk, tasks), exact)
        stored: Columns = {array: self._opened.read(array, segment, chunk) for array in COMPUTED}
        first = layouts["measured"].rows(chunk).start
        for session in here:
            for row in (session[1] + np.flatnonzero(self._served(number, session))).tolist():
                self._compare_row(
                    segment, chunk, rows, row, [{n: a[row - first] for n, a in c.items()} for c in (stored, exact)]
                )

    def _compare_row(self, segment: PairSegment, chunk: int, rows: PairRows, row: int, both: list[Columns]) -> None:
        self._n_rows += 1
        stored, exact = both
        before, now = (dict(zip(MEASURED, each["measured"].tolist(), strict=True)) for each in both)
        share = abs(now["delay_s"] - before["delay_s"]) / before["sigma_s"]
        apart = float(np.abs(stored["correlation"].astype(np.float64) - exact["correlation"]).max())
        if np.isfinite(share):
            self._largest = max(self._largest or 0.0, share)
        if share <= SIGMA_SHARE and apart <= CORRELATION:
            return
        self._n_differ += 1
        captures = int(rows.capture_a[row]), int(rows.capture_b[row])
        finding = (
            f"its delay differs by {share:.3g} sigma, {SIGMA_SHARE} allowed; "
            f"its correlation by {apart:.3g}, {CORRELATION} allowed"
        )
        if np.isnan(now["delay_s"]):
            finding = "it has no delay any more"
        detail = f"row {row} (captures {captures[0]} and {captures[1]}), computed from IQ again: {finding}"
        self._inspector.note(DIFFERS, _key(segment, "measured", chunk), detail, captures)

    def report(self, n_served: int) -> PairSampleReport:
        """What was counted."""
        not_found = tuple(sorted(self._not_found))
        return PairSampleReport(self._n_rows, n_served, self._n_differ, not_found, self._n_skipped, self._largest)

    def _served(self, number: int, session: tuple[bytes, int, int]) -> npt.NDArray[np.bool_]:
        start = self._starts[number]
        return np.asarray(self.split[start + session[1] : start + session[2]] != Split.ABSENT)


def _key(segment: PairSegment, array: str, chunk: int) -> str:
    return f"{segment.path}/{array}/{segment.layout(array).key(chunk)}"
