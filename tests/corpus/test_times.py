"""When samples were taken: GPS weeks, leap seconds, fractions of SigMF, and captures cut and resampled from recordings."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kiwi_writer import BLOCK, kiwi_wav
from real_recordings import find_real_iq

from featurestore.corpus.ingest.conversion import IngestOptions, plan_captures, start_time_ns
from featurestore.corpus.ingest.formats import read_recording
from featurestore.corpus.ingest.gps_time import GPS_EPOCH_UNIX_S, WEEK_S, gps_to_unix_ns
from featurestore.corpus.ingest.labels import Label
from featurestore.corpus.ingest.times import parse_time_ns
from featurestore.corpus.ingest.wav import read_wav

SESSION = UUID(int=7)
LABELLED = datetime(2025, 8, 25, 6, 30, 2, tzinfo=UTC)
WEEK = 2381
"""The GPS week of that label, by the day count from 1980-01-06: 16,667 days."""
TONES = ((1000.0, 0.4), (-2345.0, 0.3))


def tones(time_s: np.ndarray) -> np.ndarray:
    return np.asarray(sum(level * np.exp(2j * np.pi * hz * time_s) for hz, level in TONES))


def label(**more: object) -> Label:
    return Label("kiwi.wav", 1, 45.0, 7.0, timestamp=LABELLED, **more)  # type: ignore[arg-type]  # a test names what it sets


@given(st.integers(1200, 3000), st.floats(0, WEEK_S - 1e-3), st.floats(-3.4 * 86_400, 3.4 * 86_400))
def test_a_hint_within_three_days_finds_the_week(week: int, second: float, off_s: float) -> None:
    true_s = GPS_EPOCH_UNIX_S + week * WEEK_S + second - 18
    near = datetime.fromtimestamp(true_s, UTC) + timedelta(seconds=off_s)
    assert abs(gps_to_unix_ns(second, near) - true_s * 1e9) < 6e9  # fewer leap seconds before 2017


@pytest.mark.parametrize(
    ("utc", "ahead_s"),
    [("2005-12-31T23:59:59Z", 13), ("2006-01-01T00:00:00Z", 14), ("2016-12-31T12:00:00Z", 17), ("2020-08-13T06:52:20Z", 18)],
)
def test_leap_seconds_of_the_time(utc: str, ahead_s: int) -> None:
    true = datetime.fromisoformat(utc)
    second = (true.timestamp() - GPS_EPOCH_UNIX_S + ahead_s) % WEEK_S
    assert gps_to_unix_ns(second, true + timedelta(hours=5)) == round(true.timestamp() * 1e9)


@pytest.mark.parametrize("first_s", [109_820.516155640, 604_799.2])
@pytest.mark.parametrize(
    "faults",
    [
        {},
        {"times_s": {0: 0.0}, "ages": {0: 0}},
        {"times_s": {0: 0.0, 1: 358_742.5}},
        {"ages": dict.fromkeys(range(10, 30), 255)},
    ],
    ids=["clean", "first-zero", "stale-second", "lock-lost-for-a-while"],
)
def test_first_sample_of_a_kiwi(tmp_path: Path, first_s: float, faults: dict[str, dict[int, float]]) -> None:
    path = tmp_path / "kiwi.wav"
    path.write_bytes(kiwi_wav(rate_hz=12_001.1, first_s=first_s, **faults))  # type: ignore[arg-type]
    recording = read_wav(path)
    near = datetime.fromtimestamp(GPS_EPOCH_UNIX_S + WEEK * WEEK_S + first_s - 18, UTC)
    found = start_time_ns(recording, near)
    assert found is not None
    assert abs(found - (GPS_EPOCH_UNIX_S + WEEK * WEEK_S - 18) * 10**9 - round(first_s * 1e9)) <= 3
    assert recording.time_sigma_s is not None
    assert recording.time_sigma_s < 2e-9
    assert recording.steps == ()
    assert start_time_ns(recording, None) is None  # its name tells no week


def test_lost_samples_are_a_step_of_the_clock(tmp_path: Path) -> None:
    path = tmp_path / "20250825T063002Z_77500_X_iq.wav"
    path.write_bytes(kiwi_wav(90, lost_after=30, first_s=109_820.5))
    recording = read_recording(path)
    (step,) = recording.steps
    assert step.sample == 31 * BLOCK
    assert step.jump_s == pytest.approx(10 * BLOCK / 12_001.1, abs=3e-9)
    cuts = plan_captures(recording, label(), SESSION, IngestOptions(split_seconds=1.0))
    first_ns = start_time_ns(recording, None) or 0
    assert first_ns == cuts[0].start_time_ns == cuts[0].record.start_time_ns
    assert cuts[0].record.time_sigma_s == cuts[0].time_sigma_s
    assert cuts[1].start_time_ns is None  # samples are missing within it
    assert cuts[1].time_sigma_s is None
    assert cuts[2].start_time_ns == pytest.approx(first_ns + (2 * 12_001 / 12_001.1 + step.jump_s) * 1e9, abs=10)


@pytest.mark.parametrize(
    "options", [IngestOptions(), IngestOptions(resample_to_hz=12_000.0), IngestOptions(resample_to_hz=8000.0)]
)
def test_times_are_right_to_10_ns_after_resampling_and_cutting(tmp_path: Path, options: IngestOptions) -> None:
    """A signal that is known at every instant: what a capture holds at the time it states must be that signal then."""
    path = tmp_path / "kiwi.wav"
    path.write_bytes(kiwi_wav(120, rate_hz=12_001.084, first_s=109_820.123456789, signal=tones))
    options = IngestOptions(resample_to_hz=options.resample_to_hz, split_seconds=1.0)
    captures = plan_captures(read_wav(path), label(), SESSION, options)
    assert len(captures) == 5
    origin_ns = (GPS_EPOCH_UNIX_S + WEEK * WEEK_S - 18 + 109_820) * 10**9 + 123_456_789
    for capture in captures[1:-1]:  # silence is assumed before and after the recording
        samples = capture.read()
        assert capture.start_time_ns is not None
        start_s = (capture.start_time_ns - origin_ns) / 1e9
        time_s = start_s + np.arange(len(samples)) / capture.record.sample_rate_hz
        for hz, level in TONES:
            # Hann weights part the two tones; the mean of what is left is exp(2πi·hz·(error of time)).
            turned = samples * np.exp(-2j * np.pi * hz * time_s) * np.hanning(len(samples))
            late_s = np.angle(turned.sum()) / (2 * np.pi * hz)
            assert abs(turned.sum()) / np.hanning(len(samples)).sum() == pytest.approx(level, rel=0.01)
            assert abs(late_s) < 10e-9
        assert capture.time_sigma_s is not None


def test_sigmf_states_its_time_with_all_digits(tmp_path: Path) -> None:
    meta = {
        "global": {"core:datatype": "cf32_le", "core:sample_rate": 1000.0, "core:version": "1.0.0"},
        "captures": [{"core:sample_start": 0, "core:datetime": "2020-08-13T06:52:20.123456789Z"}],
    }
    (tmp_path / "a.sigmf-data").write_bytes(np.ones(64, np.complex64).tobytes())
    (tmp_path / "a.sigmf-meta").write_text(json.dumps(meta))
    recording = read_recording(tmp_path / "a.sigmf-meta")
    assert recording.start_time_ns == 1_597_301_540_123_456_789
    assert recording.time_sigma_s is None
    (capture,) = plan_captures(recording, label(time_sigma_s=2e-7), SESSION, IngestOptions())
    assert capture.start_time_ns == recording.start_time_ns
    assert capture.time_sigma_s == 2e-7
    meta["captures"] = [{"core:sample_start": 10, "core:datetime": "2020-08-13T06:52:20.5Z", "heimdall:time_sigma_s": 1e-6}]
    (tmp_path / "a.sigmf-meta").write_text(json.dumps(meta))
    recording = read_recording(tmp_path / "a.sigmf-meta")
    assert recording.start_time_ns == 1_597_301_540_490_000_000
    assert recording.time_sigma_s == 1e-6


@given(st.integers(0, 2**62))
def test_times_of_any_ns_come_back(ns: int) -> None:
    seconds, rest = divmod(ns, 10**9)
    if seconds < 250_000_000_000:  # the year 9999
        text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        assert parse_time_ns(f"{text}.{rest:09d}Z") == ns


def test_real_receivers_have_times_but_not_the_one_without_lock() -> None:
    directory = find_real_iq()
    for path in sorted(directory.glob("kiwi_*.wav")):
        recording = read_recording(path)
        named = recording.timestamp
        assert named is not None
        if "G7UAK" in path.name:
            assert recording.gps_start_s is None
            assert start_time_ns(recording, named) is None
            continue
        found = start_time_ns(recording, None)
        assert found is not None
        assert abs(found / 1e9 - named.timestamp()) < 60
        assert recording.time_sigma_s is not None
        assert 1e-8 < recording.time_sigma_s < 2e-7
