"""A compacted set: byte for byte the segment of a build from nothing, found up to date by the next build, whatever happens."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from copies_for_tests import copied, database, empty_corpus
from corpus_for_tests import SMALL, Corpus, tree
from independent import check, open_plainly

from cli import main
from featurestore import open_set
from featurestore.care.compact import copy_chunks as copying
from featurestore.care.compact.compact import CompactReport, CompactRequest, compact
from featurestore.care.verify.verify import verify
from featurestore.errors import StoreError
from featurestore.objects.objects import Location, open_objects
from featurestore.progress import Silent
from featurestore.services import Running
from featurestore.tensor.rejection import REASONS
from featurestore.tensor.spec import FeatureSpec


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("featurestore.store.rows.CHUNK_ROWS", 8)


@pytest.fixture
def corpus(tmp_path: Path, catalog: str) -> Corpus:
    return empty_corpus(tmp_path, catalog)


@pytest.fixture(scope="module")
def grown_once(services: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Corpus]:
    with database(services) as catalog, pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("featurestore.store.rows.CHUNK_ROWS", 8)
        yield grow(empty_corpus(tmp_path_factory.mktemp("grown"), catalog))


@pytest.fixture
def grown(grown_once: Corpus, services: Running, tmp_path: Path) -> Iterator[Corpus]:
    with copied(grown_once, tmp_path, services) as corpus:
        yield corpus


def grow(corpus: Corpus, **changes: object) -> Corpus:
    """Four builds: four segments, one of them of one row."""
    corpus.add(*range(8))
    corpus.build(**changes)
    corpus.add(20, 21)
    corpus.build(**changes)
    corpus.add(30, 31, 32, 33)
    corpus.build(**changes)
    corpus.replace(3, 2)
    corpus.build(**changes)
    return corpus


def merge(corpus: Corpus, version: str = "latest", **changes: object) -> CompactReport:
    return compact(replace(CompactRequest(corpus.store.url, version, workers=0), **changes))  # type: ignore[arg-type]  # any field


def from_nothing(corpus: Corpus, spec: FeatureSpec = SMALL) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Segments and labels of a build of the same captures into an empty store that has the same basis."""
    opened = open_set(corpus.store.url)
    fresh = corpus.store.directory.parent / "fresh"
    basis = f"specs/{spec.id}/bases/{opened.basis.id}"
    shutil.copytree(corpus.store.directory / basis, fresh / basis)
    corpus.build(spec=spec, store=Location.parse(str(fresh)), refit="never", max_rejected_fraction=1.0)
    return content(fresh)


def content(store: Path) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Every object of the segments, and of the label arrays, of the latest set."""
    opened = open_set(str(store))
    segments = [name for ref in opened.segments for name in [ref.path]]
    files = tree(store)
    labels = f"sets/{opened.version}/"
    return (
        {name: data for name, data in files.items() if name.startswith(tuple(segments))},
        {name.removeprefix(labels): files[name] for name in files if name.startswith(labels) and "zarr.json" not in name},
    )


def test_the_merged_segment_is_that_of_a_build_from_nothing(grown: Corpus) -> None:
    before = tree(grown.store.directory)
    old = open_set(grown.store.url)
    report = merge(grown)
    assert (report.merged, report.rows, report.rejected, report.left_out) == (4, 42, 0, 1)
    assert content(grown.store.directory) == from_nothing(grown)
    opened = open_plainly(grown.store.directory)
    check(opened, grown.captures())
    manifest = opened.manifest
    assert (manifest["version"], manifest["parent"], manifest["basis"]) == (report.version, old.version, old.basis.id)
    assert manifest["counts"] == {**old.manifest.counts, "reused": 42, "computed": 0}
    assert verify(grown.store.url).problems == ()
    after = tree(grown.store.directory)
    assert {name: after[name] for name in before if name != "latest.json"} == {
        name: data for name, data in before.items() if name != "latest.json"
    }


def test_the_next_build_finds_the_compacted_set_up_to_date(grown: Corpus) -> None:
    report = merge(grown)
    again = grown.build()
    assert (again.up_to_date, again.version, again.computed, again.bytes_read) == (True, report.version, 0, 0)
    grown.add(40)
    more = grown.build()
    assert (more.reused, more.computed) == (42, 3)
    assert [ref.rows for ref in open_set(grown.store.url).manifest.segments] == [42, 3]


@pytest.mark.parametrize("n_windows", [1, 3])
def test_rejected_rows_belong_to_their_captures(corpus: Corpus, n_windows: int) -> None:
    """Rejected for every reason, replaced by another bad recording, withdrawn, and bad in one window only."""
    spec = replace(SMALL, windows_per_capture=n_windows)
    changes: dict[str, object] = {"spec": spec, "max_rejected_fraction": 1.0}
    corpus.add(*range(10))
    for index, reason in enumerate(REASONS):
        corpus.add(100 + index, broken=reason)
    z = corpus.samples(3, 2)
    z[-5] = np.nan
    np.save(corpus.raw.directory / corpus.key(3, 2), z)
    corpus.build(**changes)
    for receiver, samples in ((1, np.full(3000, 0.5 + 0j)), (2, np.full(3000, 0.25 + 0j))):  # silent before, and silent now
        np.save(corpus.raw.directory / corpus.key(106, receiver), samples)
    np.save(corpus.raw.directory / corpus.key(106, 3), corpus.samples(106, 3))  # silent before, good now
    np.save(corpus.raw.directory / corpus.key(5, 1), np.zeros(3000, complex))  # good before, silent now
    corpus.sql("UPDATE measurements SET approved = false WHERE websdr_id = 3 AND snr_db IS NOT NULL AND id % 5 = 0")
    corpus.add(20, 21)
    corpus.build(**changes)
    rejected = open_set(corpus.store.url).rejected
    report = merge(corpus)
    assert report.rejected > 10
    assert content(corpus.store.directory) == from_nothing(corpus, spec)
    assert open_set(corpus.store.url).rejected == rejected
    assert verify(corpus.store.url).problems == ()
    again = corpus.build(**changes)
    assert (again.computed, again.bytes_read) == (0, 0)
    assert [ref.segment for ref in open_set(corpus.store.url).manifest.segments] == [report.segment]


def test_a_merged_segment_with_fewer_rows_takes_the_place_of_a_larger_one(corpus: Corpus) -> None:
    corpus.add(*range(8))
    corpus.build()
    corpus.sql("UPDATE measurements SET approved = false WHERE websdr_id = 1")
    corpus.add(20)
    corpus.build()
    report = merge(corpus)
    assert (report.merged, report.rows, report.left_out) == (2, 19, 8)
    again = corpus.build()
    assert (again.up_to_date, again.version) == (True, report.version)


def test_coefficients_and_a_later_basis_are_merged_too(corpus: Corpus) -> None:
    spec = replace(SMALL, n_mfcc=7)
    grow(corpus, spec=spec)
    corpus.build(spec=spec, refit="always")
    merge(corpus)
    assert content(corpus.store.directory) == from_nothing(corpus, spec)


def test_a_merged_segment_gets_the_features_of_another_basis(grown: Corpus) -> None:
    """Two sets of the same rows, under two bases, become views of one segment."""
    first = merge(grown)
    for name in ("sets", "latest.json"):  # as if the merged segment were not known to the catalog's next build
        assert (grown.store.directory / name).exists()
    shutil.move(grown.store.directory / "specs" / SMALL.id / "segments" / first.segment, grown.store.directory.parent / "kept")
    report = grown.build(refit="always")
    assert len(open_set(grown.store.url).segments) == 4
    shutil.move(grown.store.directory.parent / "kept", grown.store.directory / "specs" / SMALL.id / "segments" / first.segment)
    second = merge(grown)
    assert (second.compacted, second.segment) == (report.version, first.segment)
    assert verify(grown.store.url).problems == verify(grown.store.url, first.version).problems == ()
    check(open_plainly(grown.store.directory), grown.captures())


def test_nothing_is_merged_twice(grown: Corpus) -> None:
    first = merge(grown)
    before = tree(grown.store.directory)
    for version in ("latest", first.compacted):
        again = merge(grown, version)
        assert (again.up_to_date, again.version, again.bytes_read, again.bytes_written) == (True, first.version, 0, 0)
        assert "nothing to merge" in next(again.lines())
    assert tree(grown.store.directory) == before


def test_latest_moves_only_with_the_set_it_names_and_tags_stay(corpus: Corpus) -> None:
    corpus.add(*range(8))
    corpus.build()
    corpus.add(20)
    old = corpus.build(tag="mine").version
    corpus.add(21)
    newest = corpus.build().version
    report = merge(corpus, "mine")
    assert report.compacted == old
    assert open_set(corpus.store.url).version == newest
    assert open_set(corpus.store.url, "mine").version == old
    assert len(open_set(corpus.store.url, report.version).segments) == 1


def test_a_dry_run_writes_nothing(grown: Corpus) -> None:
    before = tree(grown.store.directory)
    report = merge(grown, dry_run=True)
    assert tree(grown.store.directory) == before
    done = merge(grown)
    assert (done.version, done.bytes_to_read, done.bytes_written) == (
        report.version,
        report.bytes_to_read,
        report.bytes_written,
    )
    sizes = [8 * 3 * 24 * 8 * 4, 8 * 16, 8 * 3 * 24 * 8 * 2]
    assert report.chunks == 6
    assert report.bytes_written == 6 * sum(size * 7 // 8 for size in sizes)


def test_a_short_memory_costs_reads_and_changes_no_byte(grown: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(grown.store.directory, grown.store.directory.parent / "other")
    report = merge(grown)
    assert report.bytes_read == report.bytes_to_read
    monkeypatch.setattr(copying, "CACHE_BYTES", 0)
    other = replace(grown, store=Location.parse(str(grown.store.directory.parent / "other")))
    assert merge(other).bytes_read > report.bytes_to_read
    assert content(other.store.directory) == content(grown.store.directory)


def test_a_dask_process_writes_the_same_bytes(grown: Corpus) -> None:
    shutil.copytree(grown.store.directory, grown.store.directory.parent / "other")
    merge(grown)
    other = replace(grown, store=Location.parse(str(grown.store.directory.parent / "other")))
    merge(other, workers=1)
    assert content(other.store.directory) == content(grown.store.directory)


class Stop(Silent):
    """Interrupts after so many chunks."""

    def __init__(self, chunks: int) -> None:
        self.left = chunks

    def advance(self, units: int, n_bytes: int = 0) -> None:
        self.left -= units > 0
        if self.left < 0:
            raise KeyboardInterrupt


def test_an_interrupted_compaction_is_invisible_and_goes_on_where_it_was(grown: Corpus) -> None:
    version = open_set(grown.store.url).version
    with pytest.raises(KeyboardInterrupt):
        compact(CompactRequest(grown.store.url, workers=0), Stop(3))
    assert open_set(grown.store.url).version == version
    built = grown.build()
    assert (built.up_to_date, built.version) == (True, version)
    notes = len(list(grown.store.directory.rglob("parts/*.json")))
    assert notes == 4
    before = {path: path.stat().st_mtime_ns for path in grown.store.directory.rglob("logmel/c/*/0/0/0")}
    merge(grown)
    rewritten = [path for path, time in before.items() if path.stat().st_mtime_ns != time]
    assert rewritten == []
    assert content(grown.store.directory) == from_nothing(grown)


def test_a_damaged_source_stops_it_before_anything_is_published(grown: Corpus) -> None:
    opened = open_set(grown.store.url)
    for name in ("logmel", f"features-{opened.basis.id}"):
        chunk = grown.store.directory / opened.segments[1].path / name / "c/0/0/0/0"
        whole = chunk.read_bytes()
        chunk.write_bytes(whole[:100] + bytes([whole[100] ^ 1]) + whole[101:])
        with pytest.raises(StoreError, match=r"c/0/0/0/0 is damaged: its CRC-32C is"):
            merge(grown)
        assert open_set(grown.store.url).version == opened.version
        chunk.write_bytes(whole)
    merge(grown)
    assert verify(grown.store.url).problems == ()


def test_two_at_once_end_well_in_s3(bucket: str, catalog: str) -> None:
    corpus = Corpus(Location.parse(f"{bucket}/raw"), Location.parse(f"{bucket}/store"), catalog)
    corpus.add(*range(3))
    corpus.build()
    corpus.add(3)
    corpus.build()
    reports: list[CompactReport] = []
    threads = [threading.Thread(target=lambda: reports.append(merge(corpus))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(reports) == 2
    assert reports[0].version == reports[1].version == open_set(corpus.store.url).version
    assert verify(corpus.store.url).problems == ()
    assert corpus.build().up_to_date
    assert not list(open_objects(corpus.store.url).walk("removals"))


def test_the_command_says_what_it_did(grown: Corpus) -> None:
    arguments = ["features", "compact", "--store", grown.store.url, "--workers", "0"]
    preview = CliRunner().invoke(main, [*arguments, "--dry-run"])
    assert preview.exit_code == 0, preview.output
    assert "nothing is written" in preview.stdout
    assert "plan: 43 rows of 4 segments → 42 rows in 6 chunks" in preview.stderr
    done = CliRunner().invoke(main, [*arguments, "--json", "--quiet"])
    assert (done.exit_code, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert report["version"] == open_set(grown.store.url).version
    assert report["merged"] == 4
    again = CliRunner().invoke(main, arguments)
    assert "has nothing to merge" in again.stdout
