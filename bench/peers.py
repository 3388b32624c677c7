"""Other people's loaders on the same tensors, each in the form that suits it best; those not installed say so.

Each peer writes the tensors in its own format, and then yields epochs of shuffled batches of (256, 3, 128, 32) float16.
Workers persist, so that starting them is not part of an epoch. Every peer drops the last incomplete batch.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from noise_set import Tensors
from torch.utils.data import BatchSampler, DataLoader, RandomSampler

from featurestore.store.feature_set import FeatureSet
from featurestore.store.segments import features_name
from trainer.network.torchvision_ops import declare_missing_ops
from trainer.stream.order import BatchPlan

MAPPED, MAPPED_BY_BATCH = "mapped npy, by row", "mapped npy, by batch"
WORKERS = 2
Epoch = Callable[[], Iterable[torch.Tensor]]


class MappedRows(torch.utils.data.Dataset[torch.Tensor]):
    """A memory-mapped .npy that is asked for one row, or for a whole batch: one gather, and nothing to collate."""

    def __init__(self, path: Path) -> None:
        self._rows: Tensors = np.load(path, mmap_mode="r")

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, rows: int | list[int]) -> torch.Tensor:
        return torch.from_numpy(np.asarray(self._rows[rows]) if isinstance(rows, list) else self._rows[rows].copy())


def mapped_npy(tensors: Tensors, directory: Path, batch_size: int) -> Epoch:
    """No library but numpy and torch, as their tutorials have it: a row at a time, collated; without workers."""
    path = directory / "rows.npy"
    np.save(path, tensors)
    loader = DataLoader(MappedRows(path), batch_size, shuffle=True, drop_last=True)
    return lambda: loader


def mapped_npy_by_batch(tensors: Tensors, directory: Path, batch_size: int) -> Epoch:
    """The same without its per-row Python: what is left is one unchecked gather from the page cache."""
    path = directory / "rows.npy"
    np.save(path, tensors)
    rows = MappedRows(path)
    loader = DataLoader(rows, sampler=BatchSampler(RandomSampler(rows), batch_size, drop_last=True), batch_size=None)
    return lambda: loader


def litdata(tensors: Tensors, directory: Path, batch_size: int) -> Epoch:
    """LitData without workers, which is faster here than with them."""
    declare_missing_ops()
    from litdata import StreamingDataLoader, StreamingDataset
    from litdata.streaming.writer import BinaryWriter

    writer = BinaryWriter(str(directory), chunk_bytes="64MB")
    for number, row in enumerate(torch.from_numpy(tensors)):
        writer[number] = row
    writer.done()
    writer.merge(1)
    # Decoding neighbours at once, its default, is ten times slower when rows are shuffled.
    dataset = StreamingDataset(str(directory), shuffle=True, drop_last=True, batch_decode=False)
    loader = StreamingDataLoader(dataset, batch_size=batch_size, num_workers=0, drop_last=True)
    return lambda: loader


def mosaic(tensors: Tensors, directory: Path, batch_size: int) -> Epoch:
    """MosaicML Streaming with workers."""
    declare_missing_ops()
    from streaming import MDSWriter, StreamingDataset

    shape = ",".join(map(str, tensors.shape[1:]))
    with MDSWriter(out=str(directory), columns={"x": f"ndarray:float16:{shape}"}, size_limit=1 << 26) as out:
        for row in tensors:
            out.write({"x": row})
    dataset = StreamingDataset(local=str(directory), shuffle=True, batch_size=batch_size, num_canonical_nodes=1)
    loader = DataLoader(dataset, batch_size, num_workers=WORKERS, drop_last=True, persistent_workers=True)
    return lambda: (batch["x"] for batch in loader)


def webdataset(tensors: Tensors, directory: Path, batch_size: int) -> Epoch:
    """WebDataset with workers that decode and batch, shuffled over shards and over 4096 rows, as our own pool is."""
    import webdataset as wds

    shape, per_shard = tensors.shape[1:], 512
    for shard, start in enumerate(range(0, len(tensors), per_shard)):
        with wds.TarWriter(f"{directory}/{shard:04d}.tar") as tar:
            for number, row in enumerate(tensors[start : start + per_shard], start):
                tar.write({"__key__": f"{number:08d}", "x": row.tobytes()})

    def decode(sample: dict[str, Any]) -> torch.Tensor:
        return torch.frombuffer(bytearray(sample["x"]), dtype=torch.float16).reshape(shape)

    shards = sorted(map(str, directory.glob("*.tar")))
    rows = wds.WebDataset(shards, shardshuffle=len(shards), seed=0).shuffle(4096 // WORKERS).map(decode)
    batches = rows.batched(batch_size, partial=False, collation_fn=torch.stack)
    loader = wds.WebLoader(batches, batch_size=None, num_workers=WORKERS, persistent_workers=True)
    return lambda: loader


PEERS: dict[str, Callable[[Tensors, Path, int], Epoch]] = {
    MAPPED: mapped_npy,
    MAPPED_BY_BATCH: mapped_npy_by_batch,
    "litdata": litdata,
    "streaming": mosaic,
    "webdataset": webdataset,
}
"""By the name of the module to be imported, but for the first two."""


EXTRA = "'.[bench]'"
INSTALL = {"streaming": "--no-deps mosaicml-streaming"}
"""Of those that are no part of the extra `bench`: it asks for an older numpy, transformers and xxhash, and works with ours."""


def installed_peers(tensors: Tensors, directory: Path, batch_size: int) -> Iterator[tuple[str, Epoch]]:
    """Those that are installed, ready to run; of others a word on stdout."""
    for name, peer in PEERS.items():
        if name not in (MAPPED, MAPPED_BY_BATCH) and find_spec(name) is None:
            print(f"{name}: not installed, pip install {INSTALL.get(name, EXTRA)}")
            continue
        folder = directory / name.replace(" ", "-").replace(",", "")
        folder.mkdir()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # theirs
            yield name, peer(tensors, folder, batch_size)


def tensorstore_chunks(feature_set: FeatureSet, plans: list[BatchPlan], ahead: int) -> Callable[[], Callable[[int], Tensors]]:
    """Whole chunks of our own set by tensorstore, `ahead` of them requested before they are needed.

    Returns:
        For each epoch: something that gives a chunk by its number; chunks must be asked for in the order of the plans.
    """
    import tensorstore

    (segment,) = feature_set.segments
    path = feature_set.objects.location.directory / segment.path / features_name(feature_set.manifest.basis)
    array = tensorstore.open({"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path)}}).result()
    order = list(dict.fromkeys(chunk for plan in plans for chunk in plan.chunks))
    size = segment.chunk_rows

    def epoch() -> Callable[[int], Tensors]:
        coming = iter(order)
        requested: dict[int, Any] = {}

        def request(count: int) -> None:
            for chunk in islice(coming, count):
                requested[chunk] = array[chunk * size : (chunk + 1) * size].read()

        def load(chunk: int) -> Tensors:
            request(1)
            rows: Tensors = requested.pop(chunk).result()
            return rows

        request(ahead)
        return load

    return epoch
