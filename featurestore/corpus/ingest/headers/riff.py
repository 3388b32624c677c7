"""The chunks of a RIFF file as they really lie: 64-bit sizes, sizes that wrapped round, and files that were never finished.

Layout: Microsoft RIFF; RF64 and BW64 by EBU Tech 3306 and ITU-R BS.2088, whose `ds64` chunk holds sizes of 64 bits.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from featurestore.errors import DataQualityError

UNKNOWN = 0xFFFFFFFF
STREAMED_SIZES = (0, UNKNOWN)
"""What programs that write to a pipe, and RF64, put where the size belongs."""

WRAP_BYTES = 1 << 32
"""A 32-bit size of a longer file is what is left after this many bytes, as often as they go in."""

CHUNKS_OF_ANY_SIZE = 10_000
LEAST_MEAN_CHUNK_BYTES = 256
"""Of more chunks than that: what is kept of one takes about as much. KiwiSDR's hold 2 KB and more."""

NAMES = frozenset(
    (
        b"LIST|id3 |ID3 |bext|cue |fact|auxi|kiwi|data|fmt |ds64|JUNK|junk|PAD |FLLR|smpl|inst|afsp|iXML|axml|chna|cart|plst"
        b"|labl|note|ltxt|acid|strc|DISP|PEAK|rcvr|umid|levl|link|_PMX|wavl|slnt"
    ).split(b"|")
)
"""Names of chunks that programs write; four bytes of samples are one of them once in a hundred million times."""

MAX_TRAILING_CHUNKS = 100
MAX_PADDING_BYTES = 1 << 16
"""This many zeros behind the samples fill up a block of the disk; more of them are samples."""


@dataclass(frozen=True)
class Chunk:
    """Name, first byte, size in bytes as far as the file goes, as its header declares it, and what was odd about it."""

    name: bytes
    start: int
    size: int
    declared: int
    note: str = ""


def walk(file: npt.NDArray[np.uint8]) -> Iterator[Chunk]:
    """Every chunk up to the end of the file; the size in the RIFF header is not believed, streaming leaves it wrong.

    Raises:
        DataQualityError: when there are more chunks than a recording can have.
    """
    buffer = file.data
    streamed = struct.unpack_from("<I", buffer, 4)[0] in STREAMED_SIZES
    wide: dict[bytes, int] = {}
    place, first = 12, True
    for count in itertools.count():
        if place + 8 > len(buffer):
            return
        if count > CHUNKS_OF_ANY_SIZE and place < LEAST_MEAN_CHUNK_BYTES * count:
            raise DataQualityError(
                f"is cut into {count:,} chunks within its first {place:,} bytes; it is damaged, or meant to waste memory"
            )
        name, declared = struct.unpack_from("<4sI", buffer, place)
        place += 8
        rest, note = len(buffer) - place, ""
        if name == b"ds64" and count == 0:
            wide = _wide_sizes(buffer[place : place + min(declared, rest)])
        if name in wide and declared in (*STREAMED_SIZES, wide[name] % WRAP_BYTES):
            declared = wide[name]
        if name == b"data" and (declared == UNKNOWN or (streamed and declared == 0)):
            declared = rest
        elif name == b"data" and first and declared < rest:
            declared, note = _true_size(buffer, place, declared)
        first = first and name != b"data"
        size = min(declared, rest)
        yield Chunk(name, place, size, declared, note)
        place += size + size % 2  # chunks are padded to even sizes


def _wide_sizes(ds64: memoryview) -> dict[bytes, int]:
    """Sizes by chunk name: u64 of RIFF, u64 of data, u64 of samples, u32 length of a table of name and u64; 0 is no size."""
    if len(ds64) < 16:
        return {}
    sizes = {b"data": struct.unpack_from("<Q", ds64, 8)[0]}
    for place in range(28, min(len(ds64) - 11, 28 + 12 * MAX_TRAILING_CHUNKS), 12):
        name, size = struct.unpack_from("<4sQ", ds64, place)
        sizes.setdefault(name, size)
    return {name: size for name, size in sizes.items() if 0 < size < 1 << 63}


def _true_size(buffer: memoryview, start: int, declared: int) -> tuple[int, str]:
    """Bytes of samples behind `start`: as declared if a chunk or nothing follows, else as many as fit the file, and a note."""
    end, n_bytes = start + declared, len(buffer)
    for wraps in range((n_bytes - end) // WRAP_BYTES, -1, -1):
        if _ends_here(buffer, end + wraps * WRAP_BYTES, never_finished=declared == wraps == 0):
            size = declared + wraps * WRAP_BYTES
            break
    else:
        size = n_bytes - start
    if size == declared:
        return declared, ""
    sizes = f"its header declares {declared:,} bytes of samples, and {size:,} are there"
    if declared == 0:
        return size, f"was never finished: {sizes}; all are read"
    wrapped = "32-bit sizes wrap round at 4 GiB" if (size - declared) % WRAP_BYTES == 0 else "no chunk follows those declared"
    return size, f"{sizes} ({wrapped}); all are read"


def _ends_here(buffer: memoryview, end: int, *, never_finished: bool) -> bool:
    """Whether samples may end here: at the end of the file, its padding, or a chunk."""
    left = len(buffer) - end
    if left == 0:
        return True
    if not never_finished and (left < 8 or (left <= MAX_PADDING_BYTES and not any(buffer[end:]))):
        return True
    return any(_chunk_at(buffer, place) for place in (end, end + end % 2))  # not every program pads odd sizes


def _chunk_at(buffer: memoryview, place: int) -> bool:
    """A name that is known, or chunks of any printable names that end just where the file does."""
    if len(buffer) - place >= 8 and bytes(buffer[place : place + 4]) in NAMES:
        return True
    for _ in range(MAX_TRAILING_CHUNKS):
        if len(buffer) - place < 8:
            return False
        name, size = struct.unpack_from("<4sI", buffer, place)
        if not all(0x20 <= letter < 0x7F for letter in name):
            return False
        place += 8 + size + size % 2
        if place >= len(buffer):
            return bool(place - len(buffer) <= size % 2)
    return False
