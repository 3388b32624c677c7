"""Simulate a corpus: sessions → raw captures, catalog rows, truth and receivers as CSV; the same for any number of workers."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from featurestore.cluster.runner import open_runner
from featurestore.corpus.simulate.render import Session
from featurestore.corpus.simulate.simulation_spec import SimulationSpec
from featurestore.corpus.simulate.sites import RECEIVERS
from featurestore.corpus.simulate.truth import CaptureTruth, truth_csv
from featurestore.errors import UsageError
from featurestore.objects.objects import Location, open_objects
from featurestore.progress import Progress
from featurestore.source import catalog_writing
from featurestore.source.captures import layout_metadata
from featurestore.source.catalog_writing import CaptureRecord, Recorded
from featurestore.source.receivers import RECEIVERS_KEY, Receivers, receivers_csv
from featurestore.source.snapshot import default_key

TRUTH_KEY = "truth.csv"
TASK_BYTES = 150_000_000
"""Raw samples that one task writes, roughly: a second of work, and some hundred bytes to send back per capture."""


@dataclass(frozen=True)
class Destination:
    """Where a corpus goes: raw location, catalog, and the file for the truth (`None`: an object in the raw location)."""

    raw: Location
    catalog: str = field(repr=False)  # it may hold a password
    truth: Path | None = None


@dataclass(frozen=True)
class SimulationReport:
    """What a simulation wrote; `left_out` counts captures below the lowest SNR, `broken` those broken, by reason."""

    sessions: int
    captures: int
    approved: int
    left_out: int
    broken: dict[str, int]
    inserted: int
    updated: int
    unchanged: int
    bytes: int
    seconds: float
    raw: str
    truth: str
    receivers: str

    def to_json(self) -> dict[str, Any]:
        """All fields."""
        return asdict(self)

    def lines(self) -> Iterator[str]:
        """For people."""
        yield f"{self.captures:,} captures of {self.sessions:,} sessions ({self.approved:,} approved) in {self.raw}"
        yield f"catalog: {self.inserted:,} rows new, {self.updated:,} changed, {self.unchanged:,} as they were"
        if self.left_out:
            yield f"left out: {self.left_out:,} captures below the lowest SNR"
        if self.broken:
            yield "broken: " + ", ".join(f"{reason} {count:,}" for reason, count in sorted(self.broken.items()))
        yield f"truth: {self.truth}"
        yield f"receivers: {self.receivers}"
        yield f"{self.bytes / 1e6:,.0f} MB in {self.seconds:.1f} s"


@dataclass(frozen=True)
class SessionRange:
    """One task: the sessions `[start, stop)` of a corpus, written to a raw location."""

    spec: SimulationSpec
    raw_url: str
    start: int
    stop: int


@dataclass(frozen=True)
class Written:
    """What one task wrote: truth and catalog row of each capture, in order of session and receiver."""

    start: int
    captures: list[tuple[CaptureTruth, CaptureRecord]]
    n_bytes: int


def simulate(
    spec: SimulationSpec,
    destination: Destination,
    progress: Progress,
    *,
    workers: int | None = None,
    scheduler: str | None = None,
) -> SimulationReport:
    """Write the corpus that `spec` describes; doing it again changes nothing.

    The catalog learns of the captures last, in one transaction, when every object is there; then of the receivers.

    Args:
        spec: what to simulate.
        destination: where it goes.
        progress: is told how far it is.
        workers: processes on this machine; 0 works in this process, `None` decides by the amount of work.
        scheduler: address of a Dask scheduler to use instead.

    Raises:
        UsageError: when the truth cannot be written where asked, or catalog or bucket refuse.
        ServiceUnavailableError: when catalog or object store do not answer.
    """
    began = time.monotonic()
    _check(destination)
    tasks = plan_tasks(spec, destination.raw.url)
    progress.start("simulate", spec.sessions * len(RECEIVERS), "captures")
    written: list[Written] = []
    with open_runner(workers, scheduler, progress, len(tasks)) as runner:
        for result in runner.run(simulate_sessions, tasks):
            written.append(result)
            progress.advance(len(result.captures), result.n_bytes)
    written.sort(key=lambda result: result.start)
    truths = [truth for result in written for truth, _ in result.captures]
    truth_name = _write_truth(truths, destination)
    places = receivers_csv((each.websdr_id, each.latitude, each.longitude, each.name) for each in RECEIVERS)
    open_objects(destination.raw.url).put_if_changed(RECEIVERS_KEY, places)
    recorded = catalog_writing.record(destination.catalog, (record for result in written for _, record in result.captures))
    catalog_writing.record_receivers(
        destination.catalog,
        Receivers.of((each.websdr_id, each.latitude, each.longitude, each.name, None) for each in RECEIVERS),
    )
    n_bytes = sum(result.n_bytes for result in written)
    return _report(spec, destination, truths, recorded, (n_bytes, time.monotonic() - began, truth_name))


def plan_tasks(spec: SimulationSpec, raw_url: str) -> list[SessionRange]:
    """The corpus in ranges of sessions, each of about `TASK_BYTES`."""
    step = max(1, round(TASK_BYTES / (spec.capture_bytes * len(RECEIVERS))))
    return [SessionRange(spec, raw_url, start, min(start + step, spec.sessions)) for start in range(0, spec.sessions, step)]


def simulate_sessions(task: SessionRange) -> Written:
    """Render and write a range of sessions: what one worker does."""
    objects = open_objects(task.raw_url)
    captures: list[tuple[CaptureTruth, CaptureRecord]] = []
    n_bytes = 0
    for index in range(task.start, task.stop):
        session = Session(task.spec, index)
        for receiver_index in range(len(RECEIVERS)):
            capture = session.capture(receiver_index)
            if capture is None:
                continue
            key = default_key(capture.record.session_id.bytes, capture.record.websdr_id)
            if capture.npy is None:
                objects.delete([key])  # an earlier corpus of this seed may have put one there
            else:
                objects.put_if_changed(key, capture.npy, layout_metadata(capture.npy))
                n_bytes += len(capture.npy)
            captures.append((capture.truth, capture.record))
    return Written(task.start, captures, n_bytes)


def _check(destination: Destination) -> None:
    """Find out before the work whether its results can be kept."""
    if destination.truth is not None and not destination.truth.absolute().parent.is_dir():
        raise UsageError(f"--truth {destination.truth}: directory {destination.truth.parent} does not exist; create it first")
    catalog_writing.create_table(destination.catalog)
    objects = open_objects(destination.raw.url)
    if destination.raw.is_local:
        _ = objects.store  # creates the directory
    objects.check()


def _write_truth(truths: list[CaptureTruth], destination: Destination) -> str:
    """Write `truth.csv`, and return where it is."""
    content = truth_csv(truths)
    if destination.truth is None:
        open_objects(destination.raw.url).put(TRUTH_KEY, content)
        return f"{destination.raw}/{TRUTH_KEY}"
    try:
        destination.truth.write_bytes(content)
    except OSError as error:
        raise UsageError(f"--truth {destination.truth} cannot be written ({error.strerror}); choose another file") from error
    return str(destination.truth)


def _report(
    spec: SimulationSpec,
    destination: Destination,
    truths: list[CaptureTruth],
    recorded: Recorded,
    totals: tuple[int, float, str],
) -> SimulationReport:
    n_bytes, seconds, truth_name = totals
    return SimulationReport(
        sessions=spec.sessions,
        captures=len(truths),
        approved=sum(truth.approved for truth in truths),
        left_out=spec.sessions * len(RECEIVERS) - len(truths),
        broken=dict(Counter(truth.broken for truth in truths if truth.broken)),
        inserted=recorded.inserted,
        updated=recorded.updated,
        unchanged=recorded.unchanged,
        bytes=n_bytes,
        seconds=round(seconds, 3),
        raw=str(destination.raw),
        truth=truth_name,
        receivers=f"{destination.raw}/{RECEIVERS_KEY}",
    )
