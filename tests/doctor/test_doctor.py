"""The doctor on services that are well, and on each thing that can be wrong with them; all servers are real."""

from __future__ import annotations

import json
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

import dask
import psycopg
import pytest
from click.testing import CliRunner
from corpus_for_tests import Corpus
from distributed import LocalCluster
from packaging.requirements import Requirement

from cli import main
from featurestore.doctor.checks import Check, Diagnosis, Finding, run
from featurestore.doctor.services import Places, disk_check, service_checks
from featurestore.doctor.software import compare
from featurestore.objects.objects import Location, open_objects
from featurestore.software import requirements
from featurestore.source.catalog_state import server_version


def look(**places: str) -> dict[str, Finding]:
    """What the checks of services find, by name."""
    return {finding.name: finding for finding in run(service_checks(Places(**places)))}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


PROFILER = "distributed.worker.profile.enabled"


@contextmanager
def scheduler_with(n_workers: int) -> Iterator[str]:
    """A Dask scheduler on a port of its own, in this process."""
    settings: dict[str, Any] = {"processes": False, "threads_per_worker": 2, "dashboard_address": "127.0.0.1:0"}
    with LocalCluster(n_workers=n_workers, protocol="tcp://", host="127.0.0.1", **settings) as cluster:
        yield cluster.scheduler_address


def test_everything_is_well(catalog: str, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PGHOST", "PGDATABASE", "MLFLOW_TRACKING_URI", "DASK_SCHEDULER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    corpus = Corpus(Location.parse(f"{bucket}/raw"), Location.parse(f"{bucket}/features"), catalog)
    corpus.add(1, 2)
    (tmp_path / "mlflow.db").touch()
    with dask.config.set({PROFILER: False}), scheduler_with(1) as address:
        options = ["--catalog", catalog, "--raw", f"{bucket}/raw", "--store", f"{bucket}/features", "--models", bucket]
        options += ["--scheduler", address, "--tracking-uri", f"sqlite:///{tmp_path}/mlflow.db"]
        done = CliRunner().invoke(main, ["doctor", *options, "--dir", str(tmp_path), "--json"])
    found = {finding["name"]: finding for finding in json.loads(done.stdout)["findings"]}
    # There may be no GPU, no room for the largest network's checkpoints, and not all extras, where tests run.
    failed = [name for name, finding in found.items() if finding["state"] == "failed" and name != "disk, checkpoints"]
    assert not failed, done.stdout
    assert found["Python"]["state"] == found["packages"]["state"] == "ok"
    assert found["catalog"]["found"] == "6 approved captures"
    assert found["raw captures"]["found"] == f"{bucket}/raw: 6 objects; ranged reads are answered with 206"
    assert (
        found["feature store"]["found"]
        == f"{bucket}/features: list, write, write once, delete; ranged reads are answered with 206"
    )
    assert found["Dask"]["found"].endswith("1 workers with 2 threads")
    for name in ("clock, PostgreSQL", "clock, S3"):
        assert float(found[name]["found"].split()[0]) < 3
    assert not [info.key for info in open_objects(bucket).walk() if "doctor" in info.key]
    password = catalog.partition("@")[0].rpartition(":")[2]
    assert password not in done.stdout


def test_what_is_not_given_is_skipped_and_said_how_to_give(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("PGHOST", "PGHOSTADDR", "PGDATABASE", "PGSERVICE", "MLFLOW_TRACKING_URI", "DASK_SCHEDULER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    done = CliRunner().invoke(main, ["doctor", "--dir", str(tmp_path)])
    assert re.search(r"– PostgreSQL +not given: --catalog, or PGHOST, PGDATABASE, …", done.stdout)
    assert re.search(r"– raw captures +not given: --raw", done.stdout)
    assert re.search(r"– MLflow +not given: --tracking-uri, or MLFLOW_TRACKING_URI", done.stdout)
    assert re.search(r"✓ Python +3\.", done.stdout)


def with_password(catalog: str, password: str) -> str:
    head, _, rest = catalog.partition("@")
    return f"{head.rpartition(':')[0]}:{password}@{rest}"


@pytest.mark.parametrize(
    ("change", "found", "next_step", "no_answer"),
    [
        (lambda url: re.sub(r":\d+/", f":{free_port()}/", url), "does not answer", "check host and port", True),
        (lambda url: with_password(url, "sesame"), "password authentication failed", "check user, password", False),
        (lambda url: f"{url}_gone", "does not exist", "check user, password and database", False),
    ],
)
def test_a_catalog_that_cannot_be_reached(
    catalog: str, change: Callable[[str], str], found: str, next_step: str, no_answer: bool
) -> None:
    findings = look(catalog=change(catalog))
    finding = findings["PostgreSQL"]
    assert (finding.state, finding.no_answer) == ("failed", no_answer)
    assert found in finding.found
    assert next_step in finding.next_step
    assert findings["catalog"].found == findings["clock, PostgreSQL"].found == "PostgreSQL cannot be asked"
    assert Diagnosis(list(findings.values())).exit_code == (75 if no_answer else 1)
    assert "sesame" not in str(findings)


def test_a_catalog_with_nothing_to_build_from(catalog: str, tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    corpus = Corpus(Location.parse(str(tmp_path / "raw")), Location.parse(str(tmp_path)), catalog)
    findings = look(catalog=catalog, raw=str(corpus.raw))
    assert findings["PostgreSQL"].state == "ok"
    assert "is empty" in findings["raw captures"].found
    corpus.add(1, approved=False)
    findings = look(catalog=catalog, raw=str(corpus.raw))
    assert findings["catalog"].found.endswith("has no approved capture")
    assert "set approved" in findings["catalog"].next_step
    assert findings["raw captures"].state == "ok"
    with psycopg.connect(catalog) as connection:
        connection.execute("ALTER TABLE measurements RENAME TO others")
    finding = look(catalog=catalog)["catalog"]
    assert 'relation "measurements" does not exist' in finding.found
    assert "featurestore/schema.sql" in finding.next_step
    columns = "id, session_id, websdr_id, latitude, longitude, frequency_mhz, sample_rate_hz, snr_db, timestamp, iq_key"
    found = {finding.name: finding for finding in run(service_checks(Places(catalog, f"SELECT {columns} FROM others")))}
    assert found["catalog"] == Finding("catalog", "ok", "the query yields captures")


def test_buckets_that_cannot_be_used(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    findings = look(raw=f"{bucket}-gone", store=f"{bucket}-gone")
    for name in ("raw captures", "feature store"):
        assert f"bucket '{bucket.removeprefix('s3://')}-gone'" in findings[name].found
        assert (findings[name].next_step, findings[name].no_answer) == ("create it or correct the URL", False)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "open sesame")
    findings = look(store=bucket)
    assert "was refused" in findings["feature store"].found
    assert "AWS_SECRET_ACCESS_KEY" in findings["feature store"].next_step
    assert findings["clock, S3"].state == "ok"  # a refusal tells the time, too
    assert "sesame" not in str(findings)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3")
    finding = look(store=bucket)["feature store"]
    assert (finding.state, finding.no_answer) == ("failed", True)
    assert "AWS_ENDPOINT_URL" in finding.next_step


class PlainServer(BaseHTTPRequestHandler):
    """An S3 server as some are: whole objects for ranges, no conditional writes, and a clock that is an hour slow."""

    protocol_version = "HTTP/1.1"
    objects: dict[str, bytes]

    def date_time_string(self, timestamp: float | None = None) -> str:
        return formatdate(time.time() - 3600, usegmt=True)

    def log_message(self, format: str, *arguments: Any) -> None: ...  # noqa: A002 - its name there

    def answer(self, content: bytes = b"", status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", '"1"')
        self.send_header("Last-Modified", self.date_time_string())
        self.end_headers()
        self.wfile.write(content)

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        key = unquote(parts.path.split("/", 2)[2]) if parts.path.count("/") > 1 else ""
        if key:
            self.answer(self.objects.get(key, b""), 200 if key in self.objects else 404)
            return
        prefix = parse_qs(parts.query).get("prefix", [""])[0]
        listed = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{len(content)}</Size><ETag>1</ETag>"
            "<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
            for key, content in sorted(self.objects.items())
            if key.startswith(prefix)
        )
        self.answer(f"<ListBucketResult><IsTruncated>false</IsTruncated>{listed}</ListBucketResult>".encode())

    def do_PUT(self) -> None:
        self.objects[unquote(urlsplit(self.path).path.split("/", 2)[2])] = self.rfile.read(int(self.headers["Content-Length"]))
        self.answer()

    def do_POST(self) -> None:
        keys = re.findall(r"<Key>([^<]+)</Key>", self.rfile.read(int(self.headers["Content-Length"])).decode())
        for key in keys:
            self.objects.pop(key, None)
        deleted = "".join(f"<Deleted><Key>{key}</Key></Deleted>" for key in keys)
        self.answer(f"<DeleteResult>{deleted}</DeleteResult>".encode())


@contextmanager
def plain_server(objects: dict[str, bytes]) -> Iterator[str]:
    handler = type("Handler", (PlainServer,), {"objects": objects})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_an_s3_server_without_ranges_conditional_writes_or_the_time(
    s3_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = {"raw/a.npy": b"x" * 1000}
    with plain_server(objects) as endpoint:
        for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
            monkeypatch.setenv(name, endpoint)
        findings = look(raw="s3://bucket/raw", store="s3://bucket/features")
    assert "whole object when asked for a range" in findings["raw captures"].found
    assert "If-None-Match" in findings["feature store"].found
    assert findings["clock, S3"].found.startswith("it is 60 minutes behind this machine's clock")
    assert Diagnosis(list(findings.values())).exit_code == 1
    assert list(objects) == ["raw/a.npy"]  # what was written is gone, although the check failed


def test_threads_that_parse_at_the_same_time_hide_nothing() -> None:
    """The error that Python 3.11.7 gives then, now and then (cpython#106905), is no finding; one that stays is."""
    left = [SystemError("AST constructor recursion depth mismatch"), SystemError("AST constructor recursion depth mismatch")]

    def confused() -> str:
        if left:
            raise left.pop()
        return "here"

    def broken() -> str:
        raise SystemError("bad")

    found, stays = run([Check("confused", confused, ""), Check("broken", broken, "tell its maker")])
    assert found == Finding("confused", "ok", "here")
    assert (stays.state, stays.found) == ("failed", "SystemError: bad")


def test_one_that_never_answers_keeps_nobody_waiting() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        url = f"postgresql://me@127.0.0.1:{listener.getsockname()[1]}/radio"
        began = time.monotonic()
        late, quick, broken = run(
            [
                Check("late", lambda: server_version(url), "look at its log", deadline_s=0.5),
                Check("quick", lambda: "here", ""),
                Check("broken", lambda: str(1 // 0), "tell its maker"),
            ]
        )
        assert time.monotonic() - began < 60
    assert late == Finding("late", "failed", "no answer within 0.5 s", "look at its log", no_answer=True)
    assert quick == Finding("quick", "ok", "here")
    assert (broken.state, broken.next_step) == ("failed", "tell its maker")
    assert "ZeroDivisionError" in broken.found


def test_dask_without_workers_or_at_no_address() -> None:
    with scheduler_with(0) as address:
        finding = look(scheduler=address)["Dask"]
    assert (finding.found, finding.next_step) == (
        f"the scheduler at {address} has no workers",
        f"start some: dask worker {address}",
    )
    finding = look(scheduler="somewhere")["Dask"]
    assert (finding.state, finding.no_answer) == ("failed", False)
    assert "expected an address" in finding.found + finding.next_step


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="Python 3.12 does not have the deadlock")
def test_workers_that_can_freeze_are_named() -> None:
    with dask.config.set({PROFILER: True}), scheduler_with(1) as address:
        finding = look(scheduler=address)["Dask"]
    assert finding.state == "failed"
    assert "runs Python 3.11 with Dask's profiler" in finding.found
    assert "DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED=false" in finding.next_step


def test_packages_are_held_against_what_is_asked_for() -> None:
    missing, outdated = compare([Requirement("numpy>=99"), Requirement("no-such-package-here>=1"), Requirement("click>=8")])
    assert missing == ["no-such-package-here>=1"]
    assert len(outdated) == 1
    assert re.fullmatch(r"numpy \d[\d.]* \(expected >=99\)", outdated[0])
    assert {"zarr", "psycopg"} <= {each.name for each in requirements("")}
    assert "torch" in {each.name for each in requirements("train")} - {each.name for each in requirements("")}


def test_a_disk_that_is_too_small_or_not_ours(tmp_path: Path) -> None:
    enough, small, foreign = run(
        [
            disk_check("a", tmp_path / "not" / "yet", 1, "a byte"),
            disk_check("b", tmp_path, 1e21, "far too much"),
            disk_check("c", Path("/proc/1"), 1, "a byte"),
        ]
    )
    assert enough.state == "ok"
    assert "and 1,000,000,000,000.0 GB are needed (far too much)" in small.found
    assert small.next_step == "make room, or choose another place"
    assert foreign.state == "failed"


def test_missing_credentials_are_the_next_step(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "absent"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    finding = look(store="s3://features")["feature store"]
    assert (finding.state, finding.found) == ("failed", "no S3 credentials for s3://features were found")
    assert finding.next_step == "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
