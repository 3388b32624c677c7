"""Where receivers stand, for maps and distances: a CSV that people keep. Catalog and tensors know their numbers only."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from featurestore.errors import UsageError
from featurestore.objects.objects import Location, open_objects
from featurestore.source.tables import EXPECTED, read_csv, receiver_number, within

COLUMNS = {"websdr_id": receiver_number, "latitude": within(-90, 90), "longitude": within(-180, 180)}
NAME = "name"
"""The one column that may be absent."""


@dataclass(frozen=True)
class Receivers:
    """Receivers by ascending number, each once.

    Attributes:
        websdr_id: (n,) int64.
        position: (n, 2) latitude, longitude, WGS84 degrees.
        name: of each, "" where it has none.
    """

    websdr_id: npt.NDArray[np.int64]
    position: npt.NDArray[np.float64]
    name: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.websdr_id)

    def select(self, numbers: npt.ArrayLike) -> Receivers:
        """Those with one of these numbers."""
        wanted = np.isin(self.websdr_id, numbers)
        names = tuple(name for name, keep in zip(self.name, wanted.tolist(), strict=True) if keep)
        return Receivers(self.websdr_id[wanted], self.position[wanted], names)

    def positions_of(self, numbers: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.float64]:
        """(m, 2) where the receiver of each row stands; NaN where it is not known."""
        where = np.full((len(numbers), 2), np.nan)
        for number, position in zip(self.websdr_id, self.position, strict=True):
            where[numbers == number] = position
        return where

    def labels(self) -> list[str]:
        """What to call each: its name; its number where it has none."""
        return [name or str(number) for name, number in zip(self.name, self.websdr_id.tolist(), strict=True)]

    def sharing(self) -> list[list[int]]:
        """The places, in these columns, of receivers that stand at one position, for each position."""
        found: dict[tuple[float, ...], list[int]] = {}
        for place, position in enumerate(self.position.tolist()):
            found.setdefault(tuple(position), []).append(place)
        return list(found.values())


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
    found: dict[int, tuple[float, float, str]] = {}
    for line, row in read_csv(name, text, COLUMNS):
        cells = {str(column).strip().lower(): value for column, value in row.items()}
        values: dict[str, Any] = {}
        for column, parse in COLUMNS.items():
            try:
                values[column] = parse(cells[column])
            except (ValueError, TypeError, OverflowError) as error:
                raise UsageError(f"{name}, line {line}: {column} is {cells[column]!r}; expected {EXPECTED[column]}") from error
        if values["websdr_id"] in found:
            raise UsageError(f"{name}, line {line}: receiver {values['websdr_id']} is there twice; keep one line of it")
        text_name = " ".join(str(cells.get(NAME) or "").split())
        found[values["websdr_id"]] = values["latitude"], values["longitude"], text_name
    numbers = sorted(found)
    return Receivers(
        np.array(numbers, np.int64),
        np.array([found[number][:2] for number in numbers], np.float64).reshape(-1, 2),
        tuple(found[number][2] for number in numbers),
    )


def receivers_csv(rows: Iterable[tuple[int, float, float, str]]) -> bytes:
    """Number, latitude, longitude and name of each receiver as `read_receivers` reads them."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*COLUMNS, NAME])
    writer.writerows(rows)
    return text.getvalue().encode()
