"""What batches of whole sessions cost, against batches of rows, on the same set.

    python bench/session_stream.py [--rows 16384] [--receivers 7] [--repeats 7] [--smallest]

Writes random tensors (3×128×32 float16) as a feature set of sessions, in files, and measures whole shuffled epochs in turn:
of rows, and of as many sessions as make nearly the same number of rows, without a cache and from memory. A sample is a row.
`--smallest` takes a second or two, and only shows that this runs.
"""

from __future__ import annotations

import os

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # nothing here multiplies matrices

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

from loaders import measure, ratio, table, verdict
from noise_set import noise, write_set

from featurestore.objects.objects import open_objects
from featurestore.store.feature_set import FeatureSet
from trainer.stream.feature_stream import DataOptions, FeatureStream
from trainer.stream.options import StreamOptions

BATCH = 256
WANTED = 0.9


def epoch(data: FeatureStream) -> int:
    """Go through an epoch; returns the rows in it."""
    for _ in data.train():
        pass
    return data.train_stats.rows


def bench(feature_set: FeatureSet, receivers: int, repeats: int) -> Iterator[str]:
    """Lines: samples/s of rows and of sessions, and whether the target holds."""
    ways = {}
    for cache in ("off", "ram"):
        for by, size in (("row", BATCH), ("session", max(1, BATCH // receivers))):
            data = FeatureStream(feature_set, DataOptions(size, by=by), StreamOptions(cache=cache))
            epoch(data)
            ways[f"{by}s, cache {cache}"] = lambda data=data: epoch(data)
    speeds = measure(ways, repeats)  # type: ignore[arg-type]  # mypy cannot infer the default
    yield f"{feature_set.manifest.n_rows:,} rows, sessions of {receivers}, batches of {BATCH} rows or nearly, {repeats} turns"
    yield from table(speeds, "samples/s", "sessions, cache off")
    for cache in ("off", "ram"):
        found = ratio(speeds, f"sessions, cache {cache}", f"rows, cache {cache}")
        yield verdict(f"sessions against rows, cache {cache}", found, WANTED)


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=16384)
    parser.add_argument("--receivers", type=int, default=7)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--smallest", action="store_true", help="1,024 rows, one turn")
    arguments = parser.parse_args()
    if arguments.smallest:
        arguments.rows, arguments.repeats = 1024, 1
    with tempfile.TemporaryDirectory(prefix="heimdall-bench-") as name:
        objects = open_objects(Path(name).as_uri())
        feature_set = write_set(objects, noise(arguments.rows), receivers=arguments.receivers)
        for line in bench(feature_set, arguments.receivers, arguments.repeats):
            print(line)


if __name__ == "__main__":
    main()
