"""How fast is the stream, against other loaders on the same tensors, bare memory, and bare requests to S3?

    python bench/loaders.py [--s3]

Writes random tensors (3×128×32 float16) as a feature set and in the format of each peer that is installed, reads all of it
once so that it is in the page cache, and then measures whole shuffled epochs of batches of 256, in turn, because other
people's work makes single figures vary; ratios are medians over the turns. Beside the peers (bench/peers.py):

* bare loop: `np.fromfile` of eight chunks, a gather of each batch from them into one reused buffer. One thread, no checksum,
  nothing ahead of use, an order drawn beforehand;
* bare gather: the gather alone, from chunks that are in memory, into one buffer, which stays in the processor's cache;
* bare gather, ring: the same into as many buffers as the stream has, so that each comes back from main memory: what is to be
  compared with the stream, whose batches stay valid while later ones are gathered.

The consumer does nothing with a batch but to ask for the next one. With `--s3` the same set is read from each embedded S3
server, SeaweedFS and Swift, against bare GETs of the same chunks by as many threads, by the faster one of obstore and boto3.
"""

from __future__ import annotations

import os

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # nothing here multiplies matrices

import argparse
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from itertools import cycle
from pathlib import Path
from statistics import median

import boto3
import numpy as np
import obstore
import torch
from noise_set import SPEC, Tensors, chunk_keys, noise, row_numbers, write_set
from peers import MAPPED_BY_BATCH, Epoch, installed_peers, tensorstore_chunks

from featurestore import services
from featurestore.objects.objects import open_objects
from featurestore.store.feature_set import FeatureSet
from featurestore.store.split import Split
from trainer.stream.feature_stream import DataOptions, FeatureStream
from trainer.stream.options import StreamOptions
from trainer.stream.order import BatchPlan
from trainer.stream.prefetch import PREFETCH_DEPTH
from trainer.stream.source import huge_empty

BATCH, POOL = 256, 8
OFF, RAM = "stream, cache off", "stream, cache ram"
GATHER, RING = "bare gather", "bare gather, ring"
FROM_FILES, FROM_RAM, FROM_S3 = 1.5, 0.7, 0.9

Way = Callable[[], int]
"""Runs an epoch, returns its rows (or chunks)."""
Speeds = dict[str, list[float]]


def batch_memory() -> Tensors:
    """A buffer for one batch; of the quick kind, like those of the stream."""
    return huge_empty(2 * BATCH * math.prod(SPEC.tensor_shape)).view(np.float16).reshape(BATCH, *SPEC.tensor_shape)


def bare_loop(load: Callable[[int], Tensors], plans: list[BatchPlan], ring: list[Tensors]) -> int:
    """Load chunks when they are needed, gather batches, forget chunks when they are done; returns the rows."""
    held: dict[int, Tensors] = {}
    n_rows = 0
    for plan, buffer in zip(plans, cycle(ring), strict=False):
        for chunk, begin, end in zip(plan.chunks, plan.bounds[:-1], plan.bounds[1:], strict=True):
            if chunk not in held:
                held[chunk] = load(chunk)
            np.take(held[chunk], plan.local[begin:end], axis=0, out=buffer[begin:end], mode="clip")
        for chunk in plan.finished:
            del held[chunk]
        n_rows += len(plan.rows)
    return n_rows


def our_ways(feature_set: FeatureSet) -> dict[str, Way]:
    """The stream, and the bare loops that do the least it could do."""
    options = DataOptions(BATCH, pool_chunks=POOL)
    off = FeatureStream(feature_set, options, StreamOptions(cache="off"))
    ram = FeatureStream(feature_set, options, StreamOptions(cache="ram"))
    paths = [feature_set.objects.location.directory / key for key in chunk_keys(feature_set)]

    def read(chunk: int) -> Tensors:
        return np.fromfile(paths[chunk], np.uint8)[:-4].view("<f2").reshape(-1, *SPEC.tensor_shape)

    in_memory = [read(chunk) for chunk in range(len(paths))]
    plans = list(off.order(Split.TRAIN, 0).batches())
    ring = [batch_memory() for _ in range(StreamOptions().n_buffers + PREFETCH_DEPTH)]
    ways: dict[str, Way] = {
        "bare loop": lambda: bare_loop(read, plans, ring[:1]),
        OFF: lambda: sum(map(len, off.train())),
        GATHER: lambda: bare_loop(in_memory.__getitem__, plans, ring[:1]),
        RING: lambda: bare_loop(in_memory.__getitem__, plans, ring),
        RAM: lambda: sum(map(len, ram.train())),
    }
    if find_spec("tensorstore") is None:
        print("tensorstore: not installed, pip install '.[bench]'")
    else:
        epoch = tensorstore_chunks(feature_set, plans, 2 * POOL)
        ways["tensorstore"] = lambda: bare_loop(epoch(), plans, ring)
    return ways


def run_epoch(epoch: Epoch) -> int:
    """Go through a peer's epoch."""
    return sum(map(len, epoch()))


def check(name: str, epoch: Epoch, n_rows: int) -> None:
    """Fail unless a peer yields whole, shuffled batches, no row twice, and most rows."""
    batches = [batch.clone() for batch in epoch()]
    rows = np.concatenate([row_numbers(batch.numpy()) for batch in batches])
    wanted = (BATCH, *SPEC.tensor_shape)
    if any(tuple(batch.shape) != wanted or batch.dtype != torch.float16 for batch in batches):
        raise SystemExit(f"{name} yields other batches than {wanted} float16")
    if len(np.unique(rows)) != len(rows) or len(rows) < 0.9 * n_rows or np.mean(np.diff(rows.astype(int)) == 1) > 0.05:
        raise SystemExit(f"{name} does not serve {n_rows} rows once each in random order")


def measure(ways: dict[str, Way], repeats: int) -> Speeds:
    """What each way returns per second, in each repeat, in turn."""
    speeds: Speeds = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            began = time.perf_counter()
            count = way()
            speeds[name].append(count / (time.perf_counter() - began))
    return speeds


def ratio(speeds: Speeds, name: str, other: str) -> float:
    """The median over the turns."""
    return median(one / two for one, two in zip(speeds[name], speeds[other], strict=True))


def table(speeds: Speeds, unit: str, ours: str) -> Iterator[str]:
    """Lines: the median and the range of each way, and how many times as fast ours is."""
    yield f"{unit:<22}{'median':>10}{'lowest … highest':>24}   {ours} is"
    for name, found in speeds.items():
        yield f"{name:<22}{median(found):>10,.0f}{min(found):>12,.0f} …{max(found):>10,.0f}{ratio(speeds, ours, name):>9.2f}×"


def verdict(what: str, found: float, wanted: float) -> str:
    """Whether a target holds."""
    return f"{what}: {found:.2f}, wanted {wanted:.2f}: {'holds' if found >= wanted else 'MISSED'}"


def bench_files(directory: Path, n_rows: int, repeats: int) -> Iterator[str]:
    """Peers, stream and bare loops on local files."""
    tensors = noise(n_rows)
    ways: dict[str, Way] = {}
    # Peers with workers fork them here, before any thread of obstore is there that a fork would break.
    for name, epoch in installed_peers(tensors, directory, BATCH):
        check(name, epoch, n_rows)
        ways[name] = lambda epoch=epoch: run_epoch(epoch)  # type: ignore[misc]  # mypy cannot infer the default
    peers = [*ways, "tensorstore"]
    ways |= our_ways(write_set(open_objects((directory / "ours").as_uri()), tensors))
    del tensors
    for way in ways.values():
        way()
    speeds = measure(ways, repeats)
    yield f"{n_rows:,} rows, batches of {BATCH}, shuffled over {POOL} chunks, float16, warm local files, {repeats} turns"
    yield from table(speeds, "samples/s", OFF)
    found = sorted((peer for peer in peers if peer in speeds), key=lambda peer: median(speeds[peer]), reverse=True)
    # Gathered by batch, a mapped .npy in the page cache is the bare gather from RAM, unchecked: a bound, rather than a loader.
    for peer in found[: 2 if found[0] == MAPPED_BY_BATCH else 1]:
        yield verdict(f"{OFF}, against {peer}", ratio(speeds, OFF, peer), FROM_FILES)
    yield verdict(f"{RAM}, against the {RING}", ratio(speeds, RAM, RING), FROM_RAM)
    yield f"  ({ratio(speeds, RAM, GATHER):.2f} of the gather into one buffer, which never leaves the processor's cache)"


def bench_s3(directory: Path, n_rows: int, repeats: int) -> Iterator[str]:
    """The stream and bare requests on each embedded S3 server."""
    for server in ("seaweedfs", "swift"):
        yield from bench_server(server, directory / server, n_rows, repeats)


def bench_server(server: str, directory: Path, n_rows: int, repeats: int) -> Iterator[str]:
    """The same on one of them."""
    with services.running(directory, postgres=False, s3=server, buckets=["bench"]) as running:
        open_objects.cache_clear()  # the other server has another address
        os.environ.update(running.environment)
        objects = open_objects("s3://bench/store")
        feature_set = write_set(objects, noise(n_rows))
        keys, threads = chunk_keys(feature_set), StreamOptions().threads
        data = FeatureStream(feature_set, DataOptions(BATCH, pool_chunks=POOL), StreamOptions(threads, cache="off"))
        client = boto3.Session().client("s3")
        pool = ThreadPoolExecutor(threads)

        def by_obstore(key: str) -> int:
            return len(obstore.get(objects.store, key).bytes())

        def by_boto3(key: str) -> int:
            return len(client.get_object(Bucket="bench", Key=f"store/{key}")["Body"].read())

        def bare(get: Callable[[str], int]) -> Way:
            return lambda: n_rows * (sum(pool.map(get, keys)) > 0)

        gets = {"bare GETs, obstore": bare(by_obstore), "bare GETs, boto3": bare(by_boto3)}
        ways = {OFF: lambda: sum(map(len, data.train())), **gets}
        for way in ways.values():
            way()
        speeds = measure(ways, repeats)
        pool.shutdown()
    yield f"{n_rows:,} rows, {server}, whole objects, {threads} threads, {repeats} turns"
    yield from table(speeds, "samples/s", OFF)
    best = max(gets, key=lambda way: median(speeds[way]))
    yield verdict(f"{OFF}, against {best}", ratio(speeds, OFF, best), FROM_S3)


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=16384)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--s3", action="store_true", help="read from the embedded S3 server instead of local files")
    parser.add_argument("--smallest", action="store_true", help="just see that it runs (make bench-check)")
    arguments = parser.parse_args()
    if arguments.smallest:
        arguments.rows, arguments.repeats = 2 * BATCH, 1
    bench = bench_s3 if arguments.s3 else bench_files
    with tempfile.TemporaryDirectory(prefix="heimdall-bench-") as name:
        for line in bench(Path(name), arguments.rows, arguments.repeats):
            print(line)


if __name__ == "__main__":
    main()
