"""The plan covers every row once, whatever the store holds and however catalog and listing change."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from snapshots_for_tests import snapshot

from featurestore.build.plan import NOT_WANTED, Plan, SegmentUse, make_plan
from featurestore.source.snapshot import MISSING, Listing
from featurestore.store.rows import RowFacts, StoredSegment, chunk_rows
from featurestore.tensor.rejection import Reason
from featurestore.tensor.spec import FeatureSpec, SplitSpec

SPEC = FeatureSpec()


def listing(ids: list[int], versions: dict[int, int]) -> Listing:
    """Every capture has an object of a version; -1 is none."""
    digest = [np.frombuffer(f"{capture:08d}{versions.get(capture, 0):08d}".encode(), np.uint8) for capture in ids]
    size = [MISSING if versions.get(capture) == -1 else 3_000_000 for capture in ids]
    return Listing(np.array(size, np.int64), np.array(digest, np.uint8).reshape(-1, 16))


def segment(name: str, ids: list[int], versions: dict[int, int], spec: FeatureSpec, bad: set[int]) -> StoredSegment:
    """A segment as an earlier build of these captures would have left it."""
    plan = make_plan(spec, SplitSpec(), snapshot(ids), listing(ids, versions), [])
    rows = plan.segments[0].rows
    reason = np.array([Reason.SILENT if int(capture) in bad else 0 for capture in rows.capture_id], np.uint8)
    return StoredSegment(name, rows, reason)


ids_lists = st.lists(st.integers(1, 40), min_size=1, max_size=25, unique=True).map(sorted)
versions_dicts = st.dictionaries(st.integers(1, 40), st.sampled_from([0, 1]))


def wanted_rows(plan: Plan) -> list[tuple[int, int]]:
    return [
        (int(use.rows.capture_id[row]), int(use.rows.window[row]))
        for use in plan.segments
        for row in np.flatnonzero(use.wanted)
    ]


@dataclass(frozen=True)
class Case:
    """A store after some builds, what the next build wants, and its plan.

    Attributes:
        stored: segments of earlier builds.
        ids: of the captures that are approved now.
        versions: of their objects; -1 is a missing one.
        n_windows: per capture.
        plan: of the next build.
    """

    stored: list[StoredSegment]
    ids: list[int]
    versions: dict[int, int]
    n_windows: int
    plan: Plan

    @property
    def present(self) -> list[int]:
        return [capture for capture in self.ids if self.versions.get(capture, 0) != -1]

    def wanted(self) -> Iterator[tuple[SegmentUse, int]]:
        for use in self.plan.segments:
            for row in np.flatnonzero(use.wanted):
                yield use, int(row)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Any history of builds, and any next one."""
    n_windows, ids = draw(st.integers(1, 3)), draw(ids_lists)
    spec = replace(SPEC, windows_per_capture=n_windows)
    history = draw(st.lists(st.tuples(ids_lists, versions_dicts, st.sets(st.integers(1, 40))), max_size=4))
    stored = [segment(f"{i:012d}", past_ids, past, spec, bad) for i, (past_ids, past, bad) in enumerate(history)]
    versions = draw(st.dictionaries(st.integers(1, 40), st.sampled_from([-1, 0, 1])))
    plan = make_plan(spec, SplitSpec(), snapshot(ids), listing(ids, versions), stored)
    return Case(stored, ids, versions, n_windows, plan)


@settings(deadline=None)
@given(cases())
def test_every_row_of_every_capture_that_is_there_is_planned_once(case: Case) -> None:
    assert sorted(wanted_rows(case.plan)) == [(capture, window) for capture in case.present for window in range(case.n_windows)]


@settings(deadline=None)
@given(cases())
def test_a_row_is_computed_exactly_when_no_segment_holds_it(case: Case) -> None:
    held = {(int(c), int(w), d.tobytes()) for each in case.stored for c, w, d in zip(*columns(each.rows), strict=True)}
    for use, row in case.wanted():
        key = int(use.rows.capture_id[row]), int(use.rows.window[row]), use.rows.source_digest[row].tobytes()
        assert (key in held) == (use.reason is not None)


@settings(deadline=None)
@given(cases())
def test_a_row_is_served_from_the_object_that_is_listed_now(case: Case) -> None:
    digests = dict(zip(case.ids, listing(case.ids, case.versions).source_digest, strict=True))
    for use, row in case.wanted():
        assert use.rows.source_digest[row].tobytes() == digests[int(use.rows.capture_id[row])].tobytes()


@settings(deadline=None)
@given(cases())
def test_a_planned_row_points_to_its_own_capture(case: Case) -> None:
    for use, row in case.wanted():
        assert case.plan.snapshot.capture_id[use.capture[row]] == use.rows.capture_id[row]


@settings(deadline=None)
@given(cases())
def test_rows_reused_and_rows_to_compute_are_all_rows(case: Case) -> None:
    reused = sum(int(use.wanted.sum()) for use in case.plan.segments if use.reason is not None)
    assert reused + case.plan.rows_to_compute == len(case.present) * case.n_windows


@settings(deadline=None)
@given(cases())
def test_exactly_the_captures_without_an_object_are_rejected_by_the_plan(case: Case) -> None:
    missing = [Reason.MISSING_OBJECT if case.versions.get(capture) == -1 else 0 for capture in case.ids]
    np.testing.assert_array_equal(case.plan.capture_reason, missing)


def test_the_example_at_the_head_of_the_plan() -> None:
    a, b = "a" * 12, "b" * 12
    stored = [segment(a, [1, 2, 3, 5, 9], {}, SPEC, set()), segment(b, [3, 4], {}, SPEC, set())]
    ids = [1, 2, 3, 4, 5, 6]
    approved = snapshot(ids)
    approved.sample_rate_hz[5] = 48_000
    plan = make_plan(SPEC, SplitSpec(), approved, listing(ids, {5: 1}), stored)
    captures = {
        use.segment: dict(zip(use.rows.capture_id.tolist(), use.capture.tolist(), strict=True)) for use in plan.segments
    }
    assert captures.pop(a) == {1: 0, 2: 1, 3: 2, 5: NOT_WANTED, 9: NOT_WANTED}
    assert captures.pop(b) == {3: NOT_WANTED, 4: 3}
    assert list(captures.values()) == [{5: 4}]
    assert plan.capture_reason.tolist() == [0, 0, 0, 0, 0, Reason.SAMPLE_RATE_MISMATCH]


def columns(rows: RowFacts) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int16], npt.NDArray[np.uint8]]:
    return rows.capture_id, rows.window, rows.source_digest


@given(ids_lists, st.randoms())
def test_the_plan_does_not_depend_on_the_order_of_what_the_store_holds(ids: list[int], random: object) -> None:
    stored = [segment(f"{i:012d}", part, {}, SPEC, set()) for i, part in enumerate((ids[:3], ids[2:], ids[::2])) if part]
    plans = [make_plan(SPEC, SplitSpec(), snapshot(ids), listing(ids, {}), order) for order in (stored, stored[::-1])]
    assert [use.segment for use in plans[0].segments] == [use.segment for use in plans[1].segments]
    assert wanted_rows(plans[0]) == wanted_rows(plans[1])


@pytest.mark.parametrize(("n_wanted", "finished"), [(5, True), (4, False)], ids=["half", "less than half"])
def test_an_interrupted_segment_is_finished_when_half_of_it_is_wanted(n_wanted: int, finished: bool) -> None:
    ids = list(range(1, 11))
    begun = replace(segment("b" * 12, ids, {}, SPEC, set()), reason=None)
    plan = make_plan(SPEC, SplitSpec(), snapshot(ids[:n_wanted]), listing(ids[:n_wanted], {}), [begun])
    [use] = plan.segments
    assert (use.segment == begun.segment) == finished
    assert plan.rows_to_compute == n_wanted


def test_a_row_given_up_as_missing_is_computed_when_it_is_there_again() -> None:
    ids = [1, 2, 3]
    held = segment("a" * 12, ids, {}, SPEC, set())
    given_up = replace(held, reason=np.array([Reason.MISSING_OBJECT, 0, 0], np.uint8))
    plan = make_plan(SPEC, SplitSpec(), snapshot(ids), listing(ids, {}), [given_up])
    assert (plan.rows_reused, plan.rows_to_compute) == (2, 1)


def test_a_corrected_session_or_receiver_is_not_served_by_the_old_row() -> None:
    ids = [1, 2, 3]
    held = segment("a" * 12, ids, {}, SPEC, set())
    there = snapshot(ids)
    moved = replace(there, websdr_id=there.websdr_id + np.array([10, 0, 0], np.int32))
    plan = make_plan(SPEC, SplitSpec(), moved, listing(ids, {}), [held])
    assert (plan.rows_reused, plan.rows_to_compute) == (2, 1)


def test_catalog_reasons() -> None:
    ids = [1, 2, 3, 4, 5, 6, 7]
    there = snapshot(ids)
    there.position[1] = np.nan, 7
    there.position[2] = 90.1, 7
    there.position[3] = 45, -180.1
    there.position[4] = 0, 0
    there.sample_rate_hz[5] = 48_000
    there.sample_rate_hz[6] = np.nan
    plan = make_plan(SPEC, SplitSpec(), there, listing(ids, {}), [])
    bad, rate = Reason.BAD_POSITION, Reason.SAMPLE_RATE_MISMATCH
    assert plan.capture_reason.tolist() == [0, bad, bad, bad, bad, rate, rate]


@given(st.integers(1, 5_000_000))
def test_chunks_are_few_and_even(n_rows: int) -> None:
    per_chunk = chunk_rows(n_rows)
    n_chunks = -(-n_rows // per_chunk)
    assert n_chunks == -(-n_rows // 512)
    assert per_chunk == -(-n_rows // n_chunks) <= 512
