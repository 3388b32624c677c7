"""Files on the command line and a CSV of receivers → what each receiver heard, and why some files cannot take part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from featurestore.corpus.ingest.conversion import start_time_ns
from featurestore.corpus.ingest.formats import read_recording
from featurestore.corpus.ingest.labels import EXPECTED as EXPECTED_OF_LABELS
from featurestore.corpus.ingest.labels import Remark
from featurestore.corpus.ingest.samples import Recording
from featurestore.delay.heard import Heard, Step
from featurestore.errors import DataQualityError, UsageError
from featurestore.progress import Progress
from featurestore.source.tables import read_csv, receiver_number, within

REQUIRED = {"websdr_id": receiver_number, "latitude": within(-90, 90), "longitude": within(-180, 180)}
TIME_SIGMA = "time_sigma_s"
"""A column that may be absent: how right the times are that recordings state without saying so."""


@dataclass(frozen=True)
class Receiver:
    """A line of the CSV."""

    file: str
    websdr_id: int
    latitude: float
    longitude: float
    time_sigma_s: float | None = None


@dataclass(frozen=True, eq=False)
class SessionRecording:
    """One receiver that takes part: where it stands, what it heard."""

    receiver: Receiver
    heard: Heard


@dataclass(eq=False)
class Session:
    """What the files hold."""

    recordings: list[SessionRecording] = field(default_factory=list)
    skipped: list[Remark] = field(default_factory=list)


def read_positions(path: Path, files: Sequence[Path]) -> list[Receiver]:
    """The receiver of each file, in their order.

    Raises:
        UsageError: when the CSV is not usable, has no line for a file, or names a receiver or a file twice.
    """
    name = f"--receivers {path}"
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UsageError(f"{name} cannot be read: {reason}; give a CSV with file, websdr_id, latitude, longitude") from error
    known: dict[str, Receiver] = {}
    for line, row in read_csv(name, text, ("file", *REQUIRED)):
        receiver = _parse(f"{name}, line {line}", {str(key).strip().lower(): value for key, value in row.items()})
        if receiver.file in known:
            raise UsageError(f"{name}, line {line}: {receiver.file} is there twice; keep one line of it")
        known[receiver.file] = receiver
    receivers = []
    for file in files:
        if file.name not in known:
            raise UsageError(f"{name} has no line for {file.name}; add its websdr_id, latitude and longitude")
        receivers.append(known[file.name])
    _require_once(files, receivers)
    return receivers


def read_session(files: Sequence[Path], receivers: Sequence[Receiver], progress: Progress) -> Session:
    """Read every file; one that cannot tell when its samples were taken is skipped, with the reason."""
    session = Session()
    progress.start("read", len(files), "recordings")
    for file, receiver in zip(files, receivers, strict=True):
        try:
            heard = _hear(read_recording(file), receiver)
            twin = next((each.receiver.file for each in session.recordings if _same(each.heard, heard)), None)
            if twin is not None:
                raise DataQualityError(f"holds the same samples as {twin}; give each receiver's own recording")
            session.recordings.append(SessionRecording(receiver, heard))
        except (DataQualityError, OSError) as error:
            reason = f"cannot be opened: {error.strerror}" if isinstance(error, OSError) and error.strerror else str(error)
            session.skipped.append(Remark(file.name, reason))
            progress.say(f"skipped {file.name}: {reason}")
        progress.advance(1, file.stat().st_size if file.is_file() else 0)
    return session


def _parse(where: str, cells: dict[str, Any]) -> Receiver:
    expected = {**EXPECTED_OF_LABELS, "file": "the name of a recording"}
    values: dict[str, Any] = {"file": Path(str(cells["file"] or "").strip()).name}
    try:
        column = "file"
        if not values["file"]:
            raise ValueError(column)
        for column, parse in REQUIRED.items():
            values[column] = parse(cells[column])
        column = TIME_SIGMA
        if str(cells.get(TIME_SIGMA) or "").strip():
            values[TIME_SIGMA] = within(1e-12, 3600)(cells[TIME_SIGMA])
    except (ValueError, TypeError, OverflowError) as error:
        raise UsageError(f"{where}: {column} is {cells.get(column)!r}; expected {expected[column]}") from error
    return Receiver(**values)


def _require_once(files: Sequence[Path], receivers: Sequence[Receiver]) -> None:
    """Each file, and each receiver, takes part once."""
    by_name: dict[str, Path] = {}
    by_number: dict[int, str] = {}
    for file, receiver in zip(files, receivers, strict=True):
        if file.name in by_name:
            raise UsageError(
                f"{file} and {by_name[file.name]} have one name, and the CSV could not tell them apart; rename one"
            )
        by_name[file.name] = file
        other = by_number.setdefault(receiver.websdr_id, file.name)
        if other != file.name:
            raise UsageError(
                f"receiver {receiver.websdr_id} has two recordings, {other} and {file.name}; give one, or correct the CSV"
            )


def _hear(recording: Recording, receiver: Receiver) -> Heard:
    """A recording on the clock of all.

    Raises:
        DataQualityError: when it cannot say when its samples were taken, and how right that is.
    """
    begun_ns = start_time_ns(recording, None)
    sigma_s = receiver.time_sigma_s or recording.time_sigma_s
    rate_hz = recording.gps_rate_hz or recording.sample_rate_hz
    if begun_ns is None:
        raise DataQualityError(_why_untimed(recording))
    if sigma_s is None:
        raise DataQualityError(
            f"states a time, but not how right it is; add a column {TIME_SIGMA} for it, such as 1e-7 with GPS"
        )
    if not rate_hz:
        raise DataQualityError("states no sample rate, so that its samples have no times")
    steps = tuple(Step(step.sample, step.jump_s) for step in recording.steps)
    heard = Heard(recording.read(0, len(recording)), rate_hz, begun_ns, sigma_s, steps)
    if heard.is_silent:
        raise DataQualityError("is silent, or holds NaN or infinity; nothing can be correlated with it")
    return heard


def _why_untimed(recording: Recording) -> str:
    if recording.gps_start_s is not None:
        return (
            "has GPS times, but nothing tells their week; keep kiwirecorder's name, such as 20200813T065220Z_77500_NAME_iq.wav"
        )
    notes = [note.removesuffix("; its nominal rate holds") for note in recording.notes if "GPS" in note]
    return notes[0] if notes else "has no time of its first sample: neither GPS stamps (KiwiSDR) nor core:datetime (SigMF)"


def _same(one: Heard, other: Heard) -> bool:
    return len(one.samples) == len(other.samples) and bool(np.array_equal(one.samples, other.samples))
