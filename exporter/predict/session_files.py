"""Which capture files are one session, and who recorded them: by their paths, or by a CSV."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from exporter.predict.session_predictor import Heard
from featurestore.errors import UsageError
from featurestore.source.tables import read_csv, receiver_number, within

PATH = re.compile(r"(?:^|.*/)sessions/(?P<session>[^/]+)/websdr_(?P<receiver>\d+)\.npy")
"""The usual key of a capture."""
USUAL = "sessions/{id}/websdr_{n}.npy"
WANTED = ("file", "session_id", "websdr_id")
PLACES = {"latitude": within(-90, 90), "longitude": within(-180, 180)}


@dataclass(frozen=True)
class CaptureFile:
    """One capture: its file, its session, and the receiver with its position in degrees, if that is known."""

    path: Path
    session_id: str
    websdr_id: int
    position: tuple[float, float] = (np.nan, np.nan)


def by_path(paths: Sequence[Path]) -> list[CaptureFile]:
    """What the names of files say.

    Raises:
        UsageError: when a name says nothing.
    """
    files = []
    for path in paths:
        named = PATH.fullmatch(path.absolute().as_posix())
        if named is None:
            raise UsageError(
                f"capture {path} does not say which session it is of; expected {USUAL}, or give --sessions with a CSV of file, "
                "session_id, websdr_id"
            )
        files.append(CaptureFile(path, named["session"], int(named["receiver"])))
    return files


def by_table(table: Path, paths: Sequence[Path]) -> list[CaptureFile]:
    """What a CSV says: file, session_id, websdr_id, and, if it likes, latitude and longitude of the receiver.

    Args:
        table: the CSV; its files are relative to its own directory.
        paths: of those, only these; all when there are none.

    Raises:
        UsageError: when it is not usable, or says nothing of one of the paths.
    """
    entries = list(_rows(table))
    if not paths:
        return entries
    known = {entry.path.resolve(): entry for entry in entries}
    lacking = [path for path in paths if path.resolve() not in known]
    if lacking:
        raise UsageError(f"{table} has no line for {len(lacking)} of {len(paths)} captures, such as {lacking[0]}; add it")
    return [known[path.resolve()] for path in paths]


def gather(files: Sequence[CaptureFile]) -> list[Heard]:
    """Sessions by name, their captures by receiver."""
    groups: dict[str, list[CaptureFile]] = {}
    for file in sorted(files, key=lambda file: (file.session_id, file.websdr_id, str(file.path))):
        groups.setdefault(file.session_id, []).append(file)
    return [
        Heard(
            name,
            tuple(file.path for file in group),
            np.array([file.websdr_id for file in group], np.int64),
            np.array([file.position for file in group], np.float64),
        )
        for name, group in groups.items()
    ]


def _rows(table: Path) -> Iterator[CaptureFile]:
    try:
        text = table.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--sessions {table} cannot be read; give a CSV with {', '.join(WANTED)}") from error
    for line, row in read_csv(f"--sessions {table}", text, WANTED):
        cells = {str(column).strip().lower(): str(value or "").strip() for column, value in row.items()}
        if not cells["file"] or not cells["session_id"]:
            raise UsageError(f"--sessions {table}, line {line}: file is {cells['file']!r}, session_id {cells['session_id']!r}")
        try:
            number = receiver_number(cells["websdr_id"])
        except ValueError as error:
            raise UsageError(
                f"--sessions {table}, line {line}: websdr_id is {cells['websdr_id']!r}; expected a number"
            ) from error
        yield CaptureFile(table.parent / cells["file"], cells["session_id"], number, _position(table, line, cells))


def _position(table: Path, line: int, cells: Mapping[str, str]) -> tuple[float, float]:
    """Of the receiver; NaN where the CSV does not say it."""
    given = {name: cells.get(name, "") for name in PLACES}
    if not any(given.values()):
        return np.nan, np.nan
    try:
        latitude, longitude = (parse(given[name]) for name, parse in PLACES.items())
    except ValueError as error:
        raise UsageError(
            f"--sessions {table}, line {line}: latitude, longitude are {', '.join(map(repr, given.values()))}; expected "
            "degrees, or both empty"
        ) from error
    return latitude, longitude
