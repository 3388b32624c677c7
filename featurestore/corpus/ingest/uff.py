"""`.uff` recordings of Qt-DAB, AbracaDABra and QIRX: an XML header, padded with zeros, and raw samples behind it.

Format: "Raw File XML Header", C. Schmidt and J. van Katwijk (qirx.softsyst.com/RawXmlHeader).
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt

from featurestore.corpus.ingest.headers.xml_header import XmlError, parse_xml
from featurestore.corpus.ingest.samples import PACKED_24_BIT, RAW_FORMATS, NumberFormat, Recording, map_bytes, split_components
from featurestore.corpus.ingest.times import parse_time
from featurestore.errors import DataQualityError
from featurestore.source.npy_header import brief

MAX_HEADER_BYTES = 1 << 16
QT_DAB_HEADER_BYTES = 5000
HEADER_BYTES = 2048
"""AbracaDABra's and QIRX's; where the header states an offset, that counts."""

HEADER_SIZES = (1024, HEADER_BYTES, 4096, QT_DAB_HEADER_BYTES)

CONTAINERS = {
    "int8": RAW_FORMATS["cs8"],
    "uint8": RAW_FORMATS["cu8"],
    "int16": RAW_FORMATS["cs16"],
    "int24": NumberFormat(PACKED_24_BIT, 0, 2.0**23),
    "int32": RAW_FORMATS["cs32"],
    "float": RAW_FORMATS["cf32"],
    "float32": RAW_FORMATS["cf32"],
}
HZ = {"hz": 1.0, "khz": 1e3, "mhz": 1e6}


def is_uff(head: bytes) -> bool:
    """Whether a file that begins so has the XML header."""
    return head.lstrip().startswith(b"<?xml") and b"<SDR>" in head


def read_uff(path: Path) -> Recording:
    """A recording by its XML header: container, byte order, order of I and Q, rate, frequency, time and count.

    Raises:
        DataQualityError: when there is no such header, or it does not say what the samples are.
        OSError: when the file cannot be opened.
    """
    file = map_bytes(path)
    head = bytes(file[:MAX_HEADER_BYTES])
    end = head.find(b"</SDR>") + len(b"</SDR>")
    if not head.lstrip().startswith(b"<") or end < len(b"</SDR>"):
        raise DataQualityError(
            "has no XML header of Qt-DAB, AbracaDABra or QIRX; for raw samples, give their 'format' in its label"
        )
    try:
        root = parse_xml(head[:end].decode("utf-8", "replace"))
    except XmlError as error:
        raise DataQualityError(f"has an XML header that {brief(error)}; it is damaged") from error
    channels = _find(root, "Channels")
    number = _number(channels)
    blocks = [block for block in root.iter("Datablock") if _count(block) > 0] or list(root.iter("Datablock"))
    n_bytes = sum(_channels(block) for block in blocks) * number.component_bytes
    start = _start(root, blocks, file, end, n_bytes)
    whole = split_components(file[start:], number)
    wanted = n_bytes // (2 * number.component_bytes)
    stored = whole[: wanted or None]
    if _order(channels) == "QI":
        stored = stored[:, ::-1]
    frequency_hz = _quantity(blocks[0].find("Frequency")) if blocks else None
    recording = Recording(
        stored,
        number,
        _quantity(root.find("Sample/Samplerate")),
        frequency_mhz=None if frequency_hz is None else frequency_hz / 1e6,
        timestamp=_time(root.find("Time")),
    )
    return replace(recording, notes=tuple(_notes(len(blocks), wanted, len(whole))))


def _find(root: ET.Element, name: str) -> ET.Element:
    element = next(root.iter(name), None)
    if element is None:
        raise DataQualityError(
            f"has an XML header without {name}, so its sample format is unknown; name a raw 'format' in its label"
        )
    return element


def _number(channels: ET.Element) -> NumberFormat:
    name = channels.get("Container", "")
    number = CONTAINERS.get(name.strip().lower().removesuffix("_t"))
    if number is None:
        raise DataQualityError(f"states the unknown Container {brief(name)!r}; expected one of {', '.join(CONTAINERS)}")
    if len(list(channels.iter("Channel"))) not in (0, 2) or channels.get("Amount", "2") != "2":
        raise DataQualityError("states other channels than I and Q, so it is not IQ")
    bits, width = channels.get("Bits", ""), 8 * number.component_bytes
    if number.zero == 0 and number.full_scale > 1 and bits.isdecimal() and 1 < int(bits[:3]) < width:
        number = replace(number, full_scale=2.0 ** (int(bits) - 1))  # 12 bits in an int16 reach ±2048
    if channels.get("Ordering", "LSB").strip().upper() == "MSB" and width > 8:
        if number.dtype == PACKED_24_BIT:
            raise DataQualityError(
                "holds 24-bit samples with the most significant byte first, which is not supported; convert it"
            )
        number = replace(number, dtype=np.dtype(number.dtype).newbyteorder(">").str)
    return number


def _order(channels: ET.Element) -> str:
    order = "".join(channel.get("Value", "").strip().upper() for channel in channels.iter("Channel")) or "IQ"
    if order not in ("IQ", "QI"):
        raise DataQualityError(f"states the channels {brief(order)!r}, so it is not IQ; expected I and Q")
    return order


def _start(root: ET.Element, blocks: list[ET.Element], file: npt.NDArray[np.uint8], end: int, n_bytes: int) -> int:
    """First byte of the samples: as stated; else where the stated count ends with the file, or as the program writes it."""
    stated = blocks[0].get("Offset", "") if blocks else ""
    if stated.isdecimal() and end <= int(stated[:9]) <= len(file):
        return int(stated[:9])
    recorder = root.find("Recorder")
    usual = QT_DAB_HEADER_BYTES if recorder is not None and "qt" in recorder.get("Name", "").lower() else HEADER_BYTES
    fits = len(file) - n_bytes if n_bytes else usual
    for place in (*(size for size in HEADER_SIZES if size == fits), usual, fits):
        if end <= place <= min(len(file), MAX_HEADER_BYTES) and not (file[end:place] > 0x20).any():
            return place
    return end


def _count(block: ET.Element) -> int:
    text = block.get("Count", "")
    return int(text) if text.isdecimal() and len(text) < 19 else 0


def _channels(block: ET.Element) -> int:
    """Numbers in a block; its unit is one channel (I or Q), or a sample of both."""
    return _count(block) * (1 if block.get("Unit", "Channel").strip().lower().startswith("channel") else 2)


def _quantity(element: ET.Element | None) -> float | None:
    """Value and Unit in Hz."""
    if element is None:
        return None
    try:
        value = float(element.get("Value", "")) * HZ.get(element.get("Unit", "Hz").strip().lower(), 1.0)
    except ValueError:
        return None
    return value if math.isfinite(value) and value > 0 else None


def _time(element: ET.Element | None) -> datetime | None:
    if element is None or element.get("Unit", "UTC").strip().upper() != "UTC":
        return None
    try:
        return parse_time(element.get("Value", "")).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _notes(n_blocks: int, wanted: int, there: int) -> list[str]:
    notes = []
    if wanted == 0:
        notes.append(f"was never finished: its header states no count of samples, and {there:,} are there; all are read")
    elif there < wanted:
        notes.append(f"truncated: its header states {wanted:,} samples, {wanted - there:,} of them are missing")
    elif there > wanted:
        notes.append(f"{there - wanted:,} samples behind the {wanted:,} that its header states are left out")
    if n_blocks > 1:
        notes.append(f"{n_blocks} data blocks are read as one, with the frequency of the first")
    return notes
