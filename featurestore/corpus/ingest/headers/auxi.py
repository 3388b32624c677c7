"""The `auxi` chunk of WAV recordings: when and where in the spectrum they were made.

Two layouts: SpectraVue's, which HDSDR, SDR#, SDRuno, SDRangel and others write (two Windows SYSTEMTIMEs, then the centre
frequency in Hz as u32; SpectraVue User Guide 3.18), and SDR Console's XML in UTF-16 or UTF-8.
"""

from __future__ import annotations

import struct
from datetime import UTC, datetime

from featurestore.corpus.ingest.headers.facts import Facts
from featurestore.corpus.ingest.headers.xml_header import XmlError, parse_xml

MAX_BYTES = 1 << 16
SOURCE = "its auxi chunk"
YEARS = range(1990, 2200)


def parse_auxi(chunk: bytes) -> Facts | None:
    """What the chunk says; `None` where its layout is neither of the two."""
    text = _text(chunk)
    if text is not None:
        return _from_xml(text)
    if len(chunk) < 36:
        return None
    start = _system_time(chunk[:16])
    if start is None and any(chunk[:16]):  # another layout: its bytes are no frequency either
        return None
    (frequency_hz,) = struct.unpack_from("<I", chunk, 32)
    return Facts(SOURCE, frequency_hz=frequency_hz or None, timestamp=start, sure_utc=False)


def _system_time(field: bytes) -> datetime | None:
    """Year, month, day of week, day, hour, minute, second, ms, each a u16."""
    year, month, _, day, hour, minute, second, ms = struct.unpack("<8H", field)
    try:
        return datetime(year, month, day, hour, minute, second, ms * 1000, tzinfo=UTC) if year in YEARS else None
    except (ValueError, OverflowError):
        return None


def _text(chunk: bytes) -> str | None:
    for encoding, head in (("utf-16-le", "<\0"), ("utf-8", "<")):
        body = chunk.removeprefix(b"\xff\xfe").removeprefix(b"\xef\xbb\xbf")
        if body.startswith(head.encode("latin-1")):
            return body[: len(body) // 2 * 2 if encoding == "utf-16-le" else None].decode(encoding, "replace").rstrip("\0 \r\n")
    return None


def _from_xml(text: str) -> Facts | None:
    try:
        root = parse_xml(text.split("\0", maxsplit=1)[0])
    except XmlError:
        return None
    said = {name: value for element in root.iter() for name, value in element.attrib.items()}
    frequency_hz, rate_hz = _positive(said.get("RadioCenterFreq")), _positive(said.get("SampleRate"))
    time = _unix_time(said.get("UTCSeconds")) or _written_time(said.get("CurrentTimeUTC") or said.get("UTC"))
    if frequency_hz is None and rate_hz is None and time is None:
        return None
    return Facts(SOURCE, rate_hz, frequency_hz, time)


def _positive(text: str | None) -> float | None:
    try:
        number = float(text or 0)
    except ValueError:
        return None
    return number if 0 < number < 1e12 else None


def _unix_time(text: str | None) -> datetime | None:
    seconds = _positive(text)
    try:
        time = datetime.fromtimestamp(seconds, UTC) if seconds else None
    except (ValueError, OverflowError, OSError):
        return None
    return time if time and time.year in YEARS else None


def _written_time(text: str | None) -> datetime | None:
    try:
        return datetime.strptime(text or "", "%d-%m-%Y %H:%M:%S").replace(tzinfo=UTC)
    except ValueError:
        return None
