"""Recordings into real buckets and a real catalog: what arrives, what is skipped, and that twice is once."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psycopg
import pytest
from kiwi_writer import kiwi_wav
from real_recordings import find_real_iq, label_rows, write_csv
from recorders import auxi, chunk, uff, wav

from featurestore.corpus.ingest.conversion import IngestOptions
from featurestore.corpus.ingest.ingest import ingest
from featurestore.corpus.ingest.ingested import Ingested, require_quality
from featurestore.corpus.ingest.labels import parse_session
from featurestore.errors import DataQualityError, ServiceUnavailableError, UsageError
from featurestore.objects.objects import Location, ObjectInfo, Objects
from featurestore.source.catalog import read_snapshot

ROOT = Path(__file__).resolve().parents[2]
RATE_HZ = 48_000
POSITION: dict[str, object] = {"latitude": 45.07, "longitude": 7.69}


def tone(n_samples: int = RATE_HZ, frequency_hz: float = 1000.0) -> npt.NDArray[np.complex64]:
    return np.asarray(0.5 * np.exp(2j * np.pi * frequency_hz / RATE_HZ * np.arange(n_samples)), np.complex64)


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    """One session heard by two receivers, as .npy and .cf32, and their labels."""
    directory = tmp_path / "recordings"
    directory.mkdir()
    np.save(directory / "a.npy", tone())
    tone().tofile(directory / "b.cf32")
    shared = POSITION | {"session_id": "test", "sample_rate_hz": RATE_HZ, "timestamp": "2024-05-06T07:08:09", "approved": True}
    write_csv(
        tmp_path / "labels.csv",
        [
            shared | {"file": "a.npy", "websdr_id": 1, "frequency_mhz": 144.8},
            shared | {"file": "b.cf32", "websdr_id": 2, "frequency_mhz": 144.8},
        ],
    )
    return directory


def bring(recordings: Path, raw: str | Path, catalog: str, options: IngestOptions | None = None) -> Ingested:
    return ingest(recordings, recordings.parent / "labels.csv", Location.parse(str(raw)), catalog, options)


def load(raw: str | Path, key: str) -> npt.NDArray[Any]:
    return np.asarray(np.load(io.BytesIO(Objects(Location.parse(str(raw))).get(key)), allow_pickle=False))


def listing(raw: str | Path) -> dict[str, ObjectInfo]:
    return {info.key: info for info in Objects(Location.parse(str(raw))).walk()}


def rows(catalog: str) -> list[tuple[object, ...]]:
    with psycopg.connect(catalog) as connection:
        return connection.execute("SELECT * FROM measurements ORDER BY id").fetchall()


def test_captures_and_rows_arrive(recordings: Path, tmp_path: Path, catalog: str) -> None:
    result = bring(recordings, tmp_path / "raw", catalog)
    assert (result.recordings, result.captures, result.written, result.unchanged) == (2, 2, 2, 0)
    assert (result.catalog.inserted, result.skipped, result.unlabelled) == (2, [], 0)
    snapshot = read_snapshot(catalog)
    session = parse_session("test")
    assert [snapshot.key(index) for index in range(2)] == [f"sessions/{session}/websdr_{n}.npy" for n in (1, 2)]
    assert snapshot.custom_keys == {}
    assert snapshot.position.tolist() == [[45.07, 7.69]] * 2
    assert snapshot.sample_rate_hz.tolist() == [RATE_HZ] * 2
    assert snapshot.frequency_mhz.tolist() == pytest.approx([144.8] * 2)
    assert snapshot.timestamp[0] == datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC).timestamp() * 1e9
    for index in range(2):
        samples = load(tmp_path / "raw", snapshot.key(index))
        assert samples.dtype == np.complex64
        np.testing.assert_array_equal(samples, tone())


@pytest.mark.parametrize("place", ["file", "s3"])
def test_twice_is_once(recordings: Path, tmp_path: Path, catalog: str, place: str, request: pytest.FixtureRequest) -> None:
    raw = str(tmp_path / "raw") if place == "file" else f"{request.getfixturevalue('bucket')}/some/prefix"
    bring(recordings, raw, catalog)
    before, rows_before = listing(raw), rows(catalog)
    again = bring(recordings, raw, catalog, IngestOptions(jobs=4))
    assert (again.captures, again.written, again.unchanged, again.bytes_written) == (2, 0, 2, 0)
    assert (again.catalog.inserted, again.catalog.updated, again.catalog.unchanged) == (0, 0, 2)
    assert listing(raw) == before  # ETags and times too, hence every source digest
    assert rows(catalog) == rows_before


def test_only_what_changed_is_written(recordings: Path, tmp_path: Path, catalog: str) -> None:
    bring(recordings, tmp_path / "raw", catalog)
    before = listing(tmp_path / "raw")
    (tone() * np.complex64(1j)).tofile(recordings / "b.cf32")  # same size, other bytes
    labels = tmp_path / "labels.csv"
    labels.write_text(labels.read_text().replace("45.07,7.69,test", "45.08,7.69,test", 1))
    again = bring(recordings, tmp_path / "raw", catalog)
    assert (again.written, again.unchanged) == (1, 1)
    assert (again.catalog.updated, again.catalog.unchanged) == (1, 1)
    changed = [key for key, info in listing(tmp_path / "raw").items() if info != before[key]]
    assert changed == [f"sessions/{parse_session('test')}/websdr_2.npy"]
    assert [note.file for note in again.notes] == ["b.cf32"]  # the two positions of the session differ now


def test_an_empty_approval_keeps_what_people_decided(recordings: Path, tmp_path: Path, catalog: str) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text(labels.read_text().replace(",True,", ",,"))
    bring(recordings, tmp_path / "raw", catalog)
    assert len(read_snapshot(catalog)) == 0
    with psycopg.connect(catalog) as connection:
        connection.execute("UPDATE measurements SET approved = TRUE")
    assert bring(recordings, tmp_path / "raw", catalog).catalog.unchanged == 2
    assert len(read_snapshot(catalog)) == 2


def test_swap_mirrors_the_spectrum(recordings: Path, tmp_path: Path, catalog: str) -> None:
    def peak_hz(raw: Path, receiver: int) -> float:
        samples = load(raw, f"sessions/{parse_session('test')}/websdr_{receiver}.npy")
        return float(np.fft.fftfreq(len(samples), 1 / RATE_HZ)[np.abs(np.fft.fft(samples)).argmax()])

    bring(recordings, tmp_path / "plain", catalog)
    bring(recordings, tmp_path / "swapped", catalog, IngestOptions(swap_iq=True))
    assert [peak_hz(tmp_path / "plain", n) for n in (1, 2)] == [1000, 1000]
    assert [peak_hz(tmp_path / "swapped", n) for n in (1, 2)] == [-1000, -1000]
    labels = tmp_path / "labels.csv"
    header, first, second, *_ = labels.read_text().splitlines()
    labels.write_text(f"{header},swap_iq\n{first},no\n{second},\n")
    bring(recordings, tmp_path / "mixed", catalog, IngestOptions(swap_iq=True))
    assert [peak_hz(tmp_path / "mixed", n) for n in (1, 2)] == [1000, -1000]


def test_resampled_captures_have_exactly_the_rate_asked_for(recordings: Path, tmp_path: Path, catalog: str) -> None:
    bring(recordings, tmp_path / "raw", catalog, IngestOptions(resample_to_hz=192_000, dtype="complex128"))
    snapshot = read_snapshot(catalog)
    assert snapshot.sample_rate_hz.tolist() == [192_000.0] * 2
    samples = load(tmp_path / "raw", snapshot.key(0))
    assert samples.dtype == np.complex128
    assert samples.shape == (192_000,)
    wanted = 0.5 * np.exp(2j * np.pi * 1000 / 192_000 * np.arange(192_000))
    np.testing.assert_allclose(samples[500:-500], wanted[500:-500], atol=1e-3)


def test_cuts_of_all_receivers_share_their_sessions(recordings: Path, tmp_path: Path, catalog: str) -> None:
    result = bring(recordings, tmp_path / "raw", catalog, IngestOptions(split_seconds=0.3, resample_to_hz=96_000))
    assert (result.recordings, result.captures) == (2, 6)  # 1 s holds three cuts of 0.3 s each
    snapshot = read_snapshot(catalog)
    sessions = [uuid.UUID(bytes=name.tobytes()) for name in snapshot.session_id]
    assert sessions[:3] == sessions[3:] == [uuid.uuid5(parse_session("test"), str(k)) for k in range(3)]
    assert (np.diff(snapshot.timestamp[:3]) == 300_000_000).all()
    bring(recordings, tmp_path / "whole", catalog, IngestOptions(resample_to_hz=96_000))
    whole = load(tmp_path / "whole", f"sessions/{parse_session('test')}/websdr_1.npy")
    cuts = np.concatenate([load(tmp_path / "raw", snapshot.key(k)) for k in range(3)])
    np.testing.assert_allclose(cuts, whole[: 3 * 28_800], atol=1e-6)


def test_what_cannot_go_in_is_told_and_the_rest_goes_in(recordings: Path, tmp_path: Path, catalog: str) -> None:
    tone().tofile(recordings / "no_rate.complex")
    tone().tofile(recordings / "unlabelled.cf32")
    (recordings / "broken.wav").write_bytes(b"RIFF....WAVEgarbage")
    np.save(recordings / "nan.npy", np.full(100, np.nan, np.complex64))
    np.save(recordings / "huge.npy", np.full(100, 1e300, np.complex128))
    (recordings / "kiwi.wav").write_bytes(kiwi_wav())
    stated = {
        "no_rate.complex": "",
        "broken.wav": "",
        "nan.npy": 1000,
        "huge.npy": 1000,
        "/": 1000,
        "x" * 300: 1000,
        "kiwi.wav": 48_000,
        "absent.cu8": 1000,
        "../labels.csv": 1000,
        "unknown.bin": 1000,
    }
    (recordings / "unknown.bin").write_bytes(bytes(100))
    each = POSITION | {"websdr_id": 9, "session_id": ""}
    labels = [each | {"file": name, "sample_rate_hz": rate_hz} for name, rate_hz in stated.items()]
    good = POSITION | {"websdr_id": 1, "session_id": "s", "sample_rate_hz": RATE_HZ}
    labels += [good | {"file": "a.npy"}, good | {"file": "b.cf32"}, good | {"file": "b.cf32", "websdr_id": 1.5}]
    write_csv(tmp_path / "labels.csv", [{key: row[key] for key in good | {"file": ""}} for row in labels])
    result = bring(recordings, tmp_path / "raw", catalog)
    reasons = {remark.file: remark.text for remark in result.skipped if remark.file != "b.cf32"}
    assert reasons == {
        "no_rate.complex": "states no sample rate; add sample_rate_hz to its label or give --sample-rate-hz",
        "broken.wav": "has no fmt chunk, so its sample format is unknown; it is damaged",
        "nan.npy": "holds samples that are NaN or infinite; record or convert it again",
        "huge.npy": "holds floats that no receiver writes: 1e+300 to 1e+300, median 1e+300, where full scale is 1; its number "
        "type or byte order must be another than is said (core:datatype, 'format'): correct it, or scale the samples",
        "/": f"is not in {recordings}; labels name files below the directory of recordings only",
        "x" * 300: "cannot be opened: File name too long",
        "kiwi.wav": "its header says 12001.1 Hz, its label sample_rate_hz 48000; correct the wrong one",
        "absent.cu8": "does not exist; correct the name in the labels",
        "../labels.csv": f"is not in {recordings}; labels name files below the directory of recordings only",
        "unknown.bin": reasons["unknown.bin"],
    }
    assert "does not tell its format" in reasons["unknown.bin"]
    twice, unusable = sorted(remark.text for remark in result.skipped if remark.file == "b.cf32")
    assert twice.startswith("a.npy has the same session and receiver (websdr_id 1, session")
    assert unusable.startswith("its label has websdr_id '1.5'")
    assert (result.recordings, result.unlabelled) == (1, 1)
    assert len(listing(tmp_path / "raw")) == len(rows(catalog)) == 1
    require_quality(result, strict=False)
    with pytest.raises(DataQualityError, match="12 recordings were skipped"):
        require_quality(result, strict=True)


def test_the_same_content_without_session_is_one_capture(recordings: Path, tmp_path: Path, catalog: str) -> None:
    tone().tofile(recordings / "copy.cf32")
    row = POSITION | {"websdr_id": 1, "session_id": "", "sample_rate_hz": RATE_HZ}
    write_csv(tmp_path / "labels.csv", [row | {"file": "b.cf32"}, row | {"file": "copy.cf32"}])
    result = bring(recordings, tmp_path / "raw", catalog)
    assert result.captures == 1
    assert [remark.file for remark in result.skipped] == ["copy.cf32"]


def test_values_far_above_full_scale_are_noted(recordings: Path, tmp_path: Path, catalog: str) -> None:
    (tone() * np.float32(4096)).tofile(recordings / "b.cf32")
    notes = bring(recordings, tmp_path / "raw", catalog).notes
    assert [(note.file, note.text) for note in notes] == [
        ("b.cf32", "reaches 2048 where full scale is 1; scale it, or name its format")
    ]


def test_snr_is_estimated_where_neither_label_nor_catalog_knows_it(recordings: Path, tmp_path: Path, catalog: str) -> None:
    def snrs() -> list[float]:
        return [float(snr_db) for snr_db in read_snapshot(catalog).snr_db]

    rng = np.random.default_rng(9)
    noisy = tone() + rng.normal(0, 0.5 * 10**-1, (RATE_HZ, 2)).astype(np.float32) @ np.array([1, 1j], np.complex64)
    np.save(recordings / "a.npy", noisy.astype(np.complex64))
    labels = tmp_path / "labels.csv"
    header, first, second = labels.read_text().splitlines()
    labels.write_text(f"{header},snr_db\n{first},\n{second},12.5\n")
    result = bring(recordings, tmp_path / "raw", catalog)
    assert (result.snr_estimated, result.snr_unknown) == (1, 0)
    # 0.25 of power over 2 · 0.05² in 48 kHz, of which a quarter is in the channel.
    assert snrs() == [pytest.approx(10 * np.log10(0.25 / (2 * 0.05**2 / 4)), abs=0.2), 12.5]
    assert bring(recordings, tmp_path / "raw", catalog).catalog.unchanged == 2
    with psycopg.connect(catalog) as connection:
        connection.execute("UPDATE measurements SET snr_db = 7")
    assert bring(recordings, tmp_path / "raw", catalog).catalog.updated == 1  # the label's own
    assert snrs() == [7, 12.5]
    np.save(recordings / "a.npy", (noisy[::-1]).astype(np.complex64))  # other samples: what was known of the old ones is gone
    bring(recordings, tmp_path / "raw", catalog)
    assert snrs()[0] == pytest.approx(23, abs=0.2)


def test_a_directory_of_every_program(tmp_path: Path, catalog: str) -> None:
    """Odd names, and what is known of each recording only by its name or header."""
    directory = tmp_path / "my recordings"
    directory.mkdir()
    samples = tone(4096)
    samples.tofile(directory / "gqrx_20220321_213549_434000000_48000_fc.raw")
    body = chunk(b"data", (np.stack([samples.real, samples.imag], 1) * 2**15).astype("<i2").tobytes())
    (directory / "05-Oct-2026 000058.250 436.665MHz 000.wav").write_bytes(wav(body))
    (directory / "Störung ☂ nördlich.wav").write_bytes(wav(auxi(datetime(2024, 4, 12, 18, 30, tzinfo=UTC), 7_050_000), body))
    (directory / "10C.uff").write_bytes(uff(bytes(range(1, 201)), count=200))
    (directory / "empty.wav").write_bytes(b"")
    (directory / "folder.wav").mkdir()
    (directory / "hackrf.iq").write_bytes(bytes(100))
    names = sorted(path.name for path in directory.iterdir())
    rows = [POSITION | {"file": name, "websdr_id": number, "approved": True} for number, name in enumerate(names)]
    labels = write_csv(tmp_path / "labels.csv", rows)
    result = ingest(directory, labels, Location.parse(str(tmp_path / "raw")), catalog)
    assert {remark.file: remark.text.split(";")[0] for remark in result.skipped} == {
        "empty.wav": "is empty (0 bytes)",
        "folder.wav": "is a directory",
        "hackrf.iq": "ends in '.iq', which does not tell its format",
    }
    snapshot = read_snapshot(catalog)
    known = {names[number]: index for index, number in enumerate(snapshot.websdr_id.tolist())}
    assert {
        name: (round(float(snapshot.frequency_mhz[index]), 3), round(snapshot.timestamp[index] / 1e9, 3))
        for name, index in known.items()
    } == {
        "gqrx_20220321_213549_434000000_48000_fc.raw": (434.0, datetime(2022, 3, 21, 21, 35, 49, tzinfo=UTC).timestamp()),
        "05-Oct-2026 000058.250 436.665MHz 000.wav": (436.665, datetime(2026, 10, 5, 0, 0, 58, 250_000, UTC).timestamp()),
        "Störung ☂ nördlich.wav": (7.05, datetime(2024, 4, 12, 18, 30, tzinfo=UTC).timestamp()),
        "10C.uff": (213.36, datetime(2023, 9, 10, 5, 56, 52, tzinfo=UTC).timestamp()),
    }
    notes = {note.file: note.text for note in result.notes}
    assert notes["05-Oct-2026 000058.250 436.665MHz 000.wav"].startswith(
        "time 2026-10-05T00:00:58Z from its name (SDR Console), read"
    )


def test_recordings_shorter_than_a_cut(recordings: Path, tmp_path: Path, catalog: str) -> None:
    result = bring(recordings, tmp_path / "raw", catalog, IngestOptions(split_seconds=2))
    assert {remark.text for remark in result.skipped} == {"lasts 1.000 s, less than one cut of 2 s (--split-seconds)"}
    with pytest.raises(DataQualityError, match="no recording could be ingested"):
        require_quality(result, strict=False)


def test_a_server_that_is_away_is_no_fault_of_the_files(
    recordings: Path, tmp_path: Path, catalog: str, s3_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with pytest.raises(ServiceUnavailableError):
        bring(recordings, "s3://captures", catalog)
    with pytest.raises(ServiceUnavailableError):
        bring(recordings, tmp_path / "raw", "postgresql://nobody@127.0.0.1:9/none")


@pytest.mark.parametrize("name", ["resample_to_hz", "sample_rate_hz", "split_seconds", "jobs", "dtype"])
@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("-inf")])
def test_options_that_cannot_be(name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=name):
        IngestOptions(**{name: value})


def run_cli(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "cli.py"), "ingest", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | environment)


def test_command_line(recordings: Path, tmp_path: Path, catalog: str) -> None:
    arguments = [str(recordings), "--labels", str(tmp_path / "labels.csv"), "--raw", str(tmp_path / "raw")]
    first = run_cli(*arguments, HEIMDALL_INGEST_CATALOG=catalog)
    assert first.returncode == 0, first.stderr
    assert first.stdout.startswith("2 recordings → 2 captures: 2 written (0.8 MB), 0 unchanged, in ")
    labels = tmp_path / "labels.csv"
    labels.write_text(labels.read_text().replace("b.cf32", "gone.cf32"))
    second = run_cli(*arguments, "--catalog", catalog, "--json", "--strict")
    assert second.returncode == 3
    result = json.loads(second.stdout)
    assert result["catalog"] == {"inserted": 0, "updated": 0, "unchanged": 1}
    assert result["skipped"] == [{"file": "gone.cf32", "reason": "does not exist; correct the name in the labels"}]
    assert "skipped gone.cf32: does not exist" in second.stderr
    assert "error: 1 recordings were skipped (--strict); the others are in" in second.stderr
    assert "Traceback" not in second.stderr


def test_real_recordings(tmp_path: Path, catalog: str, bucket: str) -> None:
    directory = find_real_iq()
    labels = write_csv(tmp_path / "labels.csv", label_rows(directory))
    result = ingest(directory, labels, Location.parse(bucket), catalog)
    assert [(remark.file, remark.text[:23]) for remark in result.skipped] == [
        ("ism_urh_enocean.complex", "states no sample rate; ")
    ]
    assert (result.recordings, result.captures, result.unlabelled) == (19, 19, 0)
    notes = {(note.file, note.text) for note in result.notes}
    assert (
        "kiwi_eloran_20251207T183506Z_100000_G7UAK_iq.wav",
        "receiver without GPS lock (it never had a solution); its nominal rate holds",
    ) in notes
    assert ("labels.csv", "columns not used: position_is") in notes
    snapshot = read_snapshot(catalog)
    dcf77 = [
        index
        for index in range(len(snapshot))
        if snapshot.session_id[index].tobytes() == parse_session("dcf77-20200813T065220Z").bytes
    ]
    assert snapshot.websdr_id[dcf77].tolist() == [1, 2, 3]
    assert snapshot.position[dcf77].tolist() == [[50.0152, 9.0112]] * 3
    assert snapshot.sample_rate_hz[dcf77].tolist() == pytest.approx([12_001.1] * 3, abs=0.1)
    again = ingest(directory, labels, Location.parse(bucket), catalog)
    assert (again.written, again.unchanged, again.catalog.unchanged) == (0, 19, 19)


def test_real_session_cut_at_one_rate(tmp_path: Path, catalog: str) -> None:
    directory = find_real_iq()
    labels = write_csv(tmp_path / "labels.csv", label_rows(directory)[:3])
    options = IngestOptions(resample_to_hz=12_000, split_seconds=5)
    result = ingest(directory, labels, Location.parse(str(tmp_path / "raw")), catalog, options)
    assert (result.recordings, result.captures, result.skipped) == (3, 16, [])  # 30.1, 29.6 and 29.7 s: 6 + 5 + 5 cuts
    snapshot = read_snapshot(catalog)
    assert set(snapshot.sample_rate_hz.tolist()) == {12_000.0}
    for index in range(len(snapshot)):
        samples = load(tmp_path / "raw", snapshot.key(index))
        assert samples.shape == (60_000,)
        # The receivers are tuned to DCF77 itself: its carrier lies at 0 Hz, and stays there.
        spectrum_hz = np.fft.fftfreq(60_000, 1 / 12_000)[np.abs(np.fft.fft(samples)).argmax()]
        assert abs(spectrum_hz) < 1


def test_receivers_arrive_from_labels_and_from_a_table(recordings: Path, tmp_path: Path, catalog: str) -> None:
    stands: dict[str, object] = {"receiver_latitude": 45.03, "receiver_longitude": 7.27}
    shared = POSITION | {"session_id": "test", "sample_rate_hz": RATE_HZ, "approved": True}
    named = {"receiver_name": "Aquila", "receiver_altitude_m": 1280}
    write_csv(
        tmp_path / "labels.csv",
        [
            shared | {"file": "a.npy", "websdr_id": 1} | stands | named,
            shared | {"file": "b.cf32", "websdr_id": 2} | stands,
        ],
    )
    assert bring(recordings, tmp_path / "raw", catalog).receivers == 2
    assert bring(recordings, tmp_path / "raw", catalog).receivers == 0
    found = read_snapshot(catalog).receivers
    assert found is not None
    assert found.rows() == [(1, 45.03, 7.27, "Aquila", 1280.0), (2, 45.03, 7.27, "", None)]
    (tmp_path / "r.csv").write_text("websdr_id,latitude,longitude,name,altitude_m\n2,45.2,7.9,Two,\n9,45,7,,100\n")
    again = bring(recordings, tmp_path / "raw", catalog, IngestOptions(receivers=str(tmp_path / "r.csv")))
    assert again.receivers == 2
    assert "receivers: 2 whose place was new or has changed" in list(again.lines())
    found = read_snapshot(catalog).receivers
    assert found is not None
    assert found.rows()[1] == (2, 45.2, 7.9, "Two", None)


def test_labels_that_disagree_on_a_receiver_are_noted(recordings: Path, tmp_path: Path, catalog: str) -> None:
    shared = POSITION | {"websdr_id": 1, "sample_rate_hz": RATE_HZ, "approved": True, "receiver_longitude": 7.27}
    write_csv(
        tmp_path / "labels.csv",
        [
            shared | {"file": "a.npy", "session_id": "x", "receiver_latitude": 45.03},
            shared | {"file": "b.cf32", "session_id": "y", "receiver_latitude": 45.04},
        ],
    )
    result = bring(recordings, tmp_path / "raw", catalog)
    (note,) = [remark for remark in result.notes if "receiver" in remark.text]
    assert note.file == "b.cf32"
    assert note.text.startswith("its label has receiver 1 at 45.04, 7.27, that of a.npy at 45.03, 7.27: the first counts")
    found = read_snapshot(catalog).receivers
    assert found is not None
    assert found.position.tolist() == [[45.03, 7.27]]
