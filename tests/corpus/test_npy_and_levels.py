"""`.npy` of every shape whose meaning is certain, and floats that cannot be radio, whatever holds them."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import soundfile  # type: ignore[import-untyped]  # ships no types
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from featurestore.corpus.ingest.formats import read_recording
from featurestore.corpus.ingest.samples import Recording
from featurestore.errors import DataQualityError

INTEGERS = np.random.default_rng(4).integers(-30_000, 30_000, (60, 2)).astype("<i2")  # (sample, I or Q)
FLOATS = INTEGERS.astype("<f4") / 2**15
COMPLEX = np.asarray(FLOATS @ [1, 1j], np.complex64)


def everything(recording: Recording) -> npt.NDArray[np.complex128]:
    return np.asarray(recording.read(0, len(recording), dtype="complex128"), np.complex128)


def save(folder: Path, array: npt.NDArray[Any]) -> Recording:
    np.save(folder / "a.npy", array)
    return read_recording(folder / "a.npy")


def structured(names: tuple[str, str], components: npt.NDArray[Any] = INTEGERS) -> npt.NDArray[Any]:
    """Samples with two fields; those of I get I, in whichever order they are named."""
    array = np.empty(len(components), [(name, components.dtype) for name in names])
    for name in names:
        array[name] = components[:, 0 if name.lower() in ("re", "i", "real") else 1]
    return array


@pytest.mark.parametrize(
    "array",
    [
        COMPLEX,
        COMPLEX[:, None],
        COMPLEX[None, :],
        COMPLEX[None, :, None],
        INTEGERS,
        INTEGERS.T,
        np.asfortranarray(INTEGERS.T),
        np.asfortranarray(INTEGERS),
        INTEGERS.T[None],
        INTEGERS[:, None, :],
        FLOATS,
        FLOATS.T,
        FLOATS.astype(">f8").T,
        structured(("re", "im")),
        structured(("Q", "I")),
        structured(("real", "imag"), FLOATS),
        structured(("i", "q"), INTEGERS.astype(">i2")),
        structured(("im", "re"))[:, None],
    ],
    ids=lambda array: f"{array.dtype.str if array.dtype.names is None else array.dtype.names}{array.shape}",
)
def test_shapes_whose_meaning_is_certain(tmp_path: Path, array: npt.NDArray[Any]) -> None:
    recording = save(tmp_path, array)
    np.testing.assert_allclose(everything(recording), COMPLEX, rtol=1e-7)
    np.testing.assert_allclose(recording.read(10, 20, swap_iq=True), (COMPLEX.imag + 1j * COMPLEX.real)[10:20], rtol=1e-6)


@pytest.mark.parametrize(
    "array",
    [
        np.ones((2, 19)),  # two axes of about one length
        np.ones((2, 100), np.complex64),  # two channels
        np.ones((100, 2), np.complex64),
        np.ones((100, 1)),  # one real channel
        np.ones((3, 100)),
        np.ones((2, 2, 100)),
        structured(("x", "y")),
        np.ones(50, [("re", "<i2"), ("im", "<f4")]),
        np.ones(50, np.dtype([("re", "<i2"), ("im", "<i2")], align=True).newbyteorder("S"))[:, None].repeat(5, 1),
        np.ones(50, [("re", "<i2"), ("im", "<i2"), ("t", "<i2")]),
        np.ones(50, np.dtype({"names": ["re", "im"], "formats": ["<i2", "<i2"], "offsets": [0, 4]})),
        np.ones(50, [("re", "<i8"), ("im", "<i8")]),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_shapes_without_a_certain_meaning(tmp_path: Path, array: npt.NDArray[Any]) -> None:
    with pytest.raises(DataQualityError, match=r"expected complex of shape \(n,\); integers or floats of shape \(n, 2\) or"):
        save(tmp_path, array)


def test_truncated(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", INTEGERS.T)
    (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:-4])
    with pytest.raises(DataQualityError, match=r"its header promises 60 samples, and 59 are there"):
        read_recording(tmp_path / "a.npy")


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(hnp.arrays(st.sampled_from(["i1", "f4", "c8", "i8", "?", "U3"]), hnp.array_shapes(max_dims=4, min_side=0, max_side=25)))
def test_any_array_is_read_or_refused(tmp_path: Path, array: npt.NDArray[Any]) -> None:
    try:
        recording = save(tmp_path, array)
    except DataQualityError:
        return
    assert len(everything(recording)) == len(recording) == array.size // (1 if array.dtype.kind == "c" else 2)


def sigmf(folder: Path, datatype: str, content: bytes) -> Path:
    meta = {"global": {"core:datatype": datatype, "core:sample_rate": 48_000}, "captures": [{"core:sample_start": 0}]}
    (folder / "a.sigmf-data").write_bytes(content)
    (folder / "a.sigmf-meta").write_text(json.dumps(meta))
    return folder / "a.sigmf-meta"


def noise(n_samples: int, level: float, dtype: str = "<f4") -> npt.NDArray[Any]:
    return np.random.default_rng(5).normal(0, level, (n_samples, 2)).astype(dtype)


@pytest.mark.parametrize("level", [1e-6, 1e-3, 0.03, 0.3, 1.0, 30_000])
def test_float32_said_to_be_float64(tmp_path: Path, level: float) -> None:
    """What an old sigmf package wrote for numpy's complex64."""
    path = sigmf(tmp_path, "cf64_le", noise(20_000, level).tobytes())
    with pytest.raises(
        DataQualityError, match=r"64-bit floats, but its bytes are 32-bit floats \(median level [0-9.e+-]+\); correct"
    ):
        read_recording(path)
    path.write_text(path.read_text().replace("cf64_le", "cf32_le"))
    assert len(read_recording(path)) == 20_000


@pytest.mark.parametrize(
    ("datatype", "content"),
    [
        ("cf32_le", noise(20_000, 0.3, "<f8").tobytes()),
        ("cf32_be", noise(20_000, 0.3).tobytes()),
        ("cf32_le", (noise(20_000, 0.3) * 32_767).astype("<i2").tobytes()),
        ("cf32_le", noise(20_000, 1e-40).tobytes()),
        ("cf32_le", noise(20_000, 1e-14).tobytes()),
        ("cf32_le", noise(20_000, 1e8).tobytes()),
        ("cf64_le", noise(20_000, 1e-310, "<f8").tobytes()),
    ],
    ids=["float64", "byte-order", "int16", "denormal", "faint", "loud", "denormal64"],
)
def test_floats_that_cannot_be_radio(tmp_path: Path, datatype: str, content: bytes) -> None:
    with pytest.raises(
        DataQualityError, match=r"holds floats that no receiver writes: \S+ to \S+, median \S+, where full scale is 1"
    ):
        read_recording(sigmf(tmp_path, datatype, content))


@pytest.mark.parametrize("level", [1e-8, 1e-3, 1.0, 32_768])
@pytest.mark.parametrize("dtype", ["<f4", "<f8", ">f8"])
def test_floats_that_can_be_radio(tmp_path: Path, level: float, dtype: str) -> None:
    datatype = f"cf{8 * np.dtype(dtype).itemsize}_{'be' if dtype[0] == '>' else 'le'}"
    components = noise(5000, level, dtype)
    for stored in (components, components.astype("f4").astype(dtype), np.round(components / level * 99).astype(dtype) / 128):
        stored[:2000] = 0  # silence first
        assert len(read_recording(sigmf(tmp_path, datatype, stored.astype(dtype).tobytes()))) == 5000


def test_every_float_format_is_checked(tmp_path: Path) -> None:
    wild = noise(3000, 1e9)
    wild.tofile(tmp_path / "a.cf32")
    np.save(tmp_path / "a.npy", wild.view("<c8")[:, 0])
    soundfile.write(tmp_path / "a.wav", wild, 48_000, "FLOAT", format="WAV")
    for name in ("a.cf32", "a.npy", "a.wav"):
        with pytest.raises(DataQualityError, match="no receiver writes"):
            read_recording(tmp_path / name)


def test_one_glitch_is_no_fault(tmp_path: Path) -> None:
    stored = noise(5000, 0.1)
    stored[77] = 1e7
    stored.tofile(tmp_path / "a.cf32")
    assert len(read_recording(tmp_path / "a.cf32")) == 5000


def test_sdrpp_float_wav(tmp_path: Path) -> None:
    """As SDR++ writes it: a plain fmt chunk of format 3, no fact chunk."""
    body = struct.pack("<HHIIHH", 3, 2, 2_400_000, 2_400_000 * 8, 8, 32)
    data = FLOATS.tobytes()
    head = b"WAVEfmt " + struct.pack("<I", 16) + body + b"data" + struct.pack("<I", len(data))
    path = tmp_path / "baseband_145500000Hz_12-30-00_12-04-2024.wav"
    path.write_bytes(b"RIFF" + struct.pack("<I", len(head) + len(data)) + head + data)
    np.testing.assert_array_equal(everything(read_recording(path)), COMPLEX)
