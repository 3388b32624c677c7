"""How much faster is a rebuild than the first build, all in this one run?

    python bench/rebuild.py --s3     # as most users have it: captures and store in S3
    python bench/rebuild.py          # in files, where reading is nearly free, and so is least to be saved

Builds 10,000 captures on two Dask workers (their start and imports apart), then again as users do: with another split, with
1% new captures, with mean and std fitted anew (which reads all log-mel and writes all features). Each rebuild runs where the
build itself decides: in this process when there is little to do, else on the same workers. Medians of five; captures are in the
page cache, or in the embedded S3 server.

The issue's bars: another split at least 50 times as fast as the first build, 1% new captures 20 times, a refit 4 times.
"""

from __future__ import annotations

import os

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # two processes share two cores

import argparse
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median

import build_features
from build_features import SPEC, upload, write_captures

from featurestore import services
from featurestore.build.build import BuildRequest, build
from featurestore.cluster.dask_cluster import local_cluster
from featurestore.objects.objects import Location
from featurestore.progress import Silent
from featurestore.source.catalog_writing import record
from featurestore.tensor.spec import SplitSpec

PROCESSES = 2
SAMPLES = 20_000
"""Only the window is read, so that a capture's length does not matter; so many keep the disk small."""

REPEATS = 5
BARS = {"another split": 50, "1% new captures": 20, "refit": 4}


def measure(request: BuildRequest, computed: int, reused: int) -> float:
    """Seconds of one build; one that does something else than it should is no measurement."""
    began = time.perf_counter()
    report = build(request, Silent())
    seconds = time.perf_counter() - began
    if (report.computed, report.reused, report.up_to_date) != (computed, reused, False):
        raise SystemExit(f"computed {report.computed:,}, reused {report.reused:,}; wanted {computed:,} and {reused:,}")
    return seconds


def write(request: BuildRequest, directory: Path, count: int, first: int = 0) -> None:
    """Put captures where the build reads them, and into the catalog."""
    record(request.catalog, write_captures(directory, count, first))
    paths = list(directory.glob("sessions/*/*.npy"))
    if request.raw.is_local:
        for path in paths:
            path.read_bytes()  # into the page cache
        return
    upload(directory)
    shutil.rmtree(directory)


def refits(request: BuildRequest, rows: int, repeats: int) -> Iterator[float]:
    """Seconds of each build that normalizes everything anew: another split gives other train rows, hence another basis."""
    for seed in range(repeats):
        yield measure(replace(request, split=SplitSpec(seed=1000 + seed), refit="always"), 0, rows)


def splits(request: BuildRequest, rows: int, repeats: int) -> Iterator[float]:
    """Seconds of each build with another split."""
    for seed in range(repeats):
        yield measure(replace(request, split=SplitSpec(seed=2000 + seed), refit="never"), 0, rows)


def additions(request: BuildRequest, rows: int, directory: Path, repeats: int) -> Iterator[float]:
    """Seconds of each build with 1% new captures."""
    new = rows // 100
    for repeat in range(repeats):
        first = rows + repeat * new
        write(request, directory, new, first)
        yield measure(replace(request, refit="never"), new, first)


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--s3", action="store_true")
    parser.add_argument("--smallest", action="store_true", help="just see that it runs (make bench-check)")
    arguments = parser.parse_args()
    rows = 300 if arguments.smallest else arguments.rows
    repeats = 1 if arguments.smallest else REPEATS
    build_features.SAMPLES = SAMPLES
    with tempfile.TemporaryDirectory(prefix="heimdall-bench-") as name:
        directory = Path(name)
        captures = directory / "raw"
        with services.running(directory / "services", s3=arguments.s3) as running:
            os.environ.update(running.environment)
            raw, store = ("s3://heimdall-raw", "s3://heimdall-features") if arguments.s3 else (str(captures), f"{name}/store")
            locations = Location.parse(raw), Location.parse(f"{store}/warm-up")
            request = BuildRequest(running.catalog, *locations, SPEC, SplitSpec())
            write(request, captures, rows)
            with local_cluster(PROCESSES) as cluster:
                scheduler = cluster.scheduler_address
                build(replace(request, limit=2048, scheduler=scheduler), Silent())  # imports, tables and buffers
                request = replace(request, store=Location.parse(f"{store}/measured"))
                first_s = measure(replace(request, scheduler=scheduler), rows, 0)
                print(f"first build of {rows:,} rows: {first_s:.2f} s", flush=True)
                seconds = {"refit": list(refits(replace(request, scheduler=scheduler), rows, repeats))}
            # Without a cluster in this process, as for a user whose build has little to do.
            seconds |= {
                "another split": list(splits(request, rows, repeats)),
                "1% new captures": list(additions(request, rows, captures, repeats)),
            }
            for kind, all_s in seconds.items():
                ratio = first_s / median(all_s)
                verdict = "" if rows != 10_000 else f"; bar {BARS[kind]}: {'holds' if ratio >= BARS[kind] else 'MISSED'}"
                each = ", ".join(f"{taken:.3f}" for taken in all_s)
                print(f"{kind:16} {median(all_s):.3f} s ({each}), {ratio:.1f} times as fast{verdict}")


if __name__ == "__main__":
    main()
