"""Builds, reading and training by way of a network that fails: they finish, or say why not, and no byte is lost.

Flips of bits are injected where a checksum can show them (see http_proxy.py); docs/faults.md says what only https protects.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from faults.http_proxy import S3Proxy
from faults.proxy import REFUSAL_S, PostgresProxy
from faults.schedule import HTTP_FAULTS, TCP_FAULTS, Schedule
from faults.tally import Tally
from faults.world import CHUNK_ROWS, World, made_world, port_of, s3_at

from cli import main
from featurestore import open_set
from featurestore.care.verify.verify import verify
from featurestore.errors import HeimdallError, ServiceUnavailableError, StoreError
from featurestore.objects import objects
from featurestore.objects.retries import Patience
from featurestore.services import Running
from featurestore.source.catalog import read_snapshot
from trainer.stream.feature_stream import DataOptions, FeatureStream
from trainer.stream.options import StreamOptions

impatiently = pytest.mark.usefixtures("impatient")
"""For tests in which something stalls; the others have time, however busy the machine is."""

MOST_ATTEMPTS = 40
LONGEST_ATTEMPT_S = 900
"""Of a build of 27 captures with little patience, however busy the machine is: longer is a hang."""

SOON_S = 400
"""For what takes some 3 s on a quiet machine, and longer than this when nobody gives up."""


@pytest.fixture(scope="module")
def world(services: Running) -> Iterator[World]:
    with made_world(services) as world:
        yield world


def weather(seed: int, kinds: tuple[str, ...], total: float) -> dict[str, float]:
    """Rates of faults, different for each seed; stalls are rare, for they take their time."""
    rng = random.Random(f"weather {seed}")
    weights = {kind: rng.random() ** 2 * (0.1 if kind == "stall" else 1) for kind in kinds}
    scale = total / sum(weights.values())
    return {kind: weight * scale for kind, weight in weights.items()}


def require_clear(error: HeimdallError) -> None:
    """One line that says what is wrong and what to do; 75, unless the bytes themselves were bad twice."""
    message = str(error)
    assert "\n" not in message
    assert len(message) < 600
    assert "try again" in message or "https://" in message or "damaged" in message
    assert error.exit_code == 75 or (type(error) is StoreError and "CRC-32C" in message), message


@impatiently
@pytest.mark.fault_seeds(2)
def test_builds_are_called_until_they_finish_and_lose_nothing(
    world: World, tally: Tally, fault_seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = Patience(connect_s=1, silence_s=1, request_s=2, total_s=0.3)
    if fault_seed % 2:  # impatient builds, so that many of them fail, in heavier weather
        monkeypatch.setattr(objects, "PATIENCE", quick)
    at_s3 = Schedule("S3", fault_seed, weather(fault_seed, HTTP_FAULTS, 0.15 + 0.1 * (fault_seed % 2)), tally)
    at_catalog = Schedule("PostgreSQL", fault_seed, weather(fault_seed + 1, TCP_FAULTS, 0.5), tally)
    services, store = world.services, f"store-{fault_seed}"
    monkeypatch.setattr("featurestore.store.rows.CHUNK_ROWS", CHUNK_ROWS)
    with (
        S3Proxy(port_of(services.endpoint), at_s3, f"/{world.bucket}/{store}") as s3,
        PostgresProxy(int(services.environment["PGPORT"]), at_catalog) as postgres,
    ):
        corpus = world.elsewhere(store, postgres.port)
        for _ in range(MOST_ATTEMPTS):
            report, began = None, time.monotonic()
            with s3_at(services, s3.url):
                try:
                    report = corpus.build(max_rejected_fraction=0.2)
                except HeimdallError as error:
                    require_clear(error)
                    tally.add("builds that ended with a clear error")
            assert time.monotonic() - began < LONGEST_ATTEMPT_S
            with s3_at(services, services.endpoint):
                wrong = world.wrongly_readable(corpus.store)
            tally.add("sets wrongly readable", len(wrong))
            assert not wrong
            if report is not None:
                break
        else:
            pytest.fail(f"not finished after {MOST_ATTEMPTS} attempts with seed {fault_seed}")
    assert at_s3.n_injected
    assert report.version == world.version
    with s3_at(services, services.endpoint):
        lost = world.bytes_lost(corpus.store)
        assert open_set(corpus.store.url).version == world.version
        assert not verify(corpus.store.url).problems
    tally.add("bytes lost", lost)
    tally.add("builds finished")
    assert lost == 0


def test_damage_on_the_way_is_read_again(world: World, tally: Tally) -> None:
    """Every document and every chunk is damaged when it is first read."""
    services, url = world.services, world.corpus.store.url
    options = DataOptions(batch_size=8)
    with s3_at(services, services.endpoint):
        direct = open_set(url)
        right = [direct.read_features(direct.segments[0], chunk) for chunk in range(direct.segments[0].n_chunks)]
        batches = [batch.copy() for batch in FeatureStream.open(url, options=options).train()]

    def flipping() -> S3Proxy:
        schedule = Schedule("S3", 0, {"flip in response": 1.0}, tally)
        return S3Proxy(port_of(services.endpoint), schedule, f"/{world.bucket}/right", flip_once=True)

    with flipping() as s3, s3_at(services, s3.url):
        opened = open_set(url)
        found = [opened.read_features(opened.segments[0], chunk) for chunk in range(len(right))]
        np.testing.assert_array_equal(np.concatenate(found), np.concatenate(right))
        assert s3.schedule.n_injected >= len(right) + 3  # latest.json, manifest, spec
    with flipping() as s3, s3_at(services, s3.url):
        verification = verify(url)
        assert not verification.problems
        assert s3.schedule.n_injected >= verification.objects
    with flipping() as s3, s3_at(services, s3.url):
        data = FeatureStream.open(url, options=options, stream=StreamOptions(cache="off"))
        streamed = [batch.copy() for batch in data.train()]
        assert data.train_stats.fetched_again == data.train_stats.chunks_fetched > 0
    assert len(streamed) == len(batches)
    for batch, wanted in zip(streamed, batches, strict=True):
        assert torch.equal(batch.row, wanted.row)
        assert torch.equal(batch.features, wanted.features)
    with flipping() as s3, s3_at(services, s3.url):
        assert world.corpus.build(max_rejected_fraction=0.2).up_to_date


@impatiently
@pytest.mark.parametrize("after", [0, 60])
def test_an_object_store_that_stays_away_is_exit_75(world: World, tally: Tally, after: int) -> None:
    """From the beginning, and in the middle of a build."""
    schedule = Schedule("S3", 0, {"reset in request": 1.0}, tally, quiet=after)
    corpus = world.elsewhere(f"away-{after}")
    with S3Proxy(port_of(world.services.endpoint), schedule) as s3, s3_at(world.services, s3.url):
        where = ["--catalog", corpus.catalog, "--raw", str(corpus.raw), "--store", str(corpus.store)]
        spec = ["--sample-rate-hz", "48000", "--n-fft", "256", "--hop-length", "64", "--n-mels", "24", "--n-frames", "8"]
        rest = ["--quiet", "--workers", "0", "--max-rejected-fraction", "0.2"]
        began = time.monotonic()
        result = CliRunner().invoke(main, ["build-features", *where, *spec, *rest])
    assert result.exit_code == 75, result.output
    assert time.monotonic() - began < LONGEST_ATTEMPT_S
    assert result.stdout == ""
    assert result.stderr.startswith("error: the object store at http://127.0.0.1:")
    assert result.stderr.count("\n") == 1
    tally.add("builds that ended with a clear error")
    with s3_at(world.services, world.services.endpoint):
        assert not world.wrongly_readable(corpus.store)


@impatiently
@pytest.mark.parametrize("kind", TCP_FAULTS)
def test_a_snapshot_is_read_again_from_its_beginning(world: World, tally: Tally, kind: str, fault_seed: int) -> None:
    wanted = read_snapshot(world.corpus.catalog)
    schedule = Schedule("PostgreSQL", fault_seed, {kind: 0.5}, tally)
    read = interrupted = 0
    wanted_reads = 1 if kind == "stall" else 3
    with PostgresProxy(int(world.services.environment["PGPORT"]), schedule) as postgres:
        postgres.longest_cut_bytes = 2500  # what a snapshot of 27 captures takes at least
        through = world.elsewhere("nowhere", postgres.port).catalog
        while read < wanted_reads or not schedule.n_injected:
            try:
                found = read_snapshot(through)
            except ServiceUnavailableError as error:
                require_clear(error)
                interrupted += 1
                assert interrupted < MOST_ATTEMPTS
                time.sleep(REFUSAL_S / 4)  # a connection that is refused at first is an error at once
                continue
            read += 1
            np.testing.assert_array_equal(found.capture_id, wanted.capture_id)
            np.testing.assert_array_equal(found.position, wanted.position)
            assert list(found.keys()) == list(wanted.keys())
    if kind in ("delay", "throttle"):
        assert interrupted == 0


@impatiently
def test_a_catalog_that_falls_silent_is_given_up(world: World, tally: Tally) -> None:
    schedule = Schedule("PostgreSQL", 0, {"stall": 1.0}, tally)
    with PostgresProxy(int(world.services.environment["PGPORT"]), schedule) as postgres:
        postgres.longest_cut_bytes = 0
        began = time.monotonic()
        with pytest.raises(ServiceUnavailableError):  # while connecting
            read_snapshot(world.elsewhere("nowhere", postgres.port).catalog)
        assert time.monotonic() - began < SOON_S


@impatiently
def test_a_query_that_yields_nothing_for_long_is_given_up(world: World) -> None:
    began = time.monotonic()
    with pytest.raises(
        ServiceUnavailableError, match=r"PostgreSQL 127.0.0.1:\d+/\S+ timed out: no answer for 3 s; check the server"
    ):
        read_snapshot(world.corpus.catalog, "SELECT m.* FROM measurements m, pg_sleep(800) WHERE approved")
    assert time.monotonic() - began < SOON_S
