"""Where studies are kept: an SQLite file for the processes of one machine, PostgreSQL for those of several."""

from __future__ import annotations

import fcntl
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from featurestore.errors import ServiceUnavailableError, UsageError, first_line
from featurestore.redaction import without_credentials

SCHEMA = "optuna"
"""Of Optuna's tables in PostgreSQL: their `alembic_version` has the name of MLflow's, and neither belongs among captures."""
LOCK = 0x6865696D
"""Number of the advisory lock that sweeps take in PostgreSQL; any will do that nobody else takes."""
CONNECT_TIMEOUT_S = 5
HEARTBEAT_S = 30
"""A trial says so often that its process lives. After four times that it counts as lost, and Optuna begins it again."""
MAX_RETRIES = 2
"""Of a trial that was lost or interrupted: perhaps it is what kills processes."""
BUSY_TIMEOUT_S = 60
"""For writes of other processes to an SQLite file."""
REFUSALS = ("authentication failed", "does not exist", "no password", "permission denied", "unable to open")


class StudyStorage:
    """Optuna's tables in a database.

    Args:
        url: `sqlite:///FILE` or `postgresql://USER@HOST/DATABASE`; what the latter leaves out, `PG*` says.

    Raises:
        UsageError: when the address is none of these, the server refuses, or Optuna is not installed.
        ServiceUnavailableError: when the database does not answer.
    """

    def __init__(self, url: str) -> None:
        with self.explained(), warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # heartbeats
            optuna.logging.set_verbosity(optuna.logging.ERROR)  # it prints a line for each trial, as we do
            self.url = _parse(url)
            settings = self._engine_settings()
            self._engine = sqlalchemy.create_engine(self.url, **settings)
            with self.locked() as connection:
                if not self.is_local and not sqlalchemy.inspect(connection).has_schema(SCHEMA):  # creating needs a right
                    connection.execute(sqlalchemy.schema.CreateSchema(SCHEMA))
                    connection.commit()
            with self.locked():  # two processes that create tables get in each other's way
                self.optuna = RDBStorage(
                    self.url.render_as_string(hide_password=False),
                    settings,
                    heartbeat_interval=HEARTBEAT_S,
                    grace_period=4 * HEARTBEAT_S,
                    heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(MAX_RETRIES),
                )

    @property
    def is_local(self) -> bool:
        """True for a file."""
        return self.url.get_backend_name() == "sqlite"

    @property
    def name(self) -> str:
        """For people: without user or password."""
        if self.is_local:
            return f"sqlite:///{self.url.database}"
        return f"PostgreSQL {self.url.host or ''}:{self.url.port or ''}/{self.url.database or ''}"

    @contextmanager
    def locked(self) -> Iterator[Any]:
        """Keep the other processes of all sweeps of this database out; yields a connection to it."""
        with self._engine.connect() as connection:
            if not self.is_local:
                connection.execute(sqlalchemy.select(sqlalchemy.func.pg_advisory_xact_lock(LOCK)))
                yield connection
                return
            with Path(f"{self.url.database}.lock").open("ab") as file:
                fcntl.flock(file, fcntl.LOCK_EX)  # not SQLite's own lock, for Optuna's connections need that one
                yield connection

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Errors of the database become ours."""
        try:
            yield
        except (SQLAlchemyError, StorageInternalError, OSError) as error:
            reason = first_line(error.__cause__ if isinstance(error.__cause__, DBAPIError) else error)
            if self.is_local or any(word in reason for word in REFUSALS):
                raise UsageError(
                    f"studies cannot be kept in {self.name} ({reason}); check --storage, and your rights"
                ) from error
            raise ServiceUnavailableError(
                f"{self.name} does not answer ({reason}); check --storage, and run the command again"
            ) from error

    def close(self) -> None:
        """Give the connections back."""
        self.optuna.remove_session()
        self.optuna.engine.dispose()
        self._engine.dispose()

    def _engine_settings(self) -> dict[str, Any]:
        if self.is_local:
            return {"connect_args": {"timeout": BUSY_TIMEOUT_S}}
        arguments: dict[str, Any] = {"connect_timeout": CONNECT_TIMEOUT_S, "application_name": "heimdall"}
        if "options" not in self.url.query:
            arguments["options"] = f"-csearch_path={SCHEMA}"
        return {"connect_args": arguments, "pool_pre_ping": True}  # epochs are long, and servers are restarted


def _parse(text: str) -> sqlalchemy.URL:
    scheme, separator, rest = text.partition("://")
    driver = "postgresql+psycopg" if scheme in ("postgresql", "postgres") else scheme
    try:
        url = sqlalchemy.make_url(f"{driver}{separator}{rest}")
    except (sqlalchemy.exc.ArgumentError, ValueError):
        url = None
    in_memory = url is not None and driver == "sqlite" and url.database in (None, "", ":memory:")
    if url is None or in_memory or driver not in ("sqlite", "postgresql+psycopg"):
        raise UsageError(
            f"--storage {without_credentials(text)} is not usable; expected sqlite:///FILE or postgresql://USER@HOST/DATABASE"
        )
    return url
