"""Frequency and time from `auxi` chunks and file names, as programs write them."""

from __future__ import annotations

import struct
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorders import auxi, auxi_xml, chunk, pairs, wav

from featurestore.corpus.ingest.conversion import IngestOptions, origin_notes, plan_captures
from featurestore.corpus.ingest.formats import read_recording
from featurestore.corpus.ingest.headers.auxi import parse_auxi
from featurestore.corpus.ingest.headers.names import parse_name
from featurestore.corpus.ingest.labels import Label
from featurestore.errors import DataQualityError

START = datetime(2024, 4, 12, 18, 30, 0, 250_000, tzinfo=UTC)
WHOLE = START.replace(microsecond=0)
NAMES = {
    "SDRSharp_20240412_183000Z_145500000Hz_IQ.wav": (145.5, WHOLE, None),
    "HDSDR_20240412_183000Z_7050kHz_RF.wav": (7.05, WHOLE, None),
    "SDRuno_20240412_183000Z_88110kHz.wav": (88.11, WHOLE, None),
    "AirSpy_20240412_183000Z_106000kHz_IQ.wav": (106.0, WHOLE, None),
    "SDRconnect_IQ_20240412_183000_137110000HZ.wav": (137.11, WHOLE, None),
    "gqrx_20220321_213549_434000000_48000_fc.raw": (434.0, datetime(2022, 3, 21, 21, 35, 49, tzinfo=UTC), 48_000),
    "baseband_145500000Hz_12-30-00_12-04-2024.wav": (145.5, datetime(2024, 4, 12, 12, 30, tzinfo=UTC), None),
    "20200813T065220Z_77500_NAME_iq.wav": (0.0775, datetime(2020, 8, 13, 6, 52, 20, tzinfo=UTC), None),
    "kiwi_dcf77_20200813T065220Z_77500_HB9_ODP_iq.wav": (0.0775, datetime(2020, 8, 13, 6, 52, 20, tzinfo=UTC), None),
    "05-Oct-2026 000058.250 436.665MHz 000.wav": (436.665, datetime(2026, 10, 5, 0, 0, 58, 250_000, tzinfo=UTC), None),
    "rec0_0_2024-04-12T18_30_00_250.wav": (None, START, None),
    "2024-04-12_18-30-00-250_2400000SPS_137100000Hz.cs16": (137.1, START, 2_400_000),
    "RTL-SDR-20240412_183000-433_92MHz-2MSps-2MHz.complex": (433.92, WHOLE, 2_000_000),
    "g001_433.92M_250k.cu8": (433.92, None, 250_000),
}


@pytest.mark.parametrize("name", NAMES)
def test_names_as_programs_write_them(name: str) -> None:
    mhz, time, rate_hz = NAMES[name]
    facts = parse_name(name)
    assert facts is not None
    assert facts.frequency_hz == (None if mhz is None else pytest.approx(mhz * 1e6, abs=1e-3))
    assert (facts.timestamp, facts.sample_rate_hz) == (time, rate_hz)


@pytest.mark.parametrize(
    "name",
    [
        "torino.wav",
        "a_20240412.cs16",
        "sonde_dfmIQ_100k.wav",
        "145500000.wav",
        "IMG_20240412_183000.wav",
        "x" * 255,
        "wm_868.950M_1M6.cu8",
    ],
)
def test_names_that_follow_no_pattern_say_nothing(name: str) -> None:
    assert parse_name(name) is None


def test_a_date_that_cannot_be_is_none() -> None:
    facts = parse_name("SDRSharp_20241332_996099Z_145500000Hz_IQ.wav")
    assert facts is not None
    assert (facts.timestamp, facts.frequency_hz) == (None, 145.5e6)


@given(st.text(max_size=80) | st.from_regex(r"(gqrx|baseband|SDRuno)_\d{1,9}[_-]\d{1,9}Z?_\d{1,40}[kM]?Hz_?\d{0,30}_fc\.raw"))
def test_any_name_is_read(name: str) -> None:
    facts = parse_name(name)
    assert facts is None or facts.frequency_hz is None or facts.frequency_hz > 0


def label(**values: object) -> Label:
    return Label("a.wav", 1, 45.0, 7.0, **values)  # type: ignore[arg-type]  # by name


def test_gqrx_raw_is_cf32_with_rate_and_frequency_in_its_name(tmp_path: Path) -> None:
    samples = np.array([0.25 - 0.5j, 0.5j], np.complex64)
    path = tmp_path / "gqrx_20220321_213549_434000000_48000_fc.raw"
    samples.tofile(path)
    recording = read_recording(path)
    np.testing.assert_array_equal(recording.read(0, 2), samples)
    assert (recording.sample_rate_hz, recording.frequency_mhz) == (48_000, 434.0)
    assert recording.timestamp == datetime(2022, 3, 21, 21, 35, 49, tzinfo=UTC)
    assert origin_notes(recording, label()) == [
        "sample rate 48000 Hz, frequency 434 MHz, time 2022-03-21T21:35:49Z from its name (gqrx)"
    ]
    path.rename(tmp_path / "other.raw")
    with pytest.raises(DataQualityError, match="does not tell its format"):
        read_recording(tmp_path / "other.raw")


def test_auxi_gives_frequency_and_time_where_the_label_gives_none(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(wav(auxi(START, 145_500_000), chunk(b"data", pairs(1000).tobytes())))
    recording = read_recording(path)
    assert (recording.frequency_mhz, recording.timestamp) == (145.5, START)
    assert origin_notes(recording, label()) == [
        "frequency 145.5 MHz from its auxi chunk",
        "time 2024-04-12T18:30:00Z from its auxi chunk, read as UTC though recorders may write local time",
    ]
    stated = label(frequency_mhz=144.8, timestamp=datetime(2020, 1, 1, tzinfo=UTC))
    assert origin_notes(recording, stated) == []
    for given_label, mhz in ((label(), 145.5), (stated, 144.8)):
        (capture,) = plan_captures(recording, given_label, uuid4(), IngestOptions())
        assert capture.record.frequency_mhz == mhz
        assert capture.record.timestamp == (given_label.timestamp or START)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-8"])
def test_auxi_of_sdr_console(tmp_path: Path, encoding: str) -> None:
    """Attributes as version 3.0.28 wrote them; the name has the local time, the chunk UTC."""
    said = {"CurrentTimeUTC": "04-01-2023 13:03:07", "RadioCenterFreq": 500_512_500, "SampleRate": 375_000}
    content = auxi_xml(**said, UTCSeconds=1_672_837_387)
    body = content[8:].decode("utf-16-le").encode(encoding)
    path = tmp_path / "04-Jan-2023 210307.838 500.512MHz 000.wav"
    path.write_bytes(wav(chunk(b"auxi", body), chunk(b"data", pairs(10).tobytes())))
    recording = read_recording(path)
    assert (recording.frequency_mhz, recording.timestamp) == (500.5125, datetime(2023, 1, 4, 13, 3, 7, tzinfo=UTC))
    assert recording.sure_utc
    facts = parse_auxi(body.replace("UTCSeconds".encode(encoding), "UTCseconds".encode(encoding)))
    assert facts is not None
    assert facts.timestamp == recording.timestamp  # from the written time, then


def test_a_local_time_in_auxi_gives_way_to_utc_in_the_name(tmp_path: Path) -> None:
    path = tmp_path / "SDRSharp_20240412_183000Z_145500000Hz_IQ.wav"
    local = START.replace(hour=20)
    path.write_bytes(wav(auxi(local, 145_499_900), chunk(b"data", pairs(10).tobytes())))
    recording = read_recording(path)
    assert (recording.frequency_mhz, recording.timestamp) == (145.4999, WHOLE)
    path.write_bytes(wav(auxi(START, 145_499_900), chunk(b"data", pairs(10).tobytes())))
    assert read_recording(path).timestamp == START  # the finer one of two that agree


def test_a_frequency_above_32_bits_comes_from_the_name(tmp_path: Path) -> None:
    path = tmp_path / "SDRSharp_20240412_183000Z_5760100000Hz_IQ.wav"
    path.write_bytes(wav(auxi(START, 5_760_100_000 % 2**32), chunk(b"data", pairs(10).tobytes())))
    assert read_recording(path).frequency_mhz == 5760.1


def test_a_frequency_without_a_time(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(wav(auxi(None, 7_050_000), chunk(b"data", pairs(10).tobytes())))
    assert (read_recording(path).frequency_mhz, read_recording(path).timestamp) == (7.05, None)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"short",
        struct.pack("<8H", 60, 63, 0, 109, 108, 32, 118, 0) * 2 + struct.pack("<I", 3_145_774) + bytes(80),
        b"<?xml version='1.0'?><broken",
        b"<?xml version='1.0'?><!DOCTYPE a [<!ENTITY b 'c'>]><a RadioCenterFreq='1'>&b;</a>",
        "<?xml?><a RadioCenterFreq='nan' UTCSeconds='1e400'/>".encode("utf-16-le"),
        b"<" * 70_000,
    ],
)
def test_auxi_of_another_layout_is_not_used(tmp_path: Path, body: bytes) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(wav(chunk(b"auxi", body), chunk(b"data", pairs(10).tobytes())))
    recording = read_recording(path)
    assert (recording.frequency_mhz, recording.timestamp) == (None, None)
    assert recording.notes == ("its auxi chunk is of an unknown layout, and not used",)


@given(
    st.binary(max_size=200)
    | st.binary(max_size=80).map(lambda body: b"<" + body)
    | st.text(max_size=80).map(lambda text: ("<a RadioCenterFreq='" + text).encode("utf-16-le", "replace"))
)
def test_any_auxi_is_read(body: bytes) -> None:
    facts = parse_auxi(body)
    assert facts is None or facts.frequency_hz is None or facts.frequency_hz > 0


def test_audio_is_said_to_be_audio(tmp_path: Path) -> None:
    path = tmp_path / "audio_145500000Hz_12-30-00_12-04-2024.wav"
    path.write_bytes(wav(chunk(b"data", pairs(10).tobytes())))
    assert read_recording(path).notes == ("its name says audio, not IQ; check that it is IQ",)
