"""The order of an epoch: a pure function of seed, epoch, chunk table, batch size, and one rank's place among all ranks.

Rows lie in chunks, and a chunk is the least that can be read, so the order is drawn in two steps: the chunks are permuted,
and a window of several of them (the pool) is permuted row by row and cut into batches. What is left of a pool goes on into
the next one, so every batch is full.

Each rank owns one contiguous piece of the permuted chunks: it reads its own chunks and no others, but for the two at the
ends of its piece, which it shares with its neighbours.

* Shuffled (train), a rank gets as many full batches as every other one. What would not fill a global batch (`batch_size ·
  world_size` rows) is left out, other rows in each epoch.
* In storage order (val, test) every row is served exactly once. A rank's last batch may be short, and a rank that runs out of
  rows before the others gets batches of padding.

Padding is one row of number `PADDING`: it stands for no row of the set, and whoever averages leaves it out by `row >= 0`.
It exists only so that all ranks take equally many steps, and only where there are several ranks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import numpy.typing as npt

from featurestore.errors import UsageError
from trainer.stream.chunk_table import ChunkTable, Index

PADDING = -1
"""The number of a row that is none."""

CHUNKS, POOL, ARCS = 0, 1, 2
"""What a stream of random numbers is for."""

Tensors = npt.NDArray[np.float16]


@dataclass(frozen=True)
class OrderSpec:
    """What an order depends on, beside the chunk table.

    Attributes:
        batch_size: rows of one rank's batch.
        shuffle: draw the order anew for every epoch, and leave the last incomplete global batch out; else storage order, whole.
        seed: of all epochs, 0 or more.
        epoch: which one, from 0.
        rank: which one asks, from 0.
        world_size: ranks that share the epoch.
        pool_chunks: chunks whose rows are mixed with each other.

    Raises:
        UsageError: when a number is out of range.
    """

    batch_size: int
    shuffle: bool
    seed: int = 0
    epoch: int = 0
    rank: int = 0
    world_size: int = 1
    pool_chunks: int = 8

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 1), ("seed", 0), ("epoch", 0), ("world_size", 1), ("pool_chunks", 1)):
            if getattr(self, name) < least:
                raise UsageError(f"{name} is {getattr(self, name)}; expected {least} or more")
        if not 0 <= self.rank < self.world_size:
            raise UsageError(f"rank is {self.rank}; expected 0 to {self.world_size - 1}, as world_size is {self.world_size}")


@dataclass(frozen=True)
class BatchPlan:
    """The rows of one batch, sorted, so that those of one chunk lie together and are gathered at once.

    Attributes:
        rows: (b,) indices in the set, ascending; or `PADDING` alone.
        local: (b,) the same, counted from the first row of their chunk.
        chunks: (p,) the chunks that hold them, as indices in the table.
        bounds: (p + 1,) the batch's rows `bounds[i]` to `bounds[i + 1]` are of chunk `chunks[i]`.
        finished: chunks that no later batch of this rank needs.
    """

    rows: Index
    local: Index
    chunks: list[int]
    bounds: list[int]
    finished: list[int]

    @property
    def n_places(self) -> int:
        """Tensors of the batch."""
        return len(self.rows)

    @property
    def in_places(self) -> Index:
        """(n_places,) the row of each."""
        return self.rows

    def copy_to(self, buffer: Tensors, chunks: Sequence[Tensors], part: int, parts: int) -> None:
        """Copy one part of the pieces out of their chunks; padding is 0.

        Args:
            buffer: (place, 3, band, frame).
            chunks: of each piece, (row, 3, band, frame).
            part: which.
            parts: of how many.
        """
        if not self.chunks:
            buffer[: len(self.rows)] = 0
        for piece in range(part * len(chunks) // parts, (part + 1) * len(chunks) // parts):
            begin, end = self.bounds[piece : piece + 2]
            # (row, 3, band, frame); "raise" would go through one more copy
            np.take(chunks[piece], self.local[begin:end], axis=0, out=buffer[begin:end], mode="clip")


class Units(Protocol):
    """What is permuted as a whole: chunks of rows, or what else holds what is served."""

    @property
    def count(self) -> Index:
        """(U,) what each holds."""

    @property
    def n_rows(self) -> int:
        """What all of them hold."""

    def rows(self, index: int) -> Index:
        """(count,) the numbers of what one holds, ascending."""


class EpochOrder:
    """One rank's batches of one epoch, planned pool by pool as they are asked for.

    Args:
        table: of the split.
        spec: see `OrderSpec`.

    Attributes:
        units: what is permuted and served: here the table's chunks and their rows.
        pool_units: how many of them are a pool.
    """

    def __init__(self, table: ChunkTable, spec: OrderSpec) -> None:
        self.table = table
        self.spec = spec
        self.units: Units = table
        self.pool_units = spec.pool_chunks

    @cached_property
    def n_batches(self) -> int:
        """Batches in the epoch, the same for every rank."""
        n_rows, batch, world = self.units.n_rows, self.spec.batch_size, self.spec.world_size
        if self.spec.shuffle:
            return n_rows // (batch * world)
        return math.ceil(math.ceil(n_rows / world) / batch)

    @property
    def _share(self) -> tuple[int, int]:
        """Begin and end of the rank's rows in the sequence of all ranks' rows."""
        n_rows, rank, world = self.units.n_rows, self.spec.rank, self.spec.world_size
        if self.spec.shuffle:
            share = self.n_batches * self.spec.batch_size
            return rank * share, (rank + 1) * share
        return n_rows * rank // world, n_rows * (rank + 1) // world

    @cached_property
    def _sequence(self) -> tuple[Index, Index]:
        """The chunks in this epoch's order, and (C + 1,) how many rows come before each."""
        count = self.units.count
        order = self._drawn(len(count)) if self.spec.shuffle else np.arange(len(count))
        return order, np.concatenate([[0], np.cumsum(count[order])])

    def _drawn(self, n_units: int) -> Index:
        return self._permutation(n_units, CHUNKS)

    def batches(self, start_batch: int = 0) -> Iterator[BatchPlan]:
        """The plans of the epoch's batches from number `start_batch` on: what is skipped is not even drawn.

        Yields:
            `n_batches - start_batch` plans.
        """
        size = self.spec.batch_size
        (begin, end), (order, before) = self._share, self._sequence
        position = begin + start_batch * size  # in the sequence of all ranks' rows
        carried = np.zeros(0, np.int64)
        planned = start_batch
        if position < end:
            first = int(np.searchsorted(before, begin, "right")) - 1  # the chunk with the rank's first row
            there = int(np.searchsorted(before, position, "right")) - 1
            last = int(np.searchsorted(before, end, "left"))
            width = self.pool_units
            for pool in range((there - first) // width, math.ceil((last - first) / width)):
                chunks = range(first + pool * width, min(first + (pool + 1) * width, last))
                rows = np.concatenate([self._part(order[i], before[i], begin, end) for i in chunks])
                if self.spec.shuffle:
                    rows = rows[self._permutation(len(rows), POOL, self.spec.rank, pool)]
                rows = rows[max(0, position - max(begin, before[chunks.start])) :]  # of the first pool: what is skipped
                is_last = chunks.stop == last
                rows, carried = _cut(np.concatenate([carried, rows]), size, is_last)
                coming = self._part(order[chunks.stop], before[chunks.stop], begin, end) if chunks.stop < last else rows[:0]
                plans = self._plan(rows, carried, coming)
                planned += len(plans)
                yield from plans
                position = 0
        for _ in range(planned, self.n_batches):
            yield self._padding()

    def _padding(self) -> BatchPlan:
        return BatchPlan(np.array([PADDING]), np.zeros(0, np.int64), [], [0], [])

    def _part(self, chunk: int, before: int, begin: int, end: int) -> Index:
        """The rows of a chunk that are the rank's, when `before` rows come before it."""
        return self.units.rows(chunk)[max(0, begin - before) : max(0, end - before)]

    def _plan(self, rows: Index, carried: Index, coming: Index) -> list[BatchPlan]:  # noqa: ARG002 - chunks have no row in common
        """Plans of the batches that `rows`, in the order in which they are served, are cut into.

        Args:
            rows: to be served now.
            carried: of this pool, to be served with the next one.
            coming: what the next pool begins with.
        """
        # For all batches of the pool at once: batch by batch, numpy's calls would take longer than the gather.
        size, n_rows = self.spec.batch_size, len(rows)
        whole = n_rows // size * size
        rows = np.concatenate([np.sort(rows[:whole].reshape(-1, size), axis=1).ravel(), np.sort(rows[whole:])])
        chunk_of = self._chunk_of(rows)
        local = rows - self.table.first_row[chunk_of]
        begins_piece = np.ones(n_rows, bool)  # a piece: rows of one chunk in one batch
        begins_piece[1:] = chunk_of[1:] != chunk_of[:-1]
        begins_piece[::size] = True
        pieces = np.flatnonzero(begins_piece)
        first_piece = np.searchsorted(pieces, np.arange(0, n_rows + size, size)).tolist()
        finished = finished_after(chunk_of[pieces], pieces // size, self._chunk_of(carried))
        chunks, starts = chunk_of[pieces].tolist(), pieces.tolist()
        plans = []
        for number, start in enumerate(range(0, n_rows, size)):
            stop, mine = min(start + size, n_rows), slice(first_piece[number], first_piece[number + 1])
            bounds = [*(begin - start for begin in starts[mine]), stop - start]
            plans.append(BatchPlan(rows[start:stop], local[start:stop], chunks[mine], bounds, finished.get(number, [])))
        return plans

    def _chunk_of(self, rows: Index) -> Index:
        return np.searchsorted(self.table.first_row, rows, "right") - 1

    def _permutation(self, n: int, *purpose: int) -> Index:
        """A permutation of n, drawn for one purpose of one epoch.

        By sorting raw numbers: numpy promises (NEP 19) that those of a bit generator stay what they are, and does not promise
        it of `Generator.permutation`; an epoch must go on where it stopped after an upgrade, too.
        """
        raw = self._raw(n, *purpose)
        bits = np.uint64(n.bit_length())
        keys = raw >> bits << bits | np.arange(n, dtype=np.uint64)  # no two are the same, so any way of sorting will do
        keys.sort()
        return (keys & ((np.uint64(1) << bits) - np.uint64(1))).astype(np.int64)

    def _raw(self, n: int, *purpose: int) -> npt.NDArray[np.uint64]:
        """Random numbers of 64 bits, n of them, for one purpose of one epoch."""
        return np.random.PCG64(np.random.SeedSequence([self.spec.seed, self.spec.epoch, *purpose])).random_raw(n)


def finished_after(chunk: Index, batch: Index, carried: Index) -> dict[int, list[int]]:
    """The chunks that no later batch of a pool needs, by batch.

    Args:
        chunk: (p,) of each piece, in the order of the batches.
        batch: (p,) of each piece.
        carried: chunks of what is served after the pool.
    """
    last_batch = dict(zip(chunk.tolist(), batch.tolist(), strict=True))  # the later one stays
    for needed in np.unique(carried).tolist():
        last_batch.pop(needed, None)
    finished: dict[int, list[int]] = {}
    for number, last in sorted(last_batch.items()):
        finished.setdefault(last, []).append(number)
    return finished


def _cut(rows: Index, size: int, is_last: bool) -> tuple[Index, Index]:
    """Rows for full batches, and the rest that goes on into the next pool; with the last pool everything is served."""
    stop = len(rows) if is_last else len(rows) // size * size
    return rows[:stop], rows[stop:]
