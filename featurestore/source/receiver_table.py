"""The catalog's table of receivers: read beside the captures, written by simulate and ingest. Other SQL is in `catalog`."""

from __future__ import annotations

import psycopg
from psycopg import sql

from featurestore.source.receivers import Receivers

NEEDED = {"websdr_id", "latitude", "longitude"}


def read_receiver_table(connection: psycopg.Connection) -> Receivers | None:
    """The table `receivers`, if there is one that looks like ours and may be read; places that cannot be are left out."""
    columns = connection.execute(
        "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass('receivers') AND attnum > 0 AND NOT attisdropped"
        " AND has_table_privilege(attrelid, 'SELECT')"
    )
    names = {row[0] for row in columns}
    if not names >= NEEDED:
        return None
    name = sql.SQL("name::text" if "name" in names else "NULL")
    altitude_m = sql.SQL("altitude_m::float8" if "altitude_m" in names else "NULL")
    rows = connection.execute(
        sql.SQL(
            "SELECT DISTINCT ON (websdr_id) websdr_id::int, latitude::float8, longitude::float8, {}, {} FROM receivers"
            " WHERE latitude BETWEEN -90 AND 90 AND longitude BETWEEN -180 AND 180 AND websdr_id IS NOT NULL"
            " AND NOT (latitude = 0 AND longitude = 0)"
        ).format(name, altitude_m)
    )
    return Receivers.of(rows)


def write_receiver_table(connection: psycopg.Connection, receivers: Receivers) -> int:
    """Write receivers to the table; returns how many were new or not as given.

    Of a known receiver a name or an altitude that is not given stays what it is.
    """
    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO receivers AS r (websdr_id, latitude, longitude, name, altitude_m)"
            " VALUES (%s, %s, %s, NULLIF(%s, ''), %s) ON CONFLICT (websdr_id) DO UPDATE SET latitude = EXCLUDED.latitude,"
            " longitude = EXCLUDED.longitude, name = COALESCE(EXCLUDED.name, r.name),"
            " altitude_m = COALESCE(EXCLUDED.altitude_m, r.altitude_m)"
            " WHERE (r.latitude, r.longitude, r.name, r.altitude_m) IS DISTINCT FROM (EXCLUDED.latitude, EXCLUDED.longitude,"
            " COALESCE(EXCLUDED.name, r.name), COALESCE(EXCLUDED.altitude_m, r.altitude_m))",
            receivers.rows(),
        )
        return cursor.rowcount
