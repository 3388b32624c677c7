"""`heimdall locate` end to end: real DCF77, synthetic sessions, and everything that users get wrong."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from kiwi_writer import kiwi_wav
from pages import Read
from pyproj import Geod
from real_recordings import find_real_iq, read_index
from sessions_for_tests import Ear, hear

from cli import main
from featurestore.errors import DataQualityError
from featurestore.locate.locate import LocateOptions, locate
from featurestore.locate.page import save_page

DCF77 = np.array([50.0152, 9.0112])
PLACES = np.array([[45.03, 7.27], [45.23, 7.86], [44.56, 8.96], [45.48, 9.12]])
TRUTH = np.array([44.97, 8.31])
START = datetime(2025, 8, 25, 6, 30, 2, tzinfo=UTC)
WGS84 = Geod(ellps="WGS84")


def off_km(found: Sequence[float], truth: np.ndarray) -> float:
    return float(WGS84.inv(found[1], found[0], truth[1], truth[0])[2]) / 1e3


def write_receivers(path: Path, rows: list[tuple[Any, ...]], columns: str = "file,websdr_id,latitude,longitude") -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns.split(","), *rows])
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["locate", *map(str, arguments)])


@pytest.fixture(scope="session")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """Four SigMF recordings of one transmission at TRUTH, with GPS times of 100 ns, and their receivers.csv."""
    directory = tmp_path_factory.mktemp("session")
    rng = np.random.default_rng(4)
    metres = [WGS84.inv(TRUTH[1], TRUTH[0], longitude, latitude)[2] for latitude, longitude in PLACES]
    ears = [Ear(far / 299_792_458 + rng.normal(0, 1e-7), seconds=1.5, start_s=0.01 * k) for k, far in enumerate(metres)]
    rows: list[tuple[Any, ...]] = []
    for number, heard in enumerate(hear(ears, rng, snr_db=10)):
        seconds, ns = divmod(heard.start_time_ns, 10**9)
        stated = f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{ns:09d}Z"
        meta = {
            "global": {"core:datatype": "cf32_le", "core:sample_rate": 12_000.0, "core:version": "1.0.0"},
            "captures": [{"core:sample_start": 0, "core:datetime": stated}],
        }
        (directory / f"{number}.sigmf-data").write_bytes(heard.samples.astype("<c8").tobytes())
        (directory / f"{number}.sigmf-meta").write_text(json.dumps(meta))
        rows.append((f"{number}.sigmf-data", number + 1, *PLACES[number], 1e-7))
    write_receivers(directory / "receivers.csv", rows, "file,websdr_id,latitude,longitude,time_sigma_s")
    return directory, [str(directory / row[0]) for row in rows]


@pytest.fixture(scope="session")
def dcf77(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path]]:
    """All KiwiSDR recordings at hand, and a receivers.csv from their index; nothing about transmitters."""
    directory = find_real_iq()
    rows = [
        (name, number, row["receiver_lat"], row["receiver_lon"])
        for number, (name, row) in enumerate(read_index(directory).items(), 1)
        if name.startswith("kiwi_")
    ]
    table = write_receivers(tmp_path_factory.mktemp("kiwi") / "receivers.csv", rows)
    return table, [directory / str(row[0]) for row in rows]


def test_dcf77_is_found_by_when_it_is_heard(dcf77: tuple[Path, list[Path]]) -> None:
    table, files = dcf77
    located = locate(files, table)
    assert off_km(located.posterior.point.tolist(), DCF77) < 6
    assert located.posterior.level_at(DCF77) < 0.865
    assert len(located.receivers) == 3
    reasons = {remark.file: remark.text for remark in located.skipped}
    assert "without GPS lock" in reasons["kiwi_eloran_20251207T183506Z_100000_G7UAK_iq.wav"]
    assert "was recorded at 2025-12-07T17:04:03Z, when no other" in reasons["kiwi_eloran_20251207T170403Z_100000_G4FUI_iq.wav"]
    assert len(reasons) == 3


def test_json_has_what_was_promised(synthetic: tuple[Path, list[str]]) -> None:
    directory, files = synthetic
    result = run(*files, "--receivers", directory / "receivers.csv", "--json", "--path-sigma-us", 0, "--quiet")
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    found = json.loads(result.stdout)
    assert set(found) == {"latitude", "longitude", "covariance_m2", "area_86_km2", "pairs", "skipped"}
    assert off_km((found["latitude"], found["longitude"]), TRUTH) < 0.3
    assert np.linalg.eigvalsh(found["covariance_m2"]).min() > 0
    assert 0 < found["area_86_km2"] < 1
    assert [(pair["a"], pair["b"]) for pair in found["pairs"]] == [(1, 2), (1, 3), (1, 4), (2, 3), (2, 4), (3, 4)]
    for pair in found["pairs"]:
        assert set(pair) == {"a", "b", "delay_s", "sigma_s", "peak", "residual_s"}
        assert 1.4e-7 < pair["sigma_s"] < 3e-7
        assert abs(pair["residual_s"]) < 1e-6
    assert found["skipped"] == []


def test_lines_and_page_say_the_same(synthetic: tuple[Path, list[str]], tmp_path: Path) -> None:
    directory, files = synthetic
    page = tmp_path / "new" / "where.html"
    result = run(*files, "--receivers", directory / "receivers.csv", "--html", page)
    assert result.exit_code == 0, result.output
    assert "86.5% region" in result.stdout
    assert "1 − 2" in result.stdout
    assert "correlate: 6/6 pairs" in result.stderr
    read = Read()
    read.feed(page.read_text())
    assert read.headings[0] == "Where the transmitter is"
    assert read.cards["Pairs"] == "6 of 6"
    assert "Content-Security-Policy" in page.read_text()
    assert "script" not in read.tags
    pairs = read.tables["How much later the first receiver hears than the second"]
    assert [row[0] for row in pairs[1:]] == ["1 − 2", "1 − 3", "1 − 4", "2 − 3", "2 − 4", "3 − 4"]
    assert sum(label.startswith("Map: 4 receivers") for label in read.labels) == 4  # two maps, each wide and narrow
    assert sum(label.startswith("Correlation of pair") for label in read.labels) == 6


def test_kiwis_are_located_by_their_stamps(tmp_path: Path) -> None:
    """Stamped WAVs at rates of their own, one of which lost samples: as receivers write them."""
    rng = np.random.default_rng(11)
    frequency, phase = rng.uniform(-2000, 2000, 250), rng.uniform(0, 2 * np.pi, 250)
    rows, files = [], []
    for number, (latitude, longitude) in enumerate(PLACES[:3]):
        late_s = WGS84.inv(TRUTH[1], TRUTH[0], longitude, latitude)[2] / 299_792_458
        first_s = 109_820.5 + 0.013 * number

        def signal(time_s: np.ndarray, shift_s: float = 0.013 * number - late_s) -> np.ndarray:
            waves = np.exp(1j * (2 * np.pi * np.outer(time_s + shift_s, frequency) + phase)).sum(axis=1)
            noise = np.random.default_rng(int(1e6 * (time_s[0] + 1))).standard_normal((len(time_s), 2)) @ [1, 1j]
            return np.asarray(waves / 80 + 0.01 * noise)

        file = tmp_path / f"20250825T063002Z_77500_R{number}_iq.wav"
        lost = 20 if number == 1 else None
        file.write_bytes(kiwi_wav(40, rate_hz=12_001.0 + 0.05 * number, first_s=first_s, signal=signal, lost_after=lost))
        files.append(file)
        rows.append((file.name, number, latitude, longitude))
    located = locate(files, write_receivers(tmp_path / "receivers.csv", rows), LocateOptions(path_sigma_s=1e-7))
    assert off_km(located.posterior.point.tolist(), TRUTH) < 0.5
    assert located.posterior.level_at(TRUTH) < 0.99
    save_page(located, tmp_path / "where.html")
    unnamed = tmp_path / "a.wav"
    unnamed.write_bytes(files[0].read_bytes())
    table = write_receivers(tmp_path / "more.csv", [*rows, ("a.wav", 9, 45.0, 8.0)])
    (skipped,) = locate([*files[1:], unnamed], table).skipped
    assert "nothing tells their week" in skipped.text


def changed(directory: Path, tmp_path: Path, edit: Any, columns: str | None = None) -> Path:
    with (directory / "receivers.csv").open(newline="") as file:
        header, *rows = list(csv.reader(file))
    return write_receivers(tmp_path / "receivers.csv", edit(rows), columns or ",".join(header))


@pytest.mark.parametrize(
    ("edit", "columns", "message"),
    [
        (lambda rows: rows[1:], None, "has no line for 0.sigmf-data; add its websdr_id"),
        (lambda rows: rows, "file,websdr_id,latitude,lon,time_sigma_s", "has no column longitude"),
        (lambda rows: [rows[0], rows[0], *rows[1:]], None, "0.sigmf-data is there twice"),
        (lambda rows: [[rows[0][0], "2", *rows[0][2:]], *rows[1:]], None, "receiver 2 has two recordings, 0.sigmf-data and"),
        (
            lambda rows: [[*rows[0][:2], "95", *rows[0][3:]], *rows[1:]],
            None,
            "latitude is '95'; expected degrees from -90 to 90",
        ),
        (lambda rows: [[*rows[0][:4], "soon"], *rows[1:]], None, "time_sigma_s is 'soon'; expected seconds"),
    ],
    ids=["no line", "no column", "file twice", "receiver twice", "latitude", "sigma"],
)
def test_a_wrong_csv_is_refused_in_words(
    synthetic: tuple[Path, list[str]], tmp_path: Path, edit: Any, columns: str | None, message: str
) -> None:
    directory, files = synthetic
    result = run(*files, "--receivers", changed(directory, tmp_path, edit, columns))
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.output


def test_receivers_at_one_place_know_nothing(synthetic: tuple[Path, list[str]], tmp_path: Path) -> None:
    directory, files = synthetic
    table = changed(directory, tmp_path, lambda rows: [[*row[:2], "45.0", "7.0", row[4]] for row in rows])
    result = run(*files, "--receivers", table)
    assert result.exit_code == 3
    assert "all receivers stand at one place" in result.stderr


def test_recordings_without_times_are_skipped_and_too_few_are_an_error(
    synthetic: tuple[Path, list[str]], tmp_path: Path
) -> None:
    directory, files = synthetic
    np.save(tmp_path / "untimed.npy", np.ones(3000, np.complex64))
    table = changed(directory, tmp_path, lambda rows: [*rows[:3], [*rows[3][:4], ""], ["untimed.npy", 8, 45.0, 8.0, ""]])
    result = run(*files, tmp_path / "untimed.npy", "--receivers", table, "--json", "--path-sigma-us", 0)
    assert result.exit_code == 0, result.output
    skipped = {each["file"]: each["reason"] for each in json.loads(result.stdout)["skipped"]}
    assert "not how right it is; add a column time_sigma_s" in skipped["3.sigmf-data"]
    assert "has no time of its first sample" in skipped["untimed.npy"]
    result = run(files[0], files[3], tmp_path / "untimed.npy", "--receivers", table)
    assert result.exit_code == 3
    assert "1 of 3 recordings can be used, at least 2 are needed, 3 for a place; 3.sigmf-data states a time" in result.stderr


def test_recordings_of_other_times_and_copies(synthetic: tuple[Path, list[str]], tmp_path: Path) -> None:
    directory, files = synthetic
    meta = json.loads((directory / "0.sigmf-meta").read_text())
    meta["captures"][0]["core:datetime"] = "2023-11-15T00:00:00Z"
    (tmp_path / "late.sigmf-meta").write_text(json.dumps(meta))
    rng = np.random.default_rng(1)
    noise = np.asarray(rng.standard_normal((18_000, 2)) @ [1, 1j], np.complex64)
    (tmp_path / "late.sigmf-data").write_bytes(noise.tobytes())
    (tmp_path / "copy.sigmf-meta").write_bytes((directory / "0.sigmf-meta").read_bytes())
    (tmp_path / "copy.sigmf-data").write_bytes((directory / "0.sigmf-data").read_bytes())
    more = [["late.sigmf-data", 8, 45.0, 8.0, 1e-7], ["copy.sigmf-data", 9, 45.1, 8.1, 1e-7]]
    table = changed(directory, tmp_path, lambda rows: [*rows, *more])
    located = locate([*map(Path, files), tmp_path / "late.sigmf-data", tmp_path / "copy.sigmf-data"], table)
    reasons = {remark.file: remark.text for remark in located.skipped}
    assert reasons["copy.sigmf-data"].startswith("holds the same samples as 0.sigmf-data")
    assert "when no other recording was" in reasons["late.sigmf-data"]
    with pytest.raises(DataQualityError, match=r"no two recordings can be correlated .*do not overlap in time"):
        locate([Path(files[0]), tmp_path / "late.sigmf-data"], table)
    meta["captures"][0]["core:datetime"] = json.loads((directory / "0.sigmf-meta").read_text())["captures"][0]["core:datetime"]
    (tmp_path / "late.sigmf-meta").write_text(json.dumps(meta))
    with pytest.raises(DataQualityError, match="hold the same transmission"):
        locate([Path(files[0]), tmp_path / "late.sigmf-data"], table)


def test_two_receivers_know_a_hyperbola(synthetic: tuple[Path, list[str]]) -> None:
    directory, files = synthetic
    located = locate([Path(file) for file in files[:2]], directory / "receivers.csv", LocateOptions(margin_km=60))
    assert "two receivers know one hyperbola" in located.notes[0]
    assert located.posterior.level_at(TRUTH) < 0.9
    assert located.posterior.area_km2(0.865) > 100
