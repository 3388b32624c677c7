"""Builds at once, in processes of their own: all end well, each set is that of a build alone, and readers never notice."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from corpus_for_tests import Corpus
from faults.processes import NOTES, Build, Hold, check_readable, content
from faults.tally import Tally
from independent import check, check_fitted, open_plainly

from featurestore import open_set
from featurestore.build import build as building
from featurestore.build.build import prepare
from featurestore.build.plan import Plan
from featurestore.build.stages import TensorBuild
from featurestore.care.verify.verify import verify
from featurestore.objects.objects import Location, open_objects
from featurestore.progress import Silent
from featurestore.store import write_segments
from featurestore.store.read_segments import begun_segment
from featurestore.store.sets import read_pointer
from featurestore.tensor.spec import SplitSpec

PAUSE_S = 0.01
"""Before every write, so that builds of some seconds interleave."""


@pytest.fixture
def corpus(tmp_path: Path, catalog: str) -> Corpus:
    """60 captures: 8 chunks of 8 rows, as the processes cut them."""
    (tmp_path / "raw").mkdir()
    corpus = Corpus(Location.parse(str(tmp_path / "raw")), Location.parse(str(tmp_path / "store")), catalog)
    corpus.add(*range(20))
    return corpus


@pytest.fixture
def alone(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """What a build of the corpus writes when nothing disturbs it."""
    monkeypatch.setattr("featurestore.store.rows.CHUNK_ROWS", 8)
    corpus.build(store=Location.parse(str(tmp_path / "alone")))
    return content(tmp_path / "alone")


def plan_of(corpus: Corpus) -> Plan:
    return prepare(corpus.request(), corpus.objects(), open_objects(corpus.store.url), Silent())


def run_at_once(corpus: Corpus, directory: Path, tally: Tally, *options: list[str]) -> None:
    """Start builds together, and wait for all of them to end well."""
    builds = [
        Build.start(corpus, directory / f"build{index}", "--workers=0", *given, pause_s=PAUSE_S)
        for index, given in enumerate(options)
    ]
    for build in builds:
        build.end().require(0)
    tally.add("builds finished", len(builds))


def test_builds_of_one_version_at_once(
    corpus: Corpus, tmp_path: Path, tally: Tally, fault_rounds: int, alone: dict[str, object]
) -> None:
    for n_round in range(fault_rounds):
        corpus.store = Location.parse(str(tmp_path / f"store{n_round}"))
        run_at_once(corpus, tmp_path, tally, [], [])
        assert content(corpus.store.directory) == alone
        check_readable(corpus.store, tally)


def test_two_splits_from_nothing_at_once(corpus: Corpus, tmp_path: Path, tally: Tally, fault_rounds: int) -> None:
    """They share every segment, and each may fit a basis of its own."""
    for n_round in range(fault_rounds):
        corpus.store = Location.parse(str(tmp_path / f"store{n_round}"))
        run_at_once(corpus, tmp_path, tally, ["--split-seed=1"], ["--split-seed=2"])
        assert len(check_readable(corpus.store, tally)) == 2
        assert len(list(corpus.store.directory.glob("specs/*/segments/*"))) == 1


def test_other_specs_and_bases_at_once(corpus: Corpus, tmp_path: Path, tally: Tally) -> None:
    refit = ["--refit=always", "--split-seed=3"]
    run_at_once(corpus, tmp_path, tally, ["--n-mfcc=5"], ["--split-seed=2", "--refit=always"], refit)
    versions = check_readable(corpus.store, tally)
    assert len(versions) == 3
    for version in versions:
        opened = open_plainly(corpus.store.directory, version)
        check(opened, corpus.captures())


def test_builds_that_fit_different_bases_keep_both(corpus: Corpus, tally: Tally, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second to complete a segment finds it completed under another basis than its own."""
    complete = TensorBuild.complete

    def complete_after_another(work: TensorBuild, basis: object) -> None:
        monkeypatch.setattr(TensorBuild, "complete", complete)
        corpus.build(split=SplitSpec(val_fraction=0.4), refit="always")
        work.complete(basis)  # type: ignore[arg-type]  # handed on

    monkeypatch.setattr(TensorBuild, "complete", complete_after_another)
    outer = corpus.build(refit="always")
    versions = check_readable(corpus.store, tally)
    assert len(versions) == 2
    for version in versions:
        opened = open_plainly(corpus.store.directory, version)
        check(opened, corpus.captures())
        check_fitted(opened)
    assert outer.version in versions
    assert len(list(corpus.store.directory.glob("specs/*/bases/*"))) == 2


def test_a_build_of_an_older_catalog_spoils_no_complete_segment(
    corpus: Corpus, tally: Tally, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two builds finish one begun segment; one of them no longer sees some of its captures, and is the last."""
    monkeypatch.setattr("featurestore.store.rows.CHUNK_ROWS", 8)
    everything = corpus.captures()
    plan = plan_of(corpus)
    (use,) = plan.segments
    objects = open_objects(corpus.store.url)
    write_segments.begin(objects, begun_segment(objects, plan.spec, use.segment, len(use.rows)), use.rows)
    whole = plan_of(corpus)
    corpus.sql("UPDATE measurements SET approved = false WHERE id IN (5, 17)")
    fewer = plan_of(corpus)
    assert [use.segment for use in fewer.segments] == [use.segment]

    def build_planned(planned: Plan) -> str:
        monkeypatch.setattr(building, "prepare", lambda *_: planned)
        return corpus.build().version

    first, second = build_planned(whole), build_planned(fewer)
    assert first != second
    assert len(check_readable(corpus.store, tally)) == 2
    check(open_plainly(corpus.store.directory, first), everything)
    check(open_plainly(corpus.store.directory, second), corpus.captures())


def test_a_chunk_cut_off_by_a_power_failure_is_written_again(
    corpus: Corpus, tally: Tally, alone: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(corpus)
    (use,) = plan.segments
    objects = open_objects(corpus.store.url)
    for chunk, data in enumerate((b"", b"half of a chunk", bytes(8 * 3 * 24 * 8 * 4 + 4))):
        objects.put(f"specs/{plan.spec.id}/segments/{use.segment}/logmel/c/{chunk}/0/0/0", data)
    corpus.build()
    assert content(corpus.store.directory) == alone
    check_readable(corpus.store, tally)


def test_latest_stays_with_the_build_that_began_last(corpus: Corpus, tmp_path: Path, tally: Tally) -> None:
    slow = Build.start(corpus, tmp_path / "slow", "--workers=0", hold=Hold(NOTES))
    assert slow.held()
    quick = corpus.build(split=SplitSpec(seed=9))
    slow.release()
    ended = slow.end().require(0)
    assert f"latest stays {quick.version}" in ended.stderr
    assert read_pointer(open_objects(corpus.store.url), "latest.json") == quick.version
    assert len(check_readable(corpus.store, tally)) == 2
    tally.add("builds finished", 2)


def test_readers_of_an_older_set_never_notice(corpus: Corpus, tmp_path: Path, tally: Tally) -> None:
    old = corpus.build()
    before = open_set(str(corpus.store), old.version).to_xarray().features.values
    corpus.add(20, 21, 22)
    corpus.sql("UPDATE measurements SET approved = false WHERE id IN (5, 17)")
    options: list[list[str]] = [[], ["--split-seed=1", "--refit=always"]]
    builds = [
        Build.start(corpus, tmp_path / f"build{index}", "--workers=0", *given, pause_s=PAUSE_S)
        for index, given in enumerate(options)
    ]
    n_reads = 0
    while any(build.process.poll() is None for build in builds) or not n_reads:
        np.testing.assert_array_equal(open_set(str(corpus.store), old.version).to_xarray().features.values, before)
        open_set(str(corpus.store)).labels  # noqa: B018 - latest, whichever that is: it can be read
        n_reads += 1
        time.sleep(0.05)
    for build in builds:
        build.end().require(0)
    assert not verify(str(corpus.store), old.version).problems
    assert len(check_readable(corpus.store, tally)) == 3
    tally.add("builds finished", len(builds))
