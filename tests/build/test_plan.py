"""The plan covers every row once, whatever the store holds and however catalog and listing change."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
from hypothesis import given, settings
from hypothesis import strategies as st
from snapshots_for_tests import snapshot

from featurestore.build.plan import Plan, make_plan
from featurestore.source.snapshot import MISSING, Listing
from featurestore.store.rows import Holding, RowFacts, chunk_rows
from featurestore.tensor.rejection import Reason
from featurestore.tensor.spec import FeatureSpec, SplitSpec

SPEC = FeatureSpec()


def listing(ids: list[int], versions: dict[int, int]) -> Listing:
    """Every capture has an object of a version; -1 is none."""
    digest = [np.frombuffer(f"{capture:08d}{versions.get(capture, 0):08d}".encode(), np.uint8) for capture in ids]
    size = [MISSING if versions.get(capture) == -1 else 3_000_000 for capture in ids]
    return Listing(np.array(size, np.int64), np.array(digest, np.uint8).reshape(-1, 16))


def holding(name: str, ids: list[int], versions: dict[int, int], spec: FeatureSpec, bad: set[int]) -> Holding:
    """A segment as an earlier build of these captures would have left it."""
    plan = make_plan(spec, SplitSpec(), snapshot(ids), listing(ids, versions), [])
    rows = plan.segments[0].rows
    reason = np.array([Reason.SILENT if int(capture) in bad else 0 for capture in rows.capture_id], np.uint8)
    return Holding(name, rows, reason)


ids_lists = st.lists(st.integers(1, 40), min_size=1, max_size=25, unique=True).map(sorted)
versions_dicts = st.dictionaries(st.integers(1, 40), st.sampled_from([0, 1]))


def wanted_rows(plan: Plan) -> list[tuple[int, int]]:
    return [
        (int(use.rows.capture_id[row]), int(use.rows.window[row]))
        for use in plan.segments
        for row in np.flatnonzero(use.wanted)
    ]


@settings(deadline=None)
@given(
    st.lists(st.tuples(ids_lists, versions_dicts, st.sets(st.integers(1, 40))), max_size=4),
    ids_lists,
    st.dictionaries(st.integers(1, 40), st.sampled_from([-1, 0, 1])),
    st.integers(1, 3),
)
def test_every_row_is_planned_once_and_none_is_computed_twice(
    history: list[tuple[list[int], dict[int, int], set[int]]], ids: list[int], versions: dict[int, int], n_windows: int
) -> None:
    spec = replace(SPEC, windows_per_capture=n_windows)
    holdings = [
        holding(f"{i:012d}", past_ids, past_versions, spec, bad) for i, (past_ids, past_versions, bad) in enumerate(history)
    ]
    plan = make_plan(spec, SplitSpec(), snapshot(ids), listing(ids, versions), holdings)
    present = [capture for capture in ids if versions.get(capture, 0) != -1]
    assert sorted(wanted_rows(plan)) == [(capture, window) for capture in present for window in range(n_windows)]
    held = {(int(c), int(w), d.tobytes()) for h in holdings for c, w, d in zip(*columns(h.rows), strict=True)}
    digests = dict(zip(ids, (row.tobytes() for row in listing(ids, versions).source_digest), strict=True))
    for use in plan.segments:
        for row in np.flatnonzero(use.wanted):
            key = int(use.rows.capture_id[row]), int(use.rows.window[row]), use.rows.source_digest[row].tobytes()
            assert key[2] == digests[key[0]]
            assert (key in held) == (use.reason is not None)
            assert plan.snapshot.capture_id[use.capture[row]] == key[0]
    reused = sum(int(use.wanted.sum()) for use in plan.segments if use.reason is not None)
    assert reused + plan.rows_to_compute == len(present) * n_windows
    assert (plan.capture_reason == [Reason.MISSING_OBJECT if versions.get(c) == -1 else 0 for c in ids]).all()


def columns(rows: RowFacts) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int16], npt.NDArray[np.uint8]]:
    return rows.capture_id, rows.window, rows.source_digest


@given(ids_lists, st.randoms())
def test_the_plan_does_not_depend_on_the_order_of_what_the_store_holds(ids: list[int], random: object) -> None:
    holdings = [holding(f"{i:012d}", part, {}, SPEC, set()) for i, part in enumerate((ids[:3], ids[2:], ids[::2])) if part]
    plans = [make_plan(SPEC, SplitSpec(), snapshot(ids), listing(ids, {}), order) for order in (holdings, holdings[::-1])]
    assert [use.segment for use in plans[0].segments] == [use.segment for use in plans[1].segments]
    assert wanted_rows(plans[0]) == wanted_rows(plans[1])


def test_an_interrupted_segment_is_finished_when_half_of_it_is_wanted() -> None:
    ids = list(range(1, 11))
    begun = replace(holding("b" * 12, ids, {}, SPEC, set()), reason=None)
    for kept, segments in ((ids[:5], ["b" * 12]), (ids[:4], None)):
        plan = make_plan(SPEC, SplitSpec(), snapshot(kept), listing(kept, {}), [begun])
        assert len(plan.segments) == 1
        assert ([use.segment for use in plan.segments] == segments) == (segments is not None)
        assert plan.rows_to_compute == len(kept)


def test_a_row_given_up_as_missing_is_computed_when_it_is_there_again() -> None:
    ids = [1, 2, 3]
    held = holding("a" * 12, ids, {}, SPEC, set())
    given_up = replace(held, reason=np.array([Reason.MISSING_OBJECT, 0, 0], np.uint8))
    plan = make_plan(SPEC, SplitSpec(), snapshot(ids), listing(ids, {}), [given_up])
    assert (plan.rows_reused, plan.rows_to_compute) == (2, 1)


def test_a_corrected_session_or_receiver_is_not_served_by_the_old_row() -> None:
    ids = [1, 2, 3]
    held = holding("a" * 12, ids, {}, SPEC, set())
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
