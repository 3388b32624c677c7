"""`features repair`: what is damaged for real comes back to the byte; what can't be is said, with the next step."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import independent
import pytest
from click.testing import CliRunner
from corpus_for_tests import SMALL, Corpus, session_id, tree
from damage_for_tests import flip, forge, segment_path, set_path, truncate

from cli import main
from featurestore import open_set
from featurestore.care.repair.repair import RepairRequest, repair
from featurestore.care.repair.report import Outcome, RepairReport
from featurestore.care.verify.deep import DeepCheck, DeepReport
from featurestore.care.verify.verify import verify
from featurestore.errors import StoreError
from featurestore.objects.objects import Location, open_objects
from featurestore.progress import Silent
from featurestore.store.segments import features_name
from featurestore.tensor.spec import SplitSpec

Damage = Callable[[Path], object]


@pytest.fixture
def corpus(tmp_path: Path, catalog: str, monkeypatch: pytest.MonkeyPatch) -> Corpus:
    """Two windows per capture, rejected rows, two segments of several chunks, two bases, three sets."""
    monkeypatch.setattr("featurestore.store.rows.CHUNK_ROWS", 8)
    (tmp_path / "raw").mkdir()
    raw, store = Location.parse(str(tmp_path / "raw")), Location.parse(str(tmp_path / "store"))
    corpus = Corpus(raw, store, catalog, replace(SMALL, windows_per_capture=2))
    corpus.add(*range(5))
    corpus.add(30, broken="silent")
    corpus.build(max_rejected_fraction=1.0)
    corpus.add(20, 21)
    corpus.add(31, broken="non_finite")
    corpus.build(max_rejected_fraction=1.0, refit="always", tag="mine")
    return corpus


def mend(corpus: Corpus, **changes: object) -> RepairReport:
    request = RepairRequest(corpus.store, "latest", corpus.raw, corpus.catalog)
    return repair(replace(request, **changes), Silent())  # type: ignore[arg-type]  # any field of the request


def bring_back(corpus: Corpus, path: str, damage: Damage) -> Outcome:
    """Damage one object, repair it, and compare the store with what it was, to the byte."""
    file = corpus.store.directory / path
    before = tree(corpus.store.directory)
    damage(file)
    assert tree(corpus.store.directory) != before
    report = mend(corpus)
    (outcome,) = report.outcomes
    assert (outcome.url, outcome.repaired) == (f"{corpus.store}/{path}", True), outcome
    assert tree(corpus.store.directory) == before, path
    report.require_sound()
    return outcome


def stays_damaged(corpus: Corpus, path: str, damage: Damage, **changes: object) -> str:
    """Damage one object that can't be repaired, and put it back; what is said of it."""
    file = corpus.store.directory / path
    before = tree(corpus.store.directory)
    damage(file)
    damaged = tree(corpus.store.directory)
    report = mend(corpus, **changes)
    assert tree(corpus.store.directory) == damaged  # nothing is written
    found = {outcome.url: outcome for outcome in report.outcomes}[f"{corpus.store}/{path}"]
    assert not found.repaired
    with pytest.raises(StoreError, match="could not be repaired"):
        report.require_sound()
    file.write_bytes(before[path])
    return found.how


def test_chunks_of_tensors_come_back(corpus: Corpus) -> None:
    """A flipped bit, a truncated chunk and a deleted one; of log-mel, of content, of features of a first and a later basis."""
    opened = open_set(corpus.store.url)
    features = features_name(opened.basis.id)
    promised = "; its CRC-32C is the promised one"
    for index, array, key, damage, problem, how in (
        (0, "logmel", "c/1/0/0/0", flip, "damaged", "computed from IQ again"),
        (0, "logmel", "c/0/0/0/0", truncate, "truncated", "computed from IQ again"),
        (1, "logmel", "c/1/0/0/0", Path.unlink, "missing", "computed from IQ again"),
        (0, "content", "c/3/0", flip, "damaged", "made again from log-mel"),
        (0, features, "c/4/0/0/0", flip, "damaged", "normalized from log-mel again"),
        (0, features, "c/1/0/0/0", truncate, "truncated", "normalized from log-mel again"),
        (1, features, "c/1/0/0/0", Path.unlink, "missing", "normalized from log-mel again"),
    ):
        outcome = bring_back(corpus, f"{segment_path(corpus, index)}/{array}/{key}", damage)
        assert (outcome.problem, outcome.how) == (problem, how + promised)


def test_labels_come_back_from_the_catalog(corpus: Corpus) -> None:
    """Approvals that were withdrawn, and captures that were approved since, do not hinder it."""
    corpus.sql("UPDATE measurements SET approved = FALSE WHERE id % 4 = 0")
    corpus.add(40)
    path = set_path(corpus)
    for name in ("position/c/0/0", "snr_db/c/0", "frequency_mhz/c/0", "timestamp/c/0"):
        assert "made again from the catalog; its CRC-32C" in bring_back(corpus, f"{path}/{name}", flip).how
    assert "from sessions and the split's parameters" in bring_back(corpus, f"{path}/split/c/0", Path.unlink).how


def test_a_deleted_label_array_comes_back_and_so_do_all_of_them(corpus: Corpus) -> None:
    before = tree(corpus.store.directory)
    path = corpus.store.directory / set_path(corpus)
    shutil.rmtree(path / "snr_db")
    report = mend(corpus)
    assert {outcome.url.removeprefix(f"{path.as_uri()}/") for outcome in report.outcomes} == {"snr_db/zarr.json", "snr_db/c/0"}
    assert tree(corpus.store.directory) == before
    for name in ("split", "position", "snr_db", "frequency_mhz", "timestamp"):
        shutil.rmtree(path / name)
    (path / "rejected.json").unlink()
    report = mend(corpus)
    assert (len(report.outcomes), report.sound) == (11, True)
    assert tree(corpus.store.directory) == before


def test_splits_by_region_and_by_fold_come_back(corpus: Corpus) -> None:
    for split in (SplitSpec(by="region", region_degrees=0.02, val_fraction=0.3), SplitSpec(fold=(1, 3))):
        corpus.build(max_rejected_fraction=1.0, split=split)
        bring_back(corpus, f"{set_path(corpus)}/split/c/0", flip)
        before = tree(corpus.store.directory)
        for name in ("split", "position"):
            shutil.rmtree(corpus.store.directory / set_path(corpus) / name)
        assert mend(corpus).sound
        assert tree(corpus.store.directory) == before


def test_facts_of_rows_come_back_one_column_or_several(corpus: Corpus) -> None:
    path = segment_path(corpus)
    for name in ("capture_id/c/0", "window/c/0", "session_id/c/0/0", "websdr_id/c/0", "source_digest/c/0/0"):
        assert "the segment's name proves it" in bring_back(corpus, f"{path}/{name}", flip).how
    assert "segment.json" in bring_back(corpus, f"{path}/reason/c/0", flip).how
    before = tree(corpus.store.directory)
    for lost in (("capture_id", "window", "session_id", "websdr_id"), ("session_id", "window", "source_digest", "reason")):
        for name in lost:
            shutil.rmtree(corpus.store.directory / path / name)
        assert mend(corpus).sound
        assert tree(corpus.store.directory) == before


def test_metadata_comes_back(corpus: Corpus) -> None:
    opened = open_set(corpus.store.url)
    path, basis = segment_path(corpus), f"specs/{corpus.spec.id}/bases/{opened.basis.id}"
    for array in ("logmel", "content", features_name(opened.basis.id), "capture_id", "session_id", "reason"):
        bring_back(corpus, f"{path}/{array}/zarr.json", truncate)
    for array in (f"{set_path(corpus)}/position", f"{basis}/mean", f"{basis}/std", path):
        bring_back(corpus, f"{array}/zarr.json", Path.unlink)

    def spoil_the_copy(group: Path) -> None:
        """Of an array's metadata, in its group; the array is called damaged, and the group is what is written."""
        group.write_text(group.read_text().replace('"float32"', '"float16"', 1))

    before = tree(corpus.store.directory)
    spoil_the_copy(corpus.store.directory / path / "zarr.json")
    (outcome,) = mend(corpus).outcomes
    assert outcome.url.endswith("/logmel/zarr.json")
    assert "its copy in the zarr.json one level up" in outcome.how
    assert tree(corpus.store.directory) == before


def test_markers_come_back_without_the_details_of_rejections(corpus: Corpus) -> None:
    path = segment_path(corpus)
    bring_back(corpus, f"{path}/{features_name(open_set(corpus.store.url).basis.id)}.json", truncate)
    file = corpus.store.directory / path / "segment.json"
    before = json.loads(file.read_text())
    assert before["rejected"]
    for damage in (truncate, Path.unlink, lambda path: path.write_text(path.read_text().replace('"logmel"', '"logmal"'))):
        damage(file)
        (outcome,) = mend(corpus).outcomes
        assert outcome.repaired
        assert "but not the details" in outcome.how
        after = json.loads(file.read_text())
        assert [row[:2] for row in after["rejected"]] == [row[:2] for row in before["rejected"]]
        assert {**after, "rejected": 0} == {**before, "rejected": 0}  # features of the first basis included
    flip(corpus.store.directory / path / "logmel/c/0/0/0/0")
    file.unlink()
    report = mend(corpus)
    assert report.sound
    assert "it agrees with the chunk's features-" in " ".join(outcome.how for outcome in report.outcomes)
    assert json.loads(file.read_text())["chunks"] == before["chunks"]


def test_a_marker_is_not_made_of_chunks_that_do_not_belong_together(corpus: Corpus) -> None:
    path = corpus.store.directory / segment_path(corpus)
    (path / "segment.json").unlink()
    shutil.copy(path / "logmel/c/0/0/0/0", path / "logmel/c/1/0/0/0")
    (outcome,) = mend(corpus).outcomes
    assert not outcome.repaired
    assert "do not belong together" in outcome.how


def test_a_segment_whose_marker_is_lost_with_what_it_vouched_for_is_built_again(corpus: Corpus) -> None:
    """The next step that is named; features of the other basis are repaired with the set that needs them."""
    old = min((json.loads(path.read_text()) for path in (corpus.store.directory / "sets").glob("*/zarr.json")), key=created)
    before = tree(corpus.store.directory)
    path = corpus.store.directory / segment_path(corpus)
    for chunk in [path / "logmel/c/0/0/0/0", *path.glob("features-*/c/0/0/0/0")]:
        flip(chunk)
    (path / "segment.json").unlink()
    hows = [outcome.how for outcome in mend(corpus).outcomes if not outcome.repaired]
    assert any("the checksum that it had is lost, and no intact features" in how for how in hows)
    assert any("delete segment.json, and build-features computes the segment again" in how for how in hows)
    corpus.build(max_rejected_fraction=1.0)
    assert verify(corpus.store.url).problems == ()
    assert mend(corpus, version=old["attributes"]["version"]).sound
    after = tree(corpus.store.directory)
    changed = {name.rpartition("/")[2] for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    later = f"{features_name(old['attributes']['basis'])}.json"
    assert changed == {"segment.json", "zarr.json", later}


def test_mean_and_std_come_back(corpus: Corpus) -> None:
    """Of the later basis, and of the first, whose group says that it came from an older set."""
    old = min((json.loads(path.read_text()) for path in (corpus.store.directory / "sets").glob("*/zarr.json")), key=created)
    for version in ("latest", old["attributes"]["version"]):
        path = corpus.store.directory / f"specs/{corpus.spec.id}/bases/{open_set(corpus.store.url, version).basis.id}"
        before = tree(corpus.store.directory)
        flip(path / "mean/c/0/0")
        (path / "std/c/0/0").unlink()
        report = mend(corpus, version=version)
        assert [outcome.how for outcome in report.outcomes] == [
            f"fitted again from the train rows of set {report.version}; the basis's name proves it"
        ] * 2
        assert tree(corpus.store.directory) == before
        origin = json.loads((path / "zarr.json").read_text())["attributes"]
        (path / "zarr.json").unlink()
        assert mend(corpus, version=version).sound
        found = json.loads((path / "zarr.json").read_text())["attributes"]
        assert found.pop("created") > origin.pop("created")
        assert found == origin


def created(group: dict[str, dict[str, str]]) -> str:
    return group["attributes"]["created"]


def test_much_damage_at_once_comes_back(corpus: Corpus) -> None:
    """A basis, and log-mel that it came from; features of both; facts and labels."""
    opened = open_set(corpus.store.url)
    before = tree(corpus.store.directory)
    path, root = segment_path(corpus), corpus.store.directory
    features = features_name(opened.basis.id)
    for name in ("logmel/c/0/0/0/0", "content/c/0/0", f"{features}/c/0/0/0/0", f"{features}/c/1/0/0/0", "window/c/0"):
        flip(root / path / name)
    flip(root / f"specs/{corpus.spec.id}/bases/{opened.basis.id}/mean/c/0/0")
    (root / set_path(corpus) / "split/c/0").unlink()
    shutil.rmtree(root / path / "logmel")
    report = mend(corpus, dry_run=True)
    assert report.sound
    assert not (root / path / "logmel").exists()
    assert mend(corpus) == replace(report, dry_run=False)
    assert tree(root) == before
    independent.check_statistics(independent.open_plainly(root))


def test_recordings_that_are_gone_or_replaced_are_named(corpus: Corpus) -> None:
    path = f"{segment_path(corpus)}/logmel/c/1/0/0/0"
    held = open_set(corpus.store.url).fact("capture_id")[8:16]
    victim = next(key for key in corpus.records if key[0] < 5 and corpus_id(corpus, *key) in held)
    file = corpus.raw.directory / corpus.key(*victim)
    content, times = file.read_bytes(), file.stat()
    how = stays_damaged(corpus, path, flip, raw=None)
    assert "--raw" in how
    for replaced in (False, True):
        file.unlink(missing_ok=True)
        if replaced:
            corpus.replace(*victim)
        how = stays_damaged(corpus, path, flip)
        assert f"of 1 of its captures are gone, or were replaced or written anew since ({corpus_id(corpus, *victim)})" in how
        assert "restore this object from a copy of the store" in how
    file.write_bytes(content)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    bring_back(corpus, path, flip)  # the next step that was named


def corpus_id(corpus: Corpus, session: int, receiver: int) -> int:
    ids = {(entry[1], entry[2]): capture for capture, entry in corpus.captures().items()}
    return ids[session_id(session), receiver]


def test_labels_that_changed_since_are_not_invented(corpus: Corpus) -> None:
    path = f"{set_path(corpus)}/snr_db/c/0"
    corpus.sql("UPDATE measurements SET snr_db = snr_db + 1 WHERE id = 3")
    assert "which rows differ can't be known" in stays_damaged(corpus, path, flip)
    corpus.sql("DELETE FROM measurements WHERE id = 3")
    assert "the catalog no longer holds the captures of 2 of its" in stays_damaged(corpus, path, flip)
    corpus.sql("DROP TABLE measurements")
    assert "create the table" in stays_damaged(corpus, path, flip)


def test_the_list_of_rejected_captures_comes_back(corpus: Corpus) -> None:
    path = f"{set_path(corpus)}/rejected.json"
    assert "by the set's version" in bring_back(corpus, path, Path.unlink).how
    corpus.sql("UPDATE measurements SET snr_db = snr_db + 1 WHERE id = 3")
    assert "as many are rejected as the manifest states" in bring_back(corpus, path, truncate).how
    corpus.sql("UPDATE measurements SET latitude = 200 WHERE id = 3")
    assert "catalog and recordings have changed since" in stays_damaged(corpus, path, truncate)


def test_log_mel_of_another_machine_is_replaced_if_its_features_agree_and_it_is_said(corpus: Corpus) -> None:
    before = tree(corpus.store.directory)
    path = forge(corpus, "logmel", 1, 1e-4)
    flip(corpus.store.directory / path)
    report = mend(corpus)
    (outcome,) = report.outcomes
    assert outcome.repaired
    assert "its bits are not those it had" in outcome.how
    assert "segment.json now says so" in outcome.how
    assert tree(corpus.store.directory) == before  # as this machine had computed it, marker included
    features = forge(corpus, features_name(open_set(corpus.store.url).basis.id), 1, 0.25)
    flip(corpus.store.directory / features)
    (outcome,) = mend(corpus).outcomes
    assert "which has other bits than before" in outcome.how
    assert tree(corpus.store.directory) == before
    assert verify(corpus.store.url).problems == ()


def test_log_mel_that_nothing_proves_is_not_written(corpus: Corpus) -> None:
    path = forge(corpus, "logmel", 1, 1e-4)
    names = [file.name for file in (corpus.store.directory / segment_path(corpus)).glob("features-*") if file.is_dir()]
    assert len(names) == 2
    forged = [forge(corpus, name, 1, 1) for name in names]  # as other code would have made them
    assert "was computed by other code" in stays_damaged(corpus, path, flip)
    for key in forged:
        (corpus.store.directory / key).unlink()
    assert "numpy and scipy are those that wrote it (python " in stays_damaged(corpus, path, flip)


def test_an_interrupted_repair_is_repeated(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    before = tree(corpus.store.directory)
    path = segment_path(corpus)
    for chunk in (0, 2, 4):
        flip(corpus.store.directory / path / f"logmel/c/{chunk}/0/0/0")
    written: list[str] = []
    put = open_objects(corpus.store.url).put

    def interrupted(key: str, data: bytes, *, create: bool = False) -> bool:
        if written:
            raise KeyboardInterrupt
        written.append(key)
        return put(key, data, create=create)

    with monkeypatch.context() as patch:
        patch.setattr(open_objects(corpus.store.url), "put", interrupted)
        with pytest.raises(KeyboardInterrupt):
            mend(corpus)
    assert len(verify(corpus.store.url).problems) == 2
    report = mend(corpus)
    assert (len(report.outcomes), report.sound) == (2, True)
    assert tree(corpus.store.directory) == before


def test_build_features_writes_spec_and_manifest_again(corpus: Corpus) -> None:
    """The next step that repair names for both."""
    spec, manifest = f"specs/{corpus.spec.id}/spec.json", f"{set_path(corpus)}/zarr.json"
    before = tree(corpus.store.directory)
    for damage in (flip, truncate, Path.unlink):
        damage(corpus.store.directory / spec)
        (outcome,) = mend(corpus).outcomes
        assert (outcome.repaired, "build-features with the same parameters" in outcome.how) == (False, True)
        corpus.build(max_rejected_fraction=1.0)
        assert tree(corpus.store.directory) == before
    for damage in (lambda path: path.write_text(path.read_text().replace("schema", "schemer")), truncate, Path.unlink):
        damage(corpus.store.directory / manifest)
        if (corpus.store.directory / manifest).exists():
            (outcome,) = mend(corpus).outcomes
            assert "publishes this version again" in outcome.how
        assert not corpus.build(max_rejected_fraction=1.0).up_to_date
        assert verify(corpus.store.url).problems == ()
        after = tree(corpus.store.directory)
        assert {name for name in before if before[name] != after[name]} == {manifest}
        assert open_set(corpus.store.url).manifest.parent is None  # latest names this version itself


def test_damaged_pointers_are_deleted_and_written_again(corpus: Corpus) -> None:
    """The next steps that their error names."""
    before, version = tree(corpus.store.directory), open_set(corpus.store.url).version
    latest, tag = corpus.store.directory / "latest.json", corpus.store.directory / "tags/mine.json"
    truncate(latest)
    truncate(tag)
    for name in ("latest", "mine"):
        with pytest.raises(StoreError, match="names no version"):
            mend(corpus, version=name)
    with pytest.raises(StoreError, match="delete it, then build again"):
        corpus.build(max_rejected_fraction=1.0)
    latest.unlink()
    corpus.build(max_rejected_fraction=1.0)
    arguments = ["features", "tag", version, "mine", "--store", corpus.store.url]
    assert "delete it, then name the version again with 'features tag'" in CliRunner().invoke(main, arguments).stderr
    tag.unlink()
    assert CliRunner().invoke(main, arguments).exit_code == 0
    assert tree(corpus.store.directory) == before


def test_a_sound_set_needs_no_repair_and_the_command_says_what_it_did(corpus: Corpus) -> None:
    arguments = [
        "features",
        "repair",
        "mine",
        "--store",
        corpus.store.url,
        "--raw",
        corpus.raw.url,
        "--catalog",
        corpus.catalog,
    ]
    result = CliRunner().invoke(main, [*arguments, "--quiet"])
    assert (result.exit_code, result.stderr) == (0, "")
    assert "0 objects damaged" in result.stdout
    path = f"{segment_path(corpus)}/logmel/c/1/0/0/0"
    flip(corpus.store.directory / path)
    result = CliRunner().invoke(main, [*arguments, "--dry-run"])
    assert result.exit_code == 0
    assert "dry run: nothing was written" in result.stdout
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0
    assert f"repaired  {corpus.store}/{path}" in result.stdout.splitlines()
    (corpus.store.directory / path).unlink()
    (corpus.store.directory / set_path(corpus) / "snr_db/c/0").unlink()
    nowhere = [*arguments[:-1], "postgresql://127.0.0.1:1/none", "--json", "--quiet"]
    result = CliRunner().invoke(main, nowhere)
    report = json.loads(result.stdout)
    label, tensors = report["outcomes"]
    assert (result.exit_code, report["sound"], tensors["repaired"], label["repaired"]) == (1, False, True, False)
    assert (label["problem"], "PostgreSQL 127.0.0.1:1/none does not answer" in label["how"]) == ("missing", True)
    assert result.stderr.startswith("error: 1 of 2 damaged objects")


def test_damage_in_s3_comes_back(bucket: str, catalog: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("featurestore.store.rows.CHUNK_ROWS", 8)
    corpus = Corpus(Location.parse(f"{bucket}/raw"), Location.parse(f"{bucket}/store"), catalog)
    corpus.add(*range(6))
    corpus.sql("UPDATE measurements SET iq_key = 'elsewhere/' || id || '.npy' WHERE id < 4")
    for i, (session, receiver) in enumerate(list(corpus.records)[:3], 1):
        corpus.objects().put(f"elsewhere/{i}.npy", corpus.objects().get(corpus.key(session, receiver)))
    corpus.build()
    objects, opened = open_objects(corpus.store.url), open_set(corpus.store.url)
    before = {info.key: objects.get(info.key) for info in objects.walk()}
    path, features = segment_path(corpus), features_name(opened.basis.id)
    flipped = bytearray(objects.get(f"{path}/logmel/c/0/0/0/0"))
    flipped[100] ^= 1
    objects.put(f"{path}/logmel/c/0/0/0/0", flipped)
    objects.put(f"{path}/logmel/c/1/0/0/0", objects.get(f"{path}/logmel/c/1/0/0/0")[:-9])
    objects.delete([f"{path}/logmel/c/2/0/0/0", f"{path}/{features}/c/2/0/0/0", f"{set_path(corpus)}/position/c/0/0"])
    objects.delete([f"{path}/source_digest/c/0/0", f"{path}/logmel/zarr.json", f"{path}/zarr.json"])
    damaged = {info.key: objects.get(info.key) for info in objects.walk()}
    report = mend(corpus, dry_run=True)
    assert (len(report.outcomes), report.sound) == (8, True)
    assert {info.key: objects.get(info.key) for info in objects.walk()} == damaged
    assert mend(corpus) == replace(report, dry_run=False)
    assert {info.key: objects.get(info.key) for info in objects.walk()} == before
    deep = verify(corpus.store.url, deep=DeepCheck(corpus.raw, rows=10)).deep
    assert isinstance(deep, DeepReport)
    assert (deep.rows, deep.largest_db, deep.not_found) == (10, 0.0, ())
