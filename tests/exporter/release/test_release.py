"""Releases: seen whole or not at all, never changed, one owner for each number; and what services are told to use."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from exports_for_tests import invoke, json_of

from exporter.release.latest import promote, read_latest, read_release, rollback
from exporter.release.publish import claim, claimed, publish
from exporter.release.release import CLAIM, MARKER, Release, Version, list_releases
from featurestore.errors import StoreError, UsageError
from featurestore.objects.objects import Location, Objects, open_objects

ROOT = Path(__file__).resolve().parents[3]
ABOUT = {"feature_set": "0123456789ab", "precision": "fp32"}

KILLED = """
import os, sys
from pathlib import Path
from exporter.release.publish import claimed
from exporter.release.publish import publish
from exporter.release.release import MARKER, Version
from featurestore.objects.objects import Objects, open_objects
put = Objects.put_json
def put_or_die(self, key, value, **how):
    if key.endswith(MARKER):
        os._exit(9)
    return put(self, key, value, **how)
Objects.put_json = put_or_die
objects = open_objects(sys.argv[1])
with claimed(objects, Version.parse(sys.argv[2]), print) as version:
    publish(objects, version, [Path(sys.argv[3])], {})
"""


@pytest.fixture
def models(tmp_path: Path) -> Objects:
    return open_objects(Location.parse(str(tmp_path / "models")).url)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"weights" * 1000)
    return path


def made(objects: Objects, file: Path, number: str | None = None) -> Release:
    with claimed(objects, None if number is None else Version.parse(number), print) as version:
        return publish(objects, version, [file], ABOUT)


def test_what_is_published_is_read_again(bucket: str, file: Path) -> None:
    objects = open_objects(f"{bucket}/models")
    release = made(objects, file)
    assert release.url == f"{bucket}/models/v0.1.0"
    found = read_release(f"{bucket}/models", "0.1.0")
    assert found == release
    assert found.read("model.onnx") == file.read_bytes()
    assert found.about == ABOUT
    assert objects.names("v0.1.0") == [CLAIM, "model.onnx", MARKER]
    with pytest.raises(UsageError, match=r"has no model-iq\.onnx, only model\.onnx; export it with --input iq"):
        found.read("model-iq.onnx")


def test_numbers_go_on_from_the_highest_that_is_taken(models: Objects, file: Path) -> None:
    assert [str(made(models, file, number).version) for number in (None, None, "1.9.0", "v1.10.3", None)] == [
        "0.1.0",
        "0.1.1",
        "1.9.0",
        "1.10.3",
        "1.10.4",
    ]
    assert [str(release.version) for release in list_releases(models)[0]] == ["1.10.4", "1.10.3", "1.9.0", "0.1.1", "0.1.0"]


@pytest.mark.parametrize("text", ["1.2", "1.2.3.4", "01.2.3", "1.2.x", "", "1.2.3-rc1", "1.2.-3", "١.2.3"])
def test_numbers_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="expected three numbers"):
        Version.parse(text)


def test_an_existing_release_is_never_changed(models: Objects, file: Path) -> None:
    before = made(models, file, "1.0.0")
    with pytest.raises(UsageError, match=r"release 1\.0\.0 exists at .*v1\.0\.0.*choose another number"):
        made(models, file, "1.0.0")
    assert read_release(models, "1.0.0") == before
    models.delete([f"v1.0.0/{CLAIM}"])  # somebody tidies up
    with pytest.raises(UsageError, match="exists at"):
        made(models, file, "1.0.0")
    assert read_release(models, "1.0.0") == before


@pytest.mark.parametrize("wanted", [Version(2, 0, 0), None])
def test_of_many_at_once_each_number_has_one_owner(bucket: str, file: Path, wanted: Version | None) -> None:
    objects, together = open_objects(bucket), Barrier(6)

    def one(_: int) -> Release | str:
        together.wait()
        try:
            with claimed(objects, wanted, print) as version:
                return publish(objects, version, [file], ABOUT)
        except UsageError as error:
            return str(error)

    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(one, range(6)))
    won = [item for item in found if isinstance(item, Release)]
    assert {item.version for item in won} == ({wanted} if wanted else {Version(0, 1, patch) for patch in range(6)})
    assert len(won) == (1 if wanted else 6)
    for text in found:
        assert isinstance(text, Release) or "release 2.0.0 is being written" in text or "release 2.0.0 exists" in text
    assert read_release(objects, str(won[0].version)).read("model.onnx") == file.read_bytes()


def test_what_fails_gives_its_number_back(models: Objects, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put = Objects.put_json

    def fail(self: Objects, key: str, value: Any, *, create: bool = False) -> bool:
        if key.endswith(MARKER):
            raise StoreError("the disk is full")
        return put(self, key, value, create=create)

    monkeypatch.setattr(Objects, "put_json", fail)
    with pytest.raises(StoreError, match="disk is full"):
        made(models, file, "1.0.0")
    assert list_releases(models) == ([], [])
    monkeypatch.undo()
    assert str(made(models, file, "1.0.0").version) == "1.0.0"


def test_a_killed_export_leaves_the_old_latest_and_nothing_that_is_seen(bucket: str, file: Path) -> None:
    objects = open_objects(bucket)
    promote(made(objects, file, "1.0.0"), None)
    done = subprocess.run([sys.executable, "-c", KILLED, bucket, "1.0.1", str(file)], check=False, cwd=ROOT)
    assert done.returncode == 9
    assert objects.names("v1.0.1") == [CLAIM, "model.onnx"]
    assert str(read_release(bucket).version) == "1.0.0"
    complete, incomplete = list_releases(objects)
    assert [str(release.version) for release in complete] == ["1.0.0"]
    assert incomplete == [Version(1, 0, 1)]
    assert "not complete" in invoke("releases", "list", "--models", bucket).stdout
    with pytest.raises(UsageError, match=r"release 1\.0\.1 in .* is not complete"):
        read_release(bucket, "1.0.1")
    with pytest.raises(UsageError, match=r"being written .* by process \d+ on .*, or was left unfinished.*delete .*v1\.0\.1"):
        claim(objects, Version(1, 0, 1))
    assert str(claim(objects, None)) == "1.0.2"
    objects.delete([f"v1.0.1/{CLAIM}"])  # what the message says to do, but halfway: the old file has the same size
    objects.put("v1.0.1/model.onnx", b"another" * 1000)
    assert made(objects, file, "1.0.1").read("model.onnx") == file.read_bytes()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda objects: objects.put("v1.0.0/model.onnx", b"other"), "has SHA-256 .* it is damaged"),
        (lambda objects: objects.delete(["v1.0.0/model.onnx"]), r"model\.onnx is missing; restore it"),
        (lambda objects: objects.put(f"v1.0.0/{MARKER}", b"{"), "not valid JSON"),
        (lambda objects: objects.put(f"v1.0.0/{MARKER}", b'{"schema": 9}'), "has schema 9; this version reads 1"),
        (lambda objects: objects.put(f"v1.0.0/{MARKER}", b'{"schema": 1}'), "is damaged"),
    ],
)
def test_damage_is_found(models: Objects, file: Path, change: Callable[[Objects], Any], match: str) -> None:
    made(models, file, "1.0.0")
    change(models)
    with pytest.raises(StoreError, match=match):
        read_release(models, "1.0.0").read("model.onnx")


def test_promote_and_roll_back(models: Objects, file: Path) -> None:
    url = models.location.url
    with pytest.raises(UsageError, match="no release was promoted yet"):
        read_release(models)
    with pytest.raises(UsageError, match="nothing to roll back to"):
        rollback(url, None)
    releases = {number: made(models, file, number) for number in ("1.0.0", "1.1.0", "1.2.0")}
    for number in ("1.0.0", "1.1.0", "1.2.0", "1.2.0"):
        promote(releases[number], None)
    content = json.loads(models.get("latest.json"))
    assert (content["version"], content["path"], content["previous"]) == ("1.2.0", "v1.2.0", ["1.1.0", "1.0.0"])
    for number in ("1.1.0", "1.0.0"):
        moved = json_of("releases", "rollback", "--models", url, "--no-registry")
        assert moved["release"] == number
        assert str(read_release(url).version) == number
    with pytest.raises(UsageError, match=r"nothing to roll back to, release 1\.0\.0 is the first"):
        rollback(url, None)
    assert json_of("releases", "promote", "1.2.0", "--models", url, "--no-registry")["before"] == "1.0.0"
    done = invoke("releases", "promote", "1.3.0", "--models", url, "--no-registry")
    assert (done.exit_code, "release 1.3.0" in done.stderr, "does not exist" in done.stderr) == (2, True, True)


def test_a_damaged_latest_is_said_and_promoting_repairs_it(models: Objects, file: Path) -> None:
    release = made(models, file, "1.0.0")
    models.put("latest.json", b'{"version": "newest", "previous": []}')
    with pytest.raises(StoreError, match="promote one"):
        read_release(models)
    promote(release, None)
    latest = read_latest(models)
    assert latest is not None
    assert latest.version == release.version


def test_list_and_show(models: Objects, file: Path) -> None:
    url = models.location.url
    assert invoke("releases", "list", "--models", url).exit_code == 2  # no such directory
    promote(made(models, file, "1.0.0"), None)
    made(models, file)
    found = json_of("releases", "list", "--models", url)
    assert [(item["release"], item["latest"]) for item in found["releases"]] == [("1.0.1", False), ("1.0.0", True)]
    shown = json_of("releases", "show", "--models", url)
    assert shown["release"] == "1.0.0"
    assert shown["files"]["model.onnx"]["size_bytes"] == file.stat().st_size
    text = invoke("releases", "show", "1.0.1", "--models", url).stdout
    assert text.startswith("release 1.0.1, of ")
    assert shown["files"]["model.onnx"]["sha256"] in text
    (models.location.directory / "empty").mkdir()
    done = invoke("releases", "list", "--models", f"{url}/empty")
    assert (done.exit_code, "holds no release" in done.stderr) == (2, True)


def test_an_absent_bucket_is_named(bucket: str) -> None:
    done = invoke("releases", "list", "--models", f"{bucket}-absent")
    assert (done.exit_code, "does not exist" in done.stderr) == (1, True)
