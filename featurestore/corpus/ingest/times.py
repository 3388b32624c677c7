"""Times as people and recorders write them, and as captures count them."""

from __future__ import annotations

import re
from datetime import UTC, datetime

NS = 1_000_000_000
FRACTION = re.compile(r"[.,](\d+)")
UNIX_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def parse_time(text: str) -> datetime:
    """An ISO 8601 time; one without zone is UTC.

    Raises:
        ValueError: when it is none.
    """
    time = datetime.fromisoformat(text.strip())
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


def parse_time_ns(text: str) -> int:
    """An ISO 8601 time as Unix time in ns, with all the digits of its fraction that ns can hold.

    Raises:
        ValueError: when it is none.
    """
    time = parse_time(text).replace(microsecond=0)
    fraction = FRACTION.search(text)
    return round((time - UNIX_EPOCH).total_seconds()) * NS + (int(fraction[1][:9].ljust(9, "0")) if fraction else 0)
