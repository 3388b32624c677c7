"""Writes recordings as receivers' programs do: WAVs with any sizes and chunks, `auxi` of both layouts, `.uff`."""

from __future__ import annotations

import struct
from datetime import datetime

import numpy as np
import numpy.typing as npt

STEREO_16 = struct.pack("<HHIIHH", 1, 2, 48_000, 192_000, 4, 16)


def pairs(n_samples: int, seed: int = 1) -> npt.NDArray[np.int16]:
    """(n_samples, 2) of I and Q, never zero."""
    return np.random.default_rng(seed).integers(1, 20_000, (n_samples, 2)).astype("<i2")


def chunk(name: bytes, body: bytes, size: int | None = None) -> bytes:
    """A chunk, padded; `size` is what its header says in place of the truth."""
    return name + struct.pack("<I", len(body) if size is None else size) + body + bytes(len(body) % 2)


def wav(*chunks: bytes, kind: bytes = b"RIFF", size: int | None = None, form: bytes = STEREO_16) -> bytes:
    """A WAV of a fmt chunk and `chunks`."""
    body = b"WAVE" + (b"" if kind != b"RIFF" else chunk(b"fmt ", form)) + b"".join(chunks)
    return kind + struct.pack("<I", len(body) if size is None else size) + body


def system_time(time: datetime | None) -> bytes:
    """A Windows SYSTEMTIME."""
    if time is None:
        return bytes(16)
    fields = (time.year, time.month, time.isoweekday() % 7, time.day, time.hour, time.minute, time.second)
    return struct.pack("<8H", *fields, time.microsecond // 1000)


def auxi(start: datetime | None, frequency_hz: int, stop: datetime | None = None) -> bytes:
    """SpectraVue's chunk, 164 bytes, as HDSDR and others write it."""
    numbers = struct.pack("<9I", frequency_hz, 2_400_000, 0, 0, 0, 0, 0, 0, 0)
    return chunk(b"auxi", system_time(start) + system_time(stop) + numbers + b"next.wav".ljust(96, b"\0"))


def auxi_xml(**attributes: object) -> bytes:
    """SDR Console's chunk, in UTF-16."""
    said = " ".join(f'{name}="{value}"' for name, value in attributes.items())
    text = (
        f'<?xml version="1.0"?><SDR-XML-Root Description="Saved recording data"><Definition {said}></Definition></SDR-XML-Root>'
    )
    return chunk(b"auxi", text.encode("utf-16-le") + bytes(600))


def uff(  # noqa: PLR0917 - in the order of the header
    samples: bytes,
    container: str = "uint8",
    bits: int = 8,
    ordering: str = "LSB",
    order: str = "IQ",
    count: int | None = None,
    *,
    offset: int | None = 2048,
    header_bytes: int = 2048,
    recorder: str = "AbracaDABra",
) -> bytes:
    """A recording with the "Raw File XML Header"; without `count` it was never finished."""
    channels = "".join(f'<Channel Value="{name}"/>' for name in order)
    place = "" if offset is None else f' Offset="{offset}"'
    blocks = (
        f'<Datablocks><Datablock Unit="Channel" Number="1"{place} Count="{count}"><Frequency Unit="kHz" Value="213360"/>'
        '<Modulation Value="DAB"/></Datablock></Datablocks>'
    )
    text = (
        f'<?xml version="1.0" encoding="utf-8"?>\n<SDR>\n<Recorder Name="{recorder}" Version="2.1"/>\n'
        '<Time Unit="UTC" Value="2023-09-10 05:56:52"/>\n<Sample><Samplerate Unit="Hz" Value="2048000"/>'
        f'<Channels Container="{container}" Ordering="{ordering}" Bits="{bits}">{channels}</Channels></Sample>\n'
        f"{blocks if count is not None else ''}</SDR>\n"
    )
    return text.encode().ljust(header_bytes, b"\0") + samples
