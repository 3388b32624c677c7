"""Where receivers stand: a table of the catalog, a CSV that people keep, a file of a feature set. Rows know numbers only."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from featurestore.errors import StoreError, UsageError
from featurestore.objects.objects import Location, open_objects
from featurestore.source.tables import EXPECTED, read_csv, receiver_number, within
from featurestore.tensor.spec import canonical_json

COLUMNS = {"websdr_id": receiver_number, "latitude": within(-90, 90), "longitude": within(-180, 180)}
NAME, ALTITUDE_M = "name", "altitude_m"
"""The columns that may be absent."""

ALTITUDES_M = -500, 9000
"""Between these, a receiver can stand."""

RECEIVER_KEYS = (*COLUMNS, NAME, ALTITUDE_M)
"""Of an entry in JSON, in the order of `Receivers.rows`."""

RECEIVERS_KEY = "receivers.csv"
"""Where a simulation keeps the table, beside its captures."""


@dataclass(frozen=True)
class Receivers:
    """Receivers by ascending number, each once.

    Attributes:
        websdr_id: (n,) int64.
        position: (n, 2) latitude, longitude, WGS84 degrees.
        name: of each, "" where it has none.
        altitude_m: (n,) above the sea; NaN where unknown, `None` where none is known.
    """

    websdr_id: npt.NDArray[np.int64]
    position: npt.NDArray[np.float64]
    name: tuple[str, ...]
    altitude_m: npt.NDArray[np.float64] | None = None

    @classmethod
    def of(cls, rows: Iterable[tuple[int, float, float, str | None, float | None]]) -> Receivers:
        """Those of rows (number, latitude, longitude, name, altitude), in any order, each number once."""
        ordered = sorted(rows)
        return cls(
            np.array([row[0] for row in ordered], np.int64),
            np.array([row[1:3] for row in ordered], np.float64).reshape(-1, 2),
            tuple(row[3] or "" for row in ordered),
            np.array([np.nan if row[4] is None else row[4] for row in ordered], np.float64),
        )

    def __len__(self) -> int:
        return len(self.websdr_id)

    def select(self, numbers: npt.ArrayLike) -> Receivers:
        """Those with one of these numbers."""
        wanted = np.isin(self.websdr_id, numbers)
        return Receivers.of(row for row, keep in zip(self.rows(), wanted.tolist(), strict=True) if keep)

    def rows(self) -> list[tuple[int, float, float, str, float | None]]:
        """Number, latitude, longitude, name and altitude of each; see `of`."""
        altitude = [None] * len(self) if self.altitude_m is None else self.altitude_m.tolist()
        return [
            (number, *position, name, None if height is None or math.isnan(height) else height)
            for number, position, name, height in zip(
                self.websdr_id.tolist(), self.position.tolist(), self.name, altitude, strict=True
            )
        ]

    def or_else(self, others: Receivers) -> Receivers:
        """These, and of the others those that are not among these."""
        lacking = others.select(np.setdiff1d(others.websdr_id, self.websdr_id))
        return Receivers.of([*self.rows(), *lacking.rows()])

    def positions_of(self, numbers: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.float64]:
        """(m, 2) where the receiver of each row stands; NaN where it is not known."""
        known = np.concatenate([self.position, [[np.nan, np.nan]]])  # what is not found has the last one
        place = np.searchsorted(self.websdr_id, numbers)
        is_known = np.append(self.websdr_id, -1)[place] == numbers
        where: npt.NDArray[np.float64] = known[np.where(is_known, place, len(self))]
        return where

    def labels(self) -> list[str]:
        """What to call each: its name; its number where it has none."""
        return [name or str(number) for name, number in zip(self.name, self.websdr_id.tolist(), strict=True)]

    def sharing(self) -> list[list[int]]:
        """The places, in these columns, of receivers that stand at one position, for each position."""
        by_position: dict[tuple[float, ...], list[int]] = {}
        for place, position in enumerate(self.position.tolist()):
            by_position.setdefault(tuple(position), []).append(place)
        return list(by_position.values())


def read_receivers(where: str) -> Receivers:
    """Read a CSV with the columns websdr_id, latitude, longitude and, if it likes, name; others are not looked at.

    Args:
        where: a file, or `s3://BUCKET/…/NAME.csv`.

    Raises:
        UsageError: when there is no such file, or a row is not usable.
        StoreError, ServiceUnavailableError: as the object store has it.
    """
    parent, _, name = where.rpartition("/")
    objects = open_objects(Location.parse(parent or ("/" if where.startswith("/") else ".")).url)
    try:
        text = objects.get(name or ".").decode("utf-8-sig")
    except (FileNotFoundError, UnicodeDecodeError) as error:
        reason = "is not UTF-8" if isinstance(error, UnicodeDecodeError) else "does not exist"
        raise UsageError(f"--receivers {where} {reason}; give a CSV with websdr_id, latitude, longitude, name") from error
    return _parse(f"--receivers {where}", text)


def _parse(name: str, text: str) -> Receivers:
    receivers: dict[int, tuple[int, float, float, str, float | None]] = {}
    for line, row in read_csv(name, text, COLUMNS):
        cells = {str(column).strip().lower(): value for column, value in row.items()}
        values: dict[str, Any] = {}
        for column, parse in COLUMNS.items():
            try:
                values[column] = parse(cells[column])
            except (ValueError, TypeError, OverflowError) as error:
                raise UsageError(f"{name}, line {line}: {column} is {cells[column]!r}; expected {EXPECTED[column]}") from error
        if values["websdr_id"] in receivers:
            raise UsageError(f"{name}, line {line}: receiver {values['websdr_id']} is there twice; keep one line of it")
        text_name = " ".join(str(cells.get(NAME) or "").split())
        number = values["websdr_id"]
        receivers[number] = number, values["latitude"], values["longitude"], text_name, _altitude(name, line, cells)
    return Receivers.of(receivers.values())


def _altitude(name: str, line: int, cells: dict[str, Any]) -> float | None:
    given = cells.get(ALTITUDE_M)
    if given is None or not str(given).strip():
        return None
    try:
        return within(*ALTITUDES_M)(given)
    except ValueError as error:
        raise UsageError(
            f"{name}, line {line}: {ALTITUDE_M} is {given!r}; expected metres from {ALTITUDES_M[0]} to {ALTITUDES_M[1]}"
        ) from error


def receivers_csv(rows: Iterable[tuple[int, float, float, str]]) -> bytes:
    """Number, latitude, longitude and name of each receiver as `read_receivers` reads them."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*COLUMNS, NAME])
    writer.writerows(rows)
    return text.getvalue().encode()


def receivers_json(receivers: Receivers) -> bytes:
    """The content of a feature set's `receivers.json`: canonical, so that one table has one text."""
    return canonical_json([dict(zip(RECEIVER_KEYS, row, strict=True)) for row in receivers.rows()]).encode()


def parse_receivers_json(name: str, content: bytes) -> Receivers:
    """What `receivers_json` wrote.

    Raises:
        StoreError: when it is something else.
    """
    try:
        entries = json.loads(content)
        rows = [
            (int(e["websdr_id"]), float(e["latitude"]), float(e["longitude"]), str(e[NAME]), _number(e[ALTITUDE_M]))
            for e in entries
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(f"{name} is no list of receivers ({error!r}); repair it with 'features repair'") from error
    return Receivers.of(rows)


def _number(value: Any) -> float | None:
    return None if value is None else float(value)
