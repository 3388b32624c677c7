"""Read the catalog: which captures are approved, and their labels. All SQL is here and in the `catalog_*` files beside.

A catalog is a PostgreSQL connection string (`postgresql://user@host/database`, or "" to take everything from `PG*`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, LiteralString

import numpy as np
import numpy.typing as npt
import psycopg

from featurestore.errors import DataQualityError, ServiceUnavailableError, UsageError
from featurestore.objects.retries import insist
from featurestore.source.catalog_connection import InterruptedCatalogError, connect, describe
from featurestore.source.read_timeout import limited_silence
from featurestore.source.receiver_table import read_receiver_table
from featurestore.source.receivers import Receivers
from featurestore.source.snapshot import Snapshot

RETRY_S = 60.0
"""How long reading begins again after a server that was there went away."""

SILENCE_S = 600.0
"""How long the server may sort before the first row comes, or pause between rows."""

FETCH_ROWS = 20_000
TABLE_QUERY = "SELECT * FROM measurements WHERE approved"


_REQUIRED = (
    "id",
    "session_id",
    "websdr_id",
    "latitude",
    "longitude",
    "frequency_mhz",
    "sample_rate_hz",
    "snr_db",
    "timestamp",
    "iq_key",
)


TIME_COLUMNS = {"start_time_ns": "bigint", "time_sigma_s": "float8"}
"""Columns that a catalog may lack, and their types."""

EVERY_CAPTURE_QUERY = "SELECT {} FROM measurements".format(  # noqa: S608 - constants
    ", ".join(
        [
            *(f'"{name}"' for name in _REQUIRED),
            # Through JSON, which has what the table has: one query serves tables with and without these columns.
            *(f"(to_jsonb(measurements)->>'{name}')::{kind} AS {name}" for name, kind in TIME_COLUMNS.items()),
        ]
    )
)
"""The captures of the table that are not approved, too."""


def asked_again(query: str) -> str | None:
    """What `read_snapshot` is to be given, so that it asks what a set's manifest says it was built from."""
    return None if query == TABLE_QUERY else query


def read_snapshot(conninfo: str, query: str | None = None, limit: int | None = None) -> Snapshot:
    """Every approved capture, read in one read-only REPEATABLE READ transaction through a server-side cursor.

    Args:
        conninfo: the catalog.
        query: SQL that yields the columns of `measurements` under the same names, for a catalog with another schema; when
            it yields `approved` too, rows where that is not true are left out.
        limit: take only the first captures by id.

    Raises:
        UsageError: when the table or a column is absent, or a value has the wrong type.
        DataQualityError: when an id or another indispensable value is NULL or not unique.
    """
    source = (TABLE_QUERY if query is None else query).strip().rstrip(";").strip()
    if not source or "\0" in source:
        raise UsageError("the catalog query is empty, or holds a NUL; write a SELECT into --query-file, or leave it out")
    interrupted = False

    def attempt() -> tuple[list[_Batch], Receivers | None]:
        nonlocal interrupted
        try:
            return _read_batches(conninfo, source, limit, own_query=query is not None)
        except InterruptedCatalogError:
            interrupted = True
            raise
        except ServiceUnavailableError as error:
            if not interrupted:  # a host or port that was never right
                raise
            raise InterruptedCatalogError(str(error)) from error

    batches, receivers = insist(attempt, RETRY_S, InterruptedCatalogError)
    snapshot = _snapshot(batches, query or TABLE_QUERY)
    return replace(snapshot, receivers=None if receivers is None else receivers.select(snapshot.websdr_id))


def _read_batches(conninfo: str, source: str, limit: int | None, *, own_query: bool) -> tuple[list[_Batch], Receivers | None]:
    batches: list[_Batch] = []
    read = 0
    with (
        connect(conninfo) as connection,
        limited_silence(connection.fileno(), SILENCE_S, describe(conninfo)) as heard,
    ):
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.read_only = True
        names = _check_columns(connection, source)
        heard()
        with connection.cursor(name="heimdall_snapshot", binary=True) as cursor:
            cursor.itersize = FETCH_ROWS
            cursor.execute(_snapshot_query(source, limit, names, filtered=own_query and "approved" in names))
            while rows := cursor.fetchmany(FETCH_ROWS):
                heard()
                batches.append(_batch(rows, read))
                read += len(rows)
        return batches, read_receiver_table(connection)


def read_query(path: Path) -> str:
    """The SQL in a file.

    Raises:
        UsageError: when it is not text.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UsageError(f"--query-file {path} cannot be read ({reason}); give a file that holds one SELECT") from error


def _check_columns(connection: psycopg.Connection, source: str) -> set[str]:
    with connection.cursor() as cursor:
        # binary: by the extended protocol, which takes one statement at a time. Else "SELECT 1) AS x; COMMIT; DROP …" would
        # leave the read-only transaction.
        cursor.execute(f"SELECT * FROM (\n{source}\n) AS catalog LIMIT 0", binary=True)  # noqa: S608 - the user's own query
        names = {column.name for column in cursor.description or ()}
    missing = [name for name in _REQUIRED if name not in names]
    if missing:
        raise UsageError(
            f"the catalog query yields no column {', '.join(missing)} (it yields {', '.join(sorted(names))}); "
            f"add it, for example as 'NULL AS {missing[0]}' where a label is unknown"
        )
    return names


def _snapshot_query(source: str, limit: int | None, names: set[str], *, filtered: bool) -> LiteralString:
    """The source query, cast to the types of the table on the server, so that one reader serves every catalog."""
    start, sigma = (f"{name if name in names else 'NULL'}::{kind}" for name, kind in TIME_COLUMNS.items())
    return f"""
        SELECT id::bigint, uuid_send(session_id::uuid), websdr_id::int,
               latitude::float8, longitude::float8, frequency_mhz::float8, sample_rate_hz::float8, snr_db::float8, {sigma},
               CASE WHEN isfinite("timestamp"::timestamptz)
                    THEN (EXTRACT(EPOCH FROM "timestamp"::timestamptz) * 1000000000)::bigint
                    ELSE -9223372036854775807 - 1 END,
               COALESCE({start}, -9223372036854775807 - 1),
               NULLIF(iq_key::text, 'sessions/' || session_id::uuid || '/websdr_' || websdr_id::int || '.npy')
        FROM (\n{source}\n) AS catalog {"WHERE approved" if filtered else ""}
        ORDER BY id {"" if limit is None else f"LIMIT {int(limit)}"}"""  # noqa: S608 - the query is the user's own


@dataclass(frozen=True)
class _Batch:
    ids: npt.NDArray[np.int64]
    sessions: npt.NDArray[np.uint8]
    receivers: npt.NDArray[np.int32]
    numbers: npt.NDArray[np.float64]  # (6, n) latitude, longitude, frequency_mhz, sample_rate_hz, snr_db, time_sigma_s
    timestamps: npt.NDArray[np.int64]  # (2, n) timestamp, start_time_ns
    custom_keys: dict[int, str]


def _batch(rows: list[Any], start: int) -> _Batch:
    ids, sessions, receivers, *numbers, timestamps, starts, keys = zip(*rows, strict=True)
    for name, column in (("id", ids), ("session_id", sessions), ("websdr_id", receivers)):
        if None in column:
            raise DataQualityError(
                f"the catalog holds a NULL {name} (capture id {ids[column.index(None)]}); every capture needs one"
            )
    return _Batch(
        np.array(ids, np.int64),
        np.frombuffer(b"".join(sessions), np.uint8).reshape(-1, 16),
        np.array(receivers, np.int32),
        np.array(numbers, np.float64),  # NULL becomes NaN
        np.array([timestamps, starts], np.int64),
        {start + index: key for index, key in enumerate(keys) if key is not None},
    )


def _snapshot(batches: list[_Batch], query: str) -> Snapshot:
    ids = np.concatenate([np.empty(0, np.int64), *(batch.ids for batch in batches)])
    repeated = ids[1:][ids[1:] == ids[:-1]]
    if len(repeated):
        raise DataQualityError(
            f"the catalog yields capture id {repeated[0]} more than once; ids must be unique (does a join multiply rows?)"
        )
    numbers = np.concatenate([np.empty((6, 0)), *(batch.numbers for batch in batches)], axis=1)
    latitude, longitude, frequency_mhz, sample_rate_hz, snr_db, time_sigma_s = numbers
    timestamp, start_time_ns = np.concatenate([np.empty((2, 0), np.int64), *(batch.timestamps for batch in batches)], axis=1)
    return Snapshot(
        capture_id=ids,
        session_id=np.concatenate([np.empty((0, 16), np.uint8), *(batch.sessions for batch in batches)]),
        websdr_id=np.concatenate([np.empty(0, np.int32), *(batch.receivers for batch in batches)]),
        position=np.stack([latitude, longitude], axis=1),
        frequency_mhz=frequency_mhz.astype(np.float32),
        sample_rate_hz=sample_rate_hz,
        snr_db=snr_db.astype(np.float32),
        timestamp=timestamp,
        start_time_ns=start_time_ns,
        time_sigma_s=time_sigma_s,
        custom_keys={index: key for batch in batches for index, key in batch.custom_keys.items()},
        query=query,
    )
