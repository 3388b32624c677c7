"""The order of sessions in an epoch: arcs of the circle are permuted, and the sessions of an arc; what a batch needs of chunks.

All segments of a set lie in the order of the circle, so an interval of it (an arc) is a range of chunks in each of them: the
rows of a session are in reach together, wherever they lie. An arc is as long as makes it `pool_chunks` chunks; it takes the
place that a pool of chunks has in the order of rows, and all else is as there. In a drawn order the cuts between arcs
move from epoch to epoch, so that a session meets others. A chunk on a cut is read for both of its arcs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np

from featurestore.store.sessions import Sessions
from trainer.stream.chunk_table import ChunkTable, Index
from trainer.stream.order import ARCS, PADDING, BatchPlan, EpochOrder, OrderSpec, Tensors, finished_after


@dataclass(frozen=True)
class Arcs:
    """Intervals of the circle, each with the sessions in it; what is permuted in place of chunks.

    Attributes:
        begin: (A + 1,) number of each arc's first session.
    """

    begin: Index

    @classmethod
    def of(cls, sessions: Sessions, n_arcs: int, phase: float) -> Arcs:
        """Cut the circle into arcs of nearly equally many rows.

        Args:
            sessions: of the split.
            n_arcs: how many; one more when a cut moves what is left at both ends.
            phase: by how much of an arc the cuts move, 0 to 1.
        """
        n_rows = int(sessions.begin[-1])
        cuts = (np.arange(n_arcs) + phase) * n_rows / n_arcs  # in rows
        inner = np.searchsorted(sessions.begin, cuts, "left")
        return cls(np.unique([0, *inner.tolist(), len(sessions)]))

    @property
    def count(self) -> Index:
        """(A,) sessions of each arc."""
        return np.diff(self.begin)

    @property
    def n_rows(self) -> int:
        """Sessions of all arcs."""
        return int(self.begin[-1])

    def rows(self, index: int) -> Index:
        """The sessions of an arc."""
        return np.arange(self.begin[index], self.begin[index + 1])


@dataclass(frozen=True)
class SessionPlan(BatchPlan):
    """The sessions of one batch, ascending, each with a line of `width` places for its rows.

    `rows`, `local`, `chunks`, `bounds` and `finished` are as in `BatchPlan`. A run is a number of rows that are neighbours in
    their chunk and in the batch: they are copied at once.

    Attributes:
        session: (b,) numbers in the split's `Sessions`, ascending; or `PADDING` alone.
        width: r, places of a session: rows of the batch's largest.
        place: (n,) where in the batch each of `rows` goes, session · width + place in its session.
        runs: (piece, first local row, first place, rows) of each run, by piece.
    """

    session: Index
    width: int
    place: Index
    runs: Sequence[tuple[int, int, int, int]]

    @property
    def n_places(self) -> int:
        """Tensors of the batch, absent ones too."""
        return len(self.session) * self.width

    @cached_property
    def in_places(self) -> Index:
        """(n_places,) the row of each, `PADDING` where a session has none."""
        rows = np.full(self.n_places, PADDING)
        rows[self.place] = self.rows
        return rows

    def copy_to(self, buffer: Tensors, chunks: Sequence[Tensors], part: int, parts: int) -> None:
        """Copy one part of the runs out of the chunks; with the first part, what is absent becomes 0."""
        if part == 0 and self.n_places > len(self.rows):
            buffer[: self.n_places][self.in_places < 0] = 0
        for piece, local, place, n in self.runs[part * len(self.runs) // parts : (part + 1) * len(self.runs) // parts]:
            buffer[place : place + n] = chunks[piece][local : local + n]


class SessionOrder(EpochOrder):
    """One rank's batches of sessions of one epoch.

    Args:
        table: of the split's chunks.
        sessions: of the split.
        spec: see `OrderSpec`; its `batch_size` counts sessions.
    """

    def __init__(self, table: ChunkTable, sessions: Sessions, spec: OrderSpec) -> None:
        n_arcs = max(1, round(len(table) / spec.pool_chunks))
        super().__init__(table, spec)
        self.sessions = sessions
        phase = float(self._raw(1, ARCS)[0]) / 2**64 if spec.shuffle else 0.0
        self.units = Arcs.of(sessions, n_arcs, phase)
        self.pool_units = 1  # an arc is a pool

    def _padding(self) -> BatchPlan:
        none = np.zeros(0, np.int64)
        return SessionPlan(none, none, [], [0], [], np.array([PADDING]), 1, none, [])

    def _plan(self, rows: Index, carried: Index) -> list[BatchPlan]:
        """Plans of the batches that sessions, in the order in which they are served, are cut into; `carried` come later."""
        size, served = self.spec.batch_size, len(rows)
        batch = np.arange(served) // size
        session = rows[np.lexsort((rows, batch))]
        n_rows = self.sessions.n_rows[session]
        width = np.maximum.reduceat(n_rows, np.arange(0, served, size)) if served else n_rows
        line = np.repeat(np.arange(served), n_rows)  # of each row below, its session's place in `session`
        within = np.arange(len(line)) - np.repeat(np.cumsum(n_rows) - n_rows, n_rows)
        row = self.sessions.rows[self.sessions.begin[session][line] + within]
        place = (line % size) * width[line // size] + within
        by_row = np.lexsort((row, line // size))  # within a batch in the order of the set
        row, place, line = row[by_row], place[by_row], line[by_row]
        chunk_of = self._chunk_of(row)
        local = row - self.table.first_row[chunk_of]
        new_batch = np.ones(len(row), bool)
        new_batch[1:] = line[1:] // size != line[:-1] // size
        new_piece = new_batch.copy()
        new_piece[1:] |= chunk_of[1:] != chunk_of[:-1]
        new_run = new_piece.copy()
        new_run[1:] |= (np.diff(local) != 1) | (np.diff(place) != 1)
        pieces, runs = np.flatnonzero(new_piece), np.flatnonzero(new_run)
        batch_of = line // size
        finished = finished_after(chunk_of[pieces], batch_of[pieces], self._chunk_of(self._rows_of(carried)))
        row_begin = np.searchsorted(batch_of, np.arange(math.ceil(served / size) + 1)).tolist()
        piece_begin = np.searchsorted(pieces, row_begin).tolist()
        run_begin = np.searchsorted(runs, row_begin).tolist()
        run_piece = (np.cumsum(new_piece) - 1)[runs].tolist()
        run_local, run_place = local[runs].tolist(), place[runs].tolist()
        run_rows = np.diff([*runs.tolist(), len(row)]).tolist()
        chunks, starts = chunk_of[pieces].tolist(), pieces.tolist()
        plans: list[BatchPlan] = []
        for number, (first, stop) in enumerate(pairwise(row_begin)):
            mine = slice(piece_begin[number], piece_begin[number + 1])
            of_runs = slice(run_begin[number], run_begin[number + 1])
            in_batch = [piece - mine.start for piece in run_piece[of_runs]]
            plans.append(
                SessionPlan(
                    row[first:stop],
                    local[first:stop],
                    chunks[mine],
                    [*(begin - first for begin in starts[mine]), stop - first],
                    finished.get(number, []),
                    session[number * size : (number + 1) * size],
                    int(width[number]),
                    place[first:stop],
                    list(zip(in_batch, run_local[of_runs], run_place[of_runs], run_rows[of_runs], strict=True)),
                )
            )
        return plans

    def _rows_of(self, session: Index) -> Index:
        begin, rows = self.sessions.begin, self.sessions.rows
        return np.concatenate([rows[:0], *(rows[begin[each] : begin[each + 1]] for each in session.tolist())])
