"""Pair builds: on simulated captures with GPS clocks, from the catalog to a pair set, and what changes make of it."""

from __future__ import annotations

import json
import math
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from click.testing import CliRunner
from copies_for_tests import database
from corpus_for_tests import tree
from damage_for_tests import flip
from hypothesis import given
from hypothesis import strategies as st
from pair_worlds import SPEC, WORLD, World
from pyproj import Geod

from cli import main
from featurestore.care.gc.garbage import Policy, parse_age
from featurestore.care.gc.gc import survey, sweep
from featurestore.care.gc.inventory import take_inventory
from featurestore.corpus.simulate.sites import RECEIVERS
from featurestore.errors import DataQualityError, StoreError, UsageError
from featurestore.objects.objects import Location, open_objects
from featurestore.pairs import rows as pair_rows
from featurestore.pairs.build import PairBuildRequest, build_pairs
from featurestore.pairs.pair_set import open_pair_set
from featurestore.pairs.rows import NOBODY, pack
from featurestore.pairs.segments import open_pair_store
from featurestore.pairs.verify import verify_pairs
from featurestore.progress import Silent
from featurestore.services import Running
from featurestore.source.catalog_writing import create_table
from featurestore.store.naming import Names, name_set
from featurestore.store.split import Split

PAIRS_PER_SESSION = 21


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pair_rows, "CHUNK_ROWS", 45)  # two sessions of 21 pairs, and three rows that only fill


@pytest.fixture(scope="module")
def built_once(services: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with database(services) as catalog, pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(pair_rows, "CHUNK_ROWS", 45)
        world = World(tmp_path_factory.mktemp("pairs"), catalog)
        world.simulate()
        world.build()
        yield world


@pytest.fixture
def world(built_once: World, tmp_path: Path, services: Running) -> Iterator[World]:
    """A copy of it, to be changed."""
    shutil.copytree(built_once.directory, tmp_path / "w")
    with database(services) as catalog:
        copy = World(tmp_path / "w", catalog)
        create_table(catalog)
        with psycopg.connect(built_once.catalog) as source, psycopg.connect(catalog, autocommit=True) as target:
            columns = "id, session_id, websdr_id, latitude, longitude, frequency_mhz, sample_rate_hz, snr_db, approved"
            columns += ", start_time_ns, time_sigma_s"
            rows = source.execute(f"SELECT {columns} FROM measurements ORDER BY id".encode()).fetchall()
            for row in rows:
                target.execute(f"INSERT INTO measurements ({columns}) VALUES ({', '.join(['%s'] * 11)})".encode(), row)
            target.execute("SELECT setval(pg_get_serial_sequence('measurements', 'id'), 1000)")
        yield copy


def test_delays_are_those_of_the_truth_and_labels_those_of_the_catalog(built_once: World) -> None:
    opened, truth = built_once.open(), built_once.truth()
    sessions = opened.sessions()
    assert len(sessions) == WORLD.sessions
    deviations = []
    for session in sessions:
        name = str(uuid.UUID(bytes=session.session_id))
        for (a, b), delay, sigma, wrong in zip(
            session.websdr.tolist(), session.delay_s, session.sigma_s, session.wrong, strict=True
        ):
            heard = [truth[name, receiver] for receiver in (a, b)]
            if min(float(row["snr_db"]) + float(row["fading_db"]) for row in heard) < 10 or wrong > 0.01:
                continue
            late = [float(row["delay_s"]) + float(row["time_error_s"]) for row in heard]
            deviations.append((delay - (late[0] - late[1])) / sigma)
        assert np.abs(session.position - [float(heard[0][place]) for place in ("latitude", "longitude")]).max() < 0.002
        assert (session.clock_sigma_s == 1e-7).all()
    assert len(deviations) > 10
    assert np.median(np.abs(deviations)) < 1.5
    assert np.abs(deviations).max() < 8


def test_a_correlation_peaks_at_its_delay_and_no_session_is_torn(built_once: World) -> None:
    opened = built_once.open()
    rows, correlation, measured = opened.rows(), opened.read_all("correlation"), opened.read_all("measured")
    served = opened.label("split") != Split.ABSENT
    assert len(rows) == 2 * 45 + PAIRS_PER_SESSION  # 21 + 21 and 3 to fill, twice; and one session more
    filler = rows.capture_a == NOBODY
    assert filler.sum() == 6
    assert not (served & filler).any()
    strong = served & (measured[:, 2] > 30)
    assert strong.sum() > 10
    power = (correlation.astype(np.float64) ** 2).sum(axis=1)  # (row, lag)
    assert power[strong].max() <= 1.001
    lag = opened.spec.lag_s[power[strong].argmax(axis=1)]
    np.testing.assert_allclose(lag, measured[strong, 0], atol=1.01 * (opened.spec.lag_s[1] - opened.spec.lag_s[0]))
    for segment in opened.segments:
        for chunk in range(segment.n_chunks):
            inside = segment.layout("correlation").rows(chunk)
            _, counts = np.unique(
                rows.session_id[inside.start : inside.stop][~filler[inside.start : inside.stop]], axis=0, return_counts=True
            )
            assert (counts == PAIRS_PER_SESSION).all()


def test_building_again_is_nothing_and_so_is_a_corrected_sigma(world: World) -> None:
    before = tree(world.store)
    again = world.build()
    assert (again.up_to_date, again.sessions_computed, again.bytes_read) == (True, 0, 0)
    assert tree(world.store) == before
    world.sql("UPDATE measurements SET time_sigma_s = 2e-7")
    sigma = world.build()
    assert (sigma.up_to_date, sigma.sessions_computed, sigma.version != again.version) == (False, 0, True)
    assert (world.open().sessions()[0].clock_sigma_s == 2e-7).all()


def test_only_what_changed_is_correlated(world: World) -> None:
    world.sql("UPDATE measurements SET start_time_ns = start_time_ns + 1000 WHERE id = 3")  # in the first session
    moved = world.build()
    assert (moved.sessions_computed, moved.sessions_reused) == (1, WORLD.sessions - 1)
    world.sql("UPDATE measurements SET approved = FALSE WHERE id = 10")  # in the second
    fewer = world.build()
    assert (fewer.sessions_computed, fewer.rows) == (1, moved.rows - 6)
    world.sql("UPDATE measurements SET approved = TRUE WHERE id = 10")
    assert world.build().version == moved.version  # nothing of it was thrown away


def test_dask_writes_the_bytes_of_one_process(world: World, built_once: World) -> None:
    shutil.rmtree(world.store)
    report = world.build(workers=2)
    assert report.version == built_once.open().version
    ours, theirs = tree(world.store), tree(built_once.store)
    assert ours.keys() == theirs.keys()
    assert all(ours[name] == theirs[name] for name in ours if "/c/" in name)


class StopError(Exception):
    """What interrupts."""


class Interrupting(Silent):
    """Fails once a chunk is done."""

    def advance(self, units: int, n_bytes: int = 0) -> None:
        if n_bytes:
            raise StopError


def test_an_interrupted_build_is_invisible_and_the_next_one_finishes_it(world: World, built_once: World) -> None:
    shutil.rmtree(world.store)
    request = PairBuildRequest(world.catalog, Location.parse(str(world.raw)), Location.parse(str(world.store)), SPEC, workers=0)
    with pytest.raises(StopError):
        build_pairs(request, Interrupting())
    with pytest.raises(UsageError, match="no feature set yet"):
        world.open()
    report = world.build()
    n_bytes = sum(np.load(path).nbytes for path in world.raw.rglob("*.npy"))
    assert report.bytes_read < 0.75 * n_bytes  # two sessions of five were done
    assert report.version == built_once.open().version
    assert not list(world.store.rglob("parts/*.json"))
    assert verify_pairs(str(world.store)).problems == ()


def test_captures_that_cannot_be_used_are_named_and_cost_their_pairs_only(world: World) -> None:
    np.save(world.key_of(1), np.zeros(9600, np.complex64))
    world.key_of(9).unlink()
    world.key_of(17).write_bytes(b"RIFF")
    with pytest.raises(DataQualityError, match=r"3 of 35 captures .*\(missing_object 1, silent 1, unreadable 1"):
        world.build()
    report = world.build(max_rejected_fraction=0.2)
    assert report.rejected == {"missing_object": 1, "silent": 1, "unreadable": 1}
    opened = world.open()
    unusable = (opened.fact("capture_a") == 1) | (opened.fact("capture_b") == 1)
    assert (opened.label("split")[unusable] == Split.ABSENT).all()
    entries = json.loads((world.store / "pairs" / "sets" / report.version / "rejected.json").read_text())
    assert [entry["capture_id"] for entry in entries] == [1, 9, 17]
    assert world.build(max_rejected_fraction=0.2).up_to_date


def test_recordings_that_do_not_overlap_say_nothing_together(world: World) -> None:
    world.sql("UPDATE measurements SET start_time_ns = start_time_ns + 10000000000 WHERE id = 1")
    report = world.build()
    assert report.without_delay >= 6
    opened = world.open()
    apart = (opened.fact("capture_a") == 1) | (opened.fact("capture_b") == 1)
    assert np.isnan(opened.read_all("measured")[apart, 0]).sum() == 6  # the others are of the session as it was
    assert (opened.label("split")[apart] == Split.ABSENT).all()


def test_without_times_there_is_nothing_to_build(world: World) -> None:
    world.sql("UPDATE measurements SET start_time_ns = NULL")
    with pytest.raises(DataQualityError, match=r"no session with two usable captures .*0 of 35"):
        world.build()


def test_latest_stays_with_the_build_that_began_last(world: World) -> None:
    first, objects = world.open().version, open_pair_store(str(world.store.as_uri()))
    world.sql("UPDATE measurements SET time_sigma_s = 2e-7")
    second = world.build()
    name_set(objects, first, Names(latest=None, tag="slow"), seconds=3600, progress=Silent())  # it knew of no other build
    assert (world.open().version, world.open("slow").version) == (second.version, first)
    name_set(objects, first, Names(latest=second.version, tag=None), seconds=0, progress=Silent())
    assert world.open().version == first


@pytest.mark.parametrize("array", ["correlation/c/0/0/0", "measured/c/1/0", "session_digest/c/0/0", "lag_s/c/0", "reason/c/0"])
def test_damage_is_found_and_named(world: World, array: str) -> None:
    assert verify_pairs(str(world.store)).problems == ()
    [path] = world.store.glob(f"pairs/specs/*/segments/*/{array}")
    flip(path)
    found = verify_pairs(str(world.store))
    assert [problem.url for problem in found.problems] == [path.as_uri()]
    with pytest.raises(StoreError, match="not intact"):
        found.require_sound()
    path.unlink()
    assert verify_pairs(str(world.store)).problems[0].kind == "missing"


def test_gc_keeps_what_sets_use_and_removes_the_rest(world: World) -> None:
    first = world.open().version
    world.sql("UPDATE measurements SET start_time_ns = start_time_ns + 1000 WHERE id <= 28")  # four sessions of five
    second = world.build().version
    objects = open_pair_store(str(world.store.as_uri()))
    assert not take_inventory(objects).unknown
    policy = Policy(1, parse_age("0"))
    report = sweep(*survey(f"{world.store}/pairs", policy))
    assert {item.path for item in report.removed} == {f"sets/{first}"}  # one session of its segment still serves
    assert verify_pairs(str(world.store), second).problems == ()
    world.sql("UPDATE measurements SET start_time_ns = start_time_ns + 1000")
    third = world.build().version
    report = sweep(*survey(f"{world.store}/pairs", policy))
    assert sorted(item.kind for item in report.removed) == ["segment", "segment", "set"]
    assert verify_pairs(str(world.store), third).problems == ()


def test_it_goes_to_s3_as_well(world: World, bucket: str) -> None:
    objects = open_objects(f"{bucket}/raw")
    for path in world.raw.rglob("*.npy"):
        objects.put(str(path.relative_to(world.raw)), path.read_bytes())
    stored = Location.parse(f"{bucket}/store")
    world.sql("UPDATE measurements SET approved = FALSE WHERE id > 14")
    report = world.build(raw=Location.parse(f"{bucket}/raw"), store=stored)
    assert report.sessions == 2
    assert verify_pairs(stored.url).problems == ()
    local = world.build(store=Location.parse(str(world.directory / "other")))
    np.testing.assert_array_equal(
        open_pair_set(stored.url).read_all("measured"),
        open_pair_set(str(world.directory / "other"), local.version).read_all("measured"),
    )


def test_the_commands_from_end_to_end(world: World) -> None:
    def run(*arguments: str, code: int = 0) -> Any:
        result = CliRunner().invoke(main, [*arguments])
        assert result.exit_code == code, result.output
        return result

    where = ["--raw", str(world.raw), "--store", str(world.store), "--catalog", world.catalog, "--quiet"]
    lags = ["--max-lag-us", "600", "--n-lags", "31"]
    before = tree(world.store)
    plan = json.loads(run("build-pairs", *where, *lags, "--dry-run", "--json").stdout)
    assert (plan["sessions_to_compute"], plan["pairs_to_compute"]) == (5, 5 * PAIRS_PER_SESSION)
    assert tree(world.store) == before
    report = json.loads(run("build-pairs", *where, *lags, "--tag", "mine", "--workers", "0", "--json").stdout)
    assert report["version"] == plan["version"] == world.open("mine").version
    assert (
        "every object is there and intact" in run("features", "verify", "mine", "--pairs", "--store", str(world.store)).stdout
    )
    assert report["version"] in run("features", "list", "--pairs", "--store", str(world.store)).stdout
    gone = run("features", "gc", "--store", str(world.store), "--keep", "1", "--min-age", "0", "--yes", "--json")
    assert json.loads(gone.stdout)["pairs"]["removed"]
    assert world.open().version == report["version"]
    bad = run("build-pairs", *where, "--n-lags", "30", code=2)
    assert bad.stderr == "error: n_lags is 30; expected an odd number from 3 to 65535\n"


def test_without_a_lag_the_receivers_say_which(world: World) -> None:
    """The spec's file holds the number, and giving that number by hand is the same build."""
    seven = [(one.websdr_id, one.latitude, one.longitude) for one in RECEIVERS]
    assert world.build(lag_of_region=True).up_to_date  # no table of receivers: the request's own number
    with psycopg.connect(world.catalog, autocommit=True) as connection:
        place = "latitude DOUBLE PRECISION NOT NULL, longitude DOUBLE PRECISION NOT NULL, altitude_m DOUBLE PRECISION"
        connection.execute(f"CREATE TABLE receivers (websdr_id INTEGER PRIMARY KEY, name TEXT, {place})".encode())
        row = "INSERT INTO receivers (websdr_id, latitude, longitude) VALUES (%s, %s, %s)"
        connection.cursor().executemany(row, seven)
    geod = Geod(ellps="WGS84")
    longest_m = max(geod.inv(a[2], a[1], b[2], b[1])[2] for a in seven for b in seven)
    wanted = 50 * math.ceil((longest_m / 299.792458 + 6 * math.sqrt(2) * 0.1) / 50)
    assert wanted not in (600, 1000)
    by_region = world.build(lag_of_region=True)
    assert world.open().spec.max_lag_us == wanted
    where = ["--raw", str(world.raw), "--store", str(world.store), "--catalog", world.catalog, "--quiet"]
    plan = CliRunner().invoke(main, ["build-pairs", *where, "--n-lags", str(SPEC.n_lags), "--dry-run", "--json"])
    assert json.loads(plan.stdout)["version"] == by_region.version
    again = world.build(spec=replace(SPEC, max_lag_us=wanted))
    assert (again.version, again.up_to_date) == (by_region.version, True)


@given(st.lists(st.integers(1, 700), min_size=1, max_size=60))
def test_packing_tears_no_session_and_wastes_little(n_pairs: list[int]) -> None:
    starts, chunk_rows = pack(n_pairs)
    ends = [start + count for start, count in zip(starts, n_pairs, strict=True)]
    assert all(start // chunk_rows == (end - 1) // chunk_rows for start, end in zip(starts, ends, strict=True))
    assert all(start >= end for start, end in zip(starts[1:], ends, strict=False))
    assert ends[-1] <= 2 * sum(n_pairs) + chunk_rows
