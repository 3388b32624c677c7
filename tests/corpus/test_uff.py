"""`.uff` of Qt-DAB, AbracaDABra and QIRX: containers, orders, counts, and headers of any size."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recorders import uff

from featurestore.corpus.ingest.formats import read_recording
from featurestore.corpus.ingest.samples import Recording
from featurestore.errors import DataQualityError

BYTES = bytes(range(1, 241))


def everything(recording: Recording) -> npt.NDArray[np.complex128]:
    return np.asarray(recording.read(0, len(recording), dtype="complex128"), np.complex128)


def write(path: Path, content: bytes) -> Recording:
    path.write_bytes(content)
    return read_recording(path)


@pytest.mark.parametrize(
    "kind",  # container, bits, dtype, zero, full scale
    [
        ("uint8", 8, "u1", 127.5, 127.5),
        ("int8", 8, "i1", 0, 128),
        ("int16", 16, "i2", 0, 32_768),
        ("int16", 12, "i2", 0, 2048),
        ("int32", 32, "i4", 0, 2**31),
        ("float", 32, "f4", 0, 1),
        ("float32", 32, "f4", 0, 1),
    ],
)
@pytest.mark.parametrize("ordering", ["LSB", "MSB"])
@pytest.mark.parametrize("order", ["IQ", "QI"])
def test_containers_and_orders(tmp_path: Path, kind: tuple[str, int, str, float, float], ordering: str, order: str) -> None:
    container, bits, dtype, zero, full_scale = kind
    stored = np.random.default_rng(3).uniform(0.1, 100, (50, 2)).astype(dtype)
    bytes_ = stored.astype(stored.dtype.newbyteorder("<" if ordering == "LSB" else ">")).tobytes()
    recording = write(tmp_path / "a.uff", uff(bytes_, container, bits, ordering, order, 100))
    wanted = (stored.astype(np.float64) - zero) / full_scale
    if order == "QI":
        wanted = wanted[:, ::-1]
    np.testing.assert_allclose(everything(recording), wanted @ [1, 1j], rtol=1e-12)
    assert (recording.sample_rate_hz, recording.frequency_mhz) == (2_048_000, 213.36)
    assert recording.timestamp == datetime(2023, 9, 10, 5, 56, 52, tzinfo=UTC)
    assert recording.notes == ()


@pytest.mark.parametrize(
    ("header_bytes", "offset", "recorder"), [(2048, 2048, "AbracaDABra"), (5000, None, "Qt-DAB"), (1024, None, "QIRX")]
)
def test_headers_of_any_size(tmp_path: Path, header_bytes: int, offset: int | None, recorder: str) -> None:
    content = uff(BYTES, count=len(BYTES), header_bytes=header_bytes, offset=offset, recorder=recorder)
    np.testing.assert_allclose(everything(write(tmp_path / "a.uff", content)).real[0] * 127.5 + 127.5, 1)
    assert len(read_recording(tmp_path / "a.uff")) == len(BYTES) // 2


@pytest.mark.parametrize(("header_bytes", "recorder"), [(2048, "QIRX"), (5000, "Qt-DAB")])
def test_truncated_without_an_offset(tmp_path: Path, header_bytes: int, recorder: str) -> None:
    content = uff(BYTES, count=1000, header_bytes=header_bytes, offset=None, recorder=recorder)
    recording = write(tmp_path / "a.uff", content)
    assert len(recording) == len(BYTES) // 2
    assert recording.notes == ("truncated: its header states 500 samples, 380 of them are missing",)


def test_more_than_is_stated(tmp_path: Path) -> None:
    recording = write(tmp_path / "a.uff", uff(BYTES, count=200))
    assert len(recording) == 100
    assert recording.notes == ("20 samples behind the 100 that its header states are left out",)


def test_never_finished(tmp_path: Path) -> None:
    recording = write(tmp_path / "a.uff", uff(BYTES))
    assert len(recording) == 120
    assert recording.notes == ("was never finished: its header states no count of samples, and 120 are there; all are read",)


def test_the_header_is_known_under_any_ending(tmp_path: Path) -> None:
    for name in ("a.xml", "2023-09-10_075649_10C.raw"):
        assert len(write(tmp_path / name, uff(BYTES, count=len(BYTES)))) == 120


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (bytes(5000), "has no XML header"),
        (b"<?xml version='1.0'?><SDR>" + bytes(100), "has no XML header"),
        (b"<?xml version='1.0'?><SDR><a></SDR>" + bytes(100), "is not well-formed"),
        (b"<?xml version='1.0'?><!DOCTYPE SDR []><SDR></SDR>", "declares a document type"),
        (b"<?xml version='1.0'?><SDR></SDR>" + bytes(5000), "without Channels"),
        (uff(BYTES, "int64", count=10), "unknown Container 'int64'"),
        (uff(BYTES, "int24", 24, "MSB", count=10), "24-bit samples with the most significant byte first"),
        (uff(BYTES, order="I", count=10), "other channels than I and Q"),
        (uff(BYTES, order="II", count=10), "states the channels 'II'"),
        (uff(b"", count=0), "holds no samples"),
    ],
)
def test_what_cannot_be_read_has_a_reason(tmp_path: Path, content: bytes, reason: str) -> None:
    with pytest.raises(DataQualityError, match=reason):
        write(tmp_path / "a.uff", content)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    edits=st.lists(st.tuples(st.integers(0, 700), st.binary(max_size=8)), max_size=6),
    cut=st.integers(0, 2300),
    count=st.sampled_from([None, -1, 0, 7, 240, 10**30]),
    offset=st.sampled_from([None, -5, 0, 2048, 10**12]),
)
def test_damaged_headers_never_end_in_another_error(
    tmp_path: Path, edits: list[tuple[int, bytes]], cut: int, count: int | None, offset: int | None
) -> None:
    content = bytearray(uff(BYTES, count=count, offset=offset))
    for place, new in edits:
        content[place : place + len(new)] = new
    try:
        recording = write(tmp_path / "a.uff", bytes(content[:cut]))
    except DataQualityError:
        return
    assert len(everything(recording)) == len(recording) > 0
