"""The order of sessions in an epoch: arcs of the circle are permuted, and the sessions of an arc; what a batch needs of chunks.

All segments of a set lie in the order of the circle, so an interval of it (an arc) is a range of chunks in each of them: the
rows of a session are in reach together, wherever they lie. An arc is as long as makes it `pool_chunks` chunks; it takes the
place that a pool of chunks has in the order of rows, and all else is as there. In a drawn order the cuts between arcs
move from epoch to epoch, so that a session meets others. A few neighbouring arcs follow one another, since a chunk on a cut is
needed for both of its arcs: only those at the ends of such a group are read twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from featurestore.store.sessions import Sessions
from trainer.stream.chunk_table import ChunkTable, Index
from trainer.stream.order import ARCS, CHUNKS, PADDING, BatchPlan, EpochOrder, OrderSpec, Tensors, finished_after

GROUP = 4
"""Neighbouring arcs that follow one another; in a set of few arcs fewer."""


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
        places: (session · width,) the row in each place, `PADDING` where a session has none.
        receiver: (session · width,) the receiver in each place, `PADDING` where there is none.
        runs: (piece, first local row, first place, rows) of each run, by piece.
    """

    session: Index
    width: int
    places: Index
    receiver: Index
    runs: Sequence[tuple[int, int, int, int]]

    @property
    def n_places(self) -> int:
        """Tensors of the batch, absent ones too."""
        return len(self.places)

    @property
    def in_places(self) -> Index:
        """(n_places,) the row of each, `PADDING` where a session has none."""
        return self.places

    def copy_to(self, buffer: Tensors, chunks: Sequence[Tensors], part: int, parts: int) -> None:
        """Copy one part of the runs out of the chunks; with the first part, what is absent becomes 0."""
        if part == 0 and self.n_places > len(self.rows):
            buffer[: self.n_places][self.places < 0] = 0
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
        nobody = np.array([PADDING])
        return SessionPlan(none, none, [], [0], [], nobody, 1, nobody, nobody, [])

    def _drawn(self, n_units: int) -> Index:
        """Arcs in groups of neighbours, so that most of the chunks on cuts are needed twice in a row, and read once."""
        size = min(GROUP, max(1, n_units // GROUP))
        groups = self._permutation(-(-n_units // size), CHUNKS)
        arcs = (groups[:, None] * size + np.arange(size)).ravel()
        return arcs[arcs < n_units]

    def _plan(self, rows: Index, carried: Index, coming: Index) -> list[BatchPlan]:
        """Plans of the batches that sessions, in the order in which they are served, are cut into; see `EpochOrder`."""
        size, served = self.spec.batch_size, len(rows)
        session = rows[np.lexsort((rows, np.arange(served) // size))]  # ascending in each batch
        width = np.maximum.reduceat(self.sessions.n_rows[session], np.arange(0, served, size)) if served else rows
        at, place, batch = self._placed(session, width)
        row = self.sessions.rows[at]
        places_begin = np.concatenate([[0], np.cumsum(width * np.bincount(np.arange(served) // size, minlength=len(width)))])
        places, receiver = (np.full(places_begin[-1], PADDING) for _ in range(2))  # of all batches, one after the other
        places[places_begin[batch] + place] = row
        receiver[places_begin[batch] + place] = self.sessions.websdr_id[at]
        chunk_of = self._chunk_of(row)
        local = row - self.table.first_row[chunk_of]
        begins_piece = np.ones(len(row), bool)  # a piece: rows of one chunk in one batch
        begins_piece[1:] = (np.diff(batch) != 0) | (np.diff(chunk_of) != 0)
        begins_run = begins_piece.copy()  # a run: rows that are neighbours in their chunk and in the batch
        begins_run[1:] |= (np.diff(local) != 1) | (np.diff(place) != 1)
        pieces, runs = np.flatnonzero(begins_piece), np.flatnonzero(begins_run)
        later = self._chunk_of(self._rows_of(np.concatenate([carried, coming])))
        finished = finished_after(chunk_of[pieces], batch[pieces], later)
        row_begin = np.searchsorted(batch, np.arange(len(width) + 1)).tolist()
        piece_begin, run_begin = (np.searchsorted(each, row_begin).tolist() for each in (pieces, runs))
        piece_of_run = np.cumsum(begins_piece)[runs] - 1 - np.array(piece_begin)[batch[runs]]
        run_rows = np.diff(runs, append=len(row))
        all_runs = list(zip(*(each.tolist() for each in (piece_of_run, local[runs], place[runs], run_rows)), strict=True))
        chunks, starts, bounds = chunk_of[pieces].tolist(), pieces.tolist(), places_begin.tolist()
        plans: list[BatchPlan] = []
        for number, (first, stop) in enumerate(pairwise(row_begin)):
            mine = slice(piece_begin[number], piece_begin[number + 1])
            plans.append(
                SessionPlan(
                    row[first:stop],
                    local[first:stop],
                    chunks[mine],
                    [*(begin - first for begin in starts[mine]), stop - first],
                    finished.get(number, []),
                    session[number * size : (number + 1) * size],
                    int(width[number]),
                    places[bounds[number] : bounds[number + 1]],
                    receiver[bounds[number] : bounds[number + 1]],
                    all_runs[run_begin[number] : run_begin[number + 1]],
                )
            )
        return plans

    def _placed(self, session: Index, width: Index) -> tuple[Index, Index, Index]:
        """The rows of sessions that are served in this order, within a batch in the order of the set.

        Returns:
            (n,) places in `Sessions.rows`; (n,) the place of each in its batch, session · width + place in its session; (n,)
            number of its batch.
        """
        n_rows = self.sessions.n_rows[session]
        line = np.repeat(np.arange(len(session)), n_rows)  # of each row, its session's place in `session`
        within = np.arange(len(line)) - np.repeat(np.cumsum(n_rows) - n_rows, n_rows)
        batch, in_batch = np.divmod(line, self.spec.batch_size)
        at = self._at(session)
        order = np.lexsort((self.sessions.rows[at], batch))
        return at[order], (in_batch * width[batch] + within)[order], batch[order]

    def _rows_of(self, session: Index) -> Index:
        return self.sessions.rows[self._at(session)]

    def _at(self, session: Index) -> Index:
        """(n,) places in `Sessions.rows` of all rows of sessions."""
        n_rows = self.sessions.n_rows[session]
        starts = self.sessions.begin[session] - (np.cumsum(n_rows) - n_rows)
        at: Index = np.repeat(starts, n_rows) + np.arange(n_rows.sum())
        return at
