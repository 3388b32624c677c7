"""featurestore/objects: the same behaviour on local files and on a real S3 server, and errors that people can act on."""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import obstore
import pytest

from featurestore.errors import HeimdallError, ServiceUnavailableError, StoreError, UsageError
from featurestore.objects import objects as objects_module
from featurestore.objects.objects import Location, Objects, open_objects
from featurestore.objects.retries import Patience
from featurestore.services import Running

ODD_KEY = "a b/ü #?%20+&=/c.npy"
Action = Callable[[Objects], object]

EVERY_WAY: dict[str, Action] = {
    "check": lambda objects: objects.check(),
    "walk": lambda objects: list(objects.walk()),
    "names": lambda objects: objects.names(),
    "get": lambda objects: objects.get("key"),
    "get_ranges": lambda objects: objects.get_ranges("key", [0], [1]),
    "put": lambda objects: objects.put("key", b"1"),
    "create": lambda objects: objects.put("key", b"1", create=True),
    "delete": lambda objects: objects.delete(["key"]),
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run every test of objects on files and on both S3 servers, every other one on both servers."""
    if "objects" in metafunc.fixturenames:
        places = {"file": ("file", "seaweedfs"), "seaweedfs": ("s3", "seaweedfs"), "swift": ("s3", "swift")}
        metafunc.parametrize(("objects", "s3_services"), places.values(), indirect=True, ids=places)
    elif "s3_services" in metafunc.fixturenames:
        metafunc.parametrize("s3_services", ["seaweedfs", "swift"], indirect=True)


@pytest.fixture
def objects(request: pytest.FixtureRequest, s3_services: Running, tmp_path: Path) -> Objects:
    if request.param == "file":
        return Objects(Location.parse(str(tmp_path / "with space" / "prefix")))
    return Objects(Location.parse(f"{request.getfixturevalue('bucket')}/with-prefix"))


def test_write_then_read_is_identity(objects: Objects) -> None:
    data = bytes(range(256)) * 17
    for kind in (bytes, bytearray, memoryview):
        assert objects.put("a/b.bin", kind(data))
        assert objects.get("a/b.bin") == data
    objects.put_json("a/b.json", {"x": [1.5, None, "ü"]})
    assert objects.get_json("a/b.json") == {"x": [1.5, None, "ü"]}


def test_only_the_first_create_writes(objects: Objects) -> None:
    assert objects.put("key", b"first", create=True)
    assert not objects.put("key", b"second", create=True)
    assert not objects.put_json("key", {}, create=True)
    assert objects.get("key") == b"first"
    assert objects.put("key", b"third")
    assert objects.get("key") == b"third"


def test_of_many_creators_one_wins(objects: Objects) -> None:
    won: list[int] = []

    def create(number: int) -> None:
        if objects.put("key", str(number).encode(), create=True):
            won.append(number)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert objects.get("key") == str(won[0]).encode()


def test_ranges_are_what_slices_are(objects: Objects) -> None:
    data = os.urandom(300_000)
    objects.put("key", data)
    starts, ends = [0, 5, 299_990, 100, 299_999], [1, 70_005, 300_000, 101, 300_000]
    ranges = objects.get_ranges("key", starts, ends)
    assert [bytes(part) for part in ranges] == [data[start:end] for start, end in zip(starts, ends, strict=True)]
    assert bytes(objects.get_ranges("key", [299_999], [300_010])[0]) == data[-1:]  # as HTTP has it: cut off at the end
    assert list(objects.get_ranges("key", [], [])) == []


def test_reading_into_memory_that_is_there(objects: Objects) -> None:
    objects.put("key", b"abcde")
    memory = bytearray(5)
    found = objects.read_into("key", memoryview(memory))
    assert bytes(memory) == bytes(found) == b"abcde"
    assert found.obj is memory
    for size in (4, 6):  # of another length, it comes in memory of its own
        other = bytearray(size)
        assert bytes(objects.read_into("key", memoryview(other))) == b"abcde"
    with pytest.raises(FileNotFoundError):
        objects.read_into("gone", memoryview(memory))


def test_a_range_past_the_end_is_an_error(objects: Objects) -> None:
    objects.put("key", b"short")
    with pytest.raises(StoreError, match=r"/key ends before the bytes"):
        objects.get_ranges("key", [5], [6])


def test_listing(objects: Objects) -> None:
    assert list(objects.walk()) == []
    assert objects.names() == []
    before = datetime.now(UTC) - timedelta(seconds=2)
    for key in ("a/x", "a/b/y", "ab/z", "top"):
        objects.put(key, key.encode())
    found = {info.key: info for info in objects.walk()}
    assert {key: info.size_bytes for key, info in found.items()} == {"a/x": 3, "a/b/y": 5, "ab/z": 4, "top": 3}
    assert all(before <= info.modified <= datetime.now(UTC) + timedelta(seconds=2) for info in found.values())
    assert all(bool(info.etag) != objects.location.is_local for info in found.values())
    assert {info.key for info in objects.walk("a")} == {"a/x", "a/b/y"}  # whole segments: "ab" is not below "a"
    assert list(objects.walk("nothing")) == []
    assert objects.names() == ["a", "ab", "top"]
    assert objects.names("a") == ["b", "x"]
    assert objects.names("nothing") == []


def test_listing_and_deletion_go_on_after_a_page(tmp_path: Path) -> None:
    keys = [f"{index:04d}" for index in range(2005)]
    for key in keys:
        (tmp_path / key).touch()
    objects = Objects(Location.parse(str(tmp_path)))
    assert sorted(info.key for info in objects.walk()) == keys
    objects.delete(keys[1:])
    assert objects.names() == keys[:1]


def test_delete_takes_what_is_there(objects: Objects) -> None:
    for key in ("a", "b", "c"):
        objects.put(key, b"")
    objects.delete(["a", "never", "b"])
    objects.delete(iter(["a"]))
    objects.delete([])
    assert objects.names() == ["c"]


def test_keys_may_hold_any_character(objects: Objects) -> None:
    assert objects.put(ODD_KEY, b"1", create=True)
    assert objects.get(ODD_KEY) == b"1"
    assert [info.key for info in objects.walk()] == [ODD_KEY]
    objects.delete([ODD_KEY])
    assert list(objects.walk()) == []


def test_absent_objects(objects: Objects) -> None:
    for read in (EVERY_WAY["get"], EVERY_WAY["get_ranges"], lambda objects: objects.get_json("key")):
        with pytest.raises(FileNotFoundError, match=r"(file|s3)://.*prefix/key does not exist"):
            read(objects)


def test_damaged_json_and_impossible_keys(objects: Objects) -> None:
    objects.put("x.json", b"{")
    with pytest.raises(StoreError, match=r"x.json is not valid JSON .* damaged"):
        objects.get_json("x.json")
    with pytest.raises(StoreError, match="not a usable object key"):
        objects.get("../outside")


def test_objects_travel_to_other_processes(objects: Objects) -> None:
    objects.put("key", b"here")
    assert pickle.loads(pickle.dumps(objects)).get("key") == b"here"
    assert open_objects(objects.location.url) is open_objects(objects.location.url)


def test_check_accepts_a_good_location(objects: Objects) -> None:
    objects.put("key", b"")
    objects.check()


def test_absent_bucket(s3_environment: dict[str, str]) -> None:
    bucket = f"absent-{uuid.uuid4().hex[:8]}"
    objects = Objects(Location(f"s3://{bucket}/p"))
    for action in EVERY_WAY.values():
        with pytest.raises(StoreError, match=f"bucket '{bucket}' of s3://{bucket}/p.* does not exist; create it"):
            action(objects)


@pytest.mark.parametrize("variable", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_wrong_credentials(bucket: str, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "wrong:wrong")
    objects = Objects(Location.parse(bucket))
    for action in EVERY_WAY.values():
        with pytest.raises(
            StoreError, match=r"access to s3://.* was refused \(The (request signature|access key ID) .*AWS_SECRET_ACCESS_KEY"
        ):
            action(objects)


def test_no_credentials(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(UsageError, match=r"no S3 credentials for s3://.*AWS_PROFILE"):
        Objects(Location.parse(bucket)).check()


@contextmanager
def endpoint(answer: bytes | None) -> Iterator[str]:
    """A server on 127.0.0.1 that gives every request the same answer; `None` lets it wait for ever."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        kept: list[socket.socket] = []

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                kept.append(connection)
                if answer is not None:
                    with connection:
                        connection.recv(65_536)
                        connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
            for connection in kept:
                connection.close()


@pytest.mark.parametrize(
    ("answer", "expected", "words"),
    [
        (None, ServiceUnavailableError, "no answer in time"),
        (b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\n\r\n", ServiceUnavailableError, "503 Service Unavailable"),
        (b"", ServiceUnavailableError, "it closed the connection"),
        (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", StoreError, "was refused (403 Forbidden)"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>", StoreError, "the API's port, not the console's"),
        (b"HTTP/1.1 301 Moved\r\nContent-Length: 0\r\n\r\n", StoreError, "AWS_REGION"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", StoreError, "it does not speak HTTP"),
    ],
    ids=["silence", "overload", "hangup", "refusal", "website", "region", "ssh"],
)
def test_servers_that_do_not_serve(
    monkeypatch: pytest.MonkeyPatch, answer: bytes | None, expected: type[HeimdallError], words: str
) -> None:
    with endpoint(answer) as url:
        point_at(monkeypatch, url)
        began = time.monotonic()
        with pytest.raises(expected) as caught:
            Objects(Location("s3://some-bucket/p")).check()
    assert words in str(caught.value)
    assert type(caught.value) is expected
    assert time.monotonic() - began < 60


def test_an_etag_that_is_no_md5_is_believed_when_the_same_comes_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """As servers give that encrypt objects."""
    head = b'HTTP/1.1 200 OK\r\nLast-Modified: Sun, 22 Nov 2026 00:00:00 GMT\r\nETag: "' + b"0123456789abcdef" * 2
    with endpoint(head + b'"\r\nContent-Length: 7\r\nConnection: close\r\n\r\n{"a":1}') as url:
        point_at(monkeypatch, url)
        assert Objects(Location("s3://some-bucket/p")).get_json("key") == {"a": 1}


def test_unreachable_server(monkeypatch: pytest.MonkeyPatch) -> None:
    point_at(monkeypatch, "http://127.0.0.1:1")
    began = time.monotonic()
    with pytest.raises(
        ServiceUnavailableError, match=r"store at http://127.0.0.1:1 does not answer .*Connection refused"
    ) as caught:
        Objects(Location("s3://some-bucket/p")).check()
    assert caught.value.exit_code == 75
    assert time.monotonic() - began < 60


def test_https_where_http_is_spoken(
    s3_services: Running, s3_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    point_at(monkeypatch, s3_services.endpoint.replace("http:", "https:"))
    with pytest.raises(ServiceUnavailableError, match="https:// should perhaps be http://"):
        Objects(Location("s3://some-bucket/p")).check()


def point_at(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """Let S3 clients find `url`, and `Objects.check` lose its patience soon."""
    monkeypatch.setattr(objects_module, "CHECK_PATIENCE", Patience(connect_s=0.4, silence_s=0.4, request_s=0.4, total_s=0.4))
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.setenv(name, url)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "key")


def test_local_paths_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    objects = Objects(Location.parse(str(tmp_path)))
    with pytest.raises(StoreError, match=r"file/below: Not a directory"):
        objects.put("file/below", b"")
    with pytest.raises(StoreError, match="File name too long"):
        objects.put("x" * 300, b"")
    with pytest.raises(UsageError, match=r"absent is no directory; create it"):
        Objects(Location.parse(str(tmp_path / "absent"))).check()
    with pytest.raises(StoreError, match=r"Not a directory"):
        Objects(Location.parse(str(tmp_path / "file" / "below"))).put("key", b"")


def test_local_permissions(tmp_path: Path, ordinary_user: list[str]) -> None:
    """In a process of its own: as another user, when this one is root, to whom everything is permitted."""
    program = (
        "import sys\n"
        "from featurestore.objects.objects import Location, Objects\n"
        "from featurestore.errors import StoreError\n"
        "objects = Objects(Location.parse(sys.argv[1]))\n"
        "assert objects.get('file') == b'x'\n"
        "for action in (lambda: objects.put('key', b''), lambda: objects.put('a/b', b''), lambda: objects.delete(['file'])):\n"
        "    try:\n"
        "        action()\n"
        "    except StoreError as error:\n"
        "        print(error)\n"
    )
    directory = tmp_path / "mine"
    directory.mkdir()
    (directory / "file").write_text("x")
    directory.chmod(0o555)
    done = subprocess.run(
        [*ordinary_user, sys.executable, "-c", program, str(directory)], capture_output=True, text=True, check=False
    )
    directory.chmod(0o755)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    assert all(line.endswith("Permission denied; check the directory, its permissions and the space left") for line in lines)


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("s3://bucket/a/b/", "s3://bucket/a/b"),
        ("s3://bucket", "s3://bucket"),
        ("/tmp/with space/ü", "file:///tmp/with%20space/%C3%BC"),
        ("file:///tmp/x/", "file:///tmp/x"),
    ],
)
def test_locations_have_one_form(text: str, url: str) -> None:
    location = Location.parse(text)
    assert location.url == url
    assert Location.parse(location.url) == location
    if location.is_local:
        assert str(location.directory) == text.removeprefix("file://").rstrip("/")


@pytest.mark.parametrize("text", ["s3://", "s3:///key", "gs://bucket", "file://host/dir", "http://127.0.0.1/x"])
def test_other_locations_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"not usable; expected s3://BUCKET/PREFIX"):
        Location.parse(text)


def test_credentials_in_a_url_are_refused_and_not_repeated() -> None:
    with pytest.raises(UsageError, match="carries credentials") as caught:
        Location.parse("s3://key:topsecret@bucket/x")
    assert "topsecret" not in str(caught.value)


def test_files_are_listed_as_obstore_lists_them(tmp_path: Path) -> None:
    """Those are read by our own code, for speed; also times, from which source digests are made."""
    for name in ("a/b/one.npy", "a/two.npy", "three", "ä ö/%20.npy", "a/b/c/d/e.json"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    (tmp_path / "a" / "unfinished#1").write_bytes(b"x")
    (tmp_path / "link.npy").symlink_to(tmp_path / "three")
    (tmp_path / "a" / "linked").symlink_to(tmp_path / "a" / "b")
    (tmp_path / "nowhere").symlink_to(tmp_path / "absent")
    objects = open_objects(tmp_path.as_uri())
    for prefix in ("", "a", "a/b", "absent", "three"):
        theirs = {
            (meta["path"], meta["size"], meta["last_modified"])
            for page in obstore.list(objects.store, prefix or None)
            for meta in page
        }
        assert {(info.key, info.size_bytes, info.modified) for info in objects.walk(prefix)} == theirs, prefix
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    assert len(list(objects.walk())) < 50
