"""How fast is the build, against the straightforward way and against bare reads and FFTs, all in this one run?

    python bench/build_features.py --captures 4096
    python bench/build_features.py --s3 [--server swift]

Writes captures of 192,000 complex128 samples (3.07 MB each) to a temporary directory, and measures, each in two processes
and with the files in the page cache:

* naive: `np.load` of the whole file, `scipy.signal.stft` on float64, all frames, dense mel, then crop;
* bare FFTs: the same ranged reads and the same 96 FFTs per capture as the build, and nothing else;
* bare log-mel: the same ranged reads and log-mel, into memory that is thrown away: no Dask, no Zarr, no statistics;
* build: `build-features` on two Dask workers, everything included once the cluster is up and has imported its modules.

The issue's bars: build / naive of at least 15; build / bare FFTs of at least 0.6.

With `--s3` captures and store are on an embedded S3 server, which shares the two cores. Only a window of each is read, so that
they are short here (20,000 samples). Each in two processes, with as many requests under way as a build has:

* bare window: one ranged GET per capture, by obstore;
* bare header + window: two, as for objects that do not bring their layout as metadata;
* read + log-mel: the bare window, and log-mel into memory that is thrown away.

The bar there: build / (read + log-mel) of at least 0.85. Beside it stands the CPU time that a capture costs our own processes:
the server's share of the two cores is not in it. A build's holds workers, scheduler and driver.
"""

from __future__ import annotations

import os

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # one thread per process, for everyone: two processes share two cores

import argparse
import multiprocessing
import resource
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import obstore
import scipy.fft
import scipy.signal

from featurestore import services
from featurestore.build.build import BuildRequest, build
from featurestore.build.rows_from_iq import read_ahead
from featurestore.cluster.dask_cluster import local_cluster
from featurestore.objects.objects import Location, open_objects
from featurestore.progress import Silent
from featurestore.source.captures import layout_metadata
from featurestore.source.catalog_writing import CaptureRecord, record
from featurestore.source.snapshot import default_key
from featurestore.tensor.mel import LogMel, mel_filters, taper
from featurestore.tensor.spec import FeatureSpec, SplitSpec

PROCESSES = 2
SAMPLES = 192_000
S3_SAMPLES = 20_000
HEADER_BYTES = 128
RAW = "s3://heimdall-raw"
SPEC = FeatureSpec()
Item = TypeVar("Item")


def write_captures(raw: Path, count: int, first: int = 0) -> Iterator[CaptureRecord]:
    """Noise captures, seven to a session; the samples are the same but rotated, so that writing them is quick."""
    rng = np.random.default_rng(1)
    noise = rng.normal(scale=0.05, size=(2, SAMPLES)).T.copy().view(np.complex128)[:, 0]
    for index in range(first, first + count):
        session = uuid.uuid5(uuid.NAMESPACE_URL, str(index // 7))
        path = raw / default_key(session.bytes, index % 7)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, np.roll(noise, index))
        yield CaptureRecord(session, index % 7, 45.0 + index % 50 / 100, 7.5, 192_000.0, approved=True)


def naive(paths: list[Path]) -> None:
    """The straightforward way."""
    filters, window = mel_filters(SPEC), taper(SPEC)
    for path in paths:
        z = np.load(path)
        start = SPEC.starts(len(z))[0] // SPEC.hop_length
        tensor = []
        for channel in (z.real, z.imag, np.abs(z)):
            _, _, x = scipy.signal.stft(  # type: ignore[call-overload]  # its stubs know no window that is an array
                channel, nperseg=SPEC.n_fft, noverlap=SPEC.n_fft - SPEC.hop_length, window=window, boundary=None, padded=False
            )
            power = (2 * np.abs(x)) ** 2
            decibels = 10 * np.log10(np.maximum(filters @ power, 1e-12))
            tensor.append(decibels[:, start : start + SPEC.n_frames])
        np.stack(tensor).astype(np.float16)


def read_window(path: Path) -> np.ndarray:
    """The samples of the middle window, by one ranged read."""
    with path.open("rb") as file:
        begin = 128 + 16 * SPEC.starts(SAMPLES)[0]
        return np.frombuffer(os.pread(file.fileno(), 16 * SPEC.span, begin), np.complex128)


def bare_ffts(paths: list[Path]) -> None:
    """Ranged reads and FFTs, nothing else."""
    channels = np.empty((3, SPEC.span), np.float32)
    frames = np.lib.stride_tricks.sliding_window_view(channels, SPEC.n_fft, axis=1)[:, :: SPEC.hop_length]
    for path in paths:
        z = read_window(path)
        channels[0], channels[1] = z.real, z.imag
        np.sqrt(channels[0] ** 2 + channels[1] ** 2, out=channels[2])
        scipy.fft.rfft(frames, axis=-1)


def bare_logmel(paths: list[Path]) -> None:
    """Ranged reads and log-mel, thrown away."""
    compute, out = LogMel(SPEC), np.empty((3, SPEC.n_mels, SPEC.n_frames), np.float32)
    for path in paths:
        compute(read_window(path), out)


class Pace(NamedTuple):
    """How fast captures go through, and what each costs our own processes: those of servers are not counted."""

    captures_per_s: float
    cpu_ms: float


def cpu_seconds(work: Callable[[list[Item]], None], paths: list[Item]) -> float:
    """CPU time that `work` takes of this process, all its threads together."""
    began = time.process_time()
    work(paths)
    return time.process_time() - began


def measure(work: Callable[[list[Item]], None], paths: list[Item]) -> Pace:
    """The pace of `work` in two processes; their start and imports apart."""
    with multiprocessing.get_context("spawn").Pool(PROCESSES) as pool:
        pool.map(work, [paths[:2]] * PROCESSES, chunksize=1)  # imports, tables
        began = time.perf_counter()
        cpu = pool.map(partial(cpu_seconds, work), [paths[i::PROCESSES] for i in range(PROCESSES)], chunksize=1)
        return Pace(len(paths) / (time.perf_counter() - began), 1000 * sum(cpu) / len(paths))


def windows_of(keys: list[str], *, header: bool) -> Iterator[npt.NDArray[np.complex128]]:
    """The middle window of each capture in S3, in order, by threads of this process."""
    store = open_objects(RAW).store
    begin = HEADER_BYTES + 16 * SPEC.starts(S3_SAMPLES)[0]
    end = begin + 16 * SPEC.span
    starts, ends = ([0, begin], [HEADER_BYTES, end]) if header else ([begin], [end])

    def get(key: str) -> npt.NDArray[np.complex128]:
        parts = obstore.get_ranges(store, key, starts=starts, ends=ends, coalesce=0)
        return np.frombuffer(memoryview(parts[-1]), np.complex128)

    yield from read_ahead(get, keys, threads=True)


def s3_window(keys: list[str]) -> None:
    """Ranged GETs of windows, nothing else."""
    for _ in windows_of(keys, header=False):
        pass


def s3_header_and_window(keys: list[str]) -> None:
    """Ranged GETs of headers and windows."""
    for _ in windows_of(keys, header=True):
        pass


def s3_logmel(keys: list[str]) -> None:
    """Ranged GETs of windows, and log-mel, thrown away."""
    compute, out = LogMel(SPEC), np.empty((3, SPEC.n_mels, SPEC.n_frames), np.float32)
    for window in windows_of(keys, header=False):
        compute(window, out)


def upload(directory: Path) -> list[str]:
    """Bring captures from a directory to S3, as `ingest` does; returns their keys."""
    raw, paths = open_objects(RAW), sorted(directory.glob("sessions/*/*.npy"))

    def put(path: Path) -> str:
        key, data = path.relative_to(directory).as_posix(), path.read_bytes()
        raw.put(key, data, metadata=layout_metadata(data))
        path.unlink()
        return key

    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(put, paths))


def bench_s3(server: str, captures: int, repeats: int) -> None:
    """The same on an embedded S3 server; prints a table."""
    global SAMPLES  # noqa: PLW0603 - what `write_captures` makes
    SAMPLES = S3_SAMPLES
    ways = {"bare window": s3_window, "bare header + window": s3_header_and_window, "read + log-mel": s3_logmel}
    with tempfile.TemporaryDirectory(prefix="heimdall-bench-") as name:
        directory = Path(name)
        with services.running(directory / "services", s3=server or True) as running:
            os.environ.update(running.environment)
            record(running.catalog, write_captures(directory / "raw", captures))
            keys = upload(directory / "raw")
            paces: dict[str, list[Pace]] = {way: [] for way in [*ways, "build"]}
            for repeat in range(repeats):
                for way, work in ways.items():
                    paces[way].append(measure(work, keys))
                pace, bytes_ratio, peak_gb = measure_build(RAW, f"s3://heimdall-features/{repeat}", running.catalog)
                paces["build"].append(pace)
            print(
                f"{captures:,} captures on {Path(running.servers[0].name).name}, {repeats} turns; captures/s and their medians"
            )
            built = np.array(paces["build"])  # (turn, captures per second and ms of CPU)
            for way, found in paces.items():
                speed, cpu_ms = np.median(found, axis=0)
                faster, cheaper = np.median(built / np.array(found), axis=0)
                each = ", ".join(f"{pace.captures_per_s:,.0f}" for pace in found)
                print(
                    f"{way:22}{speed:8,.0f}   ({each})   build is {faster:.2f} of it; "
                    f"{cpu_ms:.2f} ms of CPU, the server's apart: build takes {cheaper:.2f} times as much"
                )
            print(f"bytes read over needed {bytes_ratio:.4f}; peak of a worker {peak_gb:.2f} GB")


def measure_build(raw: str, store: str, catalog: str) -> tuple[Pace, float, float]:
    """The pace, bytes read over bytes needed, and the peak memory of a worker in GB."""
    spec, split = SPEC, SplitSpec()
    with local_cluster(PROCESSES) as cluster:

        def request(name: str, limit: int | None) -> BuildRequest:
            locations = Location.parse(raw), Location.parse(f"{store}/{name}")
            return BuildRequest(catalog, *locations, spec, split, limit=limit, scheduler=cluster.scheduler_address)

        build(request("warm-up", 1024), Silent())  # two chunks of full size: imports, tables and buffers
        with cluster.get_client() as client:

            def cpu() -> float:
                """Of the workers, and of this process: scheduler and driver are in it."""
                return (
                    float(sum(client.run(lambda: sum(resource.getrusage(resource.RUSAGE_SELF)[:2])).values()))
                    + time.process_time()
                )

            before, began = cpu(), time.perf_counter()
            report = build(request("features", None), Silent())
            seconds = time.perf_counter() - began
            cpu_ms = 1000 * (cpu() - before) / report.captures
            peaks = client.run(lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    needed = report.captures * 16 * SPEC.span
    return Pace(report.captures / seconds, cpu_ms), report.bytes_read / needed, max(peaks.values()) / 1e6


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--captures", type=int, default=4096)
    parser.add_argument("--s3", action="store_true", help="captures and store on an embedded S3 server")
    parser.add_argument("--server", choices=["seaweedfs", "swift"], help="which; by default SeaweedFS where it is installed")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--smallest", action="store_true", help="just see that it runs (make bench-check)")
    arguments = parser.parse_args()
    if arguments.smallest:
        arguments.captures, arguments.repeats = 16, 1
    if arguments.s3:
        bench_s3(arguments.server, arguments.captures, arguments.repeats)
        return
    with tempfile.TemporaryDirectory(prefix="heimdall-bench-") as name:
        directory = Path(name)
        raw = directory / "raw"
        with services.running(directory / "services", s3=False) as running:
            record(running.catalog, write_captures(raw, arguments.captures))
            paths = sorted(raw.glob("sessions/*/*.npy"))
            for path in paths:
                path.read_bytes()  # into the page cache
            ratios = []
            for repeat in range(arguments.repeats):
                slow = measure(naive, paths[:128]).captures_per_s
                ffts = measure(bare_ffts, paths).captures_per_s
                logmel = measure(bare_logmel, paths).captures_per_s
                pace, bytes_ratio, peak_gb = measure_build(str(raw), str(directory / str(repeat)), running.catalog)
                fast = pace.captures_per_s
                print(
                    f"captures/s: naive {slow:,.0f}, bare FFTs {ffts:,.0f}, bare log-mel {logmel:,.0f}, build {fast:,.0f}\n"
                    f"  build over naive {fast / slow:.1f}, over bare FFTs {fast / ffts:.2f}, over bare log-mel "
                    f"{fast / logmel:.2f}; bytes read over needed {bytes_ratio:.4f}; peak of a worker {peak_gb:.2f} GB",
                    flush=True,
                )
                ratios.append((fast / slow, fast / ffts, fast / logmel))
            print(
                "median of the ratios: naive {:.1f}, bare FFTs {:.2f}, bare log-mel {:.2f}".format(*np.median(ratios, axis=0))
            )


if __name__ == "__main__":
    main()
