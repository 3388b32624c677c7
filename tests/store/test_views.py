"""A rebuild asks the object store for what changed and nothing else: counted by a proxy, in requests and bytes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from corpus_for_tests import N_SAMPLES, SMALL, Corpus
from faults.http_proxy import Exchange, S3Proxy
from faults.schedule import Schedule
from faults.tally import Tally
from faults.world import port_of, s3_at

from featurestore import open_set
from featurestore.build.publish import BuildReport
from featurestore.objects.objects import Location
from featurestore.services import Running
from featurestore.store.split import Split
from featurestore.tensor.spec import SplitSpec

HEADER_BYTES = 128
WINDOW_BYTES = 16 * SMALL.span

ROWS = 30
"""Of the first build."""

CHUNK_ROWS = 8
N_CHUNKS = 4


@dataclass(frozen=True)
class Traffic:
    """What one build asked the object store for.

    Attributes:
        captures: object keys of raw captures that were read → bytes that came.
        read: chunks of tensors that were read, as "ARRAY of SEGMENT" → how many.
        written: those that were written, likewise.
        changed: every object that was written or deleted.
        n_requests: of all kinds.
    """

    captures: Counter[str]
    read: Counter[str]
    written: Counter[str]
    changed: set[str]
    n_requests: int

    @classmethod
    def of(cls, exchanges: list[Exchange], bucket: str) -> Traffic:
        """Count what passed."""
        traffic = cls(Counter(), Counter(), Counter(), set(), len(exchanges))
        for exchange in exchanges:
            key = exchange.path.removeprefix(f"/{bucket}").removeprefix("/")
            if exchange.method in ("PUT", "DELETE", "POST"):
                traffic.changed.add(key)
            if key.startswith("raw/") and exchange.method == "GET":
                traffic.captures[key.removeprefix("raw/")] += exchange.received_bytes
            chunk = re.fullmatch(r"store/specs/\w+/segments/(\w+)/(logmel|features)(-\w+)?/c/.*", key)
            if chunk and exchange.method in ("GET", "PUT"):
                where = traffic.read if exchange.method == "GET" else traffic.written
                where[f"{chunk[2]} of {chunk[1]}"] += 1
        return traffic


Measure = Callable[..., tuple[BuildReport, Traffic]]


@pytest.fixture
def corpus(bucket: str, catalog: str, monkeypatch: pytest.MonkeyPatch) -> Corpus:
    monkeypatch.setattr("featurestore.store.rows.CHUNK_ROWS", CHUNK_ROWS)
    corpus = Corpus(Location.parse(f"{bucket}/raw"), Location.parse(f"{bucket}/store"), catalog)
    corpus.add(*range(ROWS // 3))
    return corpus


@pytest.fixture
def measure(corpus: Corpus, services: Running, tally: Tally) -> Iterator[Measure]:
    """Build by way of a proxy that counts."""
    with S3Proxy(port_of(services.endpoint), Schedule("S3", 0, {}, tally)) as proxy:

        def build(**changes: object) -> tuple[BuildReport, Traffic]:
            begin = len(proxy.exchanges)
            with s3_at(services, proxy.url):
                report = corpus.build(**changes)
            return report, Traffic.of(proxy.exchanges[begin:], corpus.raw.url.removeprefix("s3://").partition("/")[0])

        yield build


def segments_of(corpus: Corpus, version: str) -> list[str]:
    return [segment.segment for segment in open_set(corpus.store.url, version).segments]


def test_a_first_build_reads_each_capture_once_and_writes_each_chunk_once(corpus: Corpus, measure: Measure) -> None:
    """What the others are compared with."""
    report, traffic = measure()
    (segment,) = segments_of(corpus, report.version)
    assert traffic.captures == dict.fromkeys(
        (corpus.key(session, receiver) for session in range(10) for receiver in (1, 2, 3)), HEADER_BYTES + WINDOW_BYTES
    )
    assert HEADER_BYTES + WINDOW_BYTES < 16 * N_SAMPLES / 3  # of which a window is a part
    assert traffic.written == {f"logmel of {segment}": N_CHUNKS, f"features of {segment}": N_CHUNKS}


@pytest.mark.parametrize(
    ("statement", "split"),
    [
        ("SELECT", SplitSpec(seed=7)),
        ("SELECT", SplitSpec(fold=(1, 4))),
        ("SELECT", SplitSpec(by="region")),
        ("UPDATE measurements SET latitude = latitude + 0.001, snr_db = 3.5", SplitSpec()),
        ("UPDATE measurements SET approved = false WHERE websdr_id = 1", SplitSpec()),
    ],
    ids=["seed", "fold", "region", "labels", "approvals"],
)
def test_a_view_reads_no_iq_and_moves_no_tensor(corpus: Corpus, measure: Measure, statement: str, split: SplitSpec) -> None:
    first, at_first = measure()
    corpus.sql(statement)
    report, traffic = measure(split=split)
    assert report.version != first.version
    assert report.computed == 0
    assert not traffic.captures
    assert not traffic.read
    assert not traffic.written
    assert {key.partition(report.version)[0] for key in traffic.changed} == {"store/sets/", "store/latest.json"}
    assert traffic.n_requests < at_first.n_requests / 2
    assert len(open_set(corpus.store.url, first.version).labels.split) == ROWS


def test_new_captures_cost_only_themselves(corpus: Corpus, measure: Measure) -> None:
    first, _ = measure()
    (old,) = segments_of(corpus, first.version)
    corpus.add(10)
    report, traffic = measure()
    (new,) = set(segments_of(corpus, report.version)) - {old}
    assert traffic.captures == {corpus.key(10, receiver): HEADER_BYTES + WINDOW_BYTES for receiver in (1, 2, 3)}
    assert traffic.written == {f"logmel of {new}": 1, f"features of {new}": 1}
    assert not traffic.read
    assert not [key for key in traffic.changed if old in key or first.version in key]


def test_a_replaced_capture_costs_itself_and_stays_in_the_old_set(corpus: Corpus, measure: Measure) -> None:
    first, _ = measure()
    (old,) = segments_of(corpus, first.version)
    before = open_set(corpus.store.url, first.version)
    features = [before.read_features(before.segments[0], chunk).tobytes() for chunk in range(N_CHUNKS)]
    corpus.replace(2, 1)
    report, traffic = measure()
    (new,) = set(segments_of(corpus, report.version)) - {old}
    assert traffic.captures == {corpus.key(2, 1): HEADER_BYTES + WINDOW_BYTES}
    assert traffic.written == {f"logmel of {new}": 1, f"features of {new}": 1}
    assert not traffic.read
    after = open_set(corpus.store.url, first.version)
    assert after.manifest.counts["rows"] == ROWS
    assert [after.read_features(after.segments[0], chunk).tobytes() for chunk in range(N_CHUNKS)] == features


def test_a_refit_reads_each_log_mel_chunk_and_writes_each_feature_chunk(corpus: Corpus, measure: Measure) -> None:
    first, _ = measure()
    (segment,) = segments_of(corpus, first.version)
    report, traffic = measure(split=SplitSpec(fold=(1, 4)), refit="always")
    assert report.computed == 0
    assert not traffic.captures
    train = open_set(corpus.store.url, report.version).labels.split == Split.TRAIN
    fitted = sum(train[start : start + CHUNK_ROWS].any() for start in range(0, ROWS, CHUNK_ROWS))
    assert traffic.read == {f"logmel of {segment}": fitted + N_CHUNKS}  # once to fit, if it has train rows; once to normalize
    assert traffic.written == {f"features of {segment}": N_CHUNKS}
