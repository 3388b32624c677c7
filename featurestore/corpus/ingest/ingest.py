"""Recordings and their labels → raw captures and catalog rows; doing it twice writes nothing."""

from __future__ import annotations

import hashlib
import io
import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TypeVar
from uuid import UUID

import numpy as np

from featurestore.corpus.ingest.conversion import Capture, IngestOptions, origin_notes, plan_captures, rate_notes
from featurestore.corpus.ingest.formats import known_by_name, read_recording
from featurestore.corpus.ingest.ingested import Ingested
from featurestore.corpus.ingest.label_receivers import gather_receivers
from featurestore.corpus.ingest.labels import Label, Labels, Remark, parse_session, read_labels
from featurestore.corpus.ingest.samples import Complex
from featurestore.corpus.ingest.sigmf_files import companions
from featurestore.corpus.ingest.snr import estimate_snr_db
from featurestore.errors import DataQualityError, UsageError
from featurestore.objects.objects import Location, Objects
from featurestore.progress import Progress, Silent
from featurestore.source.captures import layout_metadata
from featurestore.source.catalog_writing import CaptureRecord, create_table, record, record_receivers
from featurestore.source.receivers import read_receivers

RECORD_BATCH = 1000
"""Captures per catalog transaction: an interrupted run keeps what it has recorded."""

LOUD = 2.0
"""Components above this are no matter of clipping: the file's full scale is not 1."""

T = TypeVar("T")
R = TypeVar("R")


@dataclass
class _Outcome:
    """What became of one label."""

    n_bytes: int = 0
    records: list[CaptureRecord] = field(default_factory=list)
    written_bytes: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    reason: str | None = None


def ingest(  # noqa: PLR0913, PLR0917 - four places and two ways: each is given on its own
    directory: Path,
    labels_file: Path,
    raw: Location,
    conninfo: str,
    options: IngestOptions | None = None,
    progress: Progress | None = None,
) -> Ingested:
    """Bring every labelled recording of `directory` into the raw location and the catalog.

    A file that cannot be read is skipped with its reason. Objects are written before their rows, and only where their bytes
    differ from what is there, so that nothing downstream is computed anew for nothing.

    Raises:
        UsageError: when the directory, the labels file, the location or the catalog is not usable.
        ServiceUnavailableError: when a server stays away; what was done stays, the same call goes on from there.
    """
    options, progress = options or IngestOptions(), progress or Silent()
    began = time.monotonic()
    if not directory.is_dir():
        raise UsageError(f"{directory} is not a directory; name the one that holds the recordings")
    labels = read_labels(labels_file)
    given = None if options.receivers is None else read_receivers(options.receivers)
    objects = Objects(raw)
    if not raw.is_local:
        objects.check()
    create_table(conninfo)
    result = Ingested(skipped=labels.skipped, notes=labels.notes, unlabelled=_count_unlabelled(directory, labels))
    for remark in labels.skipped:
        progress.say(f"skipped {remark.file}: {remark.text}")
    sessions = _settle_sessions(directory, labels.labels, options.jobs, progress)
    work = _refuse_conflicts(labels.labels, sessions, result, progress)
    progress.start("ingest", len(work), "recordings")
    pending: list[CaptureRecord] = []
    outcomes = _in_order(partial(_ingest_one, directory, objects, options), work, options.jobs)
    for (label, _), outcome in zip(work, outcomes, strict=True):
        _tally(result, label, outcome, progress)
        pending += outcome.records
        if len(pending) >= RECORD_BATCH:
            result.add_rows(record(conninfo, pending))
            pending = []
    result.add_rows(record(conninfo, pending))
    receivers, remarks = gather_receivers((label for label, _ in work), given)
    result.notes += remarks
    result.receivers = record_receivers(conninfo, receivers)
    result.seconds = time.monotonic() - began
    return result


def write_capture(objects: Objects, key: str, samples: Complex) -> tuple[bool, int]:
    """Write samples as .npy unless they are there already; returns whether they were written, and the size in bytes."""
    buffer = io.BytesIO()
    np.save(buffer, samples, allow_pickle=False)
    return objects.put_if_changed(key, buffer.getvalue(), layout_metadata(buffer.getvalue())), buffer.tell()


def _ingest_one(directory: Path, objects: Objects, options: IngestOptions, work: tuple[Label, UUID]) -> _Outcome:
    label, session = work
    path = directory / label.file
    if not _within(path, directory):
        return _Outcome(reason=f"is not in {directory}; labels name files below the directory of recordings only")
    outcome = _Outcome()
    try:
        recording = read_recording(path, label.format)
        captures = plan_captures(recording, label, session, options)
        outcome.n_bytes = path.stat().st_size
    except (DataQualityError, OSError) as error:
        return _Outcome(reason=_reason(error))
    outcome.notes += [*recording.notes, *origin_notes(recording, label), *rate_notes(recording, label, options)]
    reasons = []
    for index, capture in enumerate(captures):
        try:
            samples = capture.read()
        except DataQualityError as error:
            reasons.append(f"cut {index} {error}")
            outcome.reason = str(error)
            continue
        peak = float(np.abs(samples.view(samples.real.dtype)).max())
        if peak > LOUD and index == 0:
            outcome.notes.append(f"reaches {peak:.4g} where full scale is 1; scale it, or name its format")
        written, n_bytes = write_capture(objects, capture.key, samples)
        outcome.written_bytes.append(n_bytes if written else 0)
        outcome.records.append(_with_snr(capture, samples, written))
    if outcome.records:
        outcome.notes += reasons
        outcome.reason = None
    return outcome


def _with_snr(capture: Capture, samples: Complex, written: bool) -> CaptureRecord:
    """The capture's row, its SNR estimated where the label gives none; of known samples, what the catalog says counts."""
    if capture.record.snr_db is not None:
        return capture.record
    snr_db = estimate_snr_db(samples, capture.record.sample_rate_hz, band_hz=capture.record.sample_rate_hz / capture.ratio)
    return replace(capture.record, snr_db=snr_db, snr_fills=not written)


def _tally(result: Ingested, label: Label, outcome: _Outcome, progress: Progress) -> None:
    progress.advance(1, outcome.n_bytes)
    result.notes += [Remark(label.file, note) for note in outcome.notes]
    if outcome.reason is not None:
        result.skipped.append(Remark(label.file, outcome.reason))
        progress.say(f"skipped {label.file}: {outcome.reason}")
        return
    written = [n_bytes for n_bytes in outcome.written_bytes if n_bytes]
    result.recordings += 1
    result.captures += len(outcome.records)
    if label.snr_db is None:
        known = sum(record.snr_db is not None for record in outcome.records)
        result.snr_estimated += known
        result.snr_unknown += len(outcome.records) - known
    result.written += len(written)
    result.unchanged += len(outcome.records) - len(written)
    result.bytes_written += sum(written)


def _settle_sessions(directory: Path, labels: list[Label], jobs: int, progress: Progress) -> list[UUID]:
    """The session of each label; a label without one gets a session of its own, named by the content of its file."""
    unnamed = [label for label in labels if label.session_id is None]
    if unnamed:
        progress.start("hash", len(unnamed), "recordings")
    contents = _in_order(lambda label: _content_session(directory / label.file, directory), unnamed, jobs)
    sessions = []
    for label in labels:
        sessions.append(label.session_id or next(contents))
        if label.session_id is None:
            progress.advance(1)
    return sessions


def _within(path: Path, directory: Path) -> bool:
    """Whether a label's file is below the directory; a link there may lead elsewhere, whoever made it may do that."""
    return Path(os.path.abspath(path)).is_relative_to(Path(os.path.abspath(directory)))  # noqa: PTH100 - follows no links


def _content_session(path: Path, directory: Path) -> UUID:
    if not (_within(path, directory) and os.path.isfile(path)):  # noqa: PTH113 - never raises; reported when it is read
        return parse_session(f"absent:{path.name}")
    try:
        with path.open("rb") as file:
            return parse_session(f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}")
    except OSError:  # the same file is reported, with the reason, when it is to be read
        return parse_session(f"absent:{path.name}")


def _refuse_conflicts(
    labels: list[Label], sessions: list[UUID], result: Ingested, progress: Progress
) -> list[tuple[Label, UUID]]:
    """The labels whose place is free; a session has one capture per receiver, and one true position."""
    places: dict[tuple[UUID, int], Label] = {}
    first: dict[UUID, Label] = {}
    for label, session in zip(labels, sessions, strict=True):
        other = places.setdefault((session, label.websdr_id), label)
        if other is not label:
            reason = (
                f"{other.file} has the same session and receiver (websdr_id {label.websdr_id}, session {session}); "
                "give it a session_id or websdr_id of its own"
            )
            result.skipped.append(Remark(label.file, reason))
            progress.say(f"skipped {label.file}: {reason}")
            continue
        known = first.setdefault(session, label)
        if (known.latitude, known.longitude) != (label.latitude, label.longitude):
            result.notes.append(
                Remark(label.file, f"its position is not the one of {known.file}, which is of the same session; correct one")
            )
    return [(label, session) for (session, _), label in places.items()]


def _count_unlabelled(directory: Path, labels: Labels) -> int:
    named = {directory / remark.file for remark in labels.skipped}
    for label in labels.labels:
        named |= companions(directory / label.file)
    recordings = (path for path in directory.rglob("*") if known_by_name(path) and path.is_file())
    return len(
        {path.with_suffix(".sigmf-meta") if "sigmf" in path.suffix else path for path in recordings if path not in named}
    )


def _in_order(function: Callable[[T], R], items: Iterable[T], jobs: int) -> Iterator[R]:
    """Results in the order of the items, made by threads (numpy, hashing and I/O release the GIL); an error ends them all."""
    pool = ThreadPoolExecutor(jobs, thread_name_prefix="ingest")
    try:
        yield from pool.map(function, items)
    finally:
        pool.shutdown(cancel_futures=True)


def _reason(error: Exception) -> str:
    return f"cannot be opened: {error.strerror}" if isinstance(error, OSError) and error.strerror else str(error)
