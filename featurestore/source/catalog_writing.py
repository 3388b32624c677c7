"""Write captures and receivers to the catalog: what simulate and ingest record there."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, fields
from datetime import datetime
from importlib.resources import files
from typing import LiteralString
from uuid import UUID

from psycopg import sql

from featurestore.source.catalog import TIME_COLUMNS
from featurestore.source.catalog_connection import connect
from featurestore.source.receiver_table import write_receiver_table
from featurestore.source.receivers import Receivers


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


def create_table(conninfo: str, name: LiteralString = "measurements") -> None:
    """Create a table of `schema.sql` if the database has none of that name; give one of before the columns that it lacks."""
    with connect(conninfo) as connection:
        connection.execute("SELECT pg_advisory_xact_lock(hashtext('heimdall.measurements'))")
        table = connection.execute("SELECT to_regclass(%s)", (name,)).fetchone()
        if table is None or table[0] is None:
            schema = files("featurestore").joinpath("schema.sql").read_text()
            connection.execute(re.findall(rf"^CREATE TABLE {name} \(.*?^\);", schema, re.DOTALL | re.MULTILINE)[0])
        elif name == "measurements":
            columns = connection.execute("TABLE measurements LIMIT 0").description or ()
            if not {*TIME_COLUMNS} <= {column.name for column in columns}:
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


ADD_TIMES: LiteralString = (
    "ALTER TABLE measurements ADD COLUMN IF NOT EXISTS start_time_ns BIGINT,"
    " ADD COLUMN IF NOT EXISTS time_sigma_s DOUBLE PRECISION"
)
