"""WAVs whose sizes are not what they seem: wrapped round at 4 GiB, never finished, 64 bits wide; and chunks behind samples."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile  # type: ignore[import-untyped]  # ships no types
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recorders import STEREO_16, chunk, pairs, wav

from featurestore.corpus.ingest.formats import read_recording
from featurestore.corpus.ingest.samples import Recording
from featurestore.errors import DataQualityError

GIB = 1 << 30
LIST = chunk(b"LIST", b"INFOINAM\x06\0\0\0beacon")


def stored(recording: Recording) -> npt.NDArray[np.float32]:
    samples = recording.read(0, len(recording))
    return np.stack([samples.real, samples.imag], axis=1) * 2**15


def write(path: Path, content: bytes) -> Recording:
    path.write_bytes(content)
    return read_recording(path)


@pytest.mark.parametrize("tail", [b"", LIST], ids=["nothing", "LIST"])
@pytest.mark.parametrize("gib", [4, 9])
def test_a_size_that_wrapped_round_at_4_gib(tmp_path: Path, gib: int, tail: bytes) -> None:
    """As SDR++, gqrx and SDRangel leave it; SDRangel writes a LIST behind the samples."""
    path, last = tmp_path / "baseband.wav", pairs(100)
    n_bytes = gib * GIB + 4000
    with path.open("wb") as file:  # a sparse file: it takes no room on the disk
        file.write(wav(chunk(b"data", b"", size=n_bytes % 2**32), size=(n_bytes + 36 + len(tail)) % 2**32))
        file.write(pairs(100, seed=2).tobytes())
        file.seek(44 + n_bytes - last.nbytes)
        file.write(last.tobytes() + tail)
    recording = read_recording(path)
    assert len(recording) == n_bytes // 4
    end = recording.read(len(recording) - 100, len(recording))
    np.testing.assert_array_equal(np.stack([end.real, end.imag], axis=1) * 2**15, last)
    sizes = f"its header declares {n_bytes % 2**32:,} bytes of samples, and {n_bytes:,} are there"
    assert recording.notes == (f"{sizes} (32-bit sizes wrap round at 4 GiB); all are read",)


def test_never_finished(tmp_path: Path) -> None:
    """A recorder that was killed: sizes of a header alone, and samples behind it."""
    recording = write(tmp_path / "a.wav", wav(chunk(b"data", b""), size=36) + pairs(500).tobytes())
    np.testing.assert_array_equal(stored(recording), pairs(500))
    assert recording.notes == ("was never finished: its header declares 0 bytes of samples, and 2,000 are there; all are read",)


def test_never_finished_and_silent(tmp_path: Path) -> None:
    assert len(write(tmp_path / "a.wav", wav(chunk(b"data", b""), size=36) + bytes(400))) == 100


def test_finished_half_way(tmp_path: Path) -> None:
    """A recorder that brings its header up to date now and then."""
    recording = write(tmp_path / "a.wav", wav(chunk(b"data", b"", size=400), size=436) + pairs(500).tobytes())
    np.testing.assert_array_equal(stored(recording), pairs(500))
    assert recording.notes == (
        "its header declares 400 bytes of samples, and 2,000 are there (no chunk follows those declared); all are read",
    )


@pytest.mark.parametrize("kind", [b"RF64", b"BW64"])
@pytest.mark.parametrize("tail", [b"", LIST, chunk(b"abcd", b"xyz")], ids=["nothing", "LIST", "unknown"])
def test_sizes_of_ds64_count(tmp_path: Path, kind: bytes, tail: bytes) -> None:
    samples = pairs(501).tobytes()
    ds64 = chunk(b"ds64", struct.pack("<QQQI", 0, len(samples), 501, 0))
    content = wav(ds64, chunk(b"fmt ", STEREO_16), chunk(b"data", samples, size=0xFFFFFFFF), tail, kind=kind, size=0xFFFFFFFF)
    recording = write(tmp_path / "a.wav", content)
    np.testing.assert_array_equal(stored(recording), pairs(501))
    assert recording.notes == ()


def test_rf64_as_libsndfile_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, pairs(777), 48_000, "PCM_16", format="RF64")
    path.write_bytes(path.read_bytes() + LIST)
    wanted, _ = soundfile.read(path, dtype="int16")
    np.testing.assert_array_equal(stored(read_recording(path)), wanted)


@pytest.mark.parametrize("size", [0, 2**64 - 1])
def test_rf64_never_finished(tmp_path: Path, size: int) -> None:
    ds64 = chunk(b"ds64", struct.pack("<QQQI", 0, size, 0, 0))
    samples = chunk(b"data", pairs(501).tobytes(), size=0xFFFFFFFF)
    assert len(write(tmp_path / "a.wav", wav(ds64, chunk(b"fmt ", STEREO_16), samples, kind=b"RF64", size=0xFFFFFFFF))) == 501


def test_rf64_cut_off(tmp_path: Path) -> None:
    ds64 = chunk(b"ds64", struct.pack("<QQQI", 0, 5 * GIB, 0, 0))
    samples = chunk(b"data", pairs(501).tobytes(), size=0xFFFFFFFF)
    recording = write(tmp_path / "a.wav", wav(ds64, chunk(b"fmt ", STEREO_16), samples, kind=b"RF64", size=0xFFFFFFFF))
    assert len(recording) == 501
    assert recording.notes == (
        f"truncated: its last data chunk declares {5 * GIB:,} bytes, {5 * GIB - 2004:,} of them are missing",
    )


@pytest.mark.parametrize("tail", [LIST, chunk(b"id3 ", b"odd"), chunk(b"abcd", b"xy"), bytes(1000), b"\r\n"])
def test_what_follows_the_samples_is_not_read_as_samples(tmp_path: Path, tail: bytes) -> None:
    recording = write(tmp_path / "a.wav", wav(chunk(b"data", pairs(500).tobytes()), tail))
    np.testing.assert_array_equal(stored(recording), pairs(500))
    assert recording.notes == ()


def test_a_rate_of_zero_follows_from_the_bytes_per_second(tmp_path: Path) -> None:
    form = struct.pack("<HHIIHH", 1, 2, 0, 4 * 375_000, 4, 16)
    assert write(tmp_path / "a.wav", wav(chunk(b"data", bytes(400)), form=form)).sample_rate_hz == 375_000


CHUNKS = st.lists(
    st.tuples(st.sampled_from([b"LIST", b"junk", b"data", b"abcd", b"\0\1\2\3", b"auxi"]), st.binary(max_size=60)), max_size=4
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(n_samples=st.integers(1, 40), declared=st.integers(0, 2**32 - 1), tail=CHUNKS, wide=st.integers(0, 2**64 - 1))
def test_any_declared_size_is_read_or_refused(
    tmp_path: Path, n_samples: int, declared: int, tail: list[tuple[bytes, bytes]], wide: int
) -> None:
    chunks = b"".join(chunk(name, body) for name, body in tail)
    samples = pairs(n_samples).tobytes()
    ds64 = chunk(b"ds64", struct.pack("<QQQI", wide, wide, wide, 0))
    for content in (
        wav(chunk(b"data", samples, size=declared), chunks),
        wav(ds64, chunk(b"fmt ", STEREO_16), chunk(b"data", samples, size=declared), chunks, kind=b"RF64"),
    ):
        try:
            recording = write(tmp_path / "a.wav", content)
        except DataQualityError:
            continue
        assert 0 < len(recording) <= len(content) // 4
        assert len(stored(recording)) == len(recording)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(n_samples=st.integers(0, 40), tail=CHUNKS.filter(lambda chunks: all(name != b"data" for name, _ in chunks)))
def test_true_sizes_are_believed(tmp_path: Path, n_samples: int, tail: list[tuple[bytes, bytes]]) -> None:
    """Whatever well-formed chunks with printable names follow."""
    chunks = b"".join(chunk(name, body) for name, body in tail if name.isascii() and name.isalpha())
    content = wav(chunk(b"data", pairs(n_samples).tobytes()), chunks)
    if n_samples == 0:
        with pytest.raises(DataQualityError, match="holds no samples"):
            write(tmp_path / "a.wav", content)
    else:
        np.testing.assert_array_equal(stored(write(tmp_path / "a.wav", content)), pairs(n_samples))
