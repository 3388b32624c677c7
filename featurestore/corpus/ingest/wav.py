"""WAV recordings of IQ: stereo PCM or float in any order of chunks, also KiwiSDR's, whose samples lie in many `data` chunks.

A reader of its own, since the usual ones (`scipy.io.wavfile`, `wave`, libsndfile) stop at the first `data` chunk and know
nothing of `kiwi`. Layout: Microsoft RIFF/WAVE, kiwirecorder's "GPS WAV"; where its chunks lie, `riff` finds out.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from featurestore.corpus.ingest.headers.auxi import MAX_BYTES, SOURCE, parse_auxi
from featurestore.corpus.ingest.headers.facts import Facts, complete
from featurestore.corpus.ingest.headers.riff import Chunk, walk
from featurestore.corpus.ingest.kiwi import STAMP_BYTES, GpsClock, measure_rate, parse_stamps
from featurestore.corpus.ingest.samples import PACKED_24_BIT, RAW_FORMATS, NumberFormat, Recording, map_bytes, split_components
from featurestore.errors import DataQualityError

PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE
NUMBERS = {
    # WAV's 8 bits are unsigned around 128; its wider integers are signed.
    (PCM, 8): NumberFormat("u1", 128, 128),
    (PCM, 16): RAW_FORMATS["cs16"],
    (PCM, 24): NumberFormat(PACKED_24_BIT, 0, 2.0**23),
    (PCM, 32): RAW_FORMATS["cs32"],
    (FLOAT, 32): RAW_FORMATS["cf32"],
    (FLOAT, 64): RAW_FORMATS["cf64"],
}


@dataclass
class _Contents:
    """The chunks that matter, gathered while walking through the file."""

    format: Chunk | None = None
    auxi: Chunk | None = None
    data: list[Chunk] = field(default_factory=list)
    stamps: list[Chunk] = field(default_factory=list)
    stamped_bytes: list[int] = field(default_factory=list)  # sample bytes before each stamp


def is_wav(head: bytes) -> bool:
    """Whether a file that begins so is a WAV."""
    return head[:4] in (b"RIFF", b"RF64", b"BW64") and head[8:12] == b"WAVE"


def read_wav(path: Path) -> Recording:
    """A stereo WAV as IQ: left is I, right is Q.

    Raises:
        DataQualityError: when it is no WAV, has not two channels, or holds something else than PCM or float.
        OSError: when the file cannot be opened.
    """
    file = map_bytes(path)
    if not is_wav(bytes(file[:12])):
        raise DataQualityError(f"is no WAV file (it begins with {bytes(file[:12])!r}, not with RIFF….WAVE)")
    contents = _gather(file)
    if contents.format is None:
        raise DataQualityError("has no fmt chunk, so its sample format is unknown; it is damaged")
    number, rate_hz = _parse_format(bytes(file[contents.format.start :][: contents.format.size]))
    if not contents.data:
        raise DataQualityError("has no data chunk; it is truncated or was never finished")
    frame_bytes = 2 * number.component_bytes
    stored = split_components(_join(file, contents.data, frame_bytes), number)
    clock = _clock(file, contents, frame_bytes, rate_hz)
    notes = (*clock.notes, *_damage(contents.data, frame_bytes))
    recording = Recording(
        stored,
        number,
        rate_hz,
        clock.rate_hz,
        gps_start_s=clock.start_s,
        time_sigma_s=clock.sigma_s,
        steps=clock.steps,
        notes=notes,
    )
    return _with_auxi(recording, file, contents.auxi)


def _with_auxi(recording: Recording, file: npt.NDArray[np.uint8], chunk: Chunk | None) -> Recording:
    if chunk is None:
        return recording
    facts = parse_auxi(bytes(file[chunk.start : chunk.start + min(chunk.size, MAX_BYTES)]))
    return complete(recording, facts or Facts(SOURCE, note="its auxi chunk is of an unknown layout, and not used"))


def _gather(file: npt.NDArray[np.uint8]) -> _Contents:
    contents = _Contents()
    n_bytes = 0
    for chunk in walk(file):
        if chunk.name == b"fmt " and contents.format is None:
            contents.format = chunk
        elif chunk.name == b"auxi" and contents.auxi is None:
            contents.auxi = chunk
        elif chunk.name == b"data":
            contents.data.append(chunk)
            n_bytes += chunk.size
        elif chunk.name == b"kiwi" and chunk.size == STAMP_BYTES:
            contents.stamps.append(chunk)
            contents.stamped_bytes.append(n_bytes)
    return contents


def _parse_format(chunk: bytes) -> tuple[NumberFormat, float | None]:
    if len(chunk) < 16:
        raise DataQualityError(f"has a fmt chunk of {len(chunk)} bytes, expected at least 16; it is damaged")
    tag, channels, rate_hz, byte_rate, block_bytes, bits = struct.unpack_from("<HHIIHH", chunk)
    if tag == EXTENSIBLE and len(chunk) >= 26:
        (tag,) = struct.unpack_from("<H", chunk, 24)  # the first bytes of the sub-format's GUID
    if channels != 2:
        what = "one channel (mono audio?)" if channels == 1 else f"{channels} channels"
        raise DataQualityError(f"has {what}, so it is not IQ; expected two channels: I left, Q right")
    bits = block_bytes * 4 if block_bytes else bits  # 20 bits in a 24-bit container are left-justified: the container counts
    if (tag, bits) not in NUMBERS:
        raise DataQualityError(
            f"stores {bits}-bit samples of WAV format {tag:#x}; expected 8, 16, 24 or 32-bit PCM or 32 or 64-bit float"
        )
    rate_hz = rate_hz or byte_rate / max(block_bytes, 1)  # SDR Console has written 0 for the rate alone
    return NUMBERS[tag, bits], float(rate_hz) or None


def _join(file: npt.NDArray[np.uint8], data: list[Chunk], frame_bytes: int) -> npt.NDArray[np.uint8]:
    """The samples of all data chunks; each holds whole frames, what is left over would shift I and Q."""
    parts = [file[chunk.start : chunk.start + chunk.size // frame_bytes * frame_bytes] for chunk in data]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _clock(file: npt.NDArray[np.uint8], contents: _Contents, frame_bytes: int, rate_hz: float | None) -> GpsClock:
    if not contents.stamps or rate_hz is None:
        return GpsClock(None, ())
    stamps = b"".join(bytes(file[chunk.start : chunk.start + STAMP_BYTES]) for chunk in contents.stamps)
    return measure_rate(parse_stamps(stamps, [n_bytes // frame_bytes for n_bytes in contents.stamped_bytes]), rate_hz)


def _damage(data: list[Chunk], frame_bytes: int) -> Iterator[str]:
    yield from (chunk.note for chunk in data if chunk.note)
    missing = data[-1].declared - data[-1].size
    if missing:
        yield f"truncated: its last data chunk declares {data[-1].declared:,} bytes, {missing:,} of them are missing"
    rest = sum(chunk.size % frame_bytes for chunk in data)
    if rest:
        yield f"{rest} bytes that are no whole sample are left out"
