"""Receivers from the catalog into feature sets: on files and S3, corrected, given by hand, damaged, and not there at all."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import numpy as np
import psycopg
import pytest
from click.testing import CliRunner
from corpus_for_tests import Corpus, session_id

from cli import main
from featurestore import open_set
from featurestore.care.compact.compact import CompactRequest, compact
from featurestore.care.gc.garbage import Policy
from featurestore.care.gc.gc import survey, sweep
from featurestore.care.repair.repair import RepairRequest, repair
from featurestore.care.verify.verify import verify
from featurestore.errors import StoreError
from featurestore.look.diff import difference
from featurestore.objects.objects import Location
from featurestore.progress import Silent
from featurestore.source.catalog import read_snapshot
from featurestore.source.catalog_writing import record_receivers
from featurestore.source.receivers import Receivers, receivers_csv
from featurestore.store.split import Split

TABLE = Receivers.of(
    [
        (1, 45.03, 7.27, "Aquila", 1280.0),
        (2, 45.234, 7.857, None, None),
        (3, -33.9, 151.2, "Sydney", 0.0),
        (9, 1, 1, None, 5.5),
    ]
)
"""Of a catalog; nobody heard number 9."""


@pytest.fixture
def corpus(tmp_path: Path, catalog: str) -> Corpus:
    """Six sessions of receivers 1 to 3, in files."""
    (tmp_path / "raw").mkdir()
    corpus = Corpus(Location.parse(str(tmp_path / "raw")), Location.parse(str(tmp_path / "store")), catalog)
    corpus.add(*range(6))
    return corpus


def problems(corpus: Corpus) -> list[tuple[str, str]]:
    found = verify(corpus.store.url, "latest").problems
    return [(problem.kind, problem.url.removeprefix(f"{corpus.store}/")) for problem in found]


def test_the_table_is_written_and_read(catalog: str) -> None:
    assert read_snapshot(catalog).receivers is None  # no such table
    assert record_receivers(catalog, TABLE) == 4
    assert record_receivers(catalog, TABLE) == 0
    assert record_receivers(catalog, Receivers.of([(1, 45.03, 7.27, None, None)])) == 0  # says nothing new
    assert record_receivers(catalog, Receivers.of([(1, 45.03, 7.28, None, None), (2, 45.234, 7.857, "b", 3)])) == 2
    with psycopg.connect(catalog) as connection:
        rows = connection.execute("SELECT * FROM receivers ORDER BY websdr_id").fetchall()
    assert rows[:2] == [(1, "Aquila", 45.03, 7.28, 1280.0), (2, "b", 45.234, 7.857, 3.0)]


def test_only_usable_receivers_of_approved_captures_are_read(corpus: Corpus) -> None:
    record_receivers(corpus.catalog, TABLE)
    corpus.sql("UPDATE receivers SET latitude = 0, longitude = 0 WHERE websdr_id = 2")
    corpus.sql("UPDATE measurements SET approved = false WHERE websdr_id = 3")
    found = read_snapshot(corpus.catalog).receivers
    assert found is not None
    assert found.rows() == TABLE.select(1).rows()


def test_another_table_of_that_name_is_no_table_of_receivers(corpus: Corpus) -> None:
    corpus.sql("CREATE TABLE receivers (id int, model text)")
    assert read_snapshot(corpus.catalog).receivers is None
    corpus.sql("DROP TABLE receivers; CREATE VIEW receivers AS SELECT 1 AS websdr_id, 4 AS latitude, 5 AS longitude")
    found = read_snapshot(corpus.catalog).receivers
    assert found is not None
    assert found.rows() == [(1, 4, 5, "", None)]


def test_a_set_keeps_them_and_names_them(corpus: Corpus) -> None:
    without = corpus.build().version
    assert len(open_set(corpus.store.url).receivers) == 0
    record_receivers(corpus.catalog, TABLE)
    with_them = corpus.build().version
    opened = open_set(corpus.store.url)
    assert opened.receivers.rows() == TABLE.select([1, 2, 3]).rows()
    record_receivers(corpus.catalog, Receivers.of([(9, 2, 2, None, None), (10, 3, 3, None, None)]))
    assert corpus.build().version == with_them  # nobody heard those
    record_receivers(corpus.catalog, Receivers.of([(1, 45.031, 7.27, None, None)]))
    report = corpus.build()
    assert len({without, with_them, report.version}) == 3
    assert (report.computed, report.up_to_date) == (0, False)
    assert open_set(corpus.store.url, with_them).receivers.position[0].tolist() == [45.03, 7.27]
    assert difference(corpus.store.url, with_them, report.version).parameters == {
        "receiver.1": ("45.03000 7.27000, 1280 m (Aquila)", "45.03100 7.27000, 1280 m (Aquila)")
    }
    assert problems(corpus) == []
    assert corpus.build(limit=18).version == report.version


def test_they_are_in_xarray_with_the_sessions(corpus: Corpus) -> None:
    record_receivers(corpus.catalog, TABLE.select([1, 3]))
    corpus.build()
    dataset = open_set(corpus.store.url).to_xarray()
    assert sorted(set(dataset.session_id.values.tolist())) == sorted(str(session_id(index)) for index in range(6))
    wanted = TABLE.select([1, 3]).positions_of(dataset.websdr_id.values)
    np.testing.assert_array_equal(dataset.receiver_latitude, wanted[:, 0])
    np.testing.assert_array_equal(dataset.receiver_longitude, wanted[:, 1])
    one = dataset.isel(row=(dataset.session_id == str(session_id(3))).values)
    assert sorted(one.websdr_id.values.tolist()) == [1, 2, 3]


def test_a_file_comes_before_the_table(corpus: Corpus, tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_bytes(receivers_csv([(2, 10, 20, "mine"), (7, 1, 1, "")]))
    corpus.build(receivers=str(tmp_path / "r.csv"))
    assert open_set(corpus.store.url).receivers.rows() == [(2, 10, 20, "mine", None)]
    record_receivers(corpus.catalog, TABLE)
    corpus.build(receivers=str(tmp_path / "r.csv"))
    rows = open_set(corpus.store.url).receivers.rows()
    assert rows == [TABLE.rows()[0], (2, 10, 20, "mine", None), TABLE.rows()[2]]


def test_on_s3(corpus: Corpus, bucket: str, tmp_path: Path) -> None:
    record_receivers(corpus.catalog, TABLE)
    here = corpus.build()
    corpus.store = Location.parse(f"{bucket}/store")
    there = corpus.build()
    assert there.version == here.version
    assert open_set(corpus.store.url).receivers.rows() == TABLE.select([1, 2, 3]).rows()
    assert problems(corpus) == []


def test_damage_is_found_and_repaired(corpus: Corpus, tmp_path: Path) -> None:
    record_receivers(corpus.catalog, TABLE)
    version = corpus.build().version
    file = corpus.store.directory / f"sets/{version}/receivers.json"
    content = file.read_bytes()
    for damage, kind in ((content.replace(b"45.03", b"45.04"), "damaged"), (b"[{}]", "damaged"), (None, "missing")):
        file.unlink() if damage is None else file.write_bytes(damage)
        assert problems(corpus) == [(kind, f"sets/{version}/receivers.json")]
        with pytest.raises(StoreError, match=r"receivers.json .*repair"):
            _ = open_set(corpus.store.url).receivers
        report = repair(RepairRequest(corpus.store, "latest", None, corpus.catalog), Silent())
        assert [(found.repaired, found.how.partition(";")[0]) for found in report.outcomes] == [
            (True, "made again from the catalog's table of receivers")
        ]
        assert file.read_bytes() == content
    record_receivers(corpus.catalog, Receivers.of([(1, 45.5, 7.27, None, None)]))
    file.unlink()
    (failed,) = repair(RepairRequest(corpus.store, "latest", None, corpus.catalog), Silent()).outcomes
    assert not failed.repaired
    assert "is not what the set was built with" in failed.how


def test_another_set_of_the_same_table_repairs_without_a_catalog(corpus: Corpus, tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_bytes(receivers_csv([(2, 10, 20, "mine")]))
    first = corpus.build(receivers=str(tmp_path / "r.csv")).version
    corpus.add(7)
    second = corpus.build(receivers=str(tmp_path / "r.csv")).version
    file = corpus.store.directory / f"sets/{second}/receivers.json"
    content = file.read_bytes()
    file.unlink()
    (done,) = repair(RepairRequest(corpus.store, "latest", None, "postgresql://nobody@127.0.0.1:9/none"), Silent()).outcomes
    assert (done.repaired, file.read_bytes()) == (True, content)
    assert done.how == f"copied from feature set {first}, which has the same table"


def test_rejections_are_repaired_though_the_table_changed(corpus: Corpus) -> None:
    record_receivers(corpus.catalog, TABLE)
    corpus.add(8, broken="silent")
    version = corpus.build(max_rejected_fraction=1.0).version
    record_receivers(corpus.catalog, Receivers.of([(1, 45.5, 7.27, None, None)]))
    file = corpus.store.directory / f"sets/{version}/rejected.json"
    content = file.read_bytes()
    file.unlink()
    (done,) = repair(RepairRequest(corpus.store, "latest", corpus.raw, corpus.catalog), Silent()).outcomes
    assert (done.repaired, file.read_bytes()) == (True, content)
    assert "they are as they were, by the set's version" in done.how


def test_compact_keeps_them_and_gc_takes_them(corpus: Corpus) -> None:
    record_receivers(corpus.catalog, TABLE)
    first = corpus.build().version
    corpus.add(6, 7)
    corpus.build()
    compact(CompactRequest(corpus.store.url, workers=0), Silent())
    opened = open_set(corpus.store.url)
    assert len(opened.segments) == 1
    assert opened.receivers.rows() == TABLE.select([1, 2, 3]).rows()
    assert corpus.build().version == opened.version  # the name that a build gives
    assert problems(corpus) == []
    assert sweep(*survey(corpus.store.url, Policy(1, timedelta(0))), Silent()).unknown == ()
    assert not (corpus.store.directory / f"sets/{first}").exists()
    assert len(opened.receivers) == 3


def test_pages_and_lists_use_them_unasked(corpus: Corpus, tmp_path: Path) -> None:
    record_receivers(corpus.catalog, TABLE.select([1, 2]))
    corpus.build()
    where = ("--store", corpus.store.url)
    shown = json.loads(CliRunner().invoke(main, ["features", "show", *where, "--json", "--quiet"]).stdout)
    assert [place["websdr_id"] for place in shown["receiver_places"]] == [1, 2]
    assert shown["receiver_places"][0] == {
        "websdr_id": 1,
        "latitude": 45.03,
        "longitude": 7.27,
        "name": "Aquila",
        "altitude_m": 1280.0,
    }
    page = tmp_path / "page.html"
    (tmp_path / "r.csv").write_bytes(receivers_csv([(3, 45.1, 7.5, "Three")]))
    for more in ((), ("--receivers", str(tmp_path / "r.csv"))):
        done = CliRunner().invoke(main, ["features", "report", *where, "--html", str(page), "--quiet", *more])
        assert done.exit_code == 0, done.output
        assert "The set knows no places" not in page.read_text()
        assert "Aquila" in page.read_text()
        assert ("Three" in page.read_text()) == bool(more)


def test_sessions_of_a_set(corpus: Corpus) -> None:
    """In two segments: captures of one more receiver came later."""
    corpus.build()
    moved = {1: 4, 2: 5}
    for session in range(6):
        for receiver, new in moved.items():
            (corpus.raw.directory / corpus.key(session, new)).write_bytes(
                (corpus.raw.directory / corpus.key(session, receiver)).read_bytes()
            )
    corpus.sql(
        "INSERT INTO measurements (session_id, websdr_id, latitude, longitude, sample_rate_hz, approved)"
        " SELECT session_id, websdr_id + 3, latitude, longitude, sample_rate_hz, true FROM measurements WHERE websdr_id < 3"
    )
    corpus.build()
    opened = open_set(corpus.store.url)
    assert len(opened.segments) == 2
    found = {}
    for split in (Split.TRAIN, Split.VAL, Split.TEST):
        sessions = opened.sessions(split)
        for number, name in enumerate(sessions.names()):
            found[name] = sessions.websdr_id[sessions.begin[number] : sessions.begin[number + 1]].tolist()
    assert found == {str(session_id(index)): [1, 2, 3, 4, 5] for index in range(6)}
