"""Labels files as spreadsheets and scripts write them, and what is wrong with single rows."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest

from featurestore.corpus.ingest.labels import EXPECTED, Label, parse_label, parse_session, read_labels
from featurestore.errors import DataQualityError, UsageError

HEADER = "file,latitude,longitude,websdr_id,session_id,sample_rate_hz,frequency_mhz,timestamp,approved"
FULL = Label(
    file="a.cu8",
    websdr_id=3,
    latitude=45.07,
    longitude=7.69,
    session_id=UUID("5f0c5bb6-6a5e-4c44-9d6b-0b7c3f1e2a11"),
    sample_rate_hz=2.4e6,
    frequency_mhz=144.8,
    timestamp=datetime(2024, 5, 6, 7, 8, 9, 500_000, tzinfo=UTC),
    approved=True,
)
ROW = "a.cu8,45.07,7.69,3,5f0c5bb6-6a5e-4c44-9d6b-0b7c3f1e2a11,2400000,144.8,2024-05-06T09:08:09.5+02:00,true"


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("start", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_csv(tmp_path: Path, delimiter: str, start: str, end: str) -> None:
    path = tmp_path / "labels.csv"
    path.write_bytes((start + f"{HEADER}{end}{ROW}{end}".replace(",", delimiter)).encode())
    assert read_labels(path).labels == [FULL]


def test_json(tmp_path: Path) -> None:
    path = tmp_path / "labels.json"
    row = dict(zip(HEADER.split(","), ROW.split(","), strict=True)) | {"latitude": 45.07, "approved": True, "websdr_id": 3}
    path.write_text(json.dumps([row]))
    assert read_labels(path).labels == [FULL]


def test_only_four_columns_are_needed(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("File, Latitude ,longitude,websdr_id\n a.cu8 ,45.07, 7.69,3\n")
    assert read_labels(path).labels == [Label("a.cu8", 3, 45.07, 7.69)]


def test_times_without_zone_are_utc() -> None:
    label = parse_label({"file": "a", "websdr_id": 1, "latitude": 0, "longitude": 0, "timestamp": "2020-08-13T06:52:20"})
    assert label.timestamp == datetime(2020, 8, 13, 6, 52, 20, tzinfo=UTC)


def test_bad_rows_are_skipped_with_reasons_and_the_others_stay(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(f"{HEADER},colour\n{ROW},\nb.wav,91,7,1,,,,,,red\n,45,7,1,,,,,,\nc.wav,45,7,,,,,,,\n")
    found = read_labels(path)
    assert found.labels == [FULL]
    assert [(remark.file, remark.text) for remark in found.skipped] == [
        ("b.wav", "its label has latitude '91'; expected degrees from -90 to 90, such as 45.07 (row 3 of labels.csv)"),
        ("row 4 of labels.csv", "its label has no file; add it (row 4 of labels.csv)"),
        ("c.wav", "its label has no websdr_id; add it (row 5 of labels.csv)"),
    ]
    assert [remark.text for remark in found.notes] == ["columns not used: colour"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("latitude", "45,07"),
        ("latitude", "nan"),
        ("latitude", True),
        ("longitude", [7.69]),
        ("longitude", -180.1),
        ("websdr_id", "1.5"),
        ("websdr_id", -1),
        ("websdr_id", 2**31),
        ("websdr_id", "Torino"),
        ("sample_rate_hz", 0),
        ("sample_rate_hz", "inf"),
        ("frequency_mhz", "VHF"),
        ("timestamp", "yesterday"),
        ("timestamp", 1_597_301_540),
        ("approved", "perhaps"),
        ("format", "mp3"),
        ("swap_iq", "2"),
        ("file", "a\0b"),
    ],
)
def test_values_that_cannot_be(name: str, value: object) -> None:
    values = {"file": "a", "websdr_id": 1, "latitude": 0, "longitude": 0} | {name: value}
    with pytest.raises(DataQualityError) as error:
        parse_label(values)
    assert str(error.value) == f"its label has {name} {value!r}; expected {EXPECTED[name]}"


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("a.csv", "", "has no column file, websdr_id, latitude, longitude; it has none"),
        ("a.csv", "file,lat,lon\n", "has no column websdr_id, latitude, longitude; it has file, lat, lon"),
        ("a.csv", f'{HEADER}\n"never closed', "correct the CSV"),
        ("a.json", "{", "is not JSON"),
        ("a.json", '{"file": "a"}', "is not a list of objects"),
        ("a.json", "[]", "has no column"),
    ],
)
def test_files_that_are_no_labels(tmp_path: Path, name: str, text: str, reason: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match=reason):
        read_labels(tmp_path / name)


def test_labels_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        read_labels(tmp_path / "absent.csv")
    (tmp_path / "latin1.csv").write_bytes("file,Straße\n".encode("latin-1"))
    with pytest.raises(UsageError, match="not UTF-8"):
        read_labels(tmp_path / "latin1.csv")


def uuid_by_sha1(namespace: UUID, name: str) -> UUID:
    """Version 5 of RFC 9562, section 5.5, written out."""
    digits = bytearray(hashlib.sha1(namespace.bytes + name.encode()).digest()[:16])
    digits[6] = digits[6] & 0x0F | 0x50
    digits[8] = digits[8] & 0x3F | 0x80
    return UUID(bytes=bytes(digits))


def test_sessions_by_name_never_change() -> None:
    urls = UUID("6ba7b811-9dad-11d1-80b4-00c04fd430c8")  # the RFC's namespace of URLs
    wanted = uuid_by_sha1(uuid_by_sha1(urls, "urn:heimdall:session"), "dcf77-20200813T065220Z")
    assert str(wanted) == "8d77a610-4164-5cd3-afb9-adf90356f146"
    assert parse_session(" dcf77-20200813T065220Z ") == wanted
    assert parse_session("{5F0C5BB6-6A5E-4C44-9D6B-0B7C3F1E2A11}") == UUID("5f0c5bb6-6a5e-4c44-9d6b-0b7c3f1e2a11")
