"""Captures → samples or a reason; nothing that an object holds may crash, hang or make us allocate what it promises."""

from __future__ import annotations

import io
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shared_services import both_servers

from featurestore.objects.objects import Location, open_objects
from featurestore.source.captures import LAYOUT, CaptureReader, Layout, described, layout_metadata, parse_header
from featurestore.tensor.rejection import Reason, Rejection
from featurestore.tensor.spec import FeatureSpec

SPEC = FeatureSpec(n_fft=64, hop_length=16, n_frames=4, n_mels=8)
SPAN = SPEC.span


def npy(array: Any, version: tuple[int, int] = (1, 0)) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.asarray(array), version)
    return stream.getvalue()


def noise(n: int, dtype: str = "complex128") -> Any:
    rng = np.random.default_rng(n)
    return (rng.normal(size=n) + 1j * rng.normal(size=n)).astype(dtype)


def read(tmp_path: Path, data: bytes, spec: FeatureSpec = SPEC, key: str = "a.npy") -> list[Any]:
    (tmp_path / key).write_bytes(data)
    reader = CaptureReader(open_objects(Location.parse(str(tmp_path)).url), spec)
    return reader.read(key, len(data), range(spec.windows_per_capture)).windows


def reason(windows: list[Any]) -> str:
    assert all(isinstance(window, Rejection) for window in windows), windows
    return str(windows[0].reason.label)


@pytest.mark.parametrize("dtype", ["<c8", "<c16", ">c8", ">c16"])
@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
@pytest.mark.parametrize("n_samples", [SPAN, SPAN + 1, 1000])
def test_windows_are_the_samples_that_the_design_names(
    tmp_path: Path, dtype: str, version: tuple[int, int], n_samples: int
) -> None:
    spec = FeatureSpec(n_fft=64, hop_length=16, n_frames=4, n_mels=8, windows_per_capture=3)
    z = noise(n_samples).astype(dtype)
    windows = read(tmp_path, npy(z, version), spec)
    for k, window in enumerate(windows):
        start = k * (n_samples - SPAN) // 2
        np.testing.assert_array_equal(window, z[start : start + SPAN])


def test_bytes_read_are_header_and_windows_only(tmp_path: Path) -> None:
    data = npy(noise(100_000))
    (tmp_path / "a.npy").write_bytes(data)
    reader = CaptureReader(open_objects(Location.parse(str(tmp_path)).url), SPEC)
    for _ in range(2):
        assert reader.read("a.npy", len(data), [0]).n_bytes == 128 + 16 * SPAN


def test_a_guess_of_the_layout_never_decides(tmp_path: Path) -> None:
    """Three objects of one size: complex128, as many bytes of complex64, and neither."""
    first, second = npy(noise(1000)), npy(noise(2000, "complex64"))
    third = npy(np.zeros(2000, np.float64))
    assert len(first) == len(second) == len(third)
    for key, data in (("a", first), ("b", second), ("c", third)):
        (tmp_path / key).write_bytes(data)
    reader = CaptureReader(open_objects(Location.parse(str(tmp_path)).url), SPEC)
    for key in "abcabacbb":
        window = reader.read(key, len(first), [0]).windows[0]
        if key == "c":
            assert isinstance(window, Rejection)
            assert window.reason is Reason.WRONG_DTYPE
        else:
            assert not isinstance(window, Rejection)
            z = noise(1000) if key == "a" else noise(2000, "complex64")
            np.testing.assert_array_equal(window, z[(len(z) - SPAN) // 2 :][:SPAN])


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "unreadable"),
        (b"\x93NUMPY", "unreadable"),
        (b"RIFF" + bytes(2000), "unreadable"),
        (npy(noise(1000))[:40], "unreadable"),
        (npy(noise(1000))[:9000], "unreadable"),
        (npy(noise(1000))[:-1], "unreadable"),
        (npy(np.array([{}], object)), "unreadable"),
        (npy(noise(1000).real), "wrong_dtype"),
        (npy(np.arange(1000)), "wrong_dtype"),
        (npy(np.zeros(500, [("i", "f4"), ("q", "f4")])), "wrong_dtype"),
        (npy(noise(1000).reshape(2, -1)), "wrong_shape"),
        (npy(noise(1000).reshape(-1, 1)), "wrong_shape"),
        (npy(np.complex128(1)), "wrong_shape"),
        (npy(noise(SPAN - 1)), "too_short"),
        (npy(noise(0)), "too_short"),
        (npy(np.zeros(1000, complex)), "silent"),
        (npy(np.full(1000, 0.25 - 1j, np.complex64)), "silent"),
    ],
)
def test_each_reason(tmp_path: Path, data: bytes, expected: str) -> None:
    assert reason(read(tmp_path, data)) == expected


def test_an_object_that_went_away_is_missing(tmp_path: Path) -> None:
    reader = CaptureReader(open_objects(Location.parse(str(tmp_path)).url), SPEC)
    assert reason(reader.read("gone.npy", 5000, [0]).windows) == "missing_object"


def test_an_object_that_became_shorter_is_unreadable(tmp_path: Path) -> None:
    data = npy(noise(1000))
    (tmp_path / "a.npy").write_bytes(data[:5000])
    (tmp_path / "b.npy").write_bytes(data)
    reader = CaptureReader(open_objects(Location.parse(str(tmp_path)).url), SPEC)
    assert reason(reader.read("a.npy", len(data), [0]).windows) == "unreadable"
    reader.read("b.npy", len(data), [0])
    assert reason(reader.read("a.npy", len(data), [0]).windows) == "unreadable"  # also where the layout is guessed


@pytest.mark.parametrize("length", [100, 7000, 9000])
def test_an_object_in_s3_that_became_shorter_is_unreadable(bucket: str, length: int) -> None:
    data = npy(noise(1000))
    objects = open_objects(bucket)
    objects.put("a.npy", data[:length])
    objects.put("b.npy", data)
    reader = CaptureReader(objects, SPEC)
    for _ in range(2):
        assert reason(reader.read("a.npy", len(data), [0]).windows) == "unreadable"
        assert not isinstance(reader.read("b.npy", len(data), [0]).windows[0], Rejection)


def header(text: str, version: bytes = b"\x01\x00") -> bytes:
    body = text.encode("latin1")
    return b"\x93NUMPY" + version + len(body).to_bytes(2 if version[0] == 1 else 4, "little") + body


HOSTILE = [
    header("{'descr': '<c16', 'fortran_order': False, 'shape': (999999999999999,)}"),
    header("{'descr': '<c16', 'fortran_order': False, 'shape': (-5,)}"),
    header("{'descr': '<c16', 'fortran_order': False, 'shape': (True,)}"),
    header("{'descr': '<c16', 'fortran_order': False, 'shape': (10**9,)}"),
    header("{'descr': '|V1073741824', 'fortran_order': False, 'shape': (1,)}"),
    header("{'descr': '<c16', 'fortran_order': False, 'shape': " + "(" * 3000 + "}"),
    header("__import__('os').system('touch /tmp/owned')"),
    header("{'descr': 'O', 'fortran_order': False, 'shape': (1,)}"),
    header("{'descr': '<c32', 'fortran_order': False, 'shape': (1000,)}"),
    header("x" * 60_000),
    b"\x93NUMPY\x02\x00\xff\xff\xff\xff",
    b"\x93NUMPY\x09\x00\x10\x00\x00\x00" + bytes(100),
]


@pytest.mark.parametrize("data", HOSTILE)
def test_hostile_headers_are_rejections(tmp_path: Path, data: bytes) -> None:
    tracemalloc.start()
    try:
        assert reason(read(tmp_path, data + bytes(3000))) in ("unreadable", "wrong_dtype", "wrong_shape", "too_short")
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300), st.integers(0, 200), st.integers(0, 400))
def test_any_damage_to_a_header_is_survived(junk: bytes, place: int, size: int) -> None:
    data = npy(noise(1000))
    damaged = (data[:place] + junk + data[place + len(junk) :])[: max(size, 128)]
    found = parse_header(damaged[:128], len(data), SPAN)
    assert isinstance(found, Layout | Rejection)
    if isinstance(found, Layout):
        assert found.offset + found.n_samples * found.dtype.itemsize <= len(data)


@both_servers
def test_metadata_saves_the_header_and_never_replaces_it_wrongly(bucket: str) -> None:
    """With its layout as metadata one request per window; without, of another object, or of a wrong one the header counts."""
    objects = open_objects(bucket)
    z, other = noise(1000), noise(2000, "complex64")
    data, narrow = npy(z), npy(other)
    assert len(data) == len(narrow)
    for key in ("first", "second"):
        objects.put_if_changed(key, data, layout_metadata(data))
    objects.put("bare", data)
    objects.put("narrow", narrow, metadata=layout_metadata(narrow))
    objects.put("narrow and bare", narrow)
    objects.put("of another size", narrow, metadata={LAYOUT: layout_metadata(data)[LAYOUT] + "0"})
    reader = CaptureReader(objects, SPEC)
    start, start_narrow = SPEC.starts(1000)[0], SPEC.starts(2000)[0]
    wide = z[start : start + SPAN], 16 * SPAN
    thin = other[start_narrow : start_narrow + SPAN], 8 * SPAN
    expected = {
        "first": (wide, 128),
        "second": (wide, 0),
        "narrow": (thin, 128),
        "second ": (wide, None),
        "bare": (wide, 128),
        "narrow and bare": (thin, 128),
        "of another size": (thin, None),
        "first ": (wide, None),
    }
    for key, ((samples, n_bytes), header_bytes) in expected.items():
        found = reader.read(key.strip(), len(data), [0])
        np.testing.assert_array_equal(found.windows[0], samples)
        assert header_bytes is None or found.n_bytes == n_bytes + header_bytes


@given(st.text(max_size=60), st.integers(0, 10**9))
def test_metadata_of_any_kind_is_survived(text: str, size: int) -> None:
    for value in (text, f"<c16 {text} 128 {size}", f"<c16 {size} 128 {size}"):
        found = described({LAYOUT: value}, size)
        assert found is None or found.byte_range(found.n_samples, 0)[1] <= size


def test_what_no_build_takes_has_no_metadata() -> None:
    for data in (b"", b"RIFF", npy(np.zeros(10)), npy(noise(100))[:-1], npy(noise(10))[:100]):
        assert layout_metadata(data) == {}
