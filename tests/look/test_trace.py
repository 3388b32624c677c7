"""`features trace`: served, rejected, withdrawn, replaced and unknown captures are found where they are."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from corpus_for_tests import SMALL, Corpus, session_id

from cli import main
from featurestore import open_set
from featurestore.errors import UsageError
from featurestore.look.trace import Trace, trace
from featurestore.objects.objects import Location

CAPTURE = 8  # session 2, receiver 2


@pytest.fixture
def corpus(tmp_path: Path, catalog: str) -> Corpus:
    (tmp_path / "raw").mkdir()
    raw, store = Location.parse(str(tmp_path / "raw")), Location.parse(str(tmp_path / "store"))
    return Corpus(raw, store, catalog, replace(SMALL, windows_per_capture=2))


def states(found: Trace) -> list[str]:
    return [entry.state for entry in found.sets]


def test_rows_windows_and_splits_are_those_of_the_open_set(corpus: Corpus) -> None:
    corpus.add(*range(6))
    corpus.build()
    corpus.add(7)
    report = corpus.build(tag="mine")
    for capture in (1, CAPTURE, 21):
        found = trace(corpus.store.url, capture)
        entry = found.sets[0]
        opened = open_set(corpus.store.url)
        (rows,) = (opened.fact("capture_id") == capture).nonzero()
        assert (entry.version, entry.names, entry.state) == (report.version, ("latest", "mine"), "served")
        assert [row.row for row in entry.rows] == rows.tolist()
        assert [row.window for row in entry.rows] == [0, 1]
        codes = [("train", "val", "test").index(row.split or "") for row in entry.rows]
        assert codes == opened.labels.split[rows].tolist()
        assert len(found.sets) == (1 if capture == 21 else 2)
        assert found.searched == 2
        second = opened.segments[0].n_rows if capture == 21 else 0
        assert [row.segment_row for row in entry.rows] == (rows - second).tolist()
    entry = trace(corpus.store.url, CAPTURE).sets[0]
    assert (entry.session_id, entry.websdr_id) == (str(session_id(2)), 2)


def test_a_withdrawn_and_a_replaced_capture(corpus: Corpus) -> None:
    corpus.add(*range(6))
    corpus.build()
    corpus.sql(f"UPDATE measurements SET approved = false WHERE id = {CAPTURE}")
    corpus.build()
    found = trace(corpus.store.url, CAPTURE)
    assert states(found) == ["left out", "served"]
    assert [row.split for row in found.sets[0].rows] == [None, None]
    corpus.sql(f"UPDATE measurements SET approved = true WHERE id = {CAPTURE}")
    corpus.replace(2, 2)
    corpus.build()
    found = trace(corpus.store.url, CAPTURE)
    assert states(found) == ["served", "left out", "served"]
    served = [row for row in found.sets[0].rows if row.split]
    assert {row.source_digest for row in served}.isdisjoint(row.source_digest for row in found.sets[2].rows)


def test_a_rejected_capture_says_why(corpus: Corpus) -> None:
    corpus.add(*range(6))
    corpus.add(7, broken="silent")
    corpus.build(max_rejected_fraction=1.0)
    (entry,) = trace(corpus.store.url, 20).sets
    assert entry.state == "rejected"
    assert entry.rejected is not None
    assert (entry.rejected["reason"], entry.rejected["iq_key"]) == ("silent", corpus.key(7, 2))
    assert all(row.split is None for row in entry.rows)


def test_an_unknown_capture_is_in_no_set(corpus: Corpus) -> None:
    corpus.add(*range(6))
    corpus.build()
    found = trace(corpus.store.url, 999)
    assert (found.sets, found.searched, found.damaged) == ((), 1, {})
    assert "approve it" in "\n".join(found.lines())


def test_a_damaged_set_is_named_and_the_others_are_searched(corpus: Corpus) -> None:
    corpus.add(*range(6))
    first = corpus.build()
    corpus.add(7)
    second = corpus.build()
    (corpus.store.directory / "sets" / second.version / "split/c/0").unlink()
    found = trace(corpus.store.url, CAPTURE)
    assert [entry.version for entry in found.sets] == [first.version]
    assert list(found.damaged) == [second.version]
    assert "split/c/0 is missing" in found.damaged[second.version]
    (corpus.store.directory / "sets" / first.version / "zarr.json").write_text("{}")
    assert trace(corpus.store.url, CAPTURE).searched == 0


def test_the_command(corpus: Corpus) -> None:
    corpus.add(*range(6))
    version = corpus.build().version
    arguments = ["features", "trace", str(CAPTURE), "--store", corpus.store.url]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0
    assert f"{version} (latest), built" in result.stdout
    assert f"session {session_id(2)}, receiver 2" in result.stdout
    assert ", window 1: " in result.stdout
    shown = json.loads(CliRunner().invoke(main, [*arguments, "--json"]).stdout)
    assert shown["sets"][0]["rows"][1]["window"] == 1
    with pytest.raises(UsageError, match="no directory"):
        trace(corpus.store.url + "-other", 1)
