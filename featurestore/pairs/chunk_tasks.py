"""What workers do: a chunk of sessions at a time. Each capture is read once, and the chunk is written by its task alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

from featurestore.build.chunk_tasks import put_once
from featurestore.build.rows_from_iq import read_ahead
from featurestore.delay.heard import Heard
from featurestore.delay.pairs import Pairs, measure_pairs
from featurestore.objects.objects import Objects, open_objects
from featurestore.pairs.recordings import Piece, cut, read_piece
from featurestore.pairs.segments import (
    COMPUTED,
    MEASURED,
    NO_DELAY,
    UNUSABLE,
    Details,
    PairPart,
    PairSegment,
    Unusable,
    open_pair_store,
)
from featurestore.source.captures import Layout
from featurestore.source.recording import Recording
from featurestore.source.timed import read_layout
from featurestore.store.chunks import ChunkBuffer
from featurestore.tensor.rejection import Rejection


@dataclass(frozen=True)
class SessionTask:
    """One session: the first of its rows in the segment, and its captures in the order of its pairs; none: it was withdrawn."""

    row: int
    n_rows: int
    recordings: tuple[Recording, ...]


@dataclass(frozen=True)
class PairChunk:
    """Compute one chunk of a pair segment."""

    raw_url: str
    store_url: str
    segment: PairSegment
    chunk: int
    sessions: tuple[SessionTask, ...]


@dataclass(frozen=True)
class PairChunkDone:
    """What became of it."""

    segment: str
    chunk: int
    sessions: int
    n_bytes: int
    part: PairPart


def compute_pair_chunk(task: PairChunk) -> PairChunkDone:
    """Read the sessions of a chunk, correlate, write, and note what was written; a whole chunk that is there stays."""
    segment, objects = task.segment, open_pair_store(task.store_url)
    buffers = {name: ChunkBuffer(segment.layout(name)) for name in COMPUTED}
    for buffer in buffers.values():
        buffer.rows[:] = np.nan
    first_row = segment.layout("correlation").rows(task.chunk).start
    details: Details = {}
    unusable: Unusable = {}
    n_bytes = 0
    for session, pieces in zip(task.sessions, _read_sessions(open_objects(task.raw_url), task), strict=True):
        rows = slice(session.row - first_row, session.row - first_row + session.n_rows)
        for recording, piece in zip(session.recordings, pieces, strict=True):
            if isinstance(piece, Rejection):
                unusable[recording.capture_id] = piece.reason.label, piece.detail
            elif piece is not None:
                n_bytes += piece.samples.nbytes
        arrays = (buffers["correlation"].rows[rows], buffers["measured"].rows[rows])
        for row, found_why in correlate_session(pieces, segment, *arrays).items():
            details[session.row + row] = found_why
        if not session.recordings:
            withdrawn = UNUSABLE, "was withdrawn or replaced before it was computed"
            details.update(dict.fromkeys(range(session.row, session.row + session.n_rows), withdrawn))
    crcs = {
        name: put_once(objects, f"{segment.path}/{name}", segment.layout(name), task.chunk, buffers[name]) for name in COMPUTED
    }
    part = PairPart(crcs, details, unusable)
    objects.put_json(segment.part_path(task.chunk), part.to_json())
    return PairChunkDone(segment.segment, task.chunk, len(task.sessions), n_bytes, part)


def correlate_session(
    pieces: Sequence[Heard | Rejection | None],
    segment: PairSegment,
    correlation: npt.NDArray[np.float16],
    measured: npt.NDArray[np.float64],
) -> Details:
    """Fill the rows of one session.

    Args:
        pieces: what was read of each capture; `None`: it shares no time with the others.
        segment: with the spec.
        correlation: (pair, 2, lag).
        measured: (pair, column).

    Returns:
        Rows without a delay, counted within the session, and why.
    """
    heard = [each for each in pieces if isinstance(each, Heard)]
    place = {id(each): index for index, each in enumerate(heard)}
    pairs = measure_pairs(heard, segment.spec.options) if len(heard) >= 2 else None
    order = (
        {} if pairs is None else {pair: row for row, pair in enumerate(zip(pairs.a.tolist(), pairs.b.tolist(), strict=True))}
    )
    curves = None if pairs is None else pairs.correlation(segment.spec.lag_s)
    details: Details = {}
    for row, (a, b) in enumerate(combinations(pieces, 2)):
        for each in (a, b):
            if isinstance(each, Rejection):
                details[row] = UNUSABLE, f"{each.reason.label}: {each.detail}"
        if row in details:
            continue
        if a is None or b is None or pairs is None or curves is None:
            details[row] = NO_DELAY, "they share no time"
            continue
        which = order[place[id(a)], place[id(b)]]
        measured[row] = _measured(pairs, which)
        if pairs.reason[which]:
            details[row] = NO_DELAY, pairs.reason[which]
            continue
        correlation[row, 0], correlation[row, 1] = curves[which].real, curves[which].imag
    return details


def _measured(pairs: Pairs, which: int) -> list[float]:
    return [float(getattr(pairs, name)[which]) for name in MEASURED]


def _read_sessions(raw: Objects, task: PairChunk) -> Iterator[list[Heard | Rejection | None]]:
    """What was read of each session's captures, several being fetched while one is used."""
    threads = not raw.location.is_local
    recordings = [recording for session in task.sessions for recording in session.recordings]
    layouts = iter(list(read_ahead(lambda each: read_layout(raw, each), recordings, threads=threads)))
    plans: list[list[Piece | Rejection | None]] = []
    for session in task.sessions:
        own = [next(layouts) for _ in session.recordings]
        good = [(each, found) for each, found in zip(session.recordings, own, strict=True) if isinstance(found, Layout)]
        pieces = iter(
            cut([each for each, _ in good], [found for _, found in good], task.segment.spec.pair_seconds) if good else []
        )
        plans.append([next(pieces) if isinstance(found, Layout) else found for found in own])

    def read(piece: Piece | Rejection | None) -> Heard | Rejection | None:
        return read_piece(raw, piece) if isinstance(piece, Piece) else piece

    samples = read_ahead(read, [piece for plan in plans for piece in plan], threads=threads)
    for plan in plans:
        yield [next(samples) for _ in plan]
