"""How fast does the stream serve batches, against a bare loop that reads the same chunks and gathers the same rows?

    python bench/stream.py

Writes a feature set of random tensors (3×128×32, chunks of 512 rows) to a directory, reads it once so that it is in the
page cache, and then measures whole shuffled epochs, all in one run and in turn, because other people's work makes single
figures vary:

* bare loop: `np.fromfile` of eight chunks, a gather of each batch from them into one reused buffer. One thread, no checksum,
  nothing ahead of use, an order drawn beforehand;
* stream, cache off: what training gets from local files;
* bare gather: the gather alone, from chunks that are in memory, into one buffer, which stays in the processor's cache;
* bare gather, ring: the same into as many buffers as the stream has, so that each comes back from main memory;
* stream, cache ram: what training gets from the second epoch on.

The consumer does nothing with a batch but to ask for the next one. The bar: half of the bare loop, from files.
"""

from __future__ import annotations

import os

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # nothing here multiplies matrices

import argparse
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from statistics import median

import numpy as np
import numpy.typing as npt

from featurestore import segments, sets
from featurestore.chunks import ChunkBuffer
from featurestore.feature_set import FeatureSet, open_set
from featurestore.manifest import Manifest, SegmentRef
from featurestore.objects import Objects, open_objects
from featurestore.rows import RowFacts, chunk_rows
from featurestore.segments import Part, Segment, features_name
from featurestore.sets import Labels
from featurestore.spec import FeatureSpec, SplitSpec
from featurestore.split import Split
from trainer.chunk_source import StreamOptions, huge_empty
from trainer.data import DataOptions, FeatureData
from trainer.order import BatchPlan
from trainer.stream import READY

BATCH = 256
POOL = 8
BAR = 0.5
SPEC = FeatureSpec()
BASIS = "0123456789ab"

Tensors = npt.NDArray[np.float16]


def write_set(objects: Objects, n_rows: int) -> FeatureSet:
    """A complete set, all train, whose features are noise; without log-mel, which no trainer reads."""
    rng = np.random.default_rng(0)
    facts = RowFacts(
        np.arange(n_rows),
        np.zeros(n_rows, np.int16),
        rng.integers(0, 256, (n_rows, 16), np.uint8),
        np.zeros(n_rows, np.int32),
        np.zeros((n_rows, 16), np.uint8),
    )
    sets.write_spec(objects, SPEC)
    segment = Segment(SPEC, facts.segment_id(SPEC.id), n_rows, chunk_rows(n_rows))
    segments.begin(objects, segment, facts)
    segments.declare_features(objects, segment, BASIS)
    layout, parts = segment.features(BASIS), {}
    buffer = ChunkBuffer(layout)
    for chunk in range(segment.n_chunks):
        buffer.rows[...] = rng.standard_normal(layout.chunk_shape, np.float32)
        crc = buffer.seal(len(layout.rows(chunk)))
        objects.put(f"{segment.path}/{features_name(BASIS)}/{layout.key(chunk)}", buffer.data)
        parts[chunk] = Part({"logmel": 0, features_name(BASIS): crc}, {})
    segments.finish(objects, segment, parts)
    unknown = np.full(n_rows, np.nan, np.float32)
    labels = Labels(np.zeros(n_rows, np.uint8), np.zeros((n_rows, 2)), unknown, unknown, np.zeros(n_rows, np.int64))
    crcs, metadata = sets.write_labels(objects, BASIS, labels)
    counts = {"captures": n_rows, "rows": n_rows, "train": n_rows, "val": 0, "test": 0, "rejected": {}, "reused": 0}
    manifest = Manifest(
        BASIS,
        SPEC.id,
        BASIS,
        (SegmentRef(segment.segment, n_rows),),
        SplitSpec().to_json(),
        {"captures": n_rows, "query": ""},
        {**counts, "computed": n_rows},
        crcs,
        None,
        {},
        "2026-01-01T00:00:00Z",
        0.0,
    )
    sets.publish(objects, manifest, metadata, [])
    return open_set(objects.location.url, BASIS)


def chunk_paths(feature_set: FeatureSet) -> list[Path]:
    """The files of its chunks."""
    (segment,) = feature_set.segments
    directory = feature_set.objects.location.directory / segment.path / features_name(BASIS)
    layout = segment.features(BASIS)
    return [directory / layout.key(chunk) for chunk in range(segment.n_chunks)]


def read(path: Path) -> Tensors:
    """A chunk, unchecked."""
    return np.fromfile(path, np.uint8)[:-4].view("<f2").reshape(-1, *SPEC.tensor_shape)


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


def measure(feature_set: FeatureSet, repeats: int) -> dict[str, list[float]]:
    """Samples per second of each way, in each repeat."""
    options = DataOptions(BATCH, pool_chunks=POOL)
    off = FeatureData(feature_set, options, StreamOptions(cache="off"))
    ram = FeatureData(feature_set, options, StreamOptions(cache="ram"))
    paths = chunk_paths(feature_set)
    in_memory = [read(path) for path in paths]  # and so in the page cache as well
    plans = list(off.order(Split.TRAIN, 0).batches())
    one = [batch_memory()]
    ring = [batch_memory() for _ in range(StreamOptions().n_buffers + READY)]
    ways: dict[str, Callable[[], int]] = {
        "bare loop": lambda: bare_loop(lambda chunk: read(paths[chunk]), plans, one),
        "stream, cache off": lambda: sum(map(len, off.train())),
        "bare gather": lambda: bare_loop(in_memory.__getitem__, plans, one),
        "bare gather, ring": lambda: bare_loop(in_memory.__getitem__, plans, ring),
        "stream, cache ram": lambda: sum(map(len, ram.train())),
    }
    for way in ways.values():
        way()
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            began = time.perf_counter()
            n_rows = way()
            speeds[name].append(n_rows / (time.perf_counter() - began))
    return speeds


def table(speeds: dict[str, list[float]]) -> Iterator[str]:
    """Lines: the median and the range of each way, and of its ratios to the bare loop or gather (into one buffer)."""
    for name, found in speeds.items():
        bare = speeds["bare gather" if "gather" in name or name.endswith("ram") else "bare loop"]
        ratio = median(one / other for one, other in zip(found, bare, strict=True))
        yield f"{name:<20}{median(found):>12,.0f}{min(found):>12,.0f} …{max(found):>10,.0f}{ratio:>10.2f}"


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=8192)
    parser.add_argument("--repeats", type=int, default=9)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="heimdall-bench-") as name:
        feature_set = write_set(open_objects(Path(name).as_uri()), arguments.rows)
        speeds = measure(feature_set, arguments.repeats)
    print(f"{arguments.rows:,} rows, batches of {BATCH}, shuffled over {POOL} chunks, float16, warm local files")
    print(f"{'samples/s':<20}{'median':>12}{'lowest … highest':>24}{'of bare':>10}")
    print("\n".join(table(speeds)))
    ratio = median(one / other for one, other in zip(speeds["stream, cache off"], speeds["bare loop"], strict=True))
    print(f"{ratio:.2f} of the bare loop, wanted {BAR:.2f}: {'holds' if ratio >= BAR else 'MISSED'}")


if __name__ == "__main__":
    main()
