"""Streams of sets that were really built: content, order, damage, memory, threads, and exact resume."""

from __future__ import annotations

import gc
import shutil
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from corpus_for_tests import Corpus

from featurestore import open_set
from featurestore.errors import ServiceUnavailableError, StoreError, UsageError
from featurestore.objects.objects import Location, open_objects
from featurestore.store.split import Split
from trainer.stream.batches import Batch
from trainer.stream.feature_stream import DataOptions, FeatureStream
from trainer.stream.mapped import map_file
from trainer.stream.options import StreamOptions
from trainer.stream.order import PADDING
from trainer.stream.prefetch import PREFETCH_DEPTH
from trainer.stream.source import ChunkError, ChunkSource

CHUNK_ROWS = 8
Data = bytes | memoryview
OFF = StreamOptions(cache="off")
GPU = StreamOptions(cache="gpu")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the store is that the first test builds, and all others copy."""
    return tmp_path_factory.mktemp("built") / "store"


@pytest.fixture
def corpus(tmp_path: Path, built: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Corpus:
    """120 rows in chunks of eight at most, in two segments, and six rejected ones; without its catalog."""
    if not built.exists():
        monkeypatch.setattr("featurestore.store.rows.CHUNK_ROWS", CHUNK_ROWS)
        build(tmp_path / "raw", built, request.getfixturevalue("catalog"))
    shutil.copytree(built, tmp_path / "store")
    return Corpus(Location.parse(str(tmp_path / "raw")), Location.parse(str(tmp_path / "store")), "")


def build(raw: Path, store: Path, catalog: str) -> None:
    raw.mkdir(exist_ok=True)
    corpus = Corpus(Location.parse(str(raw)), Location.parse(str(store)), catalog)
    corpus.add(*range(30))
    corpus.add(30, broken="silent")
    corpus.build(max_rejected_fraction=1.0)
    corpus.add(*range(31, 41))
    corpus.add(41, broken="non_finite")
    corpus.build(max_rejected_fraction=1.0)


def open_data(corpus: Corpus, stream: StreamOptions = OFF, rank: int = 0, **options: Any) -> FeatureStream:
    return FeatureStream.open(corpus.store.url, options=DataOptions(**{"batch_size": 10, **options}), stream=stream, rank=rank)


def rows_of(batches: list[Batch]) -> list[int]:
    return [row for batch in batches for row in batch.row.tolist() if row != PADDING]


def keep(batches: Iterable[Batch]) -> list[Batch]:
    return [batch.copy() for batch in batches]


def read_all(data: FeatureStream) -> list[list[int]]:
    """The rows of every split."""
    return [rows_of(list(data.evaluate(split))) for split in (Split.TRAIN, Split.VAL, Split.TEST)]


def our_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith(("fetch-chunks", "gather-batches"))]


def chunk_files(corpus: Corpus) -> list[Path]:
    """Chunks of features, as many as the set has."""
    basis = open_set(corpus.store.url).manifest.basis
    return sorted(corpus.store.directory.glob(f"specs/*/segments/*/features-{basis}/c/*/0/0/0"))


def count_reads(monkeypatch: pytest.MonkeyPatch, change: Callable[[str, Data], Data] | None = None) -> list[str]:
    """The keys of all chunks of features that are read from now on; `change` may change what comes back."""
    read, keys = ChunkSource._read, []

    def counted(self: ChunkSource, name: str, n_bytes: int, memory: npt.NDArray[np.uint8] | None) -> Data:
        keys.append(name)
        data = read(self, name, n_bytes, memory)
        return change(name, data) if change else data  # type: ignore[return-value, arg-type]  # obstore's are not met here

    monkeypatch.setattr(ChunkSource, "_read", counted)
    return keys


def n_bytes(corpus: Corpus, keys: list[str]) -> int:
    return sum((corpus.store.directory / key).stat().st_size for key in keys)


def flip(data: Data) -> bytes:
    content = bytearray(data)
    content[100] ^= 1
    return bytes(content)


@pytest.mark.parametrize("cache", ["off", "ram"])
def test_content_is_that_of_the_set(corpus: Corpus, cache: str) -> None:
    feature_set = open_set(corpus.store.url)
    assert len(feature_set.segments) == 2
    dataset = feature_set.to_xarray()
    features = dataset.features.to_numpy()
    data = open_data(corpus, StreamOptions(cache=cache), pool_chunks=3)
    for split in (Split.TRAIN, Split.VAL, Split.TEST):
        wanted = np.flatnonzero(dataset.split.to_numpy() == split)
        for batches in (keep(data.evaluate(split)), keep(data.train()) if split == Split.TRAIN else []):
            for batch in batches:
                rows = batch.row.numpy()
                assert (batch.features.dtype, batch.position.dtype) == (torch.float16, torch.float64)
                np.testing.assert_array_equal(batch.features.numpy(), features[rows])
                assert np.isfinite(batch.features.numpy()).all()  # a rejected row holds NaN
                np.testing.assert_array_equal(batch.position[:, 0], dataset.latitude[rows])
                np.testing.assert_array_equal(batch.position[:, 1], dataset.longitude[rows])
        assert rows_of(list(data.evaluate(split))) == wanted.tolist()
    counts = feature_set.manifest.counts
    assert sum(map(len, read_all(data))) == counts["rows"]


def test_threads_and_cache_do_not_change_the_order(corpus: Corpus) -> None:
    served = []
    for options in (StreamOptions(threads=1, cache="off"), StreamOptions(threads=7, n_buffers=1), StreamOptions(cache="ram")):
        data = open_data(corpus, options, pool_chunks=3)
        served.append([rows_of(list(data.train())) for _ in range(3)])
    assert served[0] == served[1] == served[2]
    assert served[0][0] != served[0][1]


def test_it_works_on_s3(corpus: Corpus, bucket: str) -> None:
    objects = open_objects(f"{bucket}/store")
    for path in corpus.store.directory.rglob("*"):
        if path.is_file():
            objects.put(str(path.relative_to(corpus.store.directory)), path.read_bytes())
    remote = FeatureStream.open(f"{bucket}/store", options=DataOptions(batch_size=10), stream=OFF)
    for here, there in zip(keep(open_data(corpus).train()), keep(remote.train()), strict=True):
        assert here.row.tolist() == there.row.tolist()
        assert torch.equal(here.features, there.features)
    objects.delete([str(path.relative_to(corpus.store.directory)) for path in chunk_files(corpus)[:1]])
    with pytest.raises(ChunkError, match="is missing"):
        read_all(remote)


def test_two_ranks_share_an_epoch(corpus: Corpus) -> None:
    n_train = open_set(corpus.store.url).manifest.counts["train"]
    ranks = [open_data(corpus, rank=rank, world_size=2) for rank in (0, 1)]
    served = [rows_of(list(data.train())) for data in ranks]
    assert len(served[0]) == len(served[1]) == n_train // 20 * 10
    assert not set(served[0]) & set(served[1])
    shares = [rows_of(list(data.evaluate(Split.VAL))) for data in ranks]
    assert [*shares[0], *shares[1]] == rows_of(list(open_data(corpus).evaluate(Split.VAL)))


def test_padding_cannot_be_taken_for_a_row(corpus: Corpus) -> None:
    n_val = open_set(corpus.store.url).manifest.counts["val"]
    world = n_val + 1
    batches = [keep(open_data(corpus, rank=rank, world_size=world).evaluate(Split.VAL)) for rank in (0, 1, world - 1)]
    assert [len(found) for found in batches] == [1, 1, 1]
    (padding,) = next(found for found in batches if found[0].row.tolist() == [PADDING])
    assert padding.features.shape == (1, *open_set(corpus.store.url).spec.tensor_shape)
    assert not padding.features.any()
    assert padding.position.isnan().all()


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU passes for a GPU, of which 1 GB is free: what stays on a device is tested without one."""
    monkeypatch.setattr("trainer.stream.device.RESIDENT", {"cpu"})
    monkeypatch.setattr("trainer.stream.device.free_bytes", lambda device: 10**9)


def test_rows_that_stay_on_the_device_make_the_same_batches(
    corpus: Corpus, device: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, usual = (open_data(corpus, stream, pool_chunks=3) for stream in (GPU, OFF))
    wanted = [keep(usual.train()) for _ in range(3)] + [keep(usual.evaluate(Split.TRAIN)), keep(usual.evaluate(Split.VAL))]
    reads = count_reads(monkeypatch)
    for number, epoch in enumerate(wanted):
        got = list(data.train() if number < 3 else data.evaluate(Split.TRAIN if number == 3 else Split.VAL))  # no copies
        for one, other in zip(got, epoch, strict=True):
            assert one.row.tolist() == other.row.tolist()
            assert torch.equal(one.features, other.features)
            assert torch.equal(one.position, other.position)
            assert one.features.isfinite().all()  # a rejected row holds NaN
    train, val = (len(data.order(split).table) for split in (Split.TRAIN, Split.VAL))
    assert len(reads) <= train + val  # a chunk with rows of both is read for each


def test_the_device_serves_what_is_left_of_an_epoch(corpus: Corpus, device: None) -> None:
    whole = [keep(data.train()) for data in [open_data(corpus, pool_chunks=3)] for _ in range(2)]
    data = open_data(corpus, GPU, pool_chunks=3)
    batches = data.train()
    assert [next(batches).row.tolist() for _ in range(3)] == [batch.row.tolist() for batch in whole[0][:3]]
    state = data.state_dict()
    batches.close()
    for resumed in (data, open_data(corpus, GPU, pool_chunks=3)):  # with some of the rows there, and with none
        resumed.load_state_dict(state)
        for expected in (whole[0][3:], whole[1]):
            for one, other in zip(resumed.train(), expected, strict=True):
                assert torch.equal(one.features, other.features)


def test_padding_on_the_device_is_zero(corpus: Corpus, device: None) -> None:
    world = open_set(corpus.store.url).manifest.counts["val"] + 1
    ranks = [list(open_data(corpus, GPU, rank=rank, world_size=world).evaluate(Split.VAL)) for rank in range(world)]
    (padding,) = [batch for batches in ranks for batch in batches if batch.row.tolist() == [PADDING]]
    assert not padding.features.any()
    assert padding.position.isnan().all()


def test_damage_is_named_before_rows_get_to_the_device(corpus: Corpus, device: None, monkeypatch: pytest.MonkeyPatch) -> None:
    damaged = chunk_files(corpus)[0]
    content = damaged.read_bytes()
    damaged.write_bytes(flip(content))
    data = open_data(corpus, GPU)
    with pytest.raises(ChunkError, match="CRC-32C") as caught:
        read_all(data)
    assert caught.value.key.endswith(str(damaged.relative_to(corpus.store.directory)))
    assert caught.value.capture_ids
    damaged.write_bytes(content)
    assert read_all(data) == read_all(open_data(corpus))


@pytest.mark.parametrize(("free", "cached"), [(10**9, "gpu"), (1000, "ram"), (None, "ram")])
def test_auto_prefers_a_gpu_with_room(
    corpus: Corpus, free: int | None, cached: str, device: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if free is None:
        monkeypatch.undo()
    else:
        monkeypatch.setattr("trainer.stream.device.free_bytes", lambda device: free)
    data = open_data(corpus, StreamOptions(cache_bytes=10**9))
    features = [[batch.features.data_ptr() for batch in data.evaluate(Split.TRAIN)] for _ in range(2)]
    ring = len({*features[0], *features[1]}) == data._stream_options.n_buffers + PREFETCH_DEPTH
    assert ("ram" if ring else "gpu") == cached
    assert data.evaluate_stats(Split.TRAIN).chunks_fetched == 0


def test_a_gpu_that_is_not_there_or_too_small_is_an_error(
    corpus: Corpus, device: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.stream.device.free_bytes", lambda device: 1000)
    with pytest.raises(UsageError, match=r"rows take 0.0 GB, but the GPU has 0.0 GB free; use --cache auto"):
        list(open_data(corpus, GPU).train())
    monkeypatch.undo()
    with pytest.raises(UsageError, match=r"cache is 'gpu', but batches are wanted on the CPU.* or use --cache auto"):
        open_data(corpus, GPU)


@pytest.mark.parametrize("damage", ["flipped", "truncated", "deleted", "swapped"])
def test_a_damaged_chunk_is_named_with_its_captures(corpus: Corpus, damage: str) -> None:
    first, second = chunk_files(corpus)[:2]
    content = first.read_bytes()
    if damage == "deleted":
        first.unlink()
    else:
        first.write_bytes(
            {"flipped": flip(content), "truncated": content[:-10], "swapped": second.read_bytes()}[damage]
        )  # a swapped chunk is whole: only the set knows that it is another one
    feature_set = open_set(corpus.store.url)
    segment = next(each for each in feature_set.segments if each.segment in str(first))
    start = sum(each.n_rows for each in feature_set.segments[: feature_set.segments.index(segment)])
    captures = sorted(feature_set.fact("capture_id")[start : start + segment.chunk_rows].tolist())
    data = open_data(corpus)
    with pytest.raises(ChunkError) as caught:
        read_all(data)
    assert caught.value.key == f"{corpus.store}/{first.relative_to(corpus.store.directory)}"
    assert caught.value.capture_ids == captures
    message = str(caught.value)
    assert caught.value.key in message
    assert ", ".join(map(str, captures)) in message
    assert {"flipped": "CRC-32C", "truncated": "truncated", "deleted": "missing", "swapped": "CRC-32C"}[damage] in message
    assert not our_threads()


def test_batches_before_a_damaged_chunk_are_handed_over(corpus: Corpus) -> None:
    data = open_data(corpus, pool_chunks=1)
    table = data.order(Split.TRAIN).table
    segment = open_set(corpus.store.url).segments[int(table.segment[-1])]
    next(
        path for path in chunk_files(corpus) if f"{segment.segment}/" in str(path) and path.parts[-4] == str(table.chunk[-1])
    ).unlink()
    got: list[list[int]] = []
    with pytest.raises(ChunkError):
        got.extend(batch.row.tolist() for batch in data.evaluate(Split.TRAIN))
    assert len(got) >= data.order(Split.TRAIN).n_batches - 3


def test_transient_damage_is_survived_and_counted(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = keep(open_data(corpus).train())
    seen: set[str] = set()

    def spoil_once(key: str, data: Data) -> Data:
        first = key not in seen
        seen.add(key)
        if first and len(seen) == 2:
            raise FileNotFoundError(key)
        return flip(data) if first and len(seen) == 1 else data

    reads = count_reads(monkeypatch, spoil_once)
    data = open_data(corpus)
    for before, now in zip(whole, data.train(), strict=True):
        assert torch.equal(before.features, now.features)
    stats = data.train_stats
    assert (stats.fetched_again, stats.chunks_fetched) == (2, len(seen))
    # Of the one that was missing at first nothing came.
    twice = [key for key in seen if reads.count(key) == 2]
    assert len(twice) == 2
    assert stats.bytes_fetched in [n_bytes(corpus, reads) - n_bytes(corpus, [key]) for key in twice]


def test_an_unreachable_store_is_said_to_be_one(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(key: str, data: Data) -> Data:
        raise ServiceUnavailableError("the object store does not answer")

    reads = count_reads(monkeypatch, gone)
    with pytest.raises(ServiceUnavailableError):
        list(open_data(corpus).train())
    assert len(reads) == len(set(reads))  # the patience is obstore's


def test_a_cached_set_is_read_once(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = count_reads(monkeypatch)
    data = open_data(corpus, StreamOptions(cache="auto", cache_bytes=10**9), pool_chunks=2)
    n_chunks = len(data.order(Split.TRAIN).table)
    for epoch in range(3):
        list(data.train())
        read_all(data)
        if epoch:
            assert (data.train_stats.chunks_fetched, data.train_stats.bytes_fetched) == (0, 0)
            assert data.train_stats.cache_hits >= n_chunks - 2  # the last incomplete batch may leave some out
    assert len(reads) == len(set(reads)) == len(chunk_files(corpus))


@pytest.mark.parametrize("options", [OFF, StreamOptions(cache_bytes=1000)])
def test_what_does_not_fit_is_read_in_every_epoch(
    corpus: Corpus, options: StreamOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = open_data(corpus, options)
    reads = count_reads(monkeypatch)
    list(data.evaluate(Split.TRAIN))
    first = len(reads)
    list(data.evaluate(Split.TRAIN))
    assert len(reads) == 2 * first == 2 * len(data.order(Split.TRAIN).table)
    assert data.evaluate_stats(Split.TRAIN).cache_hits == 0


def test_the_budget_is_shared_by_all_splits(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = count_reads(monkeypatch)
    list(open_data(corpus).evaluate(Split.TRAIN))
    data = open_data(corpus, StreamOptions(cache_bytes=n_bytes(corpus, reads)))
    for _ in range(2):
        for split in Split.TRAIN, Split.VAL:
            list(data.evaluate(split))
    assert data.evaluate_stats(Split.TRAIN).chunks_fetched == 0
    assert data.evaluate_stats(Split.VAL).chunks_fetched > 0


def test_a_batch_is_valid_until_n_buffers_more_were_asked_for(corpus: Corpus) -> None:
    data = open_data(corpus, StreamOptions(cache="off", n_buffers=3), batch_size=4)
    held: list[tuple[Batch, Batch]] = []
    addresses = set()
    for _ in range(2):  # across the boundary of an epoch, too
        for batch in data.train():
            held = [*held[-2:], (batch, batch.copy())]
            time.sleep(0.002)  # time enough to gather the next ones
            assert all(torch.equal(now.features, then.features) for now, then in held)
            addresses.add(batch.features.data_ptr())
    assert len(addresses) == 3 + PREFETCH_DEPTH
    assert all(address % 64 == 0 for address in addresses)


@pytest.mark.parametrize("how", ["close", "break", "another", "close data"])
def test_ending_early_leaves_no_threads(corpus: Corpus, how: str) -> None:
    data = open_data(corpus, batch_size=2)
    batches = data.train()
    next(batches)
    assert our_threads()
    began = time.perf_counter()
    if how == "close":
        batches.close()
    elif how == "break":
        del batches
        gc.collect()
    elif how == "another":
        again = data.train()
        next(again)
        with pytest.raises(UsageError, match="another one begun"):
            next(batches)
        again.close()
    else:
        data.close()
    assert not our_threads()
    assert time.perf_counter() - began < 60


def test_an_unused_iterator_starts_no_threads(corpus: Corpus) -> None:
    data = open_data(corpus)
    batches = data.train()
    assert not our_threads()
    del batches


def test_stats_add_up(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = count_reads(monkeypatch)
    data = open_data(corpus)
    n_batches = len(list(data.train()))
    stats = data.train_stats
    assert (stats.batches, stats.rows) == (n_batches, n_batches * 10)
    assert (stats.chunks_fetched, stats.bytes_fetched) == (len(reads), n_bytes(corpus, reads))
    assert 0 < stats.waited_s <= stats.seconds


@pytest.mark.parametrize("stop", [0, 1, 4, -1])
def test_training_resumes_exactly(corpus: Corpus, stop: int) -> None:
    """In mid-epoch, before the first batch, and after the last one."""
    whole = open_data(corpus, pool_chunks=3)
    wanted = [[batch.row.tolist() for batch in whole.train()] for _ in range(3)]
    stop %= len(wanted[0])
    stop = stop + 1 if stop == len(wanted[0]) - 1 else stop
    data = open_data(corpus, pool_chunks=3)
    list(data.train())
    batches = data.train()
    got = [next(batches).row.tolist() for _ in range(stop)]
    state = data.state_dict()
    batches.close()
    assert got == wanted[1][:stop]
    assert (state["epoch"], state["batch"]) == ((2, 0) if stop == len(wanted[1]) else (1, stop))

    resumed = open_data(corpus, pool_chunks=3)
    resumed.load_state_dict(state)
    rest = [[batch.row.tolist() for batch in resumed.train()] for _ in range(2)]
    assert [*got, *rest[0]] == wanted[1] if stop < len(wanted[1]) else rest[0] == wanted[2]
    if stop < len(wanted[1]):
        assert rest[1] == wanted[2]


def test_the_state_is_plain_and_is_refused_elsewhere(corpus: Corpus, catalog: str) -> None:
    state = open_data(corpus).state_dict()
    assert all(isinstance(value, int | str) for value in state.values())
    for option, other in (("batch_size", 5), ("seed", 1), ("world_size", 2), ("pool_chunks", 3)):
        with pytest.raises(UsageError, match=rf"saved with {option.replace('_', ' ')} .*, this run has {other}; resume with"):
            open_data(corpus, **{option: other}).load_state_dict(state)  # type: ignore[arg-type]  # any of its options
    build(corpus.raw.directory, corpus.store.directory, catalog)  # the ids of its captures are the same, their objects are not
    with pytest.raises(UsageError, match=f"version '{state['version']}', this run has"):
        open_data(corpus).load_state_dict(state)


def test_an_empty_split_is_an_error(corpus: Corpus) -> None:
    with pytest.raises(UsageError, match=r"train split of .* expected at least 1000 \(batch size 1000, 1 ranks\)"):
        list(open_data(corpus, batch_size=1000).train())
    feature_set = open_set(corpus.store.url)
    feature_set.labels.split[feature_set.labels.split == Split.VAL] = Split.ABSENT
    with pytest.raises(UsageError, match=r"val split of .* has 0 rows; expected at least 1 "):
        list(FeatureStream(feature_set, stream=OFF).evaluate(Split.VAL))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"threads": 0}, "threads is 0"),
        ({"n_buffers": 0}, "n_buffers is 0"),
        ({"cache": "disk"}, "cache is 'disk'; expected one"),
    ],
)
def test_options_out_of_range_are_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        replace(StreamOptions(), **change)  # type: ignore[arg-type]  # any field


def test_captures_that_cannot_be_read_either_hide_nothing(corpus: Corpus) -> None:
    for path in chunk_files(corpus):
        path.unlink()
        (path.parents[5] / "capture_id/zarr.json").unlink(missing_ok=True)
    with pytest.raises(StoreError, match=r"is missing.*captures unknown"):
        list(open_data(corpus).train())


def test_features_are_float16_of_the_numpy_kind(corpus: Corpus) -> None:
    batch = next(open_data(corpus).train())
    values: npt.NDArray[np.float16] = batch.features.numpy()
    assert values.dtype == np.float16
    assert values.flags.c_contiguous


def test_files_that_cannot_be_mapped_are_read(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    mapped = read_all(open_data(corpus))
    monkeypatch.setattr("trainer.stream.mapped.POPULATE_READ", 9999)  # what an older kernel makes of it
    assert map_file(chunk_files(corpus)[0], chunk_files(corpus)[0].stat().st_size) is None
    assert read_all(open_data(corpus)) == mapped


def test_a_mapped_file_stays_as_it_was(tmp_path: Path) -> None:
    path, other = tmp_path / "chunk", tmp_path / "other"
    path.write_bytes(b"before")
    mapped = map_file(path, 6)
    assert mapped is not None
    other.write_bytes(b"after")
    other.replace(path)  # as every store writes
    assert bytes(mapped) == b"before"
    path.unlink()
    assert bytes(mapped) == b"before"
    assert map_file(path, 6) is None
