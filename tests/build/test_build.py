"""The build on files: first builds, rebuilds, rejections, interruptions; every number checked by `independent`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr
from corpus_for_tests import SMALL, Corpus, tree
from independent import check, check_fitted, open_plainly

from featurestore import open_set
from featurestore.build.build import BuildRequest, build
from featurestore.errors import DataQualityError, UsageError
from featurestore.objects.objects import Location, Objects
from featurestore.progress import Silent
from featurestore.store import sets
from featurestore.tensor.rejection import REASONS
from featurestore.tensor.spec import FeatureSpec, SplitSpec


@pytest.fixture
def corpus(tmp_path: Path, catalog: str) -> Corpus:
    (tmp_path / "raw").mkdir()
    raw, store = Location.parse(str(tmp_path / "raw")), Location.parse(str(tmp_path / "store"))
    return Corpus(raw, store, catalog)


def test_a_first_build_agrees_with_a_computation_of_its_own(corpus: Corpus) -> None:
    corpus.add(*range(20))
    report = corpus.build()
    assert (report.captures, report.rows, report.computed, report.reused, report.rejected) == (60, 60, 60, 0, {})
    assert not report.up_to_date
    opened = open_plainly(corpus.store.directory)
    check(opened, corpus.captures())
    check_fitted(opened)
    assert opened.manifest["counts"] == {
        "captures": 60, "rows": 60, **report.splits, "rejected": {}, "reused": 0, "computed": 60,
    }  # fmt: skip
    assert min(report.splits.values()) > 0


@pytest.mark.parametrize(
    "spec",
    [
        replace(SMALL, windows_per_capture=3),
        replace(SMALL, n_mfcc=13, window="blackman"),
        replace(SMALL, n_fft=300, hop_length=77, n_mels=31, n_frames=5, f_min_hz=300, f_max_hz=15_000, floor_db=-90),
        replace(SMALL, n_fft=1024, hop_length=1, n_mels=7, n_frames=3, windows_per_capture=2),
    ],
)
def test_other_specs_agree_too(corpus: Corpus, spec: FeatureSpec) -> None:
    corpus.add(*range(8), dtype="complex64")
    report = corpus.build(spec=spec)
    opened = open_plainly(corpus.store.directory)
    check(opened, corpus.captures())
    check_fitted(opened)
    assert report.rows == 24 * spec.windows_per_capture
    assert opened.features.shape[1:] == (3, spec.n_mfcc or spec.n_mels, spec.n_frames)


def test_bytes_read_are_those_of_headers_and_windows(corpus: Corpus) -> None:
    corpus.add(*range(8))
    assert corpus.build().bytes_read == 24 * (128 + 16 * SMALL.span)


def test_rows_of_equal_content_are_told(corpus: Corpus) -> None:
    corpus.add(*range(8))
    corpus.add(8, broken="silent")
    np.save(corpus.raw.directory / corpus.key(5, 2), corpus.samples(3, 1))
    corpus.build(max_rejected_fraction=0.5)
    opened = open_plainly(corpus.store.directory)
    (segment,) = corpus.store.directory.glob("specs/*/segments/*")
    content = np.asarray(zarr.open_array(segment / "content", mode="r"))
    tensors = [row.tobytes() for row in opened.logmel]
    equal = {(i, j) for i in range(27) for j in range(i) if (content[i] == content[j]).all() and content[i].any()}
    assert equal == {
        (i, j) for i in range(27) for j in range(i) if tensors[i] == tensors[j] and np.isfinite(opened.logmel[i]).all()
    }
    assert len(equal) == 1
    assert (~content.any(axis=1) == (opened.columns["reason"] > 0)).all()


def test_building_again_does_nothing(corpus: Corpus) -> None:
    corpus.add(*range(5))
    first = corpus.build()
    before = tree(corpus.store.directory)
    second = corpus.build()
    assert second.up_to_date
    assert (second.version, second.reused, second.computed, second.bytes_read) == (first.version, 15, 0, 0)
    assert tree(corpus.store.directory) == before


def test_dask_processes_write_the_same_bytes(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("featurestore.store.rows.CHUNK_ROWS", 8)
    corpus.add(*range(12))
    serial = corpus.build()
    parallel = corpus.build(store=Location.parse(str(tmp_path / "parallel")), workers=2)
    assert parallel.version == serial.version
    assert without_times(tree(tmp_path / "parallel")) == without_times(tree(corpus.store.directory))


def without_times(files: dict[str, bytes]) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, content in files.items():
        if not name.endswith("zarr.json"):
            found[name] = content
            continue
        document = json.loads(content)
        for volatile in ("created", "seconds"):
            document["attributes"].pop(volatile, None)
        found[name] = document
    return found


def test_new_captures_cost_only_themselves(corpus: Corpus) -> None:
    corpus.add(*range(10))
    first = corpus.build()
    before = tree(corpus.store.directory)
    corpus.add(10)
    report = corpus.build()
    assert (report.reused, report.computed, report.rows) == (30, 3, 33)
    assert report.bytes_read == 3 * (128 + 16 * SMALL.span)
    opened = open_plainly(corpus.store.directory)
    check(opened, corpus.captures())
    assert opened.manifest["parent"] == first.version
    assert [ref["rows"] for ref in opened.manifest["segments"]] == [30, 3]
    after = tree(corpus.store.directory)
    assert {name: after[name] for name in before if name != "latest.json"} == {
        name: content for name, content in before.items() if name != "latest.json"
    }


def test_labels_approvals_and_splits_are_views(corpus: Corpus) -> None:
    corpus.add(*range(10))
    versions = {corpus.build().version}
    for statement in (
        "UPDATE measurements SET latitude = latitude + 0.001",
        "UPDATE measurements SET snr_db = 3.5, \"timestamp\" = '2026-01-02T03:04:05.678901Z'",
        "UPDATE measurements SET approved = false WHERE websdr_id = 1",
    ):
        corpus.sql(statement)
        report = corpus.build()
        assert (report.computed, report.bytes_read) == (0, 0)
        versions.add(report.version)
        check(open_plainly(corpus.store.directory), corpus.captures())
    assert report.rows == 20
    for split in (SplitSpec(seed=7), SplitSpec(fold=(1, 4)), SplitSpec(by="region")):
        report = corpus.build(split=split)
        assert (report.computed, report.bytes_read) == (0, 0)
        versions.add(report.version)
    assert len(versions) == 7
    opened = open_plainly(corpus.store.directory)
    served = opened.served
    assert opened.columns["timestamp"][served[0]] == 1_767_323_045_678_901_000
    assert (opened.columns["snr_db"][served] == 3.5).all()
    assert len(list((corpus.store.directory / "specs" / SMALL.id / "segments").iterdir())) == 1


def test_a_replaced_recording_is_computed_anew_and_its_old_row_leaves(corpus: Corpus) -> None:
    corpus.add(*range(6))
    old = corpus.build()
    corpus.replace(2, 1)
    report = corpus.build()
    assert (report.computed, report.reused, report.rows) == (1, 17, 18)
    check(open_plainly(corpus.store.directory), corpus.captures())
    unchanged = open_plainly(corpus.store.directory, old.version)
    assert len(unchanged.served) == 18


def test_another_parameter_is_another_spec(corpus: Corpus) -> None:
    corpus.add(*range(5))
    first = corpus.build()
    report = corpus.build(spec=replace(SMALL, hop_length=32))
    assert report.computed == 15
    assert report.version != first.version
    assert len(list((corpus.store.directory / "specs").iterdir())) == 2
    check(open_plainly(corpus.store.directory), corpus.captures())


def test_the_basis_is_kept_until_the_train_rows_have_more_than_doubled(corpus: Corpus) -> None:
    corpus.add(*range(10))
    corpus.build()
    first = open_plainly(corpus.store.directory)
    corpus.add(*range(10, 15))
    corpus.build()
    second = open_plainly(corpus.store.directory)
    assert second.manifest["basis"] == first.manifest["basis"]
    corpus.add(*range(15, 30))
    assert corpus.build(refit="never").reused == 45
    assert open_plainly(corpus.store.directory).manifest["basis"] == first.manifest["basis"]
    report = corpus.build()
    third = open_plainly(corpus.store.directory)
    assert third.manifest["basis"] != first.manifest["basis"]
    assert (report.computed, report.bytes_read) == (0, 0)
    check(third, corpus.captures())
    check_fitted(third)
    assert corpus.build().up_to_date


def test_refit_always_fits_to_this_set(corpus: Corpus) -> None:
    corpus.add(*range(10))
    corpus.build()
    corpus.add(10, 11)
    corpus.build(refit="always")
    check_fitted(open_plainly(corpus.store.directory))


def test_a_basis_that_is_fitted_again_is_the_current_one_again(corpus: Corpus) -> None:
    corpus.add(*range(10))
    first = corpus.build()
    corpus.add(10, 11, 12)
    corpus.build(refit="always")
    corpus.sql("UPDATE measurements SET approved = false WHERE id > 30")
    assert corpus.build(refit="always").version == first.version
    assert corpus.build().up_to_date


def test_every_reason_is_recorded_and_the_build_goes_on(corpus: Corpus) -> None:
    corpus.add(*range(20))
    for index, reason in enumerate(REASONS):
        corpus.add(100 + index, broken=reason)
    report = corpus.build(max_rejected_fraction=0.5)
    assert report.rejected == dict.fromkeys(REASONS, 3)
    assert (report.captures, report.rows) == (87, 60)
    opened = open_plainly(corpus.store.directory)
    captures = corpus.captures()
    rejected = {entry["capture_id"]: entry for entry in opened.rejected}
    check(opened, {capture: facts for capture, facts in captures.items() if capture not in rejected})
    check_fitted(opened)
    assert [entry["capture_id"] for entry in opened.rejected] == sorted(rejected)
    for entry in opened.rejected:
        assert entry["detail"]
        assert entry["iq_key"] == str(captures[entry["capture_id"]][0].relative_to(corpus.raw.directory))
    unserved = opened.columns["split"] == 255
    assert np.isnan(opened.logmel[unserved]).all()
    assert np.isnan(opened.features[unserved].astype(np.float32)).all()
    assert (opened.columns["reason"][unserved] > 0).all()
    again = corpus.build(max_rejected_fraction=0.5)
    assert again.up_to_date
    assert again.bytes_read == 0  # what is known to be bad is not read again


def test_rejected_windows_leave_the_others_of_their_capture(corpus: Corpus) -> None:
    corpus.add(*range(10))
    z = corpus.samples(3, 2)
    z[-5] = np.nan
    np.save(corpus.raw.directory / corpus.key(3, 2), z)
    report = corpus.build(spec=replace(SMALL, windows_per_capture=3))
    assert report.rejected == {"non_finite": 1}
    assert report.rows == 89
    opened = open_plainly(corpus.store.directory)
    assert [entry["detail"][:9] for entry in opened.rejected] == ["window 2:"]
    check_fitted(opened)


def test_a_capture_keeps_its_reason_from_build_to_build(corpus: Corpus) -> None:
    """Windows that are bad for different reasons: the first one's counts, now and when it is known from an earlier build."""
    corpus.add(*range(10))
    z = corpus.samples(3, 2)
    z[:1000] = 0.5
    z[-5] = np.nan
    np.save(corpus.raw.directory / corpus.key(3, 2), z)
    spec = replace(SMALL, windows_per_capture=3)
    first = corpus.build(spec=spec)
    entries = open_set(str(corpus.store)).rejected
    again = corpus.build(spec=spec, split=SplitSpec(seed=1))
    assert first.rejected == again.rejected == {"silent": 1}
    assert open_set(str(corpus.store)).rejected == entries
    assert entries[0].detail.startswith("window 0: every sample of the window is 0.5")
    assert "window 2: 1 of" in entries[0].detail


@pytest.mark.parametrize("broken", ["missing_object", "silent"])
def test_too_many_rejections_publish_nothing_and_lose_nothing(corpus: Corpus, broken: str) -> None:
    corpus.add(*range(10))
    corpus.add(10, broken=broken)
    with pytest.raises(DataQualityError, match=rf"3 of 33 captures are rejected \({broken} 3\).*capture 3\d, sessions/"):
        corpus.build()
    assert not (corpus.store.directory / "sets").exists()
    assert not (corpus.store.directory / "latest.json").exists()
    report = corpus.build(max_rejected_fraction=0.1)
    assert report.rows == 30
    if broken == "silent":  # found while computing: what was computed is there
        assert (report.computed, report.bytes_read) == (0, 0)
    check_fitted(open_plainly(corpus.store.directory))


def test_exactly_the_fraction_is_allowed(corpus: Corpus) -> None:
    corpus.add(*range(19))
    corpus.add(19, broken="too_short")
    assert corpus.build(max_rejected_fraction=0.05).rejected == {"too_short": 3}


def test_no_approved_capture_is_an_error_that_says_what_to_do(corpus: Corpus) -> None:
    corpus.add(1, approved=False)
    with pytest.raises(DataQualityError, match="holds no approved capture; set approved"):
        corpus.build()


def test_nothing_to_train_on_is_an_error(corpus: Corpus) -> None:
    corpus.add(*range(3))
    with pytest.raises(DataQualityError, match="nothing to normalize by"):
        corpus.build(split=SplitSpec(val_fraction=0.01, test_fraction=0.98))


def test_limit_takes_the_first_captures(corpus: Corpus) -> None:
    corpus.add(*range(10))
    report = corpus.build(limit=12)
    assert (report.captures, report.rows) == (12, 12)
    assert set(open_plainly(corpus.store.directory).columns["capture_id"]) == set(sorted(corpus.captures())[:12])


def test_a_query_file_reads_another_schema(corpus: Corpus) -> None:
    corpus.add(*range(6))
    corpus.sql("ALTER TABLE measurements RENAME COLUMN websdr_id TO receiver")
    corpus.sql("ALTER TABLE measurements RENAME TO heard")
    query = """SELECT id, session_id, receiver AS websdr_id, latitude, longitude, frequency_mhz, sample_rate_hz, snr_db,
        "timestamp", iq_key FROM heard WHERE receiver < 3;"""
    assert corpus.build(query=query).rows == 12
    with pytest.raises(UsageError, match="measurements"):
        corpus.build()


def test_custom_keys_and_shared_objects(corpus: Corpus) -> None:
    corpus.add(*range(10))
    np.save(corpus.raw.directory / "elsewhere.npy", corpus.samples(50, 1))
    corpus.sql("UPDATE measurements SET iq_key = 'elsewhere.npy' WHERE websdr_id = 2")
    report = corpus.build()
    assert (report.rows, report.rejected) == (30, {})
    check(open_plainly(corpus.store.directory), corpus.captures())


def test_a_key_cannot_leave_the_raw_location(corpus: Corpus, tmp_path: Path) -> None:
    corpus.add(*range(10))
    np.save(tmp_path / "secret.npy", corpus.samples(50, 1))
    corpus.sql("UPDATE measurements SET iq_key = '../secret.npy' WHERE id = 1")
    assert corpus.build().rejected == {"missing_object": 1}


def test_tags_and_latest_name_versions(corpus: Corpus) -> None:
    corpus.add(*range(5))
    first = corpus.build(tag="first")
    corpus.add(5)
    second = corpus.build()
    store = str(corpus.store)
    assert open_set(store).version == second.version
    assert open_set(store, "first").version == open_set(store, first.version).version == first.version
    with pytest.raises(UsageError, match="no feature set or tag 'third'"):
        open_set(store, "third")
    for name in ("latest", "../x", "", "a b", "x" * 65, "0123456789ab"):
        with pytest.raises(UsageError, match="tag is"):
            corpus.build(tag=name)


def test_an_interrupted_build_goes_on_where_it_was(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("featurestore.store.rows.CHUNK_ROWS", 8)
    corpus.add(*range(16))  # 48 rows in 6 chunks

    class Interrupt(Silent):
        done = 0

        def advance(self, units: int, n_bytes: int = 0) -> None:
            self.done += n_bytes > 0
            if self.done == 3:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(corpus.request(), Interrupt())
    assert sets.list_sets(Objects(corpus.store)) == ([], {})
    report = corpus.build()
    assert (report.reused, report.computed) == (24, 24)
    opened = open_plainly(corpus.store.directory)
    check(opened, corpus.captures())
    check_fitted(opened)
    uninterrupted = corpus.build(store=Location.parse(str(corpus.store.directory.parent / "again")))
    assert uninterrupted.version == report.version
    assert not list(corpus.store.directory.rglob("parts/*.json"))


def test_an_interrupted_segment_is_finished_though_captures_were_withdrawn(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("featurestore.store.rows.CHUNK_ROWS", 8)
    corpus.add(*range(16))
    corpus.add(90, broken="silent")
    with pytest.raises(DataQualityError):
        corpus.build(max_rejected_fraction=0)
    corpus.sql("UPDATE measurements SET approved = false WHERE id > 48 OR id = 5")
    report = corpus.build(max_rejected_fraction=0)
    assert report.rows == 47
    assert report.reused > 0
    opened = open_plainly(corpus.store.directory)
    check(opened, corpus.captures())
    check_fitted(opened)
    corpus.sql("UPDATE measurements SET approved = true WHERE id = 5")
    assert corpus.build(max_rejected_fraction=0).rows == 48
    check(open_plainly(corpus.store.directory), corpus.captures())


def test_chunks_are_as_even_as_the_design_says(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("featurestore.store.rows.CHUNK_ROWS", 10)
    corpus.add(*range(7))  # 21 rows: 3 chunks of 7
    corpus.build()
    (segment,) = (corpus.store.directory / "specs" / SMALL.id / "segments").iterdir()
    array = zarr.open_array(segment / "logmel", mode="r")
    assert array.chunks == (7, 3, 24, 8)
    assert array.metadata.zarr_format == 3
    assert array.metadata.dimension_names == ("row", "channel", "mel", "frame")
    assert array.attrs["units"] == "dBFS"
    assert np.isnan(array.fill_value)
    assert [codec.to_dict()["name"] for codec in array.metadata.codecs] == ["bytes", "crc32c"]
    marker = json.loads((segment / "segment.json").read_text())
    assert (marker["rows"], len(marker["chunks"]["logmel"])) == (21, 3)


def test_noise_gives_no_dead_row(corpus: Corpus) -> None:
    spec = FeatureSpec(sample_rate_hz=48_000, n_fft=1024, hop_length=64, n_frames=8)
    corpus.add(*range(4))
    corpus.build(spec=spec)
    opened = open_plainly(corpus.store.directory)
    assert (opened.logmel.std(axis=2) > 0).all()
    assert (opened.logmel.std(axis=3) > 0).all()


def test_xarray_and_zarr_open_a_set(corpus: Corpus) -> None:
    import xarray

    corpus.add(*range(10))
    corpus.build()
    corpus.add(10)
    report = corpus.build()
    plain = open_plainly(corpus.store.directory)
    dataset = open_set(str(corpus.store)).to_xarray()
    assert dataset.features.dims == ("row", "channel", "mel", "frame")
    assert dataset.features.chunks is not None
    np.testing.assert_array_equal(dataset.features.values, plain.features)
    np.testing.assert_array_equal(dataset.split.values, plain.columns["split"])
    np.testing.assert_array_equal(dataset.capture_id.values, plain.columns["capture_id"])
    train = dataset.isel(row=(dataset.split == 0).values)
    assert train.sizes["row"] == report.splits["train"]
    labels = xarray.open_zarr(corpus.store.directory / "sets" / report.version)
    np.testing.assert_array_equal(labels.position.values, plain.columns["position"])
    segment = plain.manifest["segments"][0]["segment"]
    rows = xarray.open_zarr(corpus.store.directory / "specs" / SMALL.id / "segments" / segment)
    np.testing.assert_array_equal(rows.logmel.values, plain.logmel[:30])


def test_a_request_is_plain_data() -> None:
    """So that it can be logged, compared and sent."""
    request = BuildRequest("", Location.parse("/raw"), Location.parse("/store"), SMALL, SplitSpec())
    assert request == replace(request)
