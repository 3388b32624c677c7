"""A connection to the catalog: how long it waits, and what its errors say in our words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from featurestore.errors import HeimdallError, ServiceUnavailableError, UsageError
from featurestore.redaction import without_credentials

CONNECT_TIMEOUT_S = 10

KEEPALIVES = {
    # A peer that vanished without a word is noticed within a minute, not after the two hours that are usual.
    "keepalives": 1,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
}


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
