"""How long does planning take, and how much memory: from the catalog to the tasks, before the first capture is read?

    python bench/planning.py --captures 1000000

Fills an embedded PostgreSQL with approved captures, seven receivers to a session, and plans twice, each time in a process
of its own that does nothing else:

* first build: the store is empty, every capture is to be computed;
* rebuild: the store holds a complete segment of the first 99 % of the captures.

The catalog is real, the raw listing is simulated: one object for every capture, in random order. Making these objects is
timed by itself beforehand and taken off the time of the join. The memory is the highest that the planning process ever
held, interpreter and imports included; PostgreSQL's own is not counted.

The bars, for a million captures: 30 s and 2 GB.
"""

from __future__ import annotations

import os

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # nothing here multiplies matrices; threads would only take memory

import argparse
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from featurestore import services
from featurestore.build.plan import Plan, make_plan
from featurestore.build.publish import version_id
from featurestore.build.stages import TensorBuild
from featurestore.objects.objects import LIST_PAGE, Location, ObjectInfo, Objects
from featurestore.progress import Silent
from featurestore.source.catalog import read_snapshot
from featurestore.source.catalog_connection import connect
from featurestore.source.listing import join
from featurestore.source.snapshot import Snapshot
from featurestore.store import write_segments
from featurestore.store.read_segments import read_stored_segments
from featurestore.store.rows import chunk_rows
from featurestore.store.segments import Segment
from featurestore.tensor.spec import FeatureSpec, SplitSpec

RECEIVERS = 7
SIZE_BYTES = 3_072_128
MODIFIED_US = 1_735_689_600_000_000
HELD_SHARE = 0.99
BAR_CAPTURES, BAR_S, BAR_GB = 1_000_000, 30.0, 2.0
SPEC = FeatureSpec()


def fill(conninfo: str, count: int) -> None:
    """Write `count` approved captures to the catalog; every tenth has no SNR."""
    with connect(conninfo) as connection:
        connection.autocommit = True
        connection.execute(
            """
            INSERT INTO measurements (session_id, websdr_id, latitude, longitude, frequency_mhz, snr_db, "timestamp", approved)
            SELECT md5((n / %(receivers)s)::text)::uuid, n %% %(receivers)s, 45 + n / %(receivers)s %% 100 / 100.0,
                   7 + n / %(receivers)s %% 97 / 100.0, 145.5, CASE WHEN n %% 10 > 0 THEN n %% 40 END,
                   timestamptz '2025-01-01 00:00Z' + n * interval '1 s', TRUE
            FROM generate_series(0, %(count)s - 1) AS n""",
            {"receivers": RECEIVERS, "count": count},
        )
        connection.execute("VACUUM ANALYZE measurements")


def list_objects(snapshot: Snapshot) -> Iterator[ObjectInfo]:
    """What a listing of the raw bucket would yield, one object for every capture, in random order."""
    order = np.random.default_rng(1).permutation(len(snapshot))
    for start in range(0, len(order), LIST_PAGE):
        page = order[start : start + LIST_PAGE]
        for index, key in zip(page.tolist(), snapshot.keys_at(page), strict=True):
            yield ObjectInfo(key, SIZE_BYTES, f'"{index:032x}"', MODIFIED_US)


@dataclass
class Measured:
    """Seconds of each step in order, the peak memory of the process, and what was planned."""

    seconds: dict[str, float] = field(default_factory=dict)
    listing_s: float = 0.0
    peak_gb: float = 0.0
    rows_to_compute: int = 0
    tasks: int = 0

    @property
    def total_s(self) -> float:
        """Of all steps."""
        return sum(self.seconds.values())

    @contextmanager
    def step(self, name: str, less_s: float = 0.0) -> Iterator[None]:
        """Time what is done inside, and take something off."""
        began = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - began - less_s


def measure(conninfo: str, store: str, *, hold: bool) -> Measured:
    """Plan a build into the store; run in a fresh process.

    Args:
        conninfo: the catalog.
        store: URL of the features.
        hold: afterwards, unmeasured, leave a complete segment in the store for the next one to find.
    """
    measured, objects = Measured(), Objects(Location(store))
    with measured.step("read_snapshot"):
        snapshot = read_snapshot(conninfo)
    began = time.perf_counter()
    for _ in list_objects(snapshot):
        pass
    measured.listing_s = time.perf_counter() - began
    with measured.step("join", less_s=measured.listing_s):
        listing = join(list_objects(snapshot), snapshot, Silent(), by_etag=True)
    with measured.step("read_holdings"):
        stored = read_stored_segments(objects, SPEC)
    with measured.step("make_plan"):
        plan = make_plan(SPEC, SplitSpec(), snapshot, listing, stored)
        measured.rows_to_compute = plan.rows_to_compute
    with measured.step("version_id"):
        version_id(plan, "0123456789ab")
    with measured.step("tasks"):
        work = TensorBuild(plan, "s3://heimdall-raw", objects, Silent())
        measured.tasks = sum(1 for _ in work._compute_tasks(None))  # noqa: SLF001 - `compute` would run them
    measured.peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    if hold:
        hold_share(plan, objects)
    return measured


def hold_share(plan: Plan, objects: Objects) -> None:
    """Leave a complete segment in the store, of most captures, as an earlier build would have: all but the tensors."""
    (use,) = plan.segments
    rows = use.rows.take(np.flatnonzero(use.capture < HELD_SHARE * len(plan.snapshot)))
    segment = Segment(SPEC, rows.segment_id(SPEC.id), len(rows), chunk_rows(len(rows)))
    write_segments.begin(objects, segment, rows)
    write_segments.write_reason(objects, segment, {})
    write_segments.write_marker(objects, segment, {"logmel": [0] * segment.n_chunks}, {})


def table(columns: dict[str, Measured]) -> Iterator[str]:
    """Lines of a table, a column for each of what was measured."""

    def line(name: str, *cells: str) -> str:
        return f"{name:<28}" + "".join(f"{cell:>14}" for cell in cells)

    measured = list(columns.values())
    yield line("", *columns)
    for name in measured[0].seconds:
        yield line(f"{name}, s", *(f"{each.seconds[name]:.2f}" for each in measured))
    yield line("total, s", *(f"{each.total_s:.2f}" for each in measured))
    yield line("peak, GB", *(f"{each.peak_gb:.2f}" for each in measured))
    yield line("rows to compute", *(f"{each.rows_to_compute:,}" for each in measured))
    yield line("tasks", *(f"{each.tasks:,}" for each in measured))
    yield line("(making the listing, s)", *(f"{each.listing_s:.2f}" for each in measured))


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--captures", type=int, default=BAR_CAPTURES)
    parser.add_argument("--smallest", action="store_true", help="just see that it runs (make bench-check)")
    arguments = parser.parse_args()
    captures = 7_000 if arguments.smallest else arguments.captures
    with tempfile.TemporaryDirectory(prefix="heimdall-bench-") as name:
        store = Location.parse(f"{name}/features").url
        with services.running(Path(name) / "services", s3=False) as running:
            fill(running.catalog, captures)
            columns = {}
            for column, hold in (("first build", True), ("rebuild", False)):
                # A process each. At its birth its peak is its parent's (Linux hands it on), which is small for that reason.
                with multiprocessing.get_context("spawn").Pool(1) as pool:
                    columns[column] = pool.apply(measure, (running.catalog, store), {"hold": hold})
    print(f"planning {captures:,} captures")
    print("\n".join(table(columns)))
    seconds, peak_gb = (max(getattr(each, name) for each in columns.values()) for name in ("total_s", "peak_gb"))
    if captures == BAR_CAPTURES:
        print(f"{seconds:.1f} s of {BAR_S:.0f} s: {'holds' if seconds < BAR_S else 'MISSED'}")
        print(f"{peak_gb:.2f} GB of {BAR_GB:.0f} GB: {'holds' if peak_gb < BAR_GB else 'MISSED'}")


if __name__ == "__main__":
    main()
