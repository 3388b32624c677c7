"""Epochs without a gap: the next one and the validation between are fetched while the last batches are served."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable

import pytest
import torch
from corpus_for_tests import Corpus

from featurestore.store.split import Split
from trainer import TrainRequest, fit
from trainer.stream.feature_stream import DataOptions, FeatureStream
from trainer.stream.options import StreamOptions
from trainer.stream.source import ChunkSource, Fetched, Key


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[Key]:
    """The chunks that are read."""
    fetch, keys = ChunkSource.fetch, []

    def noted(self: ChunkSource, key: Key) -> Fetched:
        keys.append(key)
        return fetch(self, key)

    monkeypatch.setattr(ChunkSource, "fetch", noted)
    return keys


def open_data(corpus: Corpus, cache: str = "off") -> FeatureStream:
    return FeatureStream.open(corpus.store.url, "small", DataOptions(8, pool_chunks=2), StreamOptions(2, cache=cache))


def wait_until(there: Callable[[], bool]) -> None:
    end = time.monotonic() + 600
    while not there():
        assert time.monotonic() < end
        time.sleep(0.01)


def stream_threads() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name.startswith(("fetch-chunks", "gather-batches"))]


def test_what_was_prepared_is_fetched_before_it_is_asked_for_and_is_the_same(
    training_corpus: Corpus, fetched: list[Key]
) -> None:
    plain, data = open_data(training_corpus), open_data(training_corpus)
    expected = [[batch.copy() for batch in plain.train()] for _ in range(3)]
    validation = [batch.copy() for batch in plain.evaluate(Split.VAL)]
    plain.close()
    table = plain.order(Split.VAL).table
    wanted_by_validation = set(zip(table.segment.tolist(), table.chunk.tolist(), strict=True))
    for epoch in range(3):
        called: list[int] = []
        fetched.clear()

        def prepare(epoch: int = epoch, called: list[int] = called) -> None:
            called.append(data.batch)
            data.prepare(Split.VAL)
            data.prepare(Split.TRAIN, epoch + 1)

        found = [batch.copy() for batch in data.train(prepare)]
        assert len(called) == 1
        assert 0 < called[0] < len(found)  # in time
        for mine, theirs in zip(found, expected[epoch], strict=True):
            assert torch.equal(mine.row, theirs.row)
            assert torch.equal(mine.features, theirs.features)
        wait_until(lambda: wanted_by_validation <= set(fetched))  # though nobody has asked for any of its batches yet
        assert [each.row.tolist() for each in data.evaluate(Split.VAL)] == [each.row.tolist() for each in validation]
        assert data.evaluate_stats(Split.VAL).chunks_fetched == len(wanted_by_validation)
    data.close()
    wait_until(lambda: not stream_threads())


@pytest.mark.parametrize("how", ["close", "forget", "elsewhere"])
def test_what_was_prepared_in_vain_leaves_no_threads(training_corpus: Corpus, fetched: list[Key], how: str) -> None:
    data = open_data(training_corpus)
    data.prepare(Split.TRAIN, 1)
    wait_until(lambda: bool(fetched))
    if how == "close":
        data.close()
    elif how == "elsewhere":  # another epoch than what was prepared
        first = next(data.train())
        assert len(first) == 8
        data.close()
    del data
    gc.collect()
    wait_until(lambda: not stream_threads())


def test_a_training_prepares_every_epoch_but_the_first_and_ends_without_threads(
    tiny: TrainRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared: list[tuple[Split, int | None]] = []
    prepare = FeatureStream.prepare

    def noted(self: FeatureStream, split: Split, epoch: int | None = None) -> None:
        prepared.append((split, epoch))
        prepare(self, split, epoch)

    monkeypatch.setattr(FeatureStream, "prepare", noted)
    fit(tiny)
    assert prepared == [(Split.VAL, None), (Split.TRAIN, 1), (Split.VAL, None)]
    wait_until(lambda: not stream_threads())
