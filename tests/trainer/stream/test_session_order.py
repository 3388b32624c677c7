"""The order of sessions in an epoch: what must hold for any segments, splits, batch size and number of ranks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore.store.rows import RowFacts
from featurestore.store.sessions import Sessions
from featurestore.store.sets import Labels
from featurestore.store.split import Split, hash_sessions
from trainer.stream.chunk_table import ChunkTable
from trainer.stream.order import PADDING, OrderSpec
from trainer.stream.session_order import GROUP, SessionOrder, SessionPlan


@dataclass(frozen=True)
class World:
    """A set of some segments: facts of all rows, their split, and the rows per chunk of each segment."""

    session_id: npt.NDArray[np.uint8]
    websdr_id: npt.NDArray[np.int32]
    split: npt.NDArray[np.uint8]
    segments: list[tuple[int, int]]

    @property
    def sessions(self) -> Sessions:
        n = len(self.split)
        position, unknown = self.session_id[:, :2].astype(np.float64), np.full(n, np.nan, np.float32)
        columns: dict[str, npt.NDArray[Any]] = {"split": self.split, "position": position}
        columns |= {"snr_db": unknown, "frequency_mhz": unknown}
        labels = Labels.of({**columns, "timestamp": np.arange(n), "start_time_ns": 1000 + np.arange(n)})
        return Sessions.of(np.flatnonzero(self.split == 0), self.session_id, self.websdr_id, labels)

    @property
    def table(self) -> ChunkTable:
        return ChunkTable.of(self.segments, self.split, Split.TRAIN)

    def order(self, spec: OrderSpec) -> SessionOrder:
        return SessionOrder(self.table, self.sessions, spec)

    def plans(self, spec: OrderSpec, start: int = 0) -> list[SessionPlan]:
        found = list(self.order(spec).batches(start))
        assert all(isinstance(plan, SessionPlan) for plan in found)
        return found  # type: ignore[return-value]  # as was just looked at


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """Sessions of one to five captures of one or two windows, strewn over one to four segments in their order."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    n_sessions, n_windows = draw(st.integers(1, 40)), draw(st.integers(1, 2))
    ids = rng.integers(0, 256, (n_sessions, 16), np.uint8)
    captures = np.repeat(np.arange(n_sessions), rng.integers(1, 6, n_sessions))
    of_segment = rng.integers(0, draw(st.integers(1, 4)), len(captures))
    receiver = rng.integers(1, 9, len(captures)).astype(np.int32)
    share = draw(st.sampled_from([1.0, 0.7, 0.2]))
    splits = rng.choice([Split.TRAIN, Split.VAL], n_sessions, p=[share, 1 - share])
    columns: tuple[list[npt.NDArray[Any]], ...] = ([], [], [])
    segments = []
    for segment in np.unique(of_segment):
        mine = np.repeat(np.flatnonzero(of_segment == segment), n_windows)
        n = len(mine)
        window = np.tile(np.arange(n_windows), n // n_windows).astype(np.int16)
        facts = RowFacts(mine, window, ids[captures[mine]], receiver[mine], np.zeros((n, 16), np.uint8))
        mine = mine[facts.in_order()]
        rejected = rng.random(n) < draw(st.sampled_from([0.0, 0.1]))
        split = np.where(rejected, Split.ABSENT, splits[captures[mine]]).astype(np.uint8)
        columns[0].append(ids[captures[mine]])
        columns[1].append(receiver[mine])
        columns[2].append(split)
        segments.append((n, draw(st.integers(1, 17))))
    session_id, websdr_id, split = (np.concatenate(column) for column in columns)
    return World(session_id, websdr_id, split, segments)


specs = st.builds(
    OrderSpec,
    batch_size=st.integers(1, 12),
    shuffle=st.booleans(),
    seed=st.integers(0, 2**40),
    epoch=st.integers(0, 5),
    world_size=st.integers(1, 4),
    pool_chunks=st.integers(1, 9),
)


@given(worlds())
def test_sessions_are_whole_wherever_their_rows_lie(world: World) -> None:
    sessions = world.sessions
    wanted: dict[bytes, set[int]] = {}
    for row in np.flatnonzero(world.split == Split.TRAIN).tolist():
        wanted.setdefault(world.session_id[row].tobytes(), set()).add(row)
    found = {}
    for number, (begin, end) in enumerate(pairwise(sessions.begin.tolist())):
        rows = sessions.rows[begin:end].tolist()
        found[sessions.session_id[number].tobytes()] = set(rows)
        assert sorted(rows, key=lambda row: (world.websdr_id[row], row)) == rows
        assert sessions.websdr_id[begin:end].tolist() == world.websdr_id[rows].tolist()
        assert sessions.timestamp[begin:end].tolist() == rows  # as they were given
        assert (sessions.start_time_ns[begin:end] - 1000).tolist() == rows
        assert sessions.position[number].tolist() == world.session_id[rows[0], :2].tolist()
    assert found == wanted
    assert (np.diff(hash_sessions(sessions.session_id).astype(np.float64)) >= 0).all()
    assert sessions.largest == max((len(rows) for rows in wanted.values()), default=0)
    assert sessions.of_row().tolist() == [n for n, rows in enumerate(found.values()) for _ in rows]


@settings(deadline=None)  # the first example imports
@given(worlds(), specs)
def test_ranks_partition_an_epoch_exactly(world: World, spec: OrderSpec) -> None:
    sessions = world.sessions
    ranks = [world.plans(replace(spec, rank=rank)) for rank in range(spec.world_size)]
    assert {len(found) for found in ranks} == {world.order(spec).n_batches}
    served = [number for found in ranks for plan in found for number in plan.session.tolist() if number != PADDING]
    assert len(set(served)) == len(served)
    if spec.shuffle:
        whole = spec.batch_size * spec.world_size
        assert len(served) == len(sessions) // whole * whole
        assert all(len(plan.session) == spec.batch_size for found in ranks for plan in found)
    else:
        assert served == list(range(len(sessions)))
        counts = [sum(number != PADDING for plan in found for number in plan.session) for found in ranks]
        assert max(counts) - min(counts) <= 1


@given(worlds(), specs)
def test_a_plan_says_where_each_row_of_its_sessions_is(world: World, spec: OrderSpec) -> None:
    sessions, table = world.sessions, world.table
    for rank in range(spec.world_size):
        for plan in world.plans(replace(spec, rank=rank)):
            if plan.session[0] == PADDING:
                assert (plan.in_places.tolist(), plan.chunks, plan.n_places) == ([PADDING], [], 1)
                continue
            lines = plan.in_places.reshape(-1, plan.width)
            assert plan.width == max(sessions.n_rows[plan.session])
            for number, line in zip(plan.session.tolist(), lines, strict=True):
                rows = sessions.rows[sessions.begin[number] : sessions.begin[number + 1]].tolist()
                assert line.tolist() == rows + [PADDING] * (plan.width - len(rows))
            assert (np.diff(plan.rows) > 0).all()
            for chunk, (begin, end) in zip(plan.chunks, pairwise(plan.bounds), strict=True):
                assert (table.first_row[chunk] + plan.local[begin:end]).tolist() == plan.rows[begin:end].tolist()
                assert plan.rows[end - 1] < table.end_row[chunk]


@given(worlds(), specs)
def test_copies_fill_the_places_and_nothing_else(world: World, spec: OrderSpec) -> None:
    """A tensor is its row's number here; what was in the buffer before is gone."""
    table = world.table
    chunks = [np.arange(first, end, dtype=np.float16) for first, end in zip(table.first_row, table.end_row, strict=True)]
    for plan in world.plans(spec):
        buffer = np.full(plan.n_places + 3, np.nan, np.float16)
        for part in (1, 0, 2):
            plan.copy_to(buffer, [chunks[index] for index in plan.chunks], part, 3)
        assert buffer[: plan.n_places].tolist() == np.where(plan.in_places == PADDING, 0, plan.in_places).tolist()
        assert np.isnan(buffer[plan.n_places :]).all()


@given(worlds(), specs)
def test_finished_chunks_are_not_needed_again_by_the_same_pool(world: World, spec: OrderSpec) -> None:
    """Held as `ChunkStream` does: read when a plan needs it, let go when a plan says so; nothing stays."""
    held: set[int] = set()
    for plan in world.plans(spec):
        held |= set(plan.chunks)
        assert held >= set(plan.finished)
        held -= set(plan.finished)
    assert not held


@given(worlds(), specs, st.data())
def test_resuming_goes_on_exactly(world: World, spec: OrderSpec, data: st.DataObject) -> None:
    spec = replace(spec, rank=data.draw(st.integers(0, spec.world_size - 1)))
    whole = [plan.in_places.tolist() for plan in world.plans(spec)]
    start = data.draw(st.integers(0, len(whole)))
    assert [plan.in_places.tolist() for plan in world.plans(spec, start)] == whole[start:]


def test_an_epoch_reads_few_chunks_twice_and_others_together() -> None:
    """Seven receivers, 401 chunks, arcs of eight: of four that follow one another, only the ends share chunks with others."""
    ids = np.random.default_rng(1).integers(0, 256, (29300, 16), np.uint8)
    ids = ids[np.argsort(hash_sessions(ids))]
    n = 7 * len(ids)
    world = World(np.repeat(ids, 7, axis=0), np.tile(np.arange(7, dtype=np.int32), len(ids)), np.zeros(n, np.uint8), [(n, 512)])
    met = []
    for epoch in (0, 1):
        order = world.order(OrderSpec(32, shuffle=True, seed=3, epoch=epoch))
        plans = list(order.batches())
        reads = sum(len(plan.finished) for plan in plans)
        assert len(order.table) == 401
        assert len(order.units.count) == 51
        assert reads <= 401 + 51 / GROUP
        assert len(plans) == len(ids) // 32
        met.append([tuple(plan.session.tolist()) for plan in plans if isinstance(plan, SessionPlan)])
    assert set(met[0]).isdisjoint(met[1])
