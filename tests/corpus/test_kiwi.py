"""The true rate of KiwiSDR recordings, and every way in which their stamps go wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kiwi_writer import BLOCK, kiwi_wav
from real_recordings import find_real_iq, read_index

from featurestore.corpus.ingest.wav import read_wav


@pytest.mark.parametrize(
    "faults",
    [
        {},
        {"times_s": {0: 0.0}, "ages": {0: 0}},  # as every real recording begins
        {"first_s": 604_799.2},  # the GPS week ends in it
        {"times_s": {0: 0.0, 1: 358_742.5}},  # a stale second stamp, seen in a real recording
        {"times_s": {20: 7.0, 40: 600_000.0}},
        {"ages": dict.fromkeys(range(10, 30), 255)},  # lock lost for a while
        {"riff_size": 0},
        {"riff_size": 0xFFFFFFFF},
    ],
    ids=["clean", "first-zero", "week-end", "stale-second", "wild-stamps", "lock-lost-for-a-while", "size-0", "size-max"],
)
@pytest.mark.parametrize("rate_hz", [11_998.84, 12_001.1])
def test_true_rate_comes_from_the_stamps(tmp_path: Path, rate_hz: float, faults: dict[str, Any]) -> None:
    path = tmp_path / "kiwi.wav"
    path.write_bytes(kiwi_wav(rate_hz=rate_hz, **faults))
    recording = read_wav(path)
    assert recording.gps_rate_hz == pytest.approx(rate_hz, rel=1e-8)
    assert recording.sample_rate_hz == 12_001
    assert len(recording) == 60 * BLOCK
    samples = recording.read(0, len(recording))
    np.testing.assert_array_equal(samples.real * 2**15, np.arange(60 * BLOCK) % 30_000)
    np.testing.assert_array_equal(samples.imag, -samples.real)


def test_lost_samples_are_noted_and_do_not_bend_the_rate(tmp_path: Path) -> None:
    path = tmp_path / "kiwi.wav"
    path.write_bytes(kiwi_wav(lost_after=30))
    recording = read_wav(path)
    assert recording.gps_rate_hz == pytest.approx(12_001.1, rel=1e-8)
    assert "0.427 s of samples are missing in 1 places" in recording.notes  # 10 × 512 / 12001.1


@pytest.mark.parametrize(
    ("faults", "note"),
    [
        ({"ages": {-1: 255}}, "receiver without GPS lock (it never had a solution)"),
        ({"ages": {-1: 200}}, "receiver without GPS lock (its last solution is at least 200 s old)"),
        ({"times_s": dict.fromkeys(range(60), 0.0)}, "receiver without GPS lock (no stamp holds a time)"),
        ({"n_blocks": 5}, "only 5 usable GPS stamps"),
        ({"times_s": {block: 17.0 * block**2 + 1 for block in range(60)}}, "GPS stamps jump from block to block"),
        ({"rate_hz": 12_016.0}, "GPS stamps say 12016.0 Hz, the header 12001 Hz"),
    ],
)
def test_without_usable_stamps_the_nominal_rate_holds(tmp_path: Path, faults: dict[str, Any], note: str) -> None:
    path = tmp_path / "kiwi.wav"
    path.write_bytes(kiwi_wav(**faults))
    recording = read_wav(path)
    assert recording.gps_rate_hz is None
    assert recording.sample_rate_hz == 12_001
    assert recording.notes[0].startswith(note)


@pytest.mark.parametrize("cut", [1, 7, 100, 2047, 2048, 2050, 2056, 2062])
def test_truncated_in_the_last_block(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "kiwi.wav"
    path.write_bytes(kiwi_wav()[:-cut])
    recording = read_wav(path)
    assert len(recording) == 59 * BLOCK + max(0, 2048 - cut) // 4
    assert recording.gps_rate_hz == pytest.approx(12_001.1, rel=1e-8)


def test_real_receivers() -> None:
    directory = find_real_iq()
    rates = {name: read_wav(directory / name).gps_rate_hz for name in read_index(directory) if name.startswith("kiwi_")}
    dcf77 = [rate for name, rate in rates.items() if "dcf77" in name]
    assert dcf77 == pytest.approx([12_001.1] * 3, abs=0.1)
    assert [name for name, rate in rates.items() if rate is None] == ["kiwi_eloran_20251207T183506Z_100000_G7UAK_iq.wav"]


def test_stale_second_stamp_of_a_real_recording() -> None:
    path = find_real_iq() / "kiwi_dcf77_20200813T065220Z_77500_HB9ODP_iq.wav"
    # A plain fit over all stamps of this file gives 20 Hz: its second stamp is three hours old.
    assert read_wav(path).gps_rate_hz == pytest.approx(12_001.0843, abs=1e-3)
