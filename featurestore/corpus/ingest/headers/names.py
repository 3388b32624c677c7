"""What file names say: the patterns by which receivers' programs name their IQ recordings."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime

from featurestore.corpus.ingest.headers.facts import Facts

UNITS = {"": 1.0, "hz": 1.0, "k": 1e3, "khz": 1e3, "m": 1e6, "mhz": 1e6, "g": 1e9, "ghz": 1e9}
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


@dataclass(frozen=True)
class _Pattern:
    """Groups: y, mo or month, d, h, mi, s, ms: time; f, u: frequency and unit; rate, ru: sample rate and unit; audio."""

    program: str
    expression: re.Pattern[str]
    sure_utc: bool
    raw_format: str | None = None


DATE = r"(?P<y>\d{4})(?P<mo>\d\d)(?P<d>\d\d)"
CLOCK = r"(?P<h>\d\d)(?P<mi>\d\d)(?P<s>\d\d)"
DATE_WITH_DASHES = r"(?P<y>\d{4})-(?P<mo>\d\d)-(?P<d>\d\d)"


def _pattern(program: str, expression: str, *, sure_utc: bool, raw_format: str | None = None) -> _Pattern:
    return _Pattern(program, re.compile(rf"(?<![0-9A-Za-z]){expression}", re.IGNORECASE), sure_utc, raw_format)


PATTERNS = (
    # SDRSharp_20240412_183000Z_145500000Hz_IQ.wav, HDSDR_…Z_7050kHz_RF.wav, SDRuno_…Z_88110kHz.wav, AirSpy_…Z_106000kHz_IQ.wav
    _pattern(
        "as SDR#, HDSDR, SDRuno and airspy_rx write it",
        DATE + "_" + CLOCK + r"Z_(?P<f>\d+(?:\.\d+)?)(?P<u>[kM]?Hz)(?P<audio>_AF)?(?![0-9A-Za-z])",
        sure_utc=True,
    ),
    _pattern("SDRconnect", "SDRconnect_IQ_" + DATE + "_" + CLOCK + r"_(?P<f>\d+)(?P<u>Hz)", sure_utc=False),
    _pattern(
        "SDR++",
        r"(?:baseband|(?P<audio>audio))_(?P<f>\d+)(?P<u>Hz)_(?P<h>\d\d)-(?P<mi>\d\d)-(?P<s>\d\d)"
        r"_(?P<d>\d\d)-(?P<mo>\d\d)-(?P<y>\d{4})",
        sure_utc=False,
    ),
    _pattern("gqrx", "gqrx_" + DATE + "_" + CLOCK + r"_(?P<f>\d+)_(?P<rate>\d+)_fc(?=\.|$)", sure_utc=True, raw_format="cf32"),
    _pattern(
        "KiwiSDR",
        r"(?P<y>\d{4})(?P<mo>\d\d)(?P<d>\d\d)T" + CLOCK + r"Z_(?P<f>\d+)_(?:[^/]*_)?iq(?=\.|$)",
        sure_utc=True,
    ),
    # 05-Oct-2026 000058.000 436.665MHz 000.wav: the local time of the recorder; its auxi chunk has UTC.
    _pattern(
        "SDR Console",
        rf"(?P<d>\d\d)-(?P<month>{'|'.join(MONTHS)})-(?P<y>\d{{4}}) " + CLOCK + r"(?:\.(?P<ms>\d{3}))? "
        r"(?P<f>\d+(?:\.\d+)?)(?P<u>[kMG]?Hz)",
        sure_utc=False,
    ),
    _pattern(
        "SDRangel",
        DATE_WITH_DASHES + r"T(?P<h>\d\d)_(?P<mi>\d\d)_(?P<s>\d\d)_(?P<ms>\d{3})(?![0-9A-Za-z])",
        sure_utc=True,
    ),
    _pattern(
        "SatDump",
        DATE_WITH_DASHES + r"_(?P<h>\d\d)-(?P<mi>\d\d)-(?P<s>\d\d)(?:-(?P<ms>\d{3}))?_(?P<rate>\d+)SPS_(?P<f>\d+)(?P<u>Hz)",
        sure_utc=False,
    ),
    # RTL-SDR-20171105_143259-433_92MHz-2MSps-2MHz.complex
    _pattern(
        "Universal Radio Hacker",
        DATE + "_" + CLOCK + r"-(?P<f>\d+(?:_\d+)?)(?P<u>[kMG]?Hz)-(?P<rate>\d+(?:_\d+)?)(?P<ru>[kMG]?)Sps(?![0-9A-Za-z])",
        sure_utc=False,
    ),
    # g001_433.92M_250k.cu8
    _pattern(
        "as rtl_433 writes it",
        r"(?P<f>\d+(?:\.\d+)?)(?P<u>M)_(?P<rate>\d+(?:\.\d+)?)(?P<ru>[kM])(?=\.c[usf]\d+$)",
        sure_utc=True,
    ),
)
"""The first that fits counts. Times with a Z, gqrx's and KiwiSDR's are UTC; some programs let the user choose."""


def parse_name(name: str) -> Facts | None:
    """What a recording's file name says, without its folder; `None` where it follows no known pattern."""
    for pattern in PATTERNS:
        match = pattern.expression.search(name)
        if match:
            said = {key: text for key, text in match.groupdict().items() if text is not None}
            note = "its name says audio, not IQ; check that it is IQ" if "audio" in said else ""
            return Facts(
                f"its name ({pattern.program})",
                _number(said.get("rate"), said.get("ru", "")),
                _number(said.get("f"), said.get("u", "")),
                _time(said),
                pattern.sure_utc,
                pattern.raw_format if name.lower().endswith(".raw") else None,
                note,
            )
    return None


def _number(text: str | None, unit: str) -> float | None:
    value = float((text or "0").replace("_", ".")) * UNITS[unit.lower()]
    return round(value, 3) if 0 < value < 1e12 else None  # 433.92 × 1e6 is not whole


def _time(said: dict[str, str]) -> datetime | None:
    if "y" not in said:
        return None
    month = MONTHS.index(said["month"].title()) + 1 if "month" in said else int(said["mo"])
    day, hour, minute, second = (int(said[key]) for key in ("d", "h", "mi", "s"))
    try:
        return datetime(int(said["y"]), month, day, hour, minute, second, int(said.get("ms", 0)) * 1000, tzinfo=UTC)
    except ValueError:
        return None
