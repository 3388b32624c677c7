"""The labels of recordings: a CSV or JSON with one row per file → validated `Label`s, and a reason for each bad row."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar
from uuid import NAMESPACE_URL, UUID, uuid5

from featurestore.corpus.ingest.formats import FORMATS
from featurestore.corpus.ingest.times import parse_time
from featurestore.errors import DataQualityError, UsageError
from featurestore.source.receivers import ALTITUDES_M
from featurestore.source.tables import EXPECTED as EXPECTED_OF_RECEIVERS
from featurestore.source.tables import read_csv, receiver_number, require_columns, within

SESSION_NAMESPACE = uuid5(NAMESPACE_URL, "urn:heimdall:session")
"""Where names of sessions turn into UUIDs; changing it would rename every session that was ingested by name."""

WORDS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}

T = TypeVar("T")


@dataclass(frozen=True)
class Label:
    """What is known of one recording; `None` where the row says nothing.

    Attributes:
        file: name of the recording, relative to the directory of recordings.
        websdr_id: number of the receiver.
        latitude: of the transmitter, WGS84 degrees.
        longitude: of the transmitter, WGS84 degrees.
        session_id: the transmission; `None` for a session of its own.
        sample_rate_hz: rate of the recording.
        frequency_mhz: centre frequency.
        snr_db: signal-to-noise ratio.
        timestamp: time of the first sample.
        approved: whether the capture may become a feature; `None` keeps what the catalog says (no, if it is new).
        format: one of `FORMATS`, when the file's ending does not tell.
        swap_iq: whether Q is stored before I; `None` follows the option.
        time_sigma_s: one standard deviation of the time that the recording itself states for its first sample.
        receiver_latitude: where the receiver stands, WGS84 degrees.
        receiver_longitude: likewise.
        receiver_altitude_m: above the sea.
        receiver_name: of the receiver.
    """

    file: str
    websdr_id: int
    latitude: float
    longitude: float
    session_id: UUID | None = None
    sample_rate_hz: float | None = None
    frequency_mhz: float | None = None
    snr_db: float | None = None
    timestamp: datetime | None = None
    approved: bool | None = None
    format: str | None = None
    swap_iq: bool | None = None
    time_sigma_s: float | None = None
    receiver_latitude: float | None = None
    receiver_longitude: float | None = None
    receiver_altitude_m: float | None = None
    receiver_name: str | None = None


@dataclass(frozen=True)
class Remark:
    """Something to tell about one file: why it was skipped, or what to know of it."""

    file: str
    text: str


@dataclass
class Labels:
    """The content of a labels file, in its order."""

    labels: list[Label] = field(default_factory=list)
    skipped: list[Remark] = field(default_factory=list)
    notes: list[Remark] = field(default_factory=list)


COLUMNS = tuple(column.name for column in fields(Label))
REQUIRED = ("file", "websdr_id", "latitude", "longitude")


def read_labels(path: Path) -> Labels:
    """Read a `.csv` (comma, semicolon or tab) or `.json` (a list of objects) of labels.

    A row that is not usable goes to `skipped` with the reason; columns that are not known are named in `notes`.

    Raises:
        UsageError: when the file cannot be read at all, or lacks the columns file, websdr_id, latitude and longitude.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UsageError(f"labels {path} cannot be read: {reason}; give a .csv or .json file") from error
    is_json = path.suffix.lower() == ".json"
    rows = _json_rows(path, text) if is_json else read_csv(f"labels {path}", text, REQUIRED)
    result = Labels()
    unknown: dict[str, None] = {}
    for number, row in rows:
        values = {str(name).strip().lower(): value for name, value in row.items() if value is not None and value != ""}
        unknown.update(dict.fromkeys(name for name in values if name not in COLUMNS))
        name = str(values.get("file", "")) or f"row {number} of {path.name}"
        try:
            result.labels.append(parse_label(values))
        except DataQualityError as error:
            result.skipped.append(Remark(name, f"{error} (row {number} of {path.name})"))
    if unknown:
        result.notes.append(Remark(path.name, f"columns not used: {', '.join(unknown)}"))
    return result


def parse_label(values: dict[str, Any]) -> Label:
    """One row, keyed by column name, without its empty values.

    Raises:
        DataQualityError: naming the first value that is missing or not usable.
    """
    return Label(
        file=_required(values, "file", _text),
        websdr_id=_required(values, "websdr_id", receiver_number),
        latitude=_required(values, "latitude", within(-90, 90)),
        longitude=_required(values, "longitude", within(-180, 180)),
        session_id=_optional(values, "session_id", parse_session),
        sample_rate_hz=_optional(values, "sample_rate_hz", _positive),
        frequency_mhz=_optional(values, "frequency_mhz", _positive),
        snr_db=_optional(values, "snr_db", within(-1000, 1000)),
        timestamp=_optional(values, "timestamp", _time),
        approved=_optional(values, "approved", _yes_or_no),
        format=_optional(values, "format", _format),
        swap_iq=_optional(values, "swap_iq", _yes_or_no),
        time_sigma_s=_optional(values, "time_sigma_s", _positive),
        receiver_latitude=_optional(values, "receiver_latitude", within(-90, 90)),
        receiver_longitude=_optional(values, "receiver_longitude", within(-180, 180)),
        receiver_altitude_m=_optional(values, "receiver_altitude_m", within(*ALTITUDES_M)),
        receiver_name=_optional(values, "receiver_name", _text),
    )


def parse_session(text: object) -> UUID:
    """A UUID as it is; any other name becomes the same UUID wherever it is used."""
    name = str(text).strip()
    try:
        return UUID(name)
    except ValueError:
        return uuid5(SESSION_NAMESPACE, name)


def _json_rows(path: Path, text: str) -> Iterable[tuple[int, dict[str, Any]]]:
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"labels {path} is not JSON ({error}); correct it") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UsageError(f'labels {path} is not a list of objects; expected [{{"file": …, "websdr_id": …}}, …]')
    require_columns(f"labels {path}", {str(name).strip().lower() for row in rows for name in row}, REQUIRED)
    return enumerate(rows, 1)


def _required(values: dict[str, Any], name: str, parse: Callable[[Any], T]) -> T:
    value = _optional(values, name, parse)
    if value is None:
        raise DataQualityError(f"its label has no {name}; add it")
    return value


def _optional(values: dict[str, Any], name: str, parse: Callable[[Any], T]) -> T | None:
    if name not in values or (isinstance(values[name], str) and not values[name].strip()):
        return None
    try:
        return parse(values[name])
    except (ValueError, TypeError, OverflowError) as error:
        raise DataQualityError(f"its label has {name} {values[name]!r}; expected {EXPECTED[name]}") from error


EXPECTED = {
    "file": "the name of a recording",
    "session_id": "a UUID or a name",
    **EXPECTED_OF_RECEIVERS,
    "sample_rate_hz": "a number above 0, such as 192000",
    "frequency_mhz": "a number above 0, such as 144.8",
    "snr_db": "a number of decibels",
    "timestamp": "an ISO 8601 time, such as 2020-08-13T06:52:20Z",
    "approved": "true or false",
    "format": f"one of {', '.join(FORMATS)}",
    "swap_iq": "true or false",
    "time_sigma_s": "seconds above 0, such as 1e-7",
    "receiver_latitude": EXPECTED_OF_RECEIVERS["latitude"],
    "receiver_longitude": EXPECTED_OF_RECEIVERS["longitude"],
    "receiver_altitude_m": f"metres from {ALTITUDES_M[0]} to {ALTITUDES_M[1]}",
    "receiver_name": "a name",
}


def _text(value: Any) -> str:
    text = str(value).strip()
    if "\0" in text:
        raise ValueError(text)
    return text


def _positive(value: Any) -> float:
    number = float(value)
    if isinstance(value, bool) or not (math.isfinite(number) and number > 0):
        raise ValueError(value)
    return number


def _time(value: Any) -> datetime:
    if not isinstance(value, str):
        raise TypeError(value)
    return parse_time(value)


def _yes_or_no(value: Any) -> bool:
    word = str(value).strip().lower()
    if word not in WORDS:
        raise ValueError(value)
    return WORDS[word]


def _format(value: Any) -> str:
    name = str(value).strip().lower().lstrip(".")
    if name not in FORMATS:
        raise ValueError(value)
    return name
