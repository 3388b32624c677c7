"""`features verify`: damage done for real, on files and in S3, is found and named; a sound set is called sound."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from corpus_for_tests import SMALL, Corpus, tree
from damage_for_tests import flip, segment_path, set_path, truncate

from cli import main
from featurestore import open_set
from featurestore.care.verify.inspection import Problem
from featurestore.care.verify.verify import Verification, verify
from featurestore.errors import StoreError, UsageError
from featurestore.objects.objects import Location, open_objects


@pytest.fixture
def corpus(tmp_path: Path, catalog: str, monkeypatch: pytest.MonkeyPatch) -> Corpus:
    """Captures on files, and two segments of several chunks."""
    monkeypatch.setattr("featurestore.store.rows.CHUNK_ROWS", 8)
    (tmp_path / "raw").mkdir()
    raw, store = Location.parse(str(tmp_path / "raw")), Location.parse(str(tmp_path / "store"))
    corpus = Corpus(raw, store, catalog)
    corpus.add(*range(8))
    corpus.build()
    corpus.add(20, 21)
    corpus.build(refit="always", tag="mine")
    return corpus


def empty(path: Path) -> None:
    path.write_bytes(b"")


def edit(old: str, new: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return change


def damaged(corpus: Corpus, path: str, damage: Callable[[Path], object]) -> Problem:
    """Damage one object, and put it back; the one problem that is found meanwhile."""
    file = corpus.store.directory / path
    before = file.read_bytes()
    damage(file)
    found = verify(corpus.store.url)
    file.write_bytes(before)
    assert [problem.url for problem in found.problems] == [f"{corpus.store}/{path}"], path
    with pytest.raises(StoreError, match=r"^1 of .* run 'features repair', or restore "):
        found.require_sound()
    return found.problems[0]


def test_a_sound_set_is_called_sound_and_nothing_is_written(corpus: Corpus) -> None:
    before = tree(corpus.store.directory)
    found = verify(corpus.store.url, "mine")
    assert found.problems == ()
    found.require_sound()
    opened = open_set(corpus.store.url)
    needed = {
        name: content
        for name, content in before.items()
        if name.startswith(
            (f"sets/{opened.version}/", f"specs/{SMALL.id}/spec.json", f"specs/{SMALL.id}/bases/{opened.basis.id}")
        )
        or (any(name.startswith(segment.path) for segment in opened.segments) and "features-" not in name)
        or f"features-{opened.basis.id}" in name
    }
    assert found.objects == len(needed)
    assert found.bytes == sum(map(len, needed.values()))
    assert tree(corpus.store.directory) == before


def test_damage_to_a_chunk_is_found_and_the_captures_it_holds_are_named(corpus: Corpus) -> None:
    opened = open_set(corpus.store.url)
    captures = tuple(sorted(opened.fact("capture_id")[8:16].tolist()))
    for array in ("logmel", f"features-{opened.basis.id}"):
        for damage, kind, detail in (
            (flip, "damaged", "its CRC-32C is"),
            (truncate, "truncated", "bytes, expected"),
            (Path.unlink, "missing", "no such object"),
        ):
            problem = damaged(corpus, f"{segment_path(corpus)}/{array}/c/1/0/0/0", damage)
            assert (problem.kind, problem.captures) == (kind, captures)
            assert detail in problem.detail


def test_a_chunk_that_fits_its_own_checksum_but_not_the_markers_is_found(corpus: Corpus) -> None:
    """As after a restore of the wrong file."""
    other = (corpus.store.directory / segment_path(corpus) / "logmel/c/0/0/0/0").read_bytes()
    path = f"{segment_path(corpus)}/logmel/c/1/0/0/0"
    assert damaged(corpus, path, lambda file: file.write_bytes(other)).kind == "damaged"


def test_damage_to_a_small_array_is_found(corpus: Corpus) -> None:
    labels = ["split/c/0", "position/c/0/0", "snr_db/c/0", "frequency_mhz/c/0", "timestamp/c/0"]
    facts = ["capture_id/c/0", "window/c/0", "session_id/c/0/0", "websdr_id/c/0", "source_digest/c/0/0", "reason/c/0"]
    basis = f"specs/{SMALL.id}/bases/{open_set(corpus.store.url).basis.id}"
    for path in (
        *(f"{set_path(corpus)}/{name}" for name in labels),
        *(f"{segment_path(corpus)}/{name}" for name in facts),
        *(f"{basis}/{name}/c/0/0" for name in ("mean", "std")),
    ):
        for damage, kind in ((flip, "damaged"), (truncate, "truncated"), (Path.unlink, "missing")):
            assert damaged(corpus, path, damage).kind == kind


def test_a_deleted_label_array_is_found(corpus: Corpus) -> None:
    path = f"{set_path(corpus)}/snr_db"
    shutil.rmtree(corpus.store.directory / path)
    (found,) = verify(corpus.store.url).problems
    assert (found.kind, found.url) == ("missing", f"{corpus.store}/{path}/zarr.json")


def test_a_damaged_marker_is_found(corpus: Corpus) -> None:
    basis = open_set(corpus.store.url).basis.id
    for path in (f"{segment_path(corpus, 0)}/segment.json", f"{segment_path(corpus, 1)}/segment.json"):
        for damage, kind in (
            (edit("}", ""), "damaged"),
            (edit('"rows": ', '"rows": 1'), "damaged"),
            (edit('"logmel"', '"logmal"'), "damaged"),
            (edit('"chunk_rows": ', '"chunk_rows": 0.'), "damaged"),
            (empty, "truncated"),
            (Path.unlink, "missing"),
        ):
            assert damaged(corpus, path, damage).kind == kind
    later = f"{segment_path(corpus)}/features-{basis}.json"  # of the basis that was fitted when the segment was complete
    for damage, kind in ((edit('"chunks"', '"hunks"'), "damaged"), (empty, "truncated"), (Path.unlink, "missing")):
        assert damaged(corpus, later, damage).kind == kind


def test_damaged_metadata_is_found(corpus: Corpus) -> None:
    opened = open_set(corpus.store.url)
    basis = f"specs/{SMALL.id}/bases/{opened.basis.id}"
    features = f"{segment_path(corpus)}/features-{opened.basis.id}"
    for path in (f"{segment_path(corpus)}/logmel", f"{segment_path(corpus)}/capture_id", f"{set_path(corpus)}/split"):
        assert damaged(corpus, f"{path}/zarr.json", edit("row", "low")).kind == "damaged"
    for path in (f"{segment_path(corpus)}/logmel", features, segment_path(corpus), basis, f"{basis}/std", set_path(corpus)):
        for damage, kind in ((edit("{", ""), "damaged"), (empty, "truncated"), (Path.unlink, "missing")):
            assert damaged(corpus, f"{path}/zarr.json", damage).kind == kind
    assert damaged(corpus, f"{features}/zarr.json", edit("24", "25")).kind == "damaged"
    assert damaged(corpus, f"{features}/zarr.json", edit("float16", "float17")).kind == "damaged"


def test_damage_to_the_spec_is_found(corpus: Corpus) -> None:
    for damage, kind in (
        (edit("256", "512"), "damaged"),
        (edit("n_fft", "m_fft"), "damaged"),
        (edit("{", ""), "damaged"),
        (Path.unlink, "missing"),
    ):
        assert damaged(corpus, f"specs/{SMALL.id}/spec.json", damage).kind == kind


def test_a_damaged_manifest_is_found(corpus: Corpus) -> None:
    for old, new in (
        ('"schema": 1', '"schema": 9'),
        ('"train"', '"drain"'),
        ('"train": ', '"train": 1'),
        ('"rejected": {}', '"rejected": 2'),
        ('"snr_db": [', '"snr_dB": ['),
        ('"rows": ', '"rows": 1'),
        ('"consolidated_metadata"', '"consolidated"'),
    ):
        assert damaged(corpus, f"{set_path(corpus)}/zarr.json", edit(old, new)).kind == "damaged"


def test_a_list_of_rejected_captures_that_lost_one_is_found(corpus: Corpus) -> None:
    corpus.add(30, broken="silent")
    corpus.build(max_rejected_fraction=1.0)

    def shorten(path: Path) -> None:
        path.write_text(json.dumps(json.loads(path.read_text())[1:]))

    assert damaged(corpus, f"{set_path(corpus)}/rejected.json", shorten).kind == "damaged"


def test_all_damage_is_named_in_one_run_and_the_command_exits_with_1(corpus: Corpus) -> None:
    root, path = corpus.store.directory, segment_path(corpus)
    label = f"{set_path(corpus)}/split/c/0"
    flip(root / path / "logmel/c/0/0/0/0")
    truncate(root / path / "logmel/c/2/0/0/0")
    (root / label).unlink()
    arguments = ["features", "verify", "mine", "--store", corpus.store.url]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 1
    table = [line.split() for line in result.stdout.splitlines()]
    assert ["damaged", "8", f"{corpus.store}/{path}/logmel/c/0/0/0/0"] in table
    assert ["truncated", "8", f"{corpus.store}/{path}/logmel/c/2/0/0/0"] in table
    assert ["missing", "-", f"{corpus.store}/{label}"] in table
    assert result.stderr.splitlines()[-1].startswith("error: 3 of ")
    report = json.loads(CliRunner().invoke(main, [*arguments, "--json", "--quiet"]).stdout)
    assert (report["sound"], len(report["problems"])) == (False, 3)


def test_after_a_restore_and_in_a_new_store_all_is_sound(corpus: Corpus, tmp_path: Path) -> None:
    """The next steps that the error names."""
    file = corpus.store.directory / segment_path(corpus) / "logmel/c/1/0/0/0"
    before = file.read_bytes()
    flip(file)
    with pytest.raises(StoreError, match="run 'features repair', or restore those listed from a copy of the store"):
        verify(corpus.store.url).require_sound()
    other = Location.parse(str(tmp_path / "other"))
    corpus.build(store=other)
    assert verify(other.url).problems == ()
    file.write_bytes(before)
    assert verify(corpus.store.url).problems == ()


def test_a_sound_set_exits_with_0_and_an_unknown_one_with_2(corpus: Corpus) -> None:
    result = CliRunner().invoke(main, ["features", "verify", "--store", corpus.store.url, "--quiet"])
    assert (result.exit_code, result.stderr) == (0, "")
    assert "every object is there and intact" in result.stdout
    with pytest.raises(UsageError, match="no feature set or tag 'other'"):
        verify(corpus.store.url, "other")


def test_damage_in_s3_is_found(bucket: str, catalog: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("featurestore.store.rows.CHUNK_ROWS", 8)
    corpus = Corpus(Location.parse(f"{bucket}/raw"), Location.parse(f"{bucket}/store"), catalog)
    corpus.add(*range(8))
    corpus.build()
    assert isinstance(sound := verify(corpus.store.url), Verification)
    assert sound.problems == ()
    objects, opened = open_objects(corpus.store.url), open_set(corpus.store.url)
    path, features = segment_path(corpus), f"features-{opened.basis.id}"
    flipped = bytearray(objects.get(f"{path}/logmel/c/0/0/0/0"))
    flipped[100] ^= 1
    objects.put(f"{path}/logmel/c/0/0/0/0", flipped)
    objects.put(f"{path}/logmel/c/1/0/0/0", objects.get(f"{path}/logmel/c/1/0/0/0")[:-9])
    objects.delete([f"{path}/{features}/c/2/0/0/0", f"{set_path(corpus)}/position/c/0/0"])
    found = {problem.url.removeprefix(f"{corpus.store}/"): problem.kind for problem in verify(corpus.store.url).problems}
    assert found == {
        f"{path}/logmel/c/0/0/0/0": "damaged",
        f"{path}/logmel/c/1/0/0/0": "truncated",
        f"{path}/{features}/c/2/0/0/0": "missing",
        f"{set_path(corpus)}/position/c/0/0": "missing",
    }
