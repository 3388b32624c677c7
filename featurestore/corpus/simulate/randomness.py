"""Independent random streams, one for each thing that is drawn: what a thing is never depends on who draws it, or when."""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """What a stream is for; with the seed and the indices of the thing it names the stream. Never renumber."""

    RECEIVER = 1
    SITE = 2
    SHADOWING = 3
    SESSION = 4
    VOICE = 5
    CAPTURE = 6
    CLOCK = 7
    SECOND_PATH = 8


def stream(seed: int, kind: Stream, *indices: int) -> np.random.Generator:
    """The generator of one thing, such as `stream(seed, Stream.CAPTURE, session, receiver)`.

    Source: numpy's `SeedSequence` (O'Neill's seed_seq), whose spawn keys make streams that do not overlap in practice;
    SFC64 is the fastest of numpy's bit generators.
    """
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence(seed, spawn_key=(int(kind), *indices))))
