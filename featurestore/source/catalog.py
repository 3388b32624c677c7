"""The only SQL: which captures are approved, with their labels, and how simulate and ingest write them down.

A catalog is a PostgreSQL connection string (`postgresql://user@host/database`, or "" to take everything from `PG*`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import Any, LiteralString
from uuid import UUID

import numpy as np
import numpy.typing as npt
import psycopg
from psycopg import sql

from featurestore.errors import DataQualityError, HeimdallError, ServiceUnavailableError, UsageError
from featurestore.objects.patience import insist
from featurestore.redaction import without_credentials
from featurestore.source.receiver_table import read_receiver_table, write_receiver_table
from featurestore.source.receivers import Receivers
from featurestore.source.silence import limited_silence
from featurestore.source.snapshot import Snapshot

CONNECT_TIMEOUT_S = 10
RETRY_S = 60.0
"""How long reading begins again after a server that was there went away."""

SILENCE_S = 600.0
"""How long the server may sort before the first row comes, or pause between rows."""

KEEPALIVES = {
    # A peer that vanished without a word is noticed within a minute, not after the two hours that are usual.
    "keepalives": 1,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
}

FETCH_ROWS = 20_000
TABLE_QUERY = "SELECT * FROM measurements WHERE approved"


@dataclass(frozen=True)
class CaptureRecord:
    """One row to be written to `measurements`; `None` in an optional column means NULL, or "keep what is there".

    `snr_fills` is no column: it says that `snr_db` is a guess, which gives way to what the catalog says already.
    """

    session_id: UUID
    websdr_id: int
    latitude: float
    longitude: float
    sample_rate_hz: float
    frequency_mhz: float | None = None
    snr_db: float | None = None
    timestamp: datetime | None = None
    iq_key: str | None = None
    approved: bool | None = None
    start_time_ns: int | None = None
    time_sigma_s: float | None = None
    snr_fills: bool = False


@dataclass(frozen=True)
class Recorded:
    """What `record` did to the catalog, in rows."""

    inserted: int
    updated: int
    unchanged: int


class InterruptedCatalogError(ServiceUnavailableError):
    """The server was there and went away, or says that it is about to be there: reading can begin again."""


@contextmanager
def connect(conninfo: str) -> Iterator[psycopg.Connection]:
    """An open connection; its errors become ours.

    Raises:
        ServiceUnavailableError: when no server answers; `InterruptedCatalogError` when one did before.
        UsageError: when the server refuses the user, or there is no such database, table or column.
    """
    _require_unambiguous(conninfo)
    connection: psycopg.Connection | None = None
    settings = {"connect_timeout": CONNECT_TIMEOUT_S, "application_name": "heimdall", "client_encoding": "UTF8", **KEEPALIVES}
    try:
        with psycopg.connect(conninfo, **settings) as connection:  # type: ignore[arg-type]  # parameters of libpq, any of them
            yield connection
    except psycopg.Error as error:
        raise _explain(error, conninfo, lost=connection is not None and connection.broken) from error
    except UnicodeError as error:
        raise UsageError(
            f"{describe(conninfo)}: the query, or a text that it yields, is not UTF-8; correct it, or its encoding"
        ) from error


def create_table(conninfo: str, name: LiteralString = "measurements") -> None:
    """Create a table of `schema.sql` if the database has none of that name; give one of before the columns that it lacks."""
    with connect(conninfo) as connection:
        connection.execute("SELECT pg_advisory_xact_lock(hashtext('heimdall.measurements'))")
        found = connection.execute("SELECT to_regclass(%s)", (name,)).fetchone()
        if found is None or found[0] is None:
            schema = files("featurestore").joinpath("schema.sql").read_text()
            connection.execute(re.findall(rf"^CREATE TABLE {name} \(.*?^\);", schema, re.DOTALL | re.MULTILINE)[0])
        elif name == "measurements":
            columns = connection.execute("TABLE measurements LIMIT 0").description or ()
            if not {*_TIMES} <= {column.name for column in columns}:
                connection.execute(ADD_TIMES)


def record(conninfo: str, captures: Iterable[CaptureRecord]) -> Recorded:
    """Write captures to `measurements`; a capture is known by its session and receiver, so doing it twice changes nothing.

    Captures are inserted in the order given (new ones not approved unless they say so). Of a known capture, the columns
    that are not `None` are brought up to date.
    """
    names = [field.name for field in fields(CaptureRecord) if field.name != "snr_fills"]
    columns = sql.SQL(", ").join(map(sql.Identifier, names))
    with connect(conninfo) as connection, connection.cursor() as cursor:
        cursor.execute("LOCK TABLE measurements IN SHARE ROW EXCLUSIVE MODE")
        cursor.execute(
            sql.SQL(
                "CREATE TEMP TABLE incoming ON COMMIT DROP AS"
                " SELECT 0::bigint AS place, FALSE AS snr_fills, {columns} FROM measurements WITH NO DATA"
            ).format(columns=columns)
        )
        copy = sql.SQL("COPY incoming (place, snr_fills, {columns}) FROM STDIN").format(columns=columns)
        given = 0
        with cursor.copy(copy) as writer:
            for capture in captures:
                writer.write_row((given, capture.snr_fills, *(getattr(capture, name) for name in names)))
                given += 1
        cursor.execute("CREATE INDEX ON incoming (session_id, websdr_id)")
        cursor.execute(
            "UPDATE incoming i SET snr_db = NULL FROM measurements m WHERE i.snr_fills AND m.snr_db IS NOT NULL"
            " AND m.session_id = i.session_id AND m.websdr_id = i.websdr_id"
        )
        cursor.execute("ANALYZE incoming")
        updatable = [name for name in names if name not in ("session_id", "websdr_id")]
        changed = sql.SQL(" OR ").join(
            sql.SQL("(i.{0} IS NOT NULL AND m.{0} IS DISTINCT FROM i.{0})").format(sql.Identifier(name)) for name in updatable
        )
        assignments = sql.SQL(", ").join(
            sql.SQL("{0} = COALESCE(i.{0}, m.{0})").format(sql.Identifier(name)) for name in updatable
        )
        cursor.execute(
            sql.SQL(
                "UPDATE measurements m SET {assignments} FROM incoming i"
                " WHERE m.session_id = i.session_id AND m.websdr_id = i.websdr_id AND ({changed})"
            ).format(assignments=assignments, changed=changed)
        )
        updated = cursor.rowcount
        values = sql.SQL(", ").join(
            sql.SQL("COALESCE(i.approved, FALSE)") if name == "approved" else sql.SQL("i.{}").format(sql.Identifier(name))
            for name in names
        )
        cursor.execute(
            sql.SQL(
                "INSERT INTO measurements ({columns}) SELECT {values} FROM incoming i WHERE NOT EXISTS"
                " (SELECT FROM measurements m WHERE m.session_id = i.session_id AND m.websdr_id = i.websdr_id)"
                " ORDER BY place"
            ).format(columns=columns, values=values)
        )
        return Recorded(inserted=cursor.rowcount, updated=updated, unchanged=given - updated - cursor.rowcount)


def record_receivers(conninfo: str, receivers: Receivers) -> int:
    """Write receivers to the table `receivers`, which is made if need be; returns how many were new or not as given."""
    if not len(receivers):
        return 0
    create_table(conninfo, "receivers")
    with connect(conninfo) as connection:
        return write_receiver_table(connection, receivers)


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


_TIMES = {"start_time_ns": "bigint", "time_sigma_s": "float8"}
"""Columns that a catalog may lack, and their types."""

ADD_TIMES: LiteralString = (
    "ALTER TABLE measurements ADD COLUMN IF NOT EXISTS start_time_ns BIGINT,"
    " ADD COLUMN IF NOT EXISTS time_sigma_s DOUBLE PRECISION"
)

EVERY_CAPTURE_QUERY = "SELECT {} FROM measurements".format(  # noqa: S608 - constants
    ", ".join(
        [
            *(f'"{name}"' for name in _REQUIRED),
            # Through JSON, which has what the table has: one query serves tables with and without these columns.
            *(f"(to_jsonb(measurements)->>'{name}')::{kind} AS {name}" for name, kind in _TIMES.items()),
        ]
    )
)
"""The captures of the table that are not approved, too."""


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
    start, sigma = (f"{name if name in names else 'NULL'}::{kind}" for name, kind in _TIMES.items())
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


_PASSING = re.compile(
    r"starting up|shutting down|recovery mode|not yet accepting|too many (clients|connections)"
    r"|closed the connection unexpectedly|reset by peer"
)
"""Words of a server, or of the way to it, that will not be the same in a moment. A connection refused is not among them."""


def _explain(error: psycopg.Error, conninfo: str, *, lost: bool) -> HeimdallError:
    """Our error for psycopg's, naming server and database; a password in the connection string is never repeated."""
    name = describe(conninfo)
    reason = " ".join(str(error).split("\n")[0].split())
    if isinstance(error, psycopg.errors.UndefinedTable):
        return UsageError(
            f"{name}: {reason}; create the table (featurestore/schema.sql), point --catalog at the right database, "
            "or read another schema with --query-file"
        )
    if isinstance(error, psycopg.errors.InsufficientPrivilege | psycopg.errors.ReadOnlySqlTransaction):
        return UsageError(f"{name}: {reason}; the user lacks a right that this command needs")
    if isinstance(
        error, psycopg.errors.SyntaxError | psycopg.errors.UndefinedColumn | psycopg.DataError | psycopg.NotSupportedError
    ):
        return UsageError(f"{name}: {reason}; correct the query or the values it yields")
    if error.sqlstate is None and isinstance(error, psycopg.ProgrammingError):
        return UsageError(  # without libpq's reason: it quotes what it could not parse, which may be a password
            "--catalog is not a PostgreSQL connection string; expected postgresql://user@host:port/database, with special "
            "characters percent-encoded, and the password better in PGPASSWORD"
        )
    if error.sqlstate is None and any(word in reason for word in ("authentication", "does not exist", "no password")):
        return UsageError(f"{name}: {reason}; check user, password and database name (PGUSER, PGPASSWORD, PGDATABASE)")
    if isinstance(error, psycopg.OperationalError):
        kind = InterruptedCatalogError if lost or _PASSING.search(reason) else ServiceUnavailableError
        return kind(f"{name} does not answer ({reason}); check host and port (PGHOST, PGPORT), then try again")
    return HeimdallError(f"{name}: {reason}")


def _require_unambiguous(conninfo: str) -> None:
    """Refuse a URL whose password holds @, / or ? as they are: what follows would be taken for the host, and be shown."""
    before = conninfo.partition("://")[2].rpartition("@")[0]
    if conninfo.startswith(("postgresql://", "postgres://")) and not set("@/?").isdisjoint(before):
        raise UsageError(
            "--catalog cannot be told apart into user, password and host; percent-encode @ / ? in them (%40 %2F %3F), or keep "
            "the password in PGPASSWORD"
        )


def describe(conninfo: str) -> str:
    """The catalog's name for people: host, port and database, without user or password."""
    try:
        parts = psycopg.conninfo.conninfo_to_dict(conninfo)
    except psycopg.ProgrammingError:
        return "the catalog"
    info = {name: without_credentials(str(parts[name])) for name in ("host", "port", "dbname") if parts.get(name)}
    return (
        f"PostgreSQL {info.get('host', '')}:{info.get('port', '')}/{info.get('dbname', '')}"
        if info
        else "PostgreSQL (as PG* says)"
    )
