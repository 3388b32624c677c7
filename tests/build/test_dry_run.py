"""`build-features --dry-run`: what it promises is what the build then does, and it writes nothing."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from corpus_for_tests import SMALL, Corpus, tree

from cli import main
from featurestore import open_set
from featurestore.build.build import build
from featurestore.build.dry_run import COMPARABLE, Preview, estimate_seconds, preview
from featurestore.build.publish import BuildReport
from featurestore.errors import DataQualityError, HeimdallError
from featurestore.objects.objects import Location, open_objects
from featurestore.progress import Silent
from featurestore.store.sets import read_manifest
from featurestore.tensor.spec import SplitSpec


@pytest.fixture
def corpus(tmp_path: Path, catalog: str, monkeypatch: pytest.MonkeyPatch) -> Corpus:
    monkeypatch.setattr("featurestore.store.rows.CHUNK_ROWS", 8)
    (tmp_path / "raw").mkdir()
    return Corpus(Location.parse(str(tmp_path / "raw")), Location.parse(str(tmp_path / "store")), catalog)


@dataclass
class Witness:
    """A progress reporter that notes the rows of every stage, and can stop the build after some of them."""

    stop_after: int | None = None
    totals: dict[str, int] = field(default_factory=dict)
    advanced: int = 0

    def start(self, stage: str, total: int, unit: str) -> None:
        self.totals[stage] = total
        self.advanced = 0

    def advance(self, units: int, n_bytes: int = 0) -> None:
        self.advanced += units
        if "compute tensors" in self.totals and self.stop_after is not None and self.advanced >= self.stop_after:
            raise KeyboardInterrupt

    def say(self, line: str) -> None: ...


def chunk_files(corpus: Corpus, array: str) -> set[str]:
    return {name for name in tree(corpus.store.directory) if f"/{array}" in name and "/c/" in name}


def promised_and_done(corpus: Corpus, **changes: object) -> tuple[Preview, BuildReport]:
    """A dry run, which writes nothing, and the build; everything promised is compared with what was done."""
    there = tree(corpus.store.directory) if corpus.store.directory.exists() else {}
    promised = preview(corpus.request(**changes), Silent())
    assert (tree(corpus.store.directory) if corpus.store.directory.exists() else {}) == there
    chunks, features = chunk_files(corpus, "logmel"), chunk_files(corpus, "features-")
    stages = Witness()
    done = build(corpus.request(**changes), stages)
    assert promised.captures == done.captures
    assert promised.reused + promised.resumed == done.reused
    assert promised.bytes_to_read >= done.bytes_read
    assert len(chunk_files(corpus, "logmel") - chunks) == promised.chunks
    assert len(chunk_files(corpus, "features-") - features) == promised.chunks + promised.chunks_to_normalize
    assert promised.captures_reused + promised.captures_to_compute + sum(
        (*promised.rejected_by_listing.values(), *promised.rejected_before.values())
    ) == len(corpus.captures() if changes.get("limit") is None else range(done.captures))
    found_later = sum(done.rejected.values()) - sum((promised.rejected_by_listing | promised.rejected_before).values())
    assert done.computed == promised.to_compute - found_later * corpus.spec.windows_per_capture
    assert promised.version in (None, done.version)
    assert promised.up_to_date == done.up_to_date
    return promised, done


def test_first_build_more_captures_and_nothing_new(corpus: Corpus) -> None:
    corpus.add(*range(10))
    corpus.add(10, broken="silent")
    first, _ = promised_and_done(corpus, max_rejected_fraction=0.2)
    assert (first.captures_to_compute, first.chunks, first.seconds, first.parent) == (33, 5, None, None)

    corpus.add(11)
    corpus.add(12, broken="missing_object")
    second, done = promised_and_done(corpus, max_rejected_fraction=0.2)
    assert (second.rejected_by_listing, second.rejected_before) == ({"missing_object": 3}, {"silent": 3})
    assert (second.captures_reused, second.captures_to_compute, second.reused) == (30, 3, 30)
    assert second.basis.startswith("kept, basis ")
    assert second.seconds is not None

    third, _ = promised_and_done(corpus, max_rejected_fraction=0.2)
    assert third.up_to_date
    assert (third.to_compute, third.chunks, third.bytes_to_read) == (0, 0, 0)
    assert third.seconds is not None
    assert third.seconds >= 0.1
    assert third.parent == done.version


def test_several_windows_and_single_precision(corpus: Corpus) -> None:
    """What is to be read is not known before headers are: at most 16 bytes a sample, and no more than the capture has."""
    corpus.spec = replace(SMALL, windows_per_capture=2)
    corpus.add(*range(4))
    promised, done = promised_and_done(corpus)
    assert promised.basis == f"fitted to {done.splits['train']} train rows, the first of this spec"
    assert promised.bytes_to_read == 24 * (128 + 16 * SMALL.span)

    corpus.add(*range(4, 8), dtype="complex64")
    promised_and_done(corpus)


def test_another_basis_is_normalized_without_iq(corpus: Corpus) -> None:
    corpus.add(*range(6))
    corpus.build()
    other = SplitSpec(val_fraction=0.5)
    promised, done = promised_and_done(corpus, refit="always", split=other)
    assert (promised.to_compute, promised.rows_to_normalize, promised.chunks_to_normalize, promised.bytes_to_read) == (
        0,
        18,
        3,
        0,
    )
    assert promised.fits_basis
    assert "--refit always" in promised.basis
    assert promised.changes == {"split_val_fraction": [0.1, 0.5]}
    assert promised.seconds is not None
    assert promised.seconds >= 0.1
    # An older segment that the new basis never reached is normalized when it is wanted again.
    assert done.computed == 0
    corpus.sql("UPDATE measurements SET approved = false")
    corpus.add(*range(20, 30))
    corpus.build(refit="always", split=SplitSpec(val_fraction=0.4))
    corpus.sql("UPDATE measurements SET approved = true")
    again, _ = promised_and_done(corpus, refit="never")
    assert (again.rows_to_normalize, again.chunks_to_normalize, again.fits_basis) == (18, 3, False)
    corpus.add(*range(30, 60))
    grown, _ = promised_and_done(corpus)
    assert grown.fits_basis
    assert "more than 2 times as many" in grown.basis


def test_what_the_build_refuses_the_dry_run_refuses_too(corpus: Corpus) -> None:
    corpus.add(*range(6))
    for changes in ({"split": SplitSpec(val_fraction=0.999, test_fraction=0)}, {"tag": "a/b"}):
        with pytest.raises(HeimdallError) as told:
            preview(corpus.request(**changes), Silent())
        with pytest.raises(HeimdallError) as done:
            build(corpus.request(**changes), Silent())
        assert (type(told.value), str(told.value)) == (type(done.value), str(done.value))
    corpus.sql("UPDATE measurements SET latitude = 95")
    with pytest.raises(DataQualityError, match="no approved capture is usable"):
        preview(corpus.request(max_rejected_fraction=1), Silent())
    with pytest.raises(DataQualityError, match="no approved capture is usable"):
        build(corpus.request(max_rejected_fraction=1), Silent())


def test_what_an_interrupted_build_left_is_not_promised_again(corpus: Corpus) -> None:
    corpus.add(*range(12))
    with pytest.raises(KeyboardInterrupt):
        build(corpus.request(), Witness(stop_after=16))
    promised, done = promised_and_done(corpus)
    assert (promised.resumed, promised.to_compute, promised.chunks) == (16, 20, 3)
    assert promised.captures_reused == 16
    assert (promised.rows_to_normalize, promised.chunks_to_normalize) == (16, 2)
    assert done.computed == 20
    text = "\n".join(replace(promised, version=None).lines())
    assert "rows: 0 reused, 16 found from an interrupted build, 20 to compute" in text


def test_differences_in_spec_query_and_limit(corpus: Corpus) -> None:
    corpus.add(*range(8))
    built = corpus.build()
    query = "SELECT * FROM measurements WHERE websdr_id < 3 -- those that are calibrated, by the list of last year"
    corpus_2 = replace(corpus, spec=replace(SMALL, hop_length=32))
    promised, _ = promised_and_done(corpus_2, query=query, limit=6)
    assert promised.changes.keys() == {"hop_length", "query"}
    assert promised.changes["hop_length"] == [64, 32]
    assert (promised.captures_before, promised.captures, promised.limit) == (24, 6, 6)
    lines = list(promised.lines())
    assert f"  hop_length: 64 in the latest set {built.version}, 32 here" in lines
    [told] = [line for line in lines if line.startswith("  query: ")]
    assert len(told) < 200
    assert "WHERE websdr_id < 3" in told
    assert any("6 to compute (the first 6 by id at most, --limit)" in line for line in lines)


# --- the estimate


def test_the_rate_is_that_of_the_latest_build(corpus: Corpus) -> None:
    corpus.add(*range(8))
    first = corpus.build()
    manifest = read_manifest(open_objects(corpus.store.url), first.version)
    assert manifest.counts["computed"] == 24
    corpus.add(8)
    promised = preview(corpus.request(), Silent())
    assert promised.seconds is not None
    assert promised.seconds >= round(3 * manifest.seconds / 24, 1)


def test_a_build_that_computed_nothing_gives_no_rate(corpus: Corpus) -> None:
    corpus.add(*range(8))
    corpus.build()
    corpus.build(split=SplitSpec(seed=1))
    corpus.add(8)
    promised = preview(corpus.request(), Silent())
    assert promised.seconds is None
    assert "  time: not known, as the latest build computed too little to compare" in promised.lines()


def test_a_small_build_does_not_speak_for_a_large_one(corpus: Corpus) -> None:
    """Its time is mostly start and planning. A closed form: rows · rate + planning."""
    corpus.add(*range(2))
    corpus.build()
    manifest = replace(read_manifest(open_objects(corpus.store.url), open_set(corpus.store.url).version), seconds=3.0)
    assert manifest.counts["computed"] == 6
    assert estimate_seconds(6 * COMPARABLE, manifest, 0.2) == 30.2
    assert estimate_seconds(6 * COMPARABLE + 1, manifest, 0.2) is None
    assert estimate_seconds(0, manifest, 0.004) == 0.1
    assert estimate_seconds(0, None, 0.34) == 0.3
    assert estimate_seconds(1, None, 1) is None


def test_the_command(corpus: Corpus) -> None:
    corpus.add(*range(6))
    spec = ["--sample-rate-hz", "48000", "--n-fft", "256", "--hop-length", "64", "--n-mels", "24", "--n-frames", "8"]
    where = ["--catalog", corpus.catalog, "--raw", corpus.raw.url, "--store", corpus.store.url]
    arguments = ["build-features", *where, *spec, "--quiet", "--dry-run"]
    text = CliRunner().invoke(main, arguments).stdout.splitlines()
    assert text[0] == "would build a feature set of 18 captures; nothing is written"
    assert text[-2:] == [
        "  time: not known, as the latest build computed too little to compare",
        "  the store holds no feature set yet",
    ]
    corpus.build()
    report = json.loads(CliRunner().invoke(main, [*arguments, "--json"]).stdout)
    assert report["dry_run"] is report["up_to_date"] is True
    assert report["version"] == open_set(corpus.store.url).version
    assert (report["reused"], report["to_compute"], report["captures_reused"]) == (18, 0, 18)
    assert f"  parameters: those of the latest set {report['version']}" in CliRunner().invoke(main, arguments).stdout
