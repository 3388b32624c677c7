"""The order of an epoch: what must hold for any set, batch size and number of ranks."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore.errors import StoreError, UsageError
from featurestore.store.split import Split
from trainer.stream.chunk_table import ChunkTable
from trainer.stream.order import PADDING, BatchPlan, EpochOrder, OrderSpec

WANTED = Split.TRAIN


@st.composite
def tables(draw: st.DrawFn) -> ChunkTable:
    """Some segments, cut into chunks; splits in runs, as sessions make them, or row by row."""
    segments = draw(st.lists(st.tuples(st.integers(1, 60), st.integers(1, 17)), min_size=1, max_size=4))
    n_rows = sum(rows for rows, _ in segments)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    run = draw(st.sampled_from([1, 7, 40]))
    codes = draw(st.sampled_from([[Split.TRAIN], [Split.TRAIN, Split.VAL, Split.ABSENT], [Split.VAL, Split.ABSENT]]))
    split = np.repeat(rng.choice(codes, -(-n_rows // run)), run)[:n_rows].astype(np.uint8)
    return ChunkTable.of(segments, split, WANTED)


specs = st.builds(
    OrderSpec,
    batch_size=st.integers(1, 40),
    shuffle=st.booleans(),
    seed=st.integers(0, 2**40),
    epoch=st.integers(0, 5),
    world_size=st.integers(1, 5),
    pool_chunks=st.integers(1, 9),
)


def plans(table: ChunkTable, spec: OrderSpec, start: int = 0) -> list[BatchPlan]:
    return list(EpochOrder(table, spec).batches(start))


def all_ranks(table: ChunkTable, spec: OrderSpec) -> list[list[BatchPlan]]:
    return [plans(table, replace(spec, rank=rank)) for rank in range(spec.world_size)]


def rows_of(found: list[BatchPlan]) -> npt.NDArray[np.int64]:
    """In order, padding left out."""
    rows = [row for plan in found for row in plan.rows.tolist() if row != PADDING]
    return np.array(rows, np.int64)


def split_rows(table: ChunkTable) -> npt.NDArray[np.int64]:
    return np.flatnonzero(table.split == table.wanted)


@given(tables(), specs)
def test_ranks_partition_an_epoch_exactly(table: ChunkTable, spec: OrderSpec) -> None:
    ranks = all_ranks(table, spec)
    assert {len(found) for found in ranks} == {EpochOrder(table, spec).n_batches}
    rows = np.concatenate([rows_of(found) for found in ranks])
    wanted, whole = split_rows(table), spec.batch_size * spec.world_size
    assert len(np.unique(rows)) == len(rows)  # nothing twice
    assert np.isin(rows, wanted).all()  # nothing of another split, and nothing that was rejected
    if spec.shuffle:
        assert len(rows) == len(wanted) // whole * whole
        assert all(len(plan.rows) == spec.batch_size for found in ranks for plan in found)
    else:
        assert rows.tolist() == wanted.tolist()  # all of them, in the order of the store


@given(tables(), specs)
def test_in_storage_order_only_a_ranks_last_batches_are_short_or_padding(table: ChunkTable, spec: OrderSpec) -> None:
    ranks = all_ranks(table, replace(spec, shuffle=False))
    for found in ranks:
        sizes = [0 if plan.rows[0] == PADDING else len(plan.rows) for plan in found]
        full = sum(sizes) // spec.batch_size
        assert sizes[:full] == [spec.batch_size] * full
        assert sizes.count(0) <= 1 or sum(sizes) == 0
        assert all(len(plan.rows) == 1 and not plan.chunks for plan in found if plan.rows[0] == PADDING)
    if spec.world_size == 1:
        assert PADDING not in [row for plan in ranks[0] for row in plan.rows]
    counts = [len(rows_of(found)) for found in ranks]
    assert max(counts) - min(counts) <= 1


@given(tables(), specs)
def test_a_plan_says_where_its_rows_are_and_which_chunks_are_done(table: ChunkTable, spec: OrderSpec) -> None:
    for found in all_ranks(table, spec):
        held: set[int] = set()
        gone: set[int] = set()
        for plan in found:
            if plan.rows[0] == PADDING:
                continue
            assert (np.diff(plan.rows) > 0).all()
            assert plan.bounds[0] == 0
            assert plan.bounds[-1] == len(plan.rows)
            for chunk, (begin, end) in zip(plan.chunks, pairwise(plan.bounds), strict=True):
                rows = table.first_row[chunk] + plan.local[begin:end]
                assert rows.tolist() == plan.rows[begin:end].tolist()
                assert begin < end
                assert rows[-1] < table.end_row[chunk]
            assert not gone & set(plan.chunks)
            held |= set(plan.chunks)
            assert held >= set(plan.finished)
            held -= set(plan.finished)
            gone |= set(plan.finished)
        assert not held


@given(tables(), specs, st.data())
def test_resuming_goes_on_exactly(table: ChunkTable, spec: OrderSpec, data: st.DataObject) -> None:
    spec = replace(spec, rank=data.draw(st.integers(0, spec.world_size - 1)))
    whole = plans(table, spec)
    start = data.draw(st.integers(0, len(whole)))
    resumed = plans(table, spec, start)
    assert [plan.rows.tolist() for plan in resumed] == [plan.rows.tolist() for plan in whole[start:]]
    assert [plan.finished for plan in resumed] == [plan.finished for plan in whole[start:]]


@given(tables(), specs)
def test_the_order_is_a_pure_function(table: ChunkTable, spec: OrderSpec) -> None:
    first, second = plans(table, spec), plans(table, replace(spec))
    assert [plan.rows.tolist() for plan in first] == [plan.rows.tolist() for plan in second]


@given(st.integers(0, 1000), st.integers(0, 100))
@settings(max_examples=20)
def test_epochs_and_seeds_differ_and_validation_does_not(seed: int, epoch: int) -> None:
    table = ChunkTable.of([(400, 16)], np.zeros(400, np.uint8), WANTED)
    spec = OrderSpec(batch_size=16, shuffle=True, seed=seed, epoch=epoch)
    orders = [spec, replace(spec, epoch=epoch + 1), replace(spec, seed=seed + 1)]
    served = [tuple(rows_of(plans(table, each))) for each in orders]
    assert len(set(served)) == 3
    assert {tuple(sorted(rows)) for rows in served} == {tuple(range(400))}
    still = [tuple(rows_of(plans(table, replace(each, shuffle=False)))) for each in orders]
    assert set(still) == {tuple(range(400))}


def test_the_order_stays_what_it_is() -> None:
    """A state that is saved today must go on tomorrow: raise `data.ORDER_SCHEMA` when this has to change.

    Our own numbers, kept so that they are noticed to change; whether they are a good order is for the other tests to say.
    """
    table = ChunkTable.of([(12, 4)], np.zeros(12, np.uint8), WANTED)
    spec = OrderSpec(batch_size=4, shuffle=True, seed=42, epoch=1, pool_chunks=2)
    assert [plan.rows.tolist() for plan in plans(table, spec)] == [[6, 7, 10, 11], [4, 5, 8, 9], [0, 1, 2, 3]]


def test_batches_mix_the_chunks_of_a_pool() -> None:
    table = ChunkTable.of([(8192, 512)], np.zeros(8192, np.uint8), WANTED)
    found = plans(table, OrderSpec(batch_size=256, shuffle=True))
    assert all(len(plan.chunks) == 8 for plan in found)
    # A row is as likely to be in any batch of its pool: of 32 rows expected of each chunk, 5 standard deviations.
    counts = np.array([np.diff(plan.bounds) for plan in found])
    assert counts.min() > 5
    assert counts.max() < 59


def test_ranks_share_no_chunk_but_their_neighbours() -> None:
    table = ChunkTable.of([(64 * 100, 64)], np.zeros(6400, np.uint8), WANTED)
    spec = OrderSpec(batch_size=30, shuffle=True, world_size=4)
    chunks = [{chunk for plan in found for chunk in plan.chunks} for found in all_ranks(table, spec)]
    assert sum(map(len, chunks)) <= 100 + 3


def test_ten_million_rows_take_little_memory_and_batches_come_at_once() -> None:
    split = np.random.default_rng(0).choice([0, 1, 2, 255], 10_000_000, p=[0.7, 0.1, 0.1, 0.1]).astype(np.uint8)
    tracemalloc.start()
    table = ChunkTable.of([(10_000_000, 512)], split, WANTED)
    assert tracemalloc.get_traced_memory()[0] < 2e6  # what stays
    tracemalloc.reset_peak()
    order = EpochOrder(table, OrderSpec(batch_size=256, shuffle=True, epoch=3))
    for start in (0, 5000, 27_000):
        assert len(next(order.batches(start)).rows) == 256
    assert tracemalloc.get_traced_memory()[1] < 5e6
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0; expected 1 or more"),
        ({"seed": -1}, "seed is -1; expected 0 or more"),
        ({"rank": 2, "world_size": 2}, "rank is 2; expected 0 to 1"),
        ({"pool_chunks": 0}, "pool_chunks is 0"),
    ],
)
def test_numbers_out_of_range_are_named(change: dict[str, int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        replace(OrderSpec(batch_size=4, shuffle=True), **change)  # type: ignore[arg-type]  # any field


def test_labels_that_do_not_fit_the_segments_are_an_error() -> None:
    with pytest.raises(StoreError, match="labels of 3 rows, but its segments hold 4"):
        ChunkTable.of([(4, 2)], np.zeros(3, np.uint8), WANTED)


def test_a_split_without_rows_has_no_batches() -> None:
    for split in (np.zeros(0, np.uint8), np.full(5, Split.VAL, np.uint8)):
        table = ChunkTable.of([(len(split), 4)], split, WANTED)
        for shuffle in (True, False):
            assert plans(table, OrderSpec(batch_size=2, shuffle=shuffle, world_size=2)) == []
