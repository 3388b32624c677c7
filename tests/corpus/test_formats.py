"""Every format against an independent writer or reader, and what is no recording at all."""

from __future__ import annotations

import hashlib
import json
import struct
import wave
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import scipy.io.wavfile
import sigmf
import soundfile  # type: ignore[import-untyped]  # ships no types
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kiwi_writer import kiwi_wav
from real_recordings import SWAPPED, find_real_iq, read_index

from featurestore.corpus.ingest.formats import FORMATS, read_recording
from featurestore.corpus.ingest.samples import Recording
from featurestore.errors import DataQualityError


def everything(recording: Recording, swap_iq: bool = False) -> npt.NDArray[np.complex128]:
    return np.asarray(recording.read(0, len(recording), swap_iq=swap_iq, dtype="complex128"), np.complex128)


def noise(n_samples: int = 1000, seed: int = 1) -> npt.NDArray[np.float64]:
    return np.random.default_rng(seed).uniform(-1, 1, (n_samples, 2))


@pytest.mark.parametrize(
    ("suffix", "content", "wanted"),
    [
        (".cu8", bytes([0, 255, 255, 0]), [-1 + 1j, 1 - 1j]),
        (".cs8", struct.pack("4b", -128, 64, 0, 127), [-1 + 0.5j, 127j / 128]),
        (".cs16", struct.pack("<4h", -32768, 16384, 0, 1), [-1 + 0.5j, 1j / 32768]),
        (".cf32", struct.pack("<4f", 0.25, -0.5, 1.0, 0.0), [0.25 - 0.5j, 1]),
        (".complex", struct.pack("<2f", 0.25, -0.5), [0.25 - 0.5j]),
        (".CFILE", struct.pack("<2f", 0.25, -0.5), [0.25 - 0.5j]),
        (".cu16", struct.pack("<2H", 0, 65535), [-1 + 1j]),
        (".cs32", struct.pack("<2i", -(2**31), 2**30), [-1 + 0.5j]),
        (".cf64", struct.pack("<2d", 1 / 3, -1 / 3), [1 / 3 - 1j / 3]),
    ],
)
def test_raw_formats(tmp_path: Path, suffix: str, content: bytes, wanted: list[complex]) -> None:
    path = tmp_path / f"recording{suffix}"
    path.write_bytes(content)
    recording = read_recording(path)
    assert recording.sample_rate_hz is None
    np.testing.assert_allclose(everything(recording), wanted, rtol=0, atol=1e-15)
    np.testing.assert_allclose(everything(recording, swap_iq=True), [complex(z.imag, z.real) for z in map(complex, wanted)])


def test_a_stated_format_overrides_the_ending(tmp_path: Path) -> None:
    path = tmp_path / "recording.dat"
    path.write_bytes(struct.pack("<2h", 16384, -16384))
    with pytest.raises(DataQualityError, match=r"ends in '\.dat', which does not tell its format; add a 'format'"):
        read_recording(path)
    assert everything(read_recording(path, "cs16")) == [0.5 - 0.5j]


def test_incomplete_last_sample_is_noted(tmp_path: Path) -> None:
    path = tmp_path / "recording.cs16"
    path.write_bytes(bytes(4 * 10 + 3))
    recording = read_recording(path)
    assert len(recording) == 10
    assert recording.notes == ("3 bytes after the last whole sample are left out",)


@pytest.mark.parametrize("container", ["WAV", "WAVEX", "RF64"])
@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
def test_wav_as_libsndfile_writes_and_reads_it(tmp_path: Path, container: str, subtype: str) -> None:
    path = tmp_path / "recording.wav"
    soundfile.write(path, noise(), 48_000, subtype, format=container)
    recording = read_recording(path)
    wanted, rate_hz = soundfile.read(path, dtype="float64")
    assert recording.sample_rate_hz == rate_hz == 48_000
    np.testing.assert_allclose(everything(recording), wanted[:, 0] + 1j * wanted[:, 1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", ["u1", "<i2", "<i4", "<f4", "<f8"])
def test_wav_as_scipy_reads_it(tmp_path: Path, dtype: str) -> None:
    path = tmp_path / "recording.wav"
    stored = (noise() * 100 + (128 if dtype == "u1" else 0)).astype(dtype)
    scipy.io.wavfile.write(path, 2_400_000, stored)
    zero, full_scale = {"u1": (128, 128), "<i2": (0, 2**15), "<i4": (0, 2**31)}.get(dtype, (0, 1))
    wanted = (scipy.io.wavfile.read(path)[1].astype(np.float64) - zero) / full_scale
    np.testing.assert_allclose(everything(read_recording(path)), wanted @ [1, 1j], rtol=0, atol=1e-12)


def riff(*chunks: tuple[bytes, bytes], size: int | None = None) -> bytes:
    body = b"WAVE" + b"".join(struct.pack("<4sI", name, len(data)) + data + bytes(len(data) % 2) for name, data in chunks)
    return b"RIFF" + struct.pack("<I", len(body) if size is None else size) + body


STEREO = struct.pack("<HHIIHH", 1, 2, 48_000, 192_000, 4, 16)


def test_wav_with_odd_chunks_before_and_after(tmp_path: Path) -> None:
    path = tmp_path / "recording.wav"
    samples = struct.pack("<4h", 1, 2, 3, 4)
    path.write_bytes(riff((b"JUNK", b"abc"), (b"fmt ", STEREO), (b"LIST", b"x" * 7), (b"data", samples), (b"id3 ", b"y" * 5)))
    np.testing.assert_array_equal(everything(read_recording(path)) * 2**15, [1 + 2j, 3 + 4j])


@pytest.mark.parametrize("data_size", [0, 0xFFFFFFFF])
def test_wav_streamed_through_a_pipe(tmp_path: Path, data_size: int) -> None:
    path = tmp_path / "recording.wav"
    samples = struct.pack("<4h", 1, 2, 3, 4)
    header = riff((b"fmt ", STEREO), size=data_size)
    path.write_bytes(header + b"data" + struct.pack("<I", data_size) + samples)
    recording = read_recording(path)
    np.testing.assert_array_equal(everything(recording) * 2**15, [1 + 2j, 3 + 4j])
    assert recording.notes == ()


def test_truncated_wav_gives_what_is_there_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "recording.wav"
    path.write_bytes(riff((b"fmt ", STEREO), (b"data", bytes(4000)))[:-1001])
    recording = read_recording(path)
    assert len(recording) == 749
    assert "truncated: its last data chunk declares 4,000 bytes, 1,001 of them are missing" in recording.notes


def test_mono_wav_is_not_iq(tmp_path: Path) -> None:
    path = tmp_path / "audio.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(12_000)
        file.writeframes(bytes(2000))
    with pytest.raises(DataQualityError, match=r"has one channel .*so it is not IQ"):
        read_recording(path)


@pytest.mark.parametrize("dtype", ["<c8", "<c16", ">c8"])
def test_npy_of_complex(tmp_path: Path, dtype: str) -> None:
    path = tmp_path / "recording.npy"
    np.save(path, (noise() @ [1, 1j]).astype(dtype))
    np.testing.assert_array_equal(everything(read_recording(path)), np.load(path))


def test_npy_of_integer_components(tmp_path: Path) -> None:
    path = tmp_path / "recording.npy"
    np.save(path, np.array([[-32768, 16384], [0, 1]], ">i2"))
    np.testing.assert_array_equal(everything(read_recording(path)), [-1 + 0.5j, 1j / 32768])


def write_sigmf(folder: Path, datatype: str, stored: npt.NDArray[np.generic], name: str = "recording") -> Path:
    """A recording by the sigmf package's own writer, hash included."""
    data = folder / f"{name}.sigmf-data"
    stored.tofile(data)
    header = {sigmf.DATATYPE_KEY: datatype, sigmf.SAMPLE_RATE_KEY: 250_000, sigmf.AUTHOR_KEY: "a@b.c"}
    meta = sigmf.SigMFFile(data_file=data, global_info=header)
    meta.add_capture(0, metadata={sigmf.FREQUENCY_KEY: 144_800_000, sigmf.DATETIME_KEY: "2024-05-06T07:08:09.5Z"})
    meta.tofile(folder / f"{name}.sigmf-meta")
    return folder / f"{name}.sigmf-meta"


@pytest.mark.parametrize(
    ("datatype", "dtype"), [("ci8", "i1"), ("ci16_le", "<i2"), ("ci16_be", ">i2"), ("ci32_le", "<i4"), ("cf32_le", "<f4")]
)
def test_sigmf_as_its_package_reads_it(tmp_path: Path, datatype: str, dtype: str) -> None:
    stored = (noise() * 100).astype(dtype)
    path = write_sigmf(tmp_path, datatype, stored)
    wanted = sigmf.fromfile(path).read_samples()
    for name in (path, path.with_suffix(".sigmf-data")):
        recording = read_recording(name)
        np.testing.assert_allclose(everything(recording), wanted, rtol=1e-7)
        assert (recording.sample_rate_hz, recording.frequency_mhz) == (250_000, 144.8)
        assert str(recording.timestamp) == "2024-05-06 07:08:09.500000+00:00"
        assert recording.notes == ()


def test_sigmf_unsigned_bytes_have_their_zero_in_the_middle(tmp_path: Path) -> None:
    path = write_sigmf(tmp_path, "cu8", np.array([[0, 255]], "u1"))
    assert everything(read_recording(path)) == [-1 + 1j]


def test_sigmf_archive(tmp_path: Path) -> None:
    meta = sigmf.fromfile(write_sigmf(tmp_path, "ci16_le", (noise() * 100).astype("<i2")))
    archive = Path(meta.archive(str(tmp_path / "packed.sigmf")))
    np.testing.assert_allclose(everything(read_recording(archive)), meta.read_samples(), rtol=1e-7)
    archive.write_bytes(archive.read_bytes()[:3000])
    with pytest.raises(DataQualityError, match=r"truncated|no SigMF archive"):
        read_recording(archive)


def test_sigmf_dataset_under_another_name(tmp_path: Path) -> None:
    path = write_sigmf(tmp_path, "ci16_le", (noise() * 100).astype("<i2"))
    path.with_suffix(".sigmf-data").rename(tmp_path / "recording.cs16")
    assert read_recording(path).notes == ("recording.cs16 is read as its dataset",)
    assert read_recording(tmp_path / "recording.cs16").sample_rate_hz == 250_000
    assert read_recording(tmp_path / "recording.cs16", "cs16").sample_rate_hz is None  # asked for as raw
    (tmp_path / "recording.cs16").rename(tmp_path / "elsewhere.cs16")
    with pytest.raises(DataQualityError, match=r"has no dataset: neither recording\.sigmf-data"):
        read_recording(path)


def test_sigmf_with_damaged_data(tmp_path: Path) -> None:
    path = write_sigmf(tmp_path, "ci16_le", (noise() * 100).astype("<i2"))
    data = bytearray(path.with_suffix(".sigmf-data").read_bytes())
    data[77] ^= 1
    path.with_suffix(".sigmf-data").write_bytes(data)
    with pytest.raises(DataQualityError, match=r"the SHA-512 of recording\.sigmf-data is not the one its metadata states"):
        read_recording(path)


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ({"core:datatype": "rf32_le"}, "holds real samples"),
        ({"core:datatype": "banana"}, "unknown core:datatype 'banana'"),
        ({}, "unknown core:datatype None"),
        ({"core:datatype": 7}, "unknown core:datatype 7"),
        ({"core:datatype": "ci16_le", "core:num_channels": 2}, "holds 2 channels"),
        ({"core:datatype": "ci16_le", "core:trailing_bytes": 10**6}, "impossible header and trailing bytes"),
        ({"core:datatype": "ci16_le", "core:dataset": "/etc/hostname"}, "has no dataset"),
    ],
)
def test_sigmf_metadata_that_cannot_be_used(tmp_path: Path, header: dict[str, object], reason: str) -> None:
    path = tmp_path / "recording.sigmf-meta"
    path.write_text(json.dumps({"global": header, "captures": [], "annotations": []}))
    if "core:dataset" not in header:
        path.with_suffix(".sigmf-data").write_bytes(bytes(400))
    with pytest.raises(DataQualityError, match=reason):
        read_recording(path)


PICKLE = b"\x93NUMPY\x01\x00v\x00" + b"{'descr': '|O', 'fortran_order': False, 'shape': (3,), }".ljust(117) + b"\n" + bytes(99)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.cu8", b"", "is empty"),
        ("a.wav", b"", "is empty"),
        ("a.npy", b"", "is empty"),
        ("a.sigmf-meta", b"", "is empty"),
        ("a.cf32", b"1234567", "holds no samples"),
        ("a.wav", b"<html>not found</html>", "is no WAV file"),
        ("a.wav", b"RIFF\0\0\0\0WAVE", "has no fmt chunk"),
        ("a.wav", riff((b"fmt ", b"short")), "fmt chunk of 5 bytes"),
        ("a.wav", riff((b"fmt ", STEREO)), "has no data chunk"),
        ("a.wav", riff((b"fmt ", STEREO), (b"data", b"")), "holds no samples"),
        ("a.wav", riff((b"fmt ", struct.pack("<HHIIHH", 0x11, 2, 1, 1, 4, 16)), (b"data", bytes(64))), "WAV format 0x11"),
        ("a.wav", riff((b"fmt ", struct.pack("<HHIIHH", 1, 6, 1, 1, 12, 16)), (b"data", bytes(64))), "6 channels"),
        ("a.npy", b"PK\x03\x04" + bytes(100), "is no .npy"),
        ("a.npy", PICKLE, "is no .npy"),
        ("a.npy", b"\x93NUMPY\x01\x00\xff\xff", "is no .npy"),
        ("a.sigmf-meta", b"{", "not JSON"),
        ("a.sigmf-meta", b"[]", "without the 'global' object"),
        ("a.sigmf-meta", b"[" * 100_000, "not JSON"),
        ("a.sigmf-data", bytes(100), "has no metadata"),
        ("a.sigmf", b"no tar at all", "is no SigMF archive"),
        ("a.iq", bytes(100), "does not tell its format"),
    ],
)
def test_what_is_no_recording_has_a_reason(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataQualityError, match=reason):
        read_recording(path)


def test_truncated_npy(tmp_path: Path) -> None:
    path = tmp_path / "recording.npy"
    np.save(path, np.ones(1000, np.complex64))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataQualityError, match=r"is truncated: its header promises 1000 samples, and 999 are there"):
        read_recording(path)


@pytest.mark.parametrize(
    "array", [np.ones((3, 4), np.complex64), np.ones(6), np.array(1j), np.ones((5, 2), "i8"), np.ones((2, 5))]
)
def test_npy_of_another_shape_or_type(tmp_path: Path, array: npt.NDArray[np.generic]) -> None:
    np.save(tmp_path / "recording.npy", array)
    with pytest.raises(DataQualityError, match=r"expected complex of shape \(n,\)"):
        read_recording(tmp_path / "recording.npy")


SEEDS = [kiwi_wav(12), riff((b"fmt ", STEREO), (b"data", bytes(256))), PICKLE, b'{"global": {"core:datatype": "ci16_le"}}']


@pytest.mark.filterwarnings("ignore:Reading `.npy`")  # numpy, of headers that look like Python 2
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(seed=st.sampled_from(SEEDS), edits=st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=4))), data=st.data())
def test_damaged_bytes_never_end_in_another_error(
    tmp_path: Path, seed: bytes, edits: list[tuple[int, bytes]], data: st.DataObject
) -> None:
    content = bytearray(seed)
    for place, new in edits:
        content[place : place + len(new)] = new
    content = content[: data.draw(st.integers(0, len(content)))]
    path, samples = tmp_path / "fuzz.sigmf-meta", tmp_path / "fuzz.sigmf-data"
    path.write_bytes(content)  # one file for all formats: writing takes most of the time
    if not samples.exists():
        samples.write_bytes(bytes(64))
    for kind in ("npy", "wav", "sigmf", "uff", "cs16"):
        try:
            recording = read_recording(path, kind)
            assert len(everything(recording)) == len(recording)
        except DataQualityError:
            pass


def test_every_format_is_documented() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "ingest.md").read_text()
    assert [name for name in FORMATS if f"`{name}`" not in text] == []


def test_real_recordings_have_the_samples_that_their_index_states() -> None:
    directory = find_real_iq()
    for name, row in read_index(directory).items():
        assert hashlib.sha256((directory / name).read_bytes()).hexdigest() == row["sha256"], name
        recording = read_recording(directory / name)
        assert len(recording) == int(row["n_samples"]), name
        if recording.sample_rate_hz is not None:
            assert recording.sample_rate_hz == pytest.approx(float(row["sample_rate_hz"]), rel=1e-4), name


def test_real_radiosondes_change_sides_with_the_swap() -> None:
    name = "sonde_dfmIQ_100k.wav"
    assert name in SWAPPED
    recording = read_recording(find_real_iq() / name)
    frequency_hz = np.fft.fftfreq(1000, 1e-5)

    def centres(swap_iq: bool) -> list[float]:
        samples = recording.read(0, len(recording), swap_iq=swap_iq).reshape(-1, 1000)
        power = (np.abs(np.fft.fft(samples * np.hanning(1000), axis=1)) ** 2).mean(axis=0)
        power -= np.median(power)
        bands = [(frequency_hz > low) & (frequency_hz < high) for low, high in ((-20_000, -4000), (4000, 20_000))]
        return [float(frequency_hz[band] @ power[band] / power[band].sum()) for band in bands]

    # The index names 10.6 and 11.2 kHz. Its signs are those of the file as it is stored; the swap mirrors them.
    assert centres(swap_iq=False) == pytest.approx([-10_600, 11_200], abs=100)
    assert centres(swap_iq=True) == pytest.approx([-11_200, 10_600], abs=100)


def test_real_sigmf_agrees_with_its_package() -> None:
    meta = find_real_iq() / "nbiot_V16-beacon-NB-IoT-uplink_832.344M_640k.sigmf-meta"
    recording = read_recording(meta)
    package = sigmf.SigMFFile(metadata=meta.read_text(), data_file=str(meta.with_suffix(".cs16")))
    np.testing.assert_allclose(everything(recording)[:10_000], package.read_samples(0, 10_000), rtol=1e-7)
    assert recording.frequency_mhz == 832.344126
    assert recording.sample_rate_hz == 640_000
