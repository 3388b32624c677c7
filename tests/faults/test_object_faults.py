"""Objects in S3 behind a network that fails: each kind of fault alone, met by every operation; and a server that stays away."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from faults.http_proxy import S3Proxy
from faults.schedule import HTTP_FAULTS, Schedule
from faults.tally import Tally
from shared_services import both_servers

from featurestore.errors import ServiceUnavailableError
from featurestore.objects.objects import Location, Objects
from featurestore.objects.retries import Patience
from featurestore.services import Running

QUICK = Patience(connect_s=1, silence_s=0.5, request_s=1, total_s=20)
"""Stalls are given up soon, and everything is tried again for long: what is tested is that it comes right."""


@contextmanager
def behind(services: Running, url: str, schedule: Schedule, patience: Patience = QUICK) -> Iterator[Objects]:
    """The objects at `url`, by way of a proxy."""
    parts = urlsplit(url)
    with (
        S3Proxy(int(urlsplit(services.endpoint).port or 0), schedule, f"/{parts.netloc}/") as proxy,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
            patch.setenv(name, proxy.url)
        objects = Objects(Location.parse(url), patience)
        _ = objects.store  # connects where the environment says now
        yield objects


@pytest.mark.parametrize("kind", HTTP_FAULTS)
def test_every_operation_survives_every_kind_of_fault(
    s3_services: Running, bucket: str, tally: Tally, kind: str, fault_seed: int
) -> None:
    rate = 0.1 if kind == "stall" else 0.25
    schedule = Schedule("S3", fault_seed, {kind: rate}, tally)
    direct = Objects(Location.parse(bucket))
    _ = direct.store
    large = os.urandom(200_000)
    with behind(s3_services, bucket, schedule) as objects:
        for number in range(2):
            assert objects.put(f"a/{number}", large[number:])
            assert objects.put(f"b/{number}", str(number).encode(), create=True)
            assert not objects.put(f"b/{number}", b"another", create=True)
            assert objects.put_json(f"c/{number}.json", {"number": number})
        for number in range(2):
            assert direct.get(f"a/{number}") == large[number:]  # what arrived
            assert objects.get(f"a/{number}") == large[number:]  # what comes back, compared with its MD5
            assert objects.get(f"b/{number}") == str(number).encode()
            assert objects.get_json(f"c/{number}.json") == {"number": number}
            parts = objects.get_ranges(f"a/{number}", [0, 100_000], [9, 150_000])
            assert [bytes(part) for part in parts] == [large[number:][:9], large[number:][100_000:150_000]]
        assert objects.names() == ["a", "b", "c"]
        assert [info.key for info in objects.walk("a")] == [f"a/{number}" for number in range(2)]
        objects.delete([f"a/{number}" for number in range(1)])
        assert objects.names("a") == ["1"]
        with pytest.raises(FileNotFoundError):
            objects.get("a/0")
    assert schedule.n_injected > 0


@both_servers
def test_what_was_damaged_on_the_way_up_is_refused(s3_services: Running, bucket: str, tally: Tally, tmp_path: Path) -> None:
    """One bit of every body flips: nothing of it is stored, by no way of writing."""
    direct = Objects(Location.parse(bucket))
    _ = direct.store
    file = tmp_path / "file"
    file.write_bytes(os.urandom(100_000))
    once = Patience(connect_s=30, silence_s=30, request_s=30, total_s=0)
    with behind(s3_services, bucket, Schedule("S3", 0, {"flip in request": 1.0}, tally), once) as objects:
        ways: list[Callable[[], object]] = [
            lambda: objects.put("put", file.read_bytes()),
            lambda: objects.put("created", b"x", create=True),
            lambda: objects.put_file("file", file),
        ]
        for way in ways:
            with pytest.raises(ServiceUnavailableError, match=r"did not arrive .* as it was sent"):
                way()
    assert direct.names() == []


@both_servers
def test_a_lost_answer_does_not_make_its_own_object_anothers(s3_services: Running, bucket: str, tally: Tally) -> None:
    """`create` whose answer is lost meets what it wrote itself; a second creator still loses, also when its answer is lost."""
    schedule = Schedule("S3", 1, {"answer lost": 0.5}, tally)
    with behind(s3_services, bucket, schedule) as objects:
        for number in range(6):
            assert objects.put(f"{number}", b"ours", create=True)
            assert not objects.put(f"{number}", b"others", create=True)
            assert objects.get(f"{number}") == b"ours"
    assert schedule.n_injected


def test_files_and_what_is_there_already(s3_services: Running, bucket: str, tally: Tally, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(300_000))
    schedule = Schedule("S3", 2, dict.fromkeys(("reset in response", "answer 503", "flip in request", "truncate"), 0.1), tally)
    with behind(s3_services, bucket, schedule) as objects:
        for number in range(4):
            objects.put_file(f"{number}", path)
            assert not objects.put_file(f"{number}", path)
            assert objects.get(f"{number}") == path.read_bytes()
            objects.put_if_changed("changed", str(number).encode())
            assert not objects.put_if_changed("changed", str(number).encode())
            assert objects.get("changed") == str(number).encode()
    assert schedule.n_injected


def test_a_document_that_is_never_the_same_is_not_believed(s3_services: Running, bucket: str, tally: Tally) -> None:
    Objects(Location.parse(bucket)).put("key", os.urandom(1000))
    words = r"/key arrived differently each of the 4 times .* https://"
    schedule = Schedule("S3", 0, {"flip in response": 1.0}, tally)
    with behind(s3_services, bucket, schedule) as objects, pytest.raises(ServiceUnavailableError, match=words):
        objects.get("key")


def test_a_server_that_goes_away_is_waited_for_only_so_long(s3_services: Running, bucket: str, tally: Tally) -> None:
    patience = Patience(connect_s=1, silence_s=0.5, request_s=1, total_s=1)
    for kind, words in (("answer 503", "SlowDown|injected"), ("refuse", "refused|reset"), ("stall", "no answer in time")):
        with behind(s3_services, bucket, Schedule("S3", 0, {kind: 1.0}, tally), patience) as objects:
            began = time.monotonic()
            with pytest.raises(
                ServiceUnavailableError, match=f"does not answer for s3://.*({words}).* then try again"
            ) as caught:
                objects.get("key")
            assert time.monotonic() - began < 60
            assert caught.value.exit_code == 75


def test_a_listing_goes_on_behind_what_has_come(s3_services: Running, bucket: str, tally: Tally, fault_rounds: int) -> None:
    if fault_rounds == 1:
        pytest.skip("takes more than the 1000 objects of one page; make faults has time for it")
    direct = Objects(Location.parse(bucket))
    keys = [f"many/{number:04d}" for number in range(2100)]
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(lambda key: direct.put(key, b""), keys))
    schedule = Schedule("S3", 4, {"reset in response": 0.3, "truncate": 0.3}, tally)
    with behind(s3_services, bucket, schedule) as objects:
        for _ in range(3):
            assert [info.key for info in objects.walk("many")] == keys
    assert schedule.n_injected
