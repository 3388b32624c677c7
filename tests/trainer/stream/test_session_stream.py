"""Batches of sessions from sets that were really built: content, ranks, resume, caches, devices, Lightning's loader."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from corpus_for_tests import SMALL, Corpus

from featurestore import open_set
from featurestore.errors import UsageError
from featurestore.objects.objects import Location, open_objects
from featurestore.store.split import Split
from trainer.fitting.loader import FeatureDataModule
from trainer.stream.batches import Batch, SessionBatch
from trainer.stream.feature_stream import DataOptions, FeatureStream
from trainer.stream.options import StreamOptions
from trainer.stream.order import PADDING

OFF = StreamOptions(cache="off")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sessions") / "store"


@pytest.fixture
def store(built: Path, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Two windows per capture; 30 sessions in two segments of small chunks, of which the second has other receivers too."""
    if not built.exists():
        monkeypatch.setattr("featurestore.store.rows.CHUNK_ROWS", 16)
        (tmp_path / "raw").mkdir()
        catalog = request.getfixturevalue("catalog")
        raw = Location.parse(str(tmp_path / "raw"))
        corpus = Corpus(raw, Location.parse(str(built)), catalog, replace(SMALL, windows_per_capture=2))
        corpus.add(*range(24))
        corpus.add(24, broken="silent")
        corpus.build(max_rejected_fraction=1.0)
        corpus.add(*range(25, 30))
        for session in range(0, 24, 2):
            (raw.directory / corpus.key(session, 8)).write_bytes((raw.directory / corpus.key(session, 1)).read_bytes())
        corpus.sql(
            "INSERT INTO measurements (session_id, websdr_id, latitude, longitude, sample_rate_hz, approved)"
            " SELECT session_id, 8, latitude, longitude, sample_rate_hz, true FROM measurements WHERE websdr_id = 1"
        )
        corpus.build(max_rejected_fraction=1.0)
    return str(built)


def stream(store: str, options: StreamOptions = OFF, rank: int = 0, **changes: int) -> FeatureStream:
    data = DataOptions(**{"batch_size": 4, "pool_chunks": 2, **changes}, by="session")
    return FeatureStream.open(store, options=data, stream=options, rank=rank)


def keep(batches: Iterable[Batch]) -> list[SessionBatch]:
    kept = [batch.copy() for batch in batches]
    assert all(isinstance(batch, SessionBatch) for batch in kept)
    return kept  # type: ignore[return-value]  # as was just looked at


def numbers(batches: Iterable[SessionBatch]) -> list[list[int]]:
    return [batch.session.tolist() for batch in batches]


@pytest.mark.parametrize("cache", ["off", "ram"])
def test_content_is_that_of_the_set(store: str, cache: str) -> None:
    opened = open_set(store)
    assert len(opened.segments) == 2
    dataset = opened.to_xarray()
    features, receiver = dataset.features.to_numpy(), dataset.websdr_id.to_numpy()
    data = stream(store, StreamOptions(cache=cache))
    widths = set()
    for split in (Split.TRAIN, Split.VAL, Split.TEST):
        sessions = opened.sessions(split)
        evaluated = keep(data.evaluate(split))
        assert [n for batch in numbers(evaluated) for n in batch] == list(range(len(sessions)))
        for batch in [*evaluated, *(keep(data.train()) if split == Split.TRAIN else [])]:
            assert (batch.features.dtype, batch.position.dtype, batch.present.dtype) == (
                torch.float16,
                torch.float64,
                torch.bool,
            )
            b, r = batch.present.shape
            assert batch.features.shape == (b, r, *opened.spec.tensor_shape)
            assert len(batch) == b
            widths.add(r)
            for i, number in enumerate(batch.session.tolist()):
                rows = sessions.rows[sessions.begin[number] : sessions.begin[number + 1]]
                n = len(rows)
                assert batch.row[i].tolist() == [*rows.tolist(), *[PADDING] * (r - n)]
                assert batch.present[i].tolist() == [True] * n + [False] * (r - n)
                assert batch.receiver[i].tolist() == [*receiver[rows].tolist(), *[-1] * (r - n)]
                np.testing.assert_array_equal(batch.features[i, :n].numpy(), features[rows])
                assert not batch.features[i, n:].any()
                assert batch.position[i].tolist() == opened.labels.position[rows[0]].tolist()
    assert max(widths) == 8  # two windows each of four receivers, of which one is in the other segment


def test_threads_buffers_and_caches_do_not_change_the_order(store: str) -> None:
    served = []
    for options in (StreamOptions(1, cache="off"), StreamOptions(7, n_buffers=1), StreamOptions(cache="ram")):
        data = stream(store, options)
        served.append([numbers(keep(data.train())) for _ in range(3)])
    assert served[0] == served[1] == served[2]
    assert served[0][0] != served[0][1]


def test_ranks_share_an_epoch(store: str) -> None:
    n_train = len(open_set(store).sessions(Split.TRAIN))
    ranks = [[n for batch in numbers(keep(stream(store, rank=rank, world_size=2).train())) for n in batch] for rank in (0, 1)]
    assert len(ranks[0]) == len(ranks[1]) == n_train // 8 * 4
    assert not set(ranks[0]) & set(ranks[1])


def test_padding_is_absent(store: str) -> None:
    world = len(open_set(store).sessions(Split.VAL)) + 1
    found = [keep(stream(store, rank=rank, world_size=world).evaluate(Split.VAL)) for rank in range(world)]
    assert {len(batches) for batches in found} == {1}
    (padding,) = [batch for (batch,) in found if batch.session.tolist() == [PADDING]]
    assert padding.features.shape == (1, 1, *open_set(store).spec.tensor_shape)
    assert not padding.features.any()
    assert not padding.present.any()
    assert (padding.row.tolist(), padding.receiver.tolist()) == ([[PADDING]], [[-1]])
    assert padding.position.isnan().all()


def test_resuming_in_mid_epoch_goes_on_exactly(store: str) -> None:
    data = stream(store)
    whole = [keep(data.train()) for _ in range(2)]
    data = stream(store)
    batches = data.train()
    for _ in range(3):
        next(batches)
    state = data.state_dict()
    batches.close()
    resumed = stream(store)
    resumed.load_state_dict(state)
    for expected in (whole[0][3:], whole[1]):
        for one, other in zip(keep(resumed.train()), expected, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(one.tensors(), other.tensors(), strict=True))


def test_a_state_of_rows_is_no_state_of_sessions(store: str) -> None:
    rows = FeatureStream.open(store, options=DataOptions(4, pool_chunks=2), stream=OFF)
    with pytest.raises(UsageError, match=r"saved with batches of 'row', this run has 'session'"):
        stream(store).load_state_dict(rows.state_dict())
    before = rows.state_dict()
    del before["batches_of"]  # as it was written before there were sessions
    rows.load_state_dict(before)
    with pytest.raises(UsageError, match=r"saved with batches of 'row'"):
        stream(store).load_state_dict(before)
    with pytest.raises(UsageError, match="by is 'capture'; expected one of row, session"):
        DataOptions(by="capture")
    with pytest.raises(UsageError, match=r"has \d+ sessions; expected at least 4000"):
        stream(store, batch_size=4000).order(Split.TRAIN, 0)


def test_rows_that_stay_on_a_device_make_the_same_batches(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.stream.device.RESIDENT", {"cpu"})
    monkeypatch.setattr("trainer.stream.device.free_bytes", lambda device: 10**9)
    usual, here = stream(store), stream(store, StreamOptions(cache="gpu"))
    for split in (None, None, Split.VAL):
        got, wanted = (keep(data.train() if split is None else data.evaluate(split)) for data in (here, usual))
        for one, other in zip(got, wanted, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(one.tensors(), other.tensors(), strict=True))
    assert here.evaluate_stats(Split.VAL).rows == usual.evaluate_stats(Split.VAL).rows


def test_it_works_on_s3(store: str, bucket: str) -> None:
    objects = open_objects(f"{bucket}/store")
    for path in Path(store).rglob("*"):
        if path.is_file():
            objects.put(str(path.relative_to(store)), path.read_bytes())
    for one, other in zip(keep(stream(f"{bucket}/store").train()), keep(stream(store).train()), strict=True):
        assert torch.equal(one.features, other.features)
        assert one.session.tolist() == other.session.tolist()


def test_lightnings_loader_counts_and_moves_sessions(store: str) -> None:
    module = FeatureDataModule(open_set(store), 4, 42, OFF, by="session")
    batches = keep(module.train_dataloader())
    assert len(batches) == module.steps_per_epoch == len(module.train_dataloader())
    moved = module.transfer_batch_to_device(batches[0], torch.device("cpu"), 0)
    assert isinstance(moved, SessionBatch)
    assert torch.equal(moved.present, batches[0].present)
    module.teardown("fit")
