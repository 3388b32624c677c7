"""Garbage collection: what is kept stays whole, whenever it is interrupted and whoever builds meanwhile; the rest goes."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from copies_for_tests import copied, database, empty_corpus
from corpus_for_tests import SMALL, Corpus, tree

from cli import main
from featurestore import open_set
from featurestore.build.build import build
from featurestore.care.compact.compact import CompactRequest, compact
from featurestore.care.gc.garbage import Policy, parse_age
from featurestore.care.gc.gc import GcReport, survey, sweep
from featurestore.care.verify.verify import verify
from featurestore.errors import DataQualityError, ServiceUnavailableError, StoreError, UsageError
from featurestore.objects.objects import Location, open_objects
from featurestore.progress import Silent
from featurestore.services import Running
from featurestore.store import bases, sets
from featurestore.store.presence import paths
from featurestore.store.sets import list_sets, read_manifest

ALL_AGES = Policy(1, timedelta(0))


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("featurestore.store.rows.CHUNK_ROWS", 8)


@pytest.fixture
def corpus(tmp_path: Path, catalog: str) -> Corpus:
    return empty_corpus(tmp_path, catalog)


@pytest.fixture(scope="module")
def grown_once(services: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Corpus, list[str]]]:
    with database(services) as catalog, pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("featurestore.store.rows.CHUNK_ROWS", 8)
        corpus = empty_corpus(tmp_path_factory.mktemp("grown"), catalog)
        yield corpus, grow(corpus)


@dataclass
class Grown:
    """A store of four sets, and their versions, oldest first."""

    corpus: Corpus
    versions: list[str]


@pytest.fixture
def grown(grown_once: tuple[Corpus, list[str]], services: Running, tmp_path: Path) -> Iterator[Grown]:
    with copied(grown_once[0], tmp_path, services) as corpus:
        yield Grown(corpus, grown_once[1])


def collect(corpus: Corpus, policy: Policy = ALL_AGES, progress: Silent | None = None) -> GcReport:
    return sweep(*survey(corpus.store.url, policy), progress)


def make_older(corpus: Corpus, days: float = 3) -> None:
    """As if everything had been written so many days ago."""
    then = time.time() - days * 86_400
    for path in corpus.store.directory.rglob("*"):
        os.utime(path, (then, then))


def grow(corpus: Corpus) -> list[str]:
    """Four sets, each of which alone uses something: segments, a basis, a second segment."""
    corpus.add(*range(6))
    versions = [corpus.build().version]
    corpus.sql("UPDATE measurements SET approved = false WHERE id <= 9")
    corpus.add(20, 21, 22, 23)
    versions.append(corpus.build(refit="always").version)
    corpus.sql("UPDATE measurements SET approved = false WHERE id <= 18")
    versions.append(corpus.build().version)
    corpus.add(30)
    versions.append(corpus.build().version)
    return versions


def published(corpus: Corpus) -> set[str]:
    manifests, damaged = list_sets(open_objects(corpus.store.url))
    assert damaged == {}
    return {manifest.version for manifest in manifests}


def check_whole(corpus: Corpus) -> None:
    """Every published set is whole, and `latest` and every tag stand for one."""
    objects = open_objects(corpus.store.url)
    for version in published(corpus):
        assert verify(corpus.store.url, version).problems == ()
    for name in ("latest", *sets.read_tags(objects)):
        assert open_set(corpus.store.url, name).version in published(corpus)


def kept(corpus: Corpus) -> dict[str, bytes]:
    """Every file of the store, but for the records of what gc removed."""
    return {name: content for name, content in tree(corpus.store.directory).items() if not name.startswith("removed/")}


def check_lean(corpus: Corpus) -> None:
    """Every object below sets and specs is part of a published set, or of the basis that builds go on with."""
    objects = open_objects(corpus.store.url)
    used = {path for version in published(corpus) for path in paths(read_manifest(objects, version))}
    for key in tree(corpus.store.directory):
        if key.startswith(("sets/", "specs/")) and not key.endswith("/spec.json"):
            assert any(key.startswith(f"{path}/") for path in used if path.count("/") != 1 or path.startswith("sets")), key
    assert not [path for path in corpus.store.directory.rglob("*") if path.is_dir() and not any(path.iterdir())]


def test_what_is_kept_stays_as_it_is_and_the_rest_goes(grown: Grown) -> None:
    corpus, versions = grown.corpus, grown.versions
    before = tree(corpus.store.directory)
    report = collect(corpus)
    assert published(corpus) == {versions[3]}
    check_whole(corpus)
    check_lean(corpus)
    after = kept(corpus)
    assert after == {name: before[name] for name in after}
    assert sum(len(item.group.objects) for item in report.removed) == len(before) - len(after)
    assert report.n_bytes == sum(len(before[name]) for name in before.keys() - after.keys())
    kinds = [item.kind for item in report.removed]
    assert kinds == ["set"] * 3 + ["segment", "basis"]
    assert [item.rows for item in report.removed[:4]] == [18, 21, 12, 18]
    assert (report.spared, report.young, report.unknown) == ((), 0, ())
    assert corpus.build().up_to_date
    assert collect(corpus).removed == ()


def test_the_newest_the_latest_and_what_has_a_tag_stay(grown: Grown) -> None:
    corpus, versions = grown.corpus, grown.versions
    open_store = open_objects(corpus.store.url)
    sets.point(open_store, versions[0], "mine")
    sets.point(open_store, versions[1])  # as after going back
    report = collect(corpus)
    assert published(corpus) == {versions[0], versions[1], versions[3]}
    assert report.kept == {versions[3]: ["newest"], versions[1]: ["latest"], versions[0]: ["tag mine"]}
    assert [item.kind for item in report.removed] == ["set"]
    check_whole(corpus)
    assert collect(corpus, Policy(2, timedelta(0))).removed == ()


def test_what_is_younger_than_a_day_stays_unless_told_otherwise(grown: Grown) -> None:
    corpus, versions = grown.corpus, grown.versions
    report = collect(corpus, Policy(1))
    assert (report.removed, published(corpus)) == ((), set(versions))
    assert report.young > 0
    make_older(corpus, days=0.9)
    assert collect(corpus, Policy(1)).removed == ()
    assert collect(corpus, Policy(1, timedelta(hours=21))).removed != ()
    check_whole(corpus)
    check_lean(corpus)


def test_a_young_set_keeps_the_old_segments_that_it_uses(grown: Grown) -> None:
    corpus, versions = grown.corpus, grown.versions
    manifest = corpus.store.directory / "sets" / versions[0] / "zarr.json"
    make_older(corpus)
    os.utime(manifest)
    report = collect(corpus, Policy(1))
    assert report.kept[versions[0]] == ["young"]
    assert published(corpus) == {versions[0], versions[3]}
    check_whole(corpus)


def test_after_compacting_only_the_merged_segment_stays(grown: Grown) -> None:
    corpus = grown.corpus
    merged = compact(CompactRequest(corpus.store.url, workers=0))
    report = collect(corpus)
    assert published(corpus) == {merged.version}
    assert [item.kind for item in report.removed if item.kind == "segment"] == ["segment"] * 3
    segments = list((corpus.store.directory / "specs" / SMALL.id / "segments").iterdir())
    assert [segment.name for segment in segments] == [merged.segment]
    check_whole(corpus)
    check_lean(corpus)
    assert corpus.build().up_to_date


def test_features_of_a_basis_that_is_gone_go_but_not_those_a_segment_was_completed_with(corpus: Corpus) -> None:
    corpus.add(*range(6))
    corpus.build()
    first = open_set(corpus.store.url)
    bases = [first.basis.id]
    for session in (20, 30):
        corpus.add(session)
        corpus.build(refit="always")
        bases.append(open_set(corpus.store.url).basis.id)
    assert len(set(bases)) == 3
    report = collect(corpus)
    root = corpus.store.directory / first.segments[0].path
    assert sorted(path.name for path in root.glob("features-*")) == sorted(
        [f"features-{bases[0]}", f"features-{bases[2]}", f"features-{bases[2]}.json"]
    )
    assert sorted(item.kind for item in report.removed) == ["basis", "basis", "features", "set", "set"]
    assert [path.name for path in (root.parents[1] / "bases").iterdir()] == [bases[2]]
    check_whole(corpus)
    assert corpus.build().up_to_date


def test_what_abandoned_builds_left_goes_when_it_is_old(corpus: Corpus) -> None:
    corpus.add(*range(6))
    version = corpus.build().version
    corpus.add(20, broken="silent")
    with pytest.raises(DataQualityError):
        corpus.build(max_rejected_fraction=0)
    with pytest.raises(DataQualityError):
        corpus.build(spec=replace(SMALL, hop_length=32), max_rejected_fraction=0)
    store = corpus.store.directory
    shutil.copytree(store / "sets" / version, store / "sets" / "0123456789ab")
    (store / "sets" / "0123456789ab" / "zarr.json").unlink()
    segment = store / open_set(corpus.store.url).segments[0].path
    (segment / "parts").mkdir(exist_ok=True)
    (segment / "parts" / "000000.json").write_text("{}")
    assert collect(corpus, Policy(1)).removed == ()
    make_older(corpus)
    for item in survey(corpus.store.url, Policy(1))[1].items:
        if item.kind == "abandoned segment":  # a note that outlives its chunk would be believed
            assert f"{item.path}/parts/000000.json" in item.first
    report = collect(corpus, Policy(1))
    kinds = ["abandoned segment", "abandoned segment", "notes", "spec", "unfinished set"]
    assert sorted(item.kind for item in report.removed) == kinds
    check_whole(corpus)
    check_lean(corpus)
    assert [path.name for path in (store / "specs").iterdir()] == [SMALL.id]


def test_what_is_none_of_ours_stays_and_is_named(grown: Grown) -> None:
    corpus, versions = grown.corpus, grown.versions
    strange = [
        "specs/readme.txt",
        f"specs/{SMALL.id}/segments/notes/a.txt",
        f"sets/{versions[0]}/remarks.txt",
        "sets/ABCDEFABCDEF/notes.json",
    ]
    for key in (*strange, "elsewhere/x"):
        (corpus.store.directory / key).parent.mkdir(parents=True, exist_ok=True)
        (corpus.store.directory / key).write_text("mine")
    report = collect(corpus)
    assert sorted(report.unknown) == sorted(strange)
    assert all((corpus.store.directory / key).read_text() == "mine" for key in (*strange, "elsewhere/x"))
    assert published(corpus) == {versions[3]}


@pytest.mark.parametrize("damage", ["{", '{"attributes": {"schema": 9}}', ""])
def test_a_damaged_manifest_stops_everything(grown: Grown, damage: str) -> None:
    corpus, versions = grown.corpus, grown.versions
    (corpus.store.directory / "sets" / versions[1] / "zarr.json").write_text(damage)
    before = tree(corpus.store.directory)
    with pytest.raises(StoreError, match=rf"{versions[1]}.*Nothing is removed.*build-features.*delete file:.*zarr.json"):
        collect(corpus)
    assert tree(corpus.store.directory) == before
    (corpus.store.directory / "sets" / versions[1] / "zarr.json").unlink()  # the next step that the error names
    collect(corpus)
    check_whole(corpus)
    check_lean(corpus)


class Hook(Silent):
    """Does something at one point of a long-running function."""

    def __init__(self, at: str, act: Callable[[], object]) -> None:
        self._at, self._act, self.done = at, act, False

    def _reach(self, text: str) -> None:
        if text.startswith(self._at) and not self.done:
            self.done = True
            self._act()

    def start(self, stage: str, total: int, unit: str) -> None:
        self._reach(stage)

    def say(self, line: str) -> None:
        self._reach(line)


class StopAfter(Silent):
    """Interrupts after so many things are removed."""

    def __init__(self, steps: int) -> None:
        self._left = steps

    def advance(self, units: int, n_bytes: int = 0) -> None:
        self._left -= 1
        if self._left == 0:
            raise KeyboardInterrupt


def test_interrupted_anywhere_every_set_is_whole_and_the_next_one_ends_the_work(grown: Grown) -> None:
    corpus = grown.corpus
    n_items = len(survey(corpus.store.url, ALL_AGES)[1].items)
    for step in range(1, 2 * n_items):  # before and after the marker of each is gone
        copy = replace(corpus, store=Location.parse(str(corpus.store.directory.parent / f"copy {step}")))
        shutil.copytree(corpus.store.directory, copy.store.directory)
        with pytest.raises(KeyboardInterrupt):
            collect(copy, progress=StopAfter(step))
        check_whole(copy)
        collect(copy)
        check_whole(copy)
        check_lean(copy)
        assert not (copy.store.directory / "removals").exists()


def test_killed_while_it_removes_it_leaves_sets_whole_and_stands_in_nobodys_way(grown: Grown) -> None:
    corpus = grown.corpus
    code = """
import os, signal, sys
from datetime import timedelta
from featurestore.care.gc.garbage import Policy
from featurestore.care.gc.gc import survey, sweep
from featurestore.progress import Silent
class Killed(Silent):
    steps = 0
    def advance(self, units, n_bytes=0):
        self.steps += 1
        if self.steps == 3:
            os.kill(os.getpid(), signal.SIGKILL)
sweep(*survey(sys.argv[1], Policy(1, timedelta(0))), Killed())
"""
    done = subprocess.run([sys.executable, "-c", code, corpus.store.url], check=False, cwd=Path(__file__).parents[2])
    assert done.returncode == -signal.SIGKILL
    assert len(list((corpus.store.directory / "removals").iterdir())) == 1
    assert len(published(corpus)) == 2
    check_whole(corpus)
    corpus.sql("UPDATE measurements SET approved = true")  # everything that is being removed is wanted
    assert corpus.build().computed == 0
    check_whole(corpus)
    collect(corpus)
    check_lean(corpus)
    assert not (corpus.store.directory / "removals").exists()


@pytest.mark.parametrize(("point", "refit"), [("plan:", "auto"), ("compute", "never"), ("fit", "always")])
def test_a_build_that_used_what_was_removed_publishes_nothing_and_can_be_repeated(grown: Grown, point: str, refit: str) -> None:
    """Old things go while a build is at a point; what it has begun itself is young."""
    corpus, versions = grown.corpus, grown.versions
    make_older(corpus)
    corpus.sql("UPDATE measurements SET approved = true")
    corpus.add(40)
    hook = Hook(point, lambda: collect(corpus, Policy(1, timedelta(hours=1))))
    with pytest.raises(ServiceUnavailableError, match=r"features gc removed .*run the same command again"):
        build(corpus.request(refit=refit), hook)
    assert hook.done
    assert published(corpus) == {versions[3]}
    check_whole(corpus)
    report = corpus.build(refit=refit)
    assert report.rows == 36
    assert report.computed in (18, 21)
    check_whole(corpus)


def test_a_build_whose_own_segment_was_taken_says_so_and_can_be_repeated(corpus: Corpus) -> None:
    """Who spares nothing for its age takes even what is being written."""
    corpus.add(*range(6))
    with pytest.raises(ServiceUnavailableError, match=r"features gc removed .*run the same command again"):
        build(corpus.request(), Hook("normalize", lambda: collect(corpus)))
    assert published(corpus) == set()
    assert corpus.build().rows == 18
    check_whole(corpus)


def test_a_basis_that_was_taken_while_it_was_written_is_none(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    """A collection begins and ends between the arrays of a basis and its group: half of it would be left."""
    corpus.add(*range(6))
    corpus.build()
    corpus.sql("UPDATE measurements SET approved = id % 3 <> 0")
    write_group = bases.write_basis_group

    def after_a_collection(*arguments: Any) -> None:
        removed = collect(corpus).removed
        assert [item.kind for item in removed] == ["basis"]
        write_group(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(bases, "write_basis_group", after_a_collection)
        with pytest.raises(
            ServiceUnavailableError, match=r"gc removed .*/bases/\w+/mean/c/0/0 \(.* UTC\) while this command used it; run the"
        ):
            corpus.build(refit="always")
    check_latest(corpus)
    assert corpus.build(refit="always").rows == 12
    check_whole(corpus)


@pytest.mark.parametrize("point", ["look", "remove"])
def test_a_build_while_something_is_being_removed_waits_for_its_turn(grown: Grown, point: str) -> None:
    corpus, versions = grown.corpus, grown.versions
    corpus.sql("UPDATE measurements SET approved = true")
    errors: list[str] = []

    def start_a_build() -> None:
        with pytest.raises(ServiceUnavailableError) as raised:
            corpus.build()
        errors.append(str(raised.value))

    collect(corpus, progress=Hook(point, start_a_build))
    assert "features gc is removing" in errors[0]
    assert "run the same command again when it has ended" in errors[0]
    assert published(corpus) == {versions[3]}
    check_whole(corpus)
    assert corpus.build().rows == 33
    check_whole(corpus)
    collect(corpus)
    check_lean(corpus)


def test_a_segment_is_not_begun_while_one_of_its_name_is_being_removed(corpus: Corpus) -> None:
    corpus.add(*range(6))
    corpus.build()
    corpus.sql("UPDATE measurements SET approved = false")
    corpus.add(20)
    corpus.build(refit="always")
    corpus.sql("UPDATE measurements SET approved = id <= 18")
    segments = corpus.store.directory / "specs" / SMALL.id / "segments"

    class AfterTheMarker(Silent):
        """Builds when the set is gone, and the marker of its segment."""

        seen = False

        def advance(self, units: int, n_bytes: int = 0) -> None:
            if not self.seen and len(list(segments.glob("*/segment.json"))) == 1:
                self.seen = True
                with pytest.raises(ServiceUnavailableError, match="features gc is removing"):
                    corpus.build()

    progress = AfterTheMarker()
    collect(corpus, progress=progress)
    assert progress.seen
    check_whole(corpus)
    assert corpus.build().computed == 18
    check_whole(corpus)


def test_what_a_set_uses_that_was_published_meanwhile_is_spared(grown: Grown) -> None:
    corpus, versions = grown.corpus, grown.versions
    corpus.sql("UPDATE measurements SET approved = true")
    found = survey(corpus.store.url, ALL_AGES)
    late = corpus.build()
    assert late.computed == 0
    report = sweep(*found)
    assert published(corpus) == {versions[3], late.version}
    assert any("segments" in path for path in report.spared)
    check_whole(corpus)


def test_a_set_that_got_a_name_meanwhile_is_spared_with_all_it_uses(grown: Grown) -> None:
    corpus, versions = grown.corpus, grown.versions
    found = survey(corpus.store.url, ALL_AGES)
    result = CliRunner().invoke(main, ["features", "tag", versions[0], "mine", "--store", corpus.store.url])
    assert result.exit_code == 0
    sweep(*found)
    assert published(corpus) == {versions[0], versions[3]}
    check_whole(corpus)


def test_what_was_written_again_meanwhile_is_spared(corpus: Corpus) -> None:
    corpus.add(*range(6))
    corpus.build()
    corpus.add(20, broken="silent")
    with pytest.raises(DataQualityError):
        corpus.build(max_rejected_fraction=0)
    found = survey(corpus.store.url, ALL_AGES)
    (abandoned,) = found[1].items
    corpus.sql("UPDATE measurements SET approved = false WHERE id = 1")

    def go_on() -> None:
        with pytest.raises(ServiceUnavailableError):
            corpus.build(max_rejected_fraction=1.0)

    os.utime(corpus.store.directory / abandoned.path / "logmel" / "zarr.json")  # by a build that goes on with it
    assert sweep(*found, Hook("remove", go_on)).spared == (abandoned.path,)
    assert corpus.build(max_rejected_fraction=1.0).rows == 17
    check_whole(corpus)


def test_builds_and_collections_at_once_leave_every_set_whole(corpus: Corpus) -> None:
    """For as long as it takes: approvals change, old sets go, and at the end everything is there and only that."""
    corpus.add(*range(6))
    corpus.build()
    stop = threading.Event()
    failures: list[BaseException] = []
    build_s = 0.0
    pauses = random.Random(1)

    def gather() -> None:
        while not stop.is_set():
            try:
                collect(corpus)
            except BaseException as error:  # noqa: BLE001 - looked at below
                failures.append(error)
                return
            # Without a pause, none of its builds would ever get through on a machine that is slow enough.
            stop.wait(pauses.uniform(0, 2 * build_s))

    thread = threading.Thread(target=gather)
    thread.start()
    refused = 0
    try:
        for turn in range(12):
            corpus.sql(f"UPDATE measurements SET approved = id % 3 <> {turn % 3}")
            began = time.monotonic()
            try:
                corpus.build(refit="always" if turn % 4 == 3 else "auto")
            except ServiceUnavailableError:
                refused += 1
            build_s = time.monotonic() - began
            check_latest(corpus)
    finally:
        stop.set()
        thread.join()
    assert failures == []
    assert refused < 12
    assert corpus.build().rows == 12
    collect(corpus)
    check_whole(corpus)
    check_lean(corpus)


def check_latest(corpus: Corpus) -> None:
    """The set that was just built is whole: it is the newest, and nobody takes anything from it."""
    assert verify(corpus.store.url).problems == ()


def test_in_s3_too(bucket: str, catalog: str) -> None:
    corpus = Corpus(Location.parse(f"{bucket}/raw"), Location.parse(f"{bucket}/store"), catalog)
    corpus.add(*range(3))
    old = corpus.build().version
    corpus.add(3)
    version = corpus.build(refit="always").version
    compacted = compact(CompactRequest(corpus.store.url, workers=0)).version
    assert collect(corpus, Policy(1)).removed == ()
    report = collect(corpus)
    assert {item.path.removeprefix("sets/") for item in report.removed if item.kind == "set"} == {old, version}
    assert published(corpus) == {compacted}
    check_whole(corpus)
    assert not list(open_objects(corpus.store.url).walk("removals"))
    assert corpus.build().up_to_date


def command(corpus: Corpus, *options: str) -> Result:
    return CliRunner().invoke(main, ["features", "gc", "--store", corpus.store.url, *options])


def test_the_command_asks_or_is_told(grown: Grown) -> None:
    corpus, versions = grown.corpus, grown.versions
    before = tree(corpus.store.directory)
    refused = command(corpus, "--keep", "1", "--min-age", "0")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "add --yes, or look with --dry-run" in refused.stderr
    preview = command(corpus, "--keep", "1", "--min-age", "0", "--dry-run")
    assert preview.exit_code == 0
    assert f"would remove set sets/{versions[0]}: 18 rows" in preview.stdout
    assert f"keep    {versions[3]}  newest, latest" in preview.stdout
    assert tree(corpus.store.directory) == before
    assert "things are not needed, but younger" in command(corpus, "--keep", "1", "--yes").stdout
    assert tree(corpus.store.directory) == before
    done = command(corpus, "--keep", "1", "--min-age", "0", "--yes", "--json", "--quiet")
    report = json.loads(done.stdout)
    assert (report["dry_run"], report["bytes"]) == (False, sum(entry["bytes"] for entry in report["removed"]))
    assert [entry["kind"] for entry in report["removed"]] == ["set", "set", "set", "segment", "basis"]
    assert published(corpus) == {versions[3]}


def test_ages() -> None:
    assert [parse_age(text) for text in ("0", "90s", "30m", "12h", "2d", "1.5d")] == [
        timedelta(0), timedelta(seconds=90), timedelta(minutes=30), timedelta(hours=12), timedelta(days=2), timedelta(days=1.5),
    ]  # fmt: skip
    for text in ("", "5", "-1d", "2w", "d"):
        with pytest.raises(UsageError, match="--min-age is"):
            parse_age(text)
