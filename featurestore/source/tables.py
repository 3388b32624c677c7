"""Tables that people wrote: a CSV → rows by column name, and its cells → numbers that are what they should be."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable
from typing import Any

from featurestore.errors import UsageError

EXPECTED = {
    "websdr_id": "a whole number from 0 to 2147483647",
    "latitude": "degrees from -90 to 90, such as 45.07",
    "longitude": "degrees from -180 to 180, such as 7.69",
}
"""What to tell who gave something else."""


def read_csv(name: str, text: str, required: Iterable[str]) -> list[tuple[int, dict[str, Any]]]:
    """The rows of a CSV under a line of column names: number of the line, and cells by column.

    Columns are told apart by commas, semicolons (spreadsheets write them where the comma is the decimal point) or tabs.

    Args:
        name: of the table, for errors.
        text: its content.
        required: columns that must be there.

    Raises:
        UsageError: when it is no CSV, or lacks a column.
    """
    header = text.partition("\n")[0]
    delimiter = max(",;\t", key=header.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, restkey="(beyond the header)", strict=True)
    try:
        require_columns(name, [str(column).strip().lower() for column in reader.fieldnames or ()], required)
        return [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise UsageError(f"{name}, line {reader.line_num}: {error}; correct the CSV") from error


def require_columns(name: str, columns: Iterable[str], required: Iterable[str]) -> None:
    """Raise `UsageError` when a column is not there."""
    present = list(columns)
    missing = [column for column in required if column not in present]
    if missing:
        raise UsageError(f"{name} has no column {', '.join(missing)}; it has {', '.join(present) or 'none'}")


def receiver_number(value: Any) -> int:
    """A number as receivers have; `ValueError` for anything else."""
    number = float(value)
    if isinstance(value, bool) or not number.is_integer() or not 0 <= number < 2**31:
        raise ValueError(value)
    return int(number)


def within(low: float, high: float) -> Callable[[Any], float]:
    """What reads a number from `low` to `high`, and raises `ValueError` for anything else."""

    def parse(value: Any) -> float:
        number = float(value)
        if isinstance(value, bool) or not low <= number <= high:  # NaN lies nowhere
            raise ValueError(value)
        return number

    return parse
