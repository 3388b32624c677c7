"""Which chunks hold the rows of a split: what an order is drawn of, and what is read for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from featurestore.errors import StoreError

Index = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ChunkTable:
    """The chunks that hold rows of one split, in the order of the set's rows; C of them.

    Which rows they are is not stored but looked up in the `split` column, so that ten million rows take ten megabytes.

    Attributes:
        segment: (C,) which segment of the set, counted from 0.
        chunk: (C,) which chunk of that segment.
        first_row: (C,) index in the set of the chunk's first row.
        end_row: (C,) index in the set behind the chunk's last row.
        count: (C,) rows of the split in it, at least 1.
        split: (N,) uint8, the set's column.
        wanted: the split's code.
    """

    segment: npt.NDArray[np.int32]
    chunk: npt.NDArray[np.int32]
    first_row: Index
    end_row: Index
    count: Index
    split: npt.NDArray[np.uint8]
    wanted: int

    @classmethod
    def of(cls, segments: Sequence[tuple[int, int]], split: npt.NDArray[np.uint8], wanted: int) -> ChunkTable:
        """The table of a set.

        Args:
            segments: (rows, rows per chunk) of each segment, in the set's order.
            split: (N,) uint8, the set's column; a row whose code is another (rejected ones, too) is never served.
            wanted: the code of the split to be served.

        Raises:
            StoreError: when the column and the segments do not have equally many rows.
        """
        n_rows = sum(rows for rows, _ in segments)
        if len(split) != n_rows:
            raise StoreError(f"the set has labels of {len(split)} rows, but its segments hold {n_rows}; build it again")
        segment, chunk, first, end, offset = [], [], [], [], 0
        for number, (rows, chunk_rows) in enumerate(segments):
            starts = np.arange(0, rows, chunk_rows)
            segment.append(np.full(len(starts), number, np.int32))
            chunk.append(np.arange(len(starts), dtype=np.int32))
            first.append(offset + starts)
            end.append(offset + np.minimum(starts + chunk_rows, rows))
            offset += rows
        if not n_rows:
            none, no_row = np.zeros(0, np.int32), np.zeros(0, np.int64)
            return cls(none, none, no_row, no_row, no_row, split, wanted)
        first_row = np.concatenate(first)
        count = np.add.reduceat(split == wanted, first_row, dtype=np.int64)
        some = count > 0
        return cls(
            np.concatenate(segment)[some],
            np.concatenate(chunk)[some],
            first_row[some],
            np.concatenate(end)[some],
            count[some],
            split,
            wanted,
        )

    def __len__(self) -> int:
        return len(self.chunk)

    @property
    def n_rows(self) -> int:
        """Rows of the split."""
        return int(self.count.sum())

    def rows(self, index: int) -> Index:
        """The rows of the split in chunk number `index` of this table, as (count,) indices in the set."""
        first = int(self.first_row[index])
        return np.flatnonzero(self.split[first : self.end_row[index]] == self.wanted) + first
