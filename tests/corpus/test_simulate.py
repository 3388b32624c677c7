"""A simulated corpus, from the command to the catalog: the same for any number of workers, and true to its truth."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from click.testing import CliRunner

from cli import main
from featurestore.corpus.simulate import simulate as module
from featurestore.corpus.simulate.session import transmission
from featurestore.corpus.simulate.simulate import Destination, SimulationReport, plan_tasks, simulate
from featurestore.corpus.simulate.simulation_spec import SimulationSpec
from featurestore.corpus.simulate.sites import RECEIVERS, REPEATER_SITES, distance_m
from featurestore.errors import UsageError
from featurestore.objects.objects import Location, open_objects
from featurestore.progress import Silent
from featurestore.source.catalog import read_snapshot
from featurestore.source.receivers import read_receivers
from featurestore.source.snapshot import default_key
from featurestore.tensor.rejection import REASONS

SMALL = SimulationSpec(sessions=6, duration_s=0.1)


def write(spec: SimulationSpec, directory: Path, catalog: str, workers: int = 0) -> SimulationReport:
    return simulate(spec, Destination(Location.parse(str(directory)), catalog), Silent(), workers=workers)


def digests(directory: Path) -> dict[str, str]:
    files = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def truth_rows(directory: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((directory / "truth.csv").read_text())))


def catalog_rows(catalog: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(catalog) as connection:
        return connection.execute(
            "SELECT session_id::text, websdr_id, latitude, longitude, frequency_mhz, sample_rate_hz, snr_db,"
            ' "timestamp", iq_key, approved FROM measurements ORDER BY id'
        ).fetchall()


def test_same_seed_gives_same_bytes_and_rows_however_the_work_is_cut(
    tmp_path: Path, catalog: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(SMALL, tmp_path / "whole", catalog)
    rows = catalog_rows(catalog)
    monkeypatch.setattr(module, "TASK_BYTES", 1)
    assert len(plan_tasks(SMALL, "file:///x")) == SMALL.sessions
    again = write(SMALL, tmp_path / "cut", catalog)
    assert digests(tmp_path / "whole") == digests(tmp_path / "cut")
    assert (again.inserted, again.updated, again.unchanged) == (0, 0, len(rows))
    assert catalog_rows(catalog) == rows


def test_dask_workers_write_the_same_bytes(tmp_path: Path, catalog: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TASK_BYTES", 1)
    write(SMALL, tmp_path / "serial", catalog, workers=0)
    write(SMALL, tmp_path / "dask", catalog, workers=2)
    assert digests(tmp_path / "serial") == digests(tmp_path / "dask")


def test_more_sessions_add_to_those_that_are_there(tmp_path: Path, catalog: str) -> None:
    write(replace(SMALL, sessions=2), tmp_path, catalog)
    before = digests(tmp_path)
    report = write(SMALL, tmp_path, catalog)
    after = digests(tmp_path)
    assert {key: after[key] for key in before if key != "truth.csv"} == {
        key: value for key, value in before.items() if key != "truth.csv"
    }
    assert (report.inserted, report.unchanged) == (4 * len(RECEIVERS), 2 * len(RECEIVERS))


def test_another_seed_is_another_world(tmp_path: Path, catalog: str) -> None:
    write(replace(SMALL, sessions=1), tmp_path / "a", catalog)
    write(replace(SMALL, sessions=1, seed=8), tmp_path / "b", catalog)
    same = set(digests(tmp_path / "a").items()) & set(digests(tmp_path / "b").items())
    assert {key for key, _ in same} == {"receivers.csv"}


def test_every_object_has_its_row_and_every_row_its_values(tmp_path: Path, catalog: str) -> None:
    report = write(replace(SMALL, dtype="complex64"), tmp_path, catalog)
    rows = catalog_rows(catalog)
    assert report.captures == report.inserted == len(rows) == SMALL.sessions * len(RECEIVERS)
    keys = {f"sessions/{session}/websdr_{receiver}.npy" for session, receiver, *_ in rows}
    assert keys | {"truth.csv", "receivers.csv"} == set(digests(tmp_path))
    found = read_receivers(str(tmp_path / "receivers.csv"))
    assert [(*found.position[place].tolist(), found.name[place]) for place in range(len(found))] == [
        (each.latitude, each.longitude, each.name) for each in RECEIVERS
    ]
    recorded = read_snapshot(catalog).receivers
    assert recorded is not None
    assert recorded.rows() == found.rows()
    assert report.bytes == sum((tmp_path / key).stat().st_size for key in keys)
    by_session = defaultdict(set)
    for session, receiver, latitude, longitude, mhz, rate, snr, when, iq_key, approved in rows:
        by_session[session].add((latitude, longitude, mhz, when))
        assert 1 <= receiver <= 7
        assert 145.6 <= mhz <= 145.8
        assert rate == 192_000
        assert math.isfinite(snr)
        assert when.tzinfo is not None
        assert iq_key is None
        assert approved
    assert all(len(shared) == 1 for shared in by_session.values())  # one place, one channel, one moment
    snapshot = read_snapshot(catalog)
    samples = np.load(tmp_path / snapshot.key(0))
    assert samples.dtype == np.complex64
    assert samples.shape == (19_200,)
    assert max(abs(samples.real).max(), abs(samples.imag).max()) <= 1


def test_truth_tells_of_every_capture(tmp_path: Path, catalog: str) -> None:
    write(SMALL, tmp_path, catalog)
    rows = truth_rows(tmp_path)
    assert [(row["session_id"], int(row["websdr_id"])) for row in rows] == [row[:2] for row in catalog_rows(catalog)]
    sites = {site.name: site for site in REPEATER_SITES}
    for row in rows:
        site, receiver = sites[row["site"]], RECEIVERS[int(row["websdr_id"]) - 1]
        assert (float(row["latitude"]), float(row["longitude"])) == (site.latitude, site.longitude)
        assert float(row["distance_m"]) == pytest.approx(distance_m(site.latitude, site.longitude, receiver), abs=0.1)
        assert row["broken"] == ""


def test_approved_fraction_approves_whole_sessions(tmp_path: Path, catalog: str) -> None:
    report = write(replace(SMALL, approved_fraction=0.5), tmp_path, catalog)
    by_session = defaultdict(list)
    for row in catalog_rows(catalog):
        by_session[row[0]].append(row[-1])
    assert all(len(set(approved)) == 1 for approved in by_session.values())
    n_approved = sum(approved[0] for approved in by_session.values())
    assert n_approved == pytest.approx(0.5 * SMALL.sessions, abs=1)
    assert report.approved == n_approved * len(RECEIVERS) == sum(int(row["approved"]) for row in truth_rows(tmp_path))


def test_broken_captures_are_written_as_the_truth_says(tmp_path: Path, catalog: str) -> None:
    spec = replace(SMALL, broken_fraction=0.5)
    write(SMALL, tmp_path, catalog)  # whole objects first: those to be missing must go
    report = write(spec, tmp_path, catalog)
    rows = truth_rows(tmp_path)
    assert Counter(row["broken"] for row in rows if row["broken"]) == report.broken
    assert set(report.broken) == set(REASONS)
    snapshot = read_snapshot(catalog)
    assert len(snapshot) == len(rows)
    for index, row in enumerate(rows):
        path = tmp_path / snapshot.key(index)
        assert path.exists() == (row["broken"] != "missing_object")
        assert (snapshot.sample_rate_hz[index] != 192_000) == (row["broken"] == "sample_rate_mismatch")
        assert (not abs(snapshot.position[index, 0]) <= 90) == (row["broken"] == "bad_position")
        if row["broken"] in ("", "sample_rate_mismatch", "bad_position"):
            samples = np.load(path)
            assert samples.shape == (spec.n_samples,)
            assert np.isfinite(samples).all()
            assert np.ptp(samples.real) > 0


def test_weak_captures_are_left_out_on_request(tmp_path: Path, catalog: str) -> None:
    everything = write(SMALL, tmp_path / "all", catalog)
    loud = write(replace(SMALL, min_snr_db=15.0), tmp_path / "loud", catalog)
    kept = {row["session_id"] + row["websdr_id"] for row in truth_rows(tmp_path / "loud")}
    for row in truth_rows(tmp_path / "all"):
        is_loud = float(row["snr_db"]) + float(row["fading_db"]) >= 15
        assert (row["session_id"] + row["websdr_id"] in kept) == is_loud
    assert everything.left_out == 0
    assert loud.left_out == everything.captures - loud.captures > 0


def test_it_goes_to_s3_as_well(bucket: str, tmp_path: Path, catalog: str) -> None:
    spec = replace(SMALL, sessions=1)
    report = simulate(spec, Destination(Location.parse(f"{bucket}/sub"), catalog, tmp_path / "t.csv"), Silent(), workers=0)
    write(spec, tmp_path / "local", catalog)
    objects = open_objects(f"{bucket}/sub")
    local = digests(tmp_path / "local")
    assert {info.key for info in objects.walk()} == set(local) - {"truth.csv"}
    assert all(hashlib.sha256(objects.get(info.key)).hexdigest() == local[info.key] for info in objects.walk())
    assert report.truth == str(tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_bytes() == (tmp_path / "local" / "truth.csv").read_bytes()


def test_a_truth_file_that_cannot_be_written_is_noticed_before_the_work(tmp_path: Path, catalog: str) -> None:
    with pytest.raises(UsageError, match="does not exist; create it first"):
        simulate(SMALL, Destination(Location.parse(str(tmp_path)), catalog, tmp_path / "no" / "t.csv"), Silent())


def test_command_prints_one_json_object(tmp_path: Path, catalog: str) -> None:
    options = ["--sessions", "1", "--duration", "0.05", "--dtype", "complex64", "--workers", "0", "--json", "--quiet"]
    result = CliRunner().invoke(main, ["simulate", "--raw", str(tmp_path / "raw"), "--catalog", catalog, *options])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["captures"] == len(RECEIVERS)
    assert report["truth"] == f"{(tmp_path / 'raw').as_uri()}/truth.csv"


def test_command_refuses_an_impossible_option_in_one_line(tmp_path: Path, catalog: str) -> None:
    arguments = ["simulate", "--raw", str(tmp_path), "--catalog", catalog, "--broken-fraction", "2"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert result.stderr == "error: broken_fraction is 2.0; expected a share from 0 to 1\n"


def test_keys_are_those_of_the_contract() -> None:
    sent = transmission(SimulationSpec(), 0)
    assert default_key(sent.session_id.bytes, 1) == f"sessions/{sent.session_id}/websdr_1.npy"
    assert sent.session_id.version == 5
