"""The whole job on real parts: PostgreSQL, S3 and a Dask cluster of two processes; and what happens when one is not there."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import zarr
from click.testing import CliRunner, Result
from corpus_for_tests import SMALL, Corpus, tree
from independent import check, check_fitted, open_plainly
from real_recordings import find_real_iq, label_rows, write_csv
from shared_services import both_servers
from zarr.storage import ObjectStore

from cli import main
from featurestore import open_set
from featurestore.care.verify.verify import verify
from featurestore.cluster.dask_cluster import local_cluster
from featurestore.corpus.ingest.conversion import IngestOptions
from featurestore.corpus.ingest.ingest import ingest
from featurestore.objects.objects import Location, open_objects
from featurestore.store.split import Split
from trainer.stream.feature_stream import DataOptions, FeatureStream
from trainer.stream.options import StreamOptions
from trainer.stream.order import PADDING

SPEC_OPTIONS = [
    *("--sample-rate-hz", "48000", "--n-fft", "256", "--hop-length", "64", "--n-mels", "24", "--n-frames", "8"),
]


def download(url: str, directory: Path) -> None:
    objects = open_objects(url)
    for info in objects.walk():
        path = directory / info.key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(objects.get(info.key))


@pytest.fixture
def corpus(bucket: str, catalog: str) -> Corpus:
    """Captures in an S3 bucket."""
    return Corpus(Location.parse(f"{bucket}/raw"), Location.parse(f"{bucket}/deep/store"), catalog)


def command(*arguments: str) -> Result:
    return CliRunner().invoke(main, [*arguments])


def build_command(corpus: Corpus, *options: str) -> Result:
    where = ["--catalog", corpus.catalog, "--raw", str(corpus.raw), "--store", str(corpus.store)]
    return command("build-features", *where, *SPEC_OPTIONS, "--quiet", *options)


def test_the_whole_job_on_s3_postgresql_and_two_dask_processes(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("featurestore.store.rows.CHUNK_ROWS", 16)
    corpus.add(*range(20))
    corpus.add(20, broken="silent")
    result = build_command(corpus, "--workers", "2", "--json", "--tag", "first")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["url"] == f"{corpus.store}/sets/{report['version']}"
    assert (report["captures"], report["rows"], report["rejected"]) == (63, 60, {"silent": 3})
    assert report["bytes_read"] == 63 * (128 + 16 * SMALL.span)
    for url, name in ((corpus.raw.url, "raw"), (corpus.store.url, "store")):
        download(url, tmp_path / name)
    opened = open_plainly(tmp_path / "store")
    local = replace(corpus, raw=Location.parse(str(tmp_path / "raw")))
    rejected = {entry["capture_id"] for entry in opened.rejected}
    check(opened, {capture: facts for capture, facts in local.captures().items() if capture not in rejected})
    check_fitted(opened)

    again = json.loads(build_command(corpus, "--json").stdout)
    assert again["up_to_date"]
    assert (again["version"], again["bytes_read"]) == (report["version"], 0)


@both_servers
def test_either_server_keeps_a_set_that_is_verified_and_streamed(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Built twice, for the second build goes on from what the first one left; damage is found."""
    monkeypatch.setattr("featurestore.store.rows.CHUNK_ROWS", 8)
    corpus.add(*range(8))
    corpus.build()
    corpus.add(8, 9)
    report = corpus.build()
    assert (report.rows, report.reused) == (30, 24)
    verification = verify(corpus.store.url)
    assert verification.objects > 10
    assert not verification.problems

    features = open_set(corpus.store.url).to_xarray().features.to_numpy()
    stream = FeatureStream.open(corpus.store.url, options=DataOptions(batch_size=8), stream=StreamOptions(cache="off"))
    seen = []
    for split in (Split.TRAIN, Split.VAL, Split.TEST):
        for batch in stream.evaluate(split):
            rows = batch.row.numpy()[batch.row.numpy() != PADDING]
            np.testing.assert_array_equal(batch.features.numpy()[: len(rows)], features[rows])
            seen += rows.tolist()
    assert sorted(seen) == list(range(30))

    for url, name in ((corpus.raw.url, "raw"), (corpus.store.url, "store")):
        download(url, tmp_path / name)
    check(open_plainly(tmp_path / "store"), replace(corpus, raw=Location.parse(str(tmp_path / "raw"))).captures())

    objects, chunk = open_objects(corpus.store.url), f"{open_set(corpus.store.url).segments[0].path}/logmel/c/0/0/0/0"
    damaged = bytearray(objects.get(chunk))
    damaged[100] ^= 1
    objects.put(chunk, bytes(damaged))
    (problem,) = verify(corpus.store.url).problems
    assert problem.url.endswith(chunk)


def test_a_set_in_s3_opens_with_plain_zarr_and_with_xarray(corpus: Corpus) -> None:
    corpus.add(*range(10))
    report = corpus.build()
    store = ObjectStore(open_objects(corpus.store.url).store, read_only=True)
    group = zarr.open_group(store, path=f"sets/{report.version}", mode="r")
    assert group.attrs["counts"]["rows"] == 30  # type: ignore[index,call-overload]  # JSON
    dataset = open_set(str(corpus.store)).to_xarray()
    assert dataset.features.shape == (30, *SMALL.tensor_shape)
    assert np.isfinite(dataset.features.mean().compute().item())


def test_files_and_s3_hold_the_same_tensors(corpus: Corpus, tmp_path: Path) -> None:
    corpus.add(*range(10))
    corpus.build()
    download(corpus.store.url, tmp_path / "s3")
    download(corpus.raw.url, tmp_path / "raw")
    local = replace(corpus, raw=Location.parse(str(tmp_path / "raw")), store=Location.parse(str(tmp_path / "files")))
    local.build()
    chunks = [
        sorted(content for name, content in tree(tmp_path / where).items() if "/logmel/c/" in name) for where in ("s3", "files")
    ]
    assert chunks[0] == chunks[1]


def test_an_existing_scheduler_is_used(corpus: Corpus) -> None:
    corpus.add(*range(6))
    with local_cluster(1) as cluster:
        result = build_command(corpus, "--scheduler", cluster.scheduler_address, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["rows"] == 18


def one_line(result: Result, exit_code: int) -> str:
    assert result.exit_code == exit_code, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_wrong_s3_credentials(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus.add(1)
    open_objects.cache_clear()
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret-0123456789")
    try:
        message = one_line(build_command(corpus), 1)
    finally:
        open_objects.cache_clear()
    assert "was refused" in message
    assert "AWS_ACCESS_KEY_ID" in message
    assert "wrong-secret" not in message


def test_an_absent_bucket(corpus: Corpus) -> None:
    corpus.add(1)
    corpus.store = Location.parse("s3://no-such-bucket-here/features")
    assert "bucket 'no-such-bucket-here'" in one_line(build_command(corpus), 1)


def test_an_unreachable_object_store_is_exit_75(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus.add(1)
    open_objects.cache_clear()
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    try:
        message = one_line(build_command(corpus), 75)
    finally:
        open_objects.cache_clear()
    assert "does not answer" in message


def test_an_absent_table(corpus: Corpus) -> None:
    corpus.sql("DROP TABLE measurements")
    message = one_line(build_command(corpus), 2)
    assert "measurements" in message
    assert "schema.sql" in message


def test_an_unreachable_catalog_is_exit_75(corpus: Corpus) -> None:
    corpus.catalog = f"postgresql://nobody:secret-word@127.0.0.1:{free_port()}/radio"
    message = one_line(build_command(corpus), 75)
    assert "does not answer" in message
    assert "secret-word" not in message


def test_a_wrong_password(corpus: Corpus, services: Any) -> None:
    corpus.catalog = services.catalog.replace(services.environment["PGPASSWORD"], "not-the-password")
    assert "check user, password" in one_line(build_command(corpus), 2)


def test_an_unreachable_scheduler_is_exit_75(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("featurestore.cluster.dask_cluster.CONNECT_TIMEOUT_S", 1)
    corpus.add(1)
    address = f"tcp://127.0.0.1:{free_port()}"
    assert f"no Dask scheduler answers at {address}" in one_line(build_command(corpus, "--scheduler", address), 75)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--window", "nosuchwindow"], "window is 'nosuchwindow'; expected a scipy.signal window"),
        (["--hop-length", "0"], "hop_length is 0; expected a whole number"),
        (["--fold", "5/5"], "fold is (5, 5); expected i/k"),
        (["--val-fraction", "0.9", "--test-fraction", "0.2"], "val_fraction is 0.9"),
        (["--tag", "a/b"], "tag is 'a/b'"),
        (["--f-max-hz", "30000"], "f_max_hz is 30000.0; expected at most half the sample rate"),
    ],
)
def test_impossible_parameters_are_one_line_and_write_nothing(corpus: Corpus, options: list[str], words: str) -> None:
    corpus.add(*range(4))
    assert words in one_line(build_command(corpus, *options), 2)
    assert not list(open_objects(corpus.store.url).walk())


@pytest.mark.parametrize("address", ["nonsense", "http://x:1", "tcp://127.0.0.1"])
def test_a_scheduler_that_is_no_address(corpus: Corpus, address: str) -> None:
    corpus.add(*range(4))
    assert "expected an address as tcp://host:8786" in one_line(build_command(corpus, "--scheduler", address), 2)


def test_a_mistyped_url(corpus: Corpus) -> None:
    result = command("build-features", "--raw", "s3:/bucket/raw", "--store", str(corpus.store))
    assert "is it meant to begin with s3://?" in one_line(result, 2)


def test_too_many_rejections_are_exit_3(corpus: Corpus) -> None:
    corpus.add(*range(4))
    corpus.add(4, broken="wrong_dtype")
    message = one_line(build_command(corpus), 3)
    assert "3 of 15 captures are rejected (wrong_dtype 3)" in message
    assert not list(open_objects(corpus.store.url).walk("sets"))


def test_an_absent_raw_directory(corpus: Corpus, tmp_path: Path) -> None:
    corpus.raw = Location.parse(str(tmp_path / "nothing"))
    assert "is no directory" in one_line(build_command(corpus), 2)


def test_dry_run_tells_and_writes_nothing(corpus: Corpus) -> None:
    corpus.add(*range(10))
    first = json.loads(build_command(corpus, "--dry-run", "--json").stdout)
    assert (first["to_compute"], first["reused"], first["version"], first["fits_basis"]) == (30, 0, None, True)
    assert first["bytes_to_read"] == 30 * (128 + 16 * SMALL.span)
    assert not list(open_objects(corpus.store.url).walk())
    built = json.loads(build_command(corpus, "--json").stdout)
    corpus.add(10)
    before = [(info.key, info.etag) for info in open_objects(corpus.store.url).walk()]
    second = json.loads(build_command(corpus, "--dry-run", "--json", "--split-seed", "1").stdout)
    assert (second["to_compute"], second["reused"], second["chunks"]) == (3, 30, 1)
    assert second["changes"] == {"split_seed": [42, 1]}
    assert second["seconds"] > 0
    assert [(info.key, info.etag) for info in open_objects(corpus.store.url).walk()] == before
    rebuilt = json.loads(build_command(corpus, "--json", "--split-seed", "1").stdout)
    assert rebuilt["version"] == second["version"] != built["version"]
    text = build_command(corpus, "--dry-run").stdout
    assert "nothing is written" in text


def test_features_list_and_show(corpus: Corpus) -> None:
    assert "no feature set yet" in command("features", "list", "--store", str(corpus.store)).stdout
    message = one_line(command("features", "show", "--store", str(corpus.store)), 2)
    assert "holds no feature set yet" in message
    corpus.add(*range(20))
    corpus.add(20, broken="too_short")
    first = corpus.build(tag="baseline")
    corpus.add(21)
    second = corpus.build()
    listed = json.loads(command("features", "list", "--store", str(corpus.store), "--json").stdout)
    assert [entry["version"] for entry in listed] == [second.version, first.version]
    assert [entry["names"] for entry in listed] == [["latest"], ["baseline"]]
    table = command("features", "list", "--store", str(corpus.store)).stdout.splitlines()
    assert table[1].startswith(second.version)
    assert table[2].endswith("baseline")
    shown = json.loads(command("features", "show", "baseline", "--store", str(corpus.store), "--json").stdout)
    assert shown["version"] == first.version
    assert shown["counts"]["rejected"] == {"too_short": 3}
    assert shown["spec"] == SMALL.to_json()
    assert sum(shown["sessions"].values()) == 20
    assert shown["receivers"] == {"1": 20, "2": 20, "3": 20}
    assert np.shape(shown["statistics"]["mean"]) == (3, SMALL.n_mels)
    assert len(shown["rejected_captures"]) == 3
    open_objects(corpus.store.url).put(f"sets/{first.version}/zarr.json", b'{"attributes": {"schema": 9}}')
    damaged = command("features", "list", "--store", str(corpus.store)).stdout.splitlines()
    assert damaged[1].startswith(second.version)
    assert damaged[2].startswith(first.version)
    assert "manifest schema 9; this version reads 1" in damaged[2]
    text = command("features", "show", "--store", str(corpus.store)).stdout
    assert f"feature set {second.version} (latest)" in text
    assert "too_short" in text


def test_a_report_saves_its_pictures(corpus: Corpus, tmp_path: Path) -> None:
    """Each is a document of its own: well-formed, in colours and not in variables of the page's style sheet."""
    corpus.add(*range(6))
    corpus.build()
    page, pictures = tmp_path / "features.html", tmp_path / "pictures"
    result = command("features", "report", "--store", str(corpus.store), "--html", str(page), "--out", str(pictures))
    assert result.exit_code == 0, result.output
    written = sorted(pictures.iterdir())
    assert len(written) > 6
    assert result.stdout.splitlines() == [str(page), f"{len(written)} pictures in {pictures}"]
    for path in written:
        text = path.read_text()
        assert ET.fromstring(text).tag == "{http://www.w3.org/2000/svg}svg"
        assert "var(" not in text
    assert any("map" in path.name for path in written)


def test_settings_come_from_the_usual_variables(corpus: Corpus, services: Any) -> None:
    """In a process of its own, as a user would run it, also without --catalog."""
    corpus.add(*range(4))
    environment = {**os.environ, **services.environment, "NO_PROXY": "127.0.0.1"}
    environment["PGDATABASE"] = corpus.catalog.rsplit("/", 1)[-1]
    environment |= {"HEIMDALL_BUILD_FEATURES_RAW": str(corpus.raw), "HEIMDALL_BUILD_FEATURES_STORE": str(corpus.store)}
    root = Path(__file__).resolve().parents[2]
    arguments = [sys.executable, str(root / "cli.py"), "build-features", *SPEC_OPTIONS, "--json"]
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rows"] == 12
    assert "compute tensors: 12/12 rows" in done.stderr  # plain lines, since this is no terminal


def test_real_recordings_become_a_feature_set(tmp_path: Path, catalog: str, bucket: str) -> None:
    """The DCF77 triple is one true session of three receivers; where the index knows no transmitter, the label is made up."""
    directory = find_real_iq()
    labels = write_csv(tmp_path / "labels.csv", label_rows(directory))
    raw, store = Location.parse(f"{bucket}/raw"), Location.parse(f"{bucket}/features")
    ingest(directory, labels, raw, catalog, IngestOptions(resample_to_hz=12_000, split_seconds=5.0))
    options = ["--sample-rate-hz", "12000", "--n-fft", "512", "--hop-length", "128", "--n-mels", "64", "--json", "--quiet"]
    where = ["--catalog", catalog, "--raw", str(raw), "--store", str(store)]
    result = command("build-features", *where, *options, "--max-rejected-fraction", "0.5", "--tag", "real")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    for url, name in ((raw.url, "raw"), (store.url, "store")):
        download(url, tmp_path / name)
    opened = open_plainly(tmp_path / "store")
    corpus = Corpus(Location.parse(str(tmp_path / "raw")), Location.parse(str(tmp_path / "store")), catalog)
    rejected = {entry["capture_id"] for entry in opened.rejected}
    check(opened, {capture: facts for capture, facts in corpus.captures().items() if capture not in rejected})
    check_fitted(opened)
    dcf77 = np.flatnonzero((opened.columns["position"] == (50.0152, 9.0112)).all(axis=1))
    assert set(opened.columns["websdr_id"][dcf77]) == {1, 2, 3}
    assert report["rows"] == len(opened.served)
    receivers = opened.columns["websdr_id"][dcf77].tolist()
    assert [receivers.count(receiver) for receiver in (1, 2, 3)] == [6, 5, 5]  # whole cuts of 5 s in 30.1, 29.6 and 29.7 s
