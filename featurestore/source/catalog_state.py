"""How a catalog is, for `heimdall doctor`: its server, what time it is there, and whether there is anything to build from."""

from __future__ import annotations

import time

from featurestore.source.catalog import read_snapshot
from featurestore.source.catalog_connection import connect

COUNTED = 10_000_000
"""Rows are counted up to here, which takes a second or two."""


def server_version(conninfo: str) -> str:
    """The version of the server.

    Raises:
        UsageError: when it refuses.
        ServiceUnavailableError: when none answers.
    """
    with connect(conninfo) as connection:
        row = connection.execute("SELECT current_setting('server_version')").fetchone()
        return "" if row is None else str(row[0])


def clock_ahead_s(conninfo: str) -> float:
    """How many seconds the server's clock is ahead of ours; raises as `server_version` does."""
    with connect(conninfo) as connection:
        asked = time.time()
        row = connection.execute("SELECT extract(epoch FROM clock_timestamp())::float8").fetchone()
        answered = time.time()
        return float("nan") if row is None else float(row[0]) - (asked + answered) / 2


def count_approved(conninfo: str, query: str | None) -> int:
    """Approved captures, up to `COUNTED`; a query of the user's own is only asked whether it yields any.

    Table or query, columns and types are looked at as a build would.

    Raises:
        UsageError: when there is no table, it lacks a column, or the server refuses.
        DataQualityError: when the first row lacks what every capture needs.
        ServiceUnavailableError: when no server answers.
    """
    first = len(read_snapshot(conninfo, query, limit=1))
    if first == 0 or query is not None:
        return first
    with connect(conninfo) as connection:
        counted = connection.execute(
            "SELECT count(*) FROM (SELECT FROM measurements WHERE approved LIMIT %s) AS approved", (COUNTED,)
        )
        row = counted.fetchone()
        return first if row is None else int(row[0])
