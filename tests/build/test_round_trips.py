"""How often a build waits for a distant object store: requests that could go out together do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from corpus_for_tests import Corpus
from faults.http_proxy import S3Proxy, round_trips
from faults.schedule import Schedule
from faults.tally import Tally
from faults.world import port_of, s3_at

from featurestore.care.verify.verify import verify
from featurestore.objects.concurrently import at_once, get_all, map_concurrently, put_all
from featurestore.objects.objects import Location, open_objects
from featurestore.services import Running
from featurestore.tensor.spec import SplitSpec

DISTANCE_S = 0.1
"""Much longer than a server needs here, so that what goes out together is seen together."""

MOST = 30
"""Requests of a build one after the other, whatever is read of captures beyond the first 16."""


@contextmanager
def distant(services: Running, tally: Tally) -> Iterator[S3Proxy]:
    quiet = Schedule("S3", 0, {}, tally)
    with S3Proxy(port_of(services.endpoint), quiet, distance_s=DISTANCE_S) as proxy, s3_at(services, proxy.url):
        yield proxy


def test_a_build_waits_for_few_round_trips(services: Running, catalog: str, bucket: str, tally: Tally) -> None:
    corpus = Corpus(Location(f"{bucket}/raw"), Location(f"{bucket}/store"), catalog)
    corpus.add(*range(4))
    with distant(services, tally) as proxy:
        first = corpus.build()
        assert len(round_trips(proxy.exchanges)) <= MOST
        proxy.exchanges.clear()
        other = corpus.build(split=SplitSpec(seed=1), refit="never")
        assert other.computed == 0
        assert len(round_trips(proxy.exchanges)) <= 2 * MOST // 3
    assert not verify(corpus.store.url, first.version).problems
    assert not verify(corpus.store.url, other.version).problems


def test_many_objects_go_out_together_and_all_arrive(services: Running, bucket: str, tally: Tally) -> None:
    documents = [(f"documents/{number:03d}", f"number {number}".encode()) for number in range(40)]
    with distant(services, tally) as proxy:
        objects = open_objects(f"{bucket}/together")
        put_all(objects, iter(documents))
        assert len(round_trips(proxy.exchanges)) <= 8
        found = get_all(objects, [*(key for key, _ in documents), "documents/none"])
    assert found == [*(data for _, data in documents), None]


@pytest.mark.parametrize("remote", [False, True])
def test_the_first_error_is_raised_when_all_that_was_begun_has_ended(
    tmp_path: Path, services: Running, bucket: str, remote: bool
) -> None:
    objects = open_objects(bucket if remote else tmp_path.as_uri())
    ended = []

    def step(number: int) -> int:
        if number % 2:
            raise KeyError(number)
        ended.append(number)
        return number

    with pytest.raises(KeyError, match="1"):
        map_concurrently(objects, step, range(4))
    assert 0 in ended
    assert map_concurrently(objects, step, range(0, 100, 2)) == list(range(0, 100, 2))
    assert at_once(objects, lambda: 1, lambda: "two") == (1, "two")
