"""How fast does build-pairs correlate sessions, beside bare FFT cross-correlation of the same captures?

    python bench/pairs.py --sessions 1000
    python bench/pairs.py --sessions 200 --rate 48000

Simulates some sessions of seven receivers with GPS clocks, of one second at 192 kHz (or `--rate`), and writes them again and
again under other session ids. Then, on two cores:

* bare: two processes read the captures of a session, transform each once, zero-padded to twice its length, and transform all 21
  products back: `scipy.fft` on complex64, nothing else;
* build-pairs: catalog, listing, plan, two Dask workers that find band, offset, delay and sigma, chunks, markers, and the set.

The bar: half of the bare speed. The smallest size that says something is 60 sessions (`--sessions 60`, for `make bench-check`):
below, the cluster's start counts as if it were work.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import tempfile
import time
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from uuid import NAMESPACE_DNS, uuid5

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import scipy.fft

from featurestore import services
from featurestore.corpus.simulate.render import Session
from featurestore.corpus.simulate.simulation_spec import SimulationSpec
from featurestore.corpus.simulate.sites import RECEIVERS
from featurestore.objects.objects import Location
from featurestore.pairs.build import PairBuildRequest, build_pairs
from featurestore.pairs.spec import PairSpec
from featurestore.progress import Silent
from featurestore.source.catalog_writing import create_table, record
from featurestore.source.snapshot import default_key

CORES = 2
DISTINCT = 8
BAR = 0.5
WORLD = SimulationSpec(sessions=DISTINCT, sites="uniform", clock="gps", dtype="complex64")


def write(raw: Path, conninfo: str, sessions: int, world: SimulationSpec) -> list[list[Path]]:
    """The files of each session; the catalog learns of them."""
    rendered = []
    for index in range(min(DISTINCT, sessions)):
        session = Session(world, index)
        rendered.append([session.capture(receiver) for receiver in range(len(RECEIVERS))])
    records, files = [], []
    for number in range(sessions):
        session_id, own = uuid5(NAMESPACE_DNS, f"bench {number}"), []
        for capture in rendered[number % len(rendered)]:
            if capture is None or capture.npy is None:
                raise RuntimeError("the simulated world leaves no capture out")
            path = raw / default_key(session_id.bytes, capture.record.websdr_id)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(capture.npy)
            records.append(replace(capture.record, session_id=session_id))
            own.append(path)
        files.append(own)
    create_table(conninfo)
    record(conninfo, records)
    return files


def correlate(paths: list[Path]) -> float:
    """All pairs of one session; returns something of each, so that nothing can be left out."""
    samples = [np.load(path) for path in paths]
    length = scipy.fft.next_fast_len(2 * max(map(len, samples)))
    spectra = [scipy.fft.fft(z, length) for z in samples]
    return float(sum(abs(scipy.fft.ifft(a * b.conj())).max() for a, b in combinations(spectra, 2)))


def bare_s(files: list[list[Path]]) -> float:
    """Seconds of two processes that do nothing else."""
    with multiprocessing.get_context("spawn").Pool(CORES) as pool:
        pool.map(correlate, files[:CORES])  # both have started
        began = time.perf_counter()
        pool.map(correlate, files, chunksize=4)
        return time.perf_counter() - began


def cpu_s() -> float:
    """CPU time of this process and of those that it started and that have ended."""
    return sum(
        used.ru_utime + used.ru_stime for used in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--rate", type=int, default=WORLD.sample_rate_hz, metavar="HZ", help="sample rate of the captures")
    parser.add_argument("--smallest", action="store_true", help="just see that it runs (make bench-check)")
    options = parser.parse_args()
    if options.smallest:
        options.sessions, options.repeats = 4, 1
    with tempfile.TemporaryDirectory(prefix="bench-pairs-") as name, services.running(Path(name) / "services", s3=False) as up:
        raw = Path(name) / "raw"
        files = write(raw, up.catalog, options.sessions, replace(WORLD, sample_rate_hz=options.rate))
        bare, built, bare_cpu_s, built_cpu_s = [], [], [], []
        for repeat in range(options.repeats):
            began_s = cpu_s()
            bare.append(bare_s(files))
            bare_cpu_s.append(cpu_s() - began_s)
            store = Location.parse(str(Path(name) / f"store-{repeat}"))
            request = PairBuildRequest(up.catalog, Location.parse(str(raw)), store, PairSpec(max_lag_us=600), workers=CORES)
            began_s = cpu_s()
            report = build_pairs(request, Silent())
            built.append(report.seconds)
            built_cpu_s.append(cpu_s() - began_s)
            for what, seconds, cpu in ("bare FFT cross-correlation", bare, bare_cpu_s), ("build-pairs", built, built_cpu_s):
                print(f"{what:28} {options.sessions / seconds[-1]:8.1f} sessions/s, {cpu[-1]:6.1f} s of CPU")
    print(f"of CPU time, starts of processes included: {min(bare_cpu_s) / min(built_cpu_s):.2f}")
    share = min(bare) / min(built)
    print(f"share of the bare speed: {share:.2f}, bar {BAR}: {'holds' if share >= BAR else 'MISSED'}")


if __name__ == "__main__":
    main()
