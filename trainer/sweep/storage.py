"""Where studies are kept: an SQLite file for the processes of one machine, PostgreSQL for those of several."""

from __future__ import annotations

import fcntl
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featurestore.errors import HeimdallError, ServiceUnavailableError, UsageError, first_line
from featurestore.redaction import without_credentials

if TYPE_CHECKING:
    from optuna import Study
    from optuna.storages import RDBStorage
    from optuna.trial import FrozenTrial
    from sqlalchemy import URL, Engine

SCHEMA = "optuna"
"""Of Optuna's tables in PostgreSQL: their `alembic_version` has the name of MLflow's, and neither belongs among captures."""
LOCK = 0x6865696D
"""Number of the advisory lock that sweeps take in PostgreSQL; any will do that nobody else takes."""
CONNECT_TIMEOUT_S = 5
BUSY_TIMEOUT_S = 60
"""For writes of other processes to an SQLite file."""
REFUSALS = ("authentication failed", "does not exist", "no password", "permission denied", "unable to open")


class StudyStorage:
    """Optuna's tables in a database.

    Args:
        url: `sqlite:///FILE` or `postgresql://USER@HOST/DATABASE`; what the latter leaves out, `PG*` says.
        heartbeat_s: a trial says so often that its process lives; after four times that it counts as lost.
        on_lost: told of such a trial.

    Raises:
        UsageError: when the address is none of these, the server refuses, or Optuna is not installed.
        ServiceUnavailableError: when the database does not answer.
    """

    def __init__(self, url: str, heartbeat_s: int, on_lost: Callable[[Study, FrozenTrial], None]) -> None:
        self.url = _parse(url)
        with self.explained(), warnings.catch_warnings():
            import optuna
            import sqlalchemy

            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # heartbeats
            optuna.logging.set_verbosity(optuna.logging.ERROR)  # it prints a line for each trial, as we do
            settings = self._engine_settings()
            self._engine: Engine = sqlalchemy.create_engine(self.url, **settings)
            try:
                self.optuna = self._open(heartbeat_s, on_lost, settings)
            except BaseException:
                self._engine.dispose()
                raise

    def _open(self, heartbeat_s: int, on_lost: Callable[[Study, FrozenTrial], None], settings: dict[str, Any]) -> RDBStorage:
        from optuna.storages import RDBStorage
        from sqlalchemy import inspect
        from sqlalchemy.schema import CreateSchema

        with self.locked() as connection:
            if not self.is_local and not inspect(connection).has_schema(SCHEMA):  # creating needs a right
                connection.execute(CreateSchema(SCHEMA))
                connection.commit()
        with self.locked():  # two processes that create tables get in each other's way
            return RDBStorage(
                self.url.render_as_string(hide_password=False),
                settings,
                heartbeat_interval=heartbeat_s,
                grace_period=4 * heartbeat_s,
                heartbeat_stale_trial_callback=on_lost,
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
        import sqlalchemy

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
            from optuna.exceptions import StorageInternalError
            from sqlalchemy.exc import DBAPIError, SQLAlchemyError
        except ImportError as error:
            raise UsageError(f"a sweep needs {error.name}; install it: pip install optuna") from error
        try:
            yield
        except (SQLAlchemyError, StorageInternalError, OSError) as error:
            raise self._explain(error.__cause__ if isinstance(error.__cause__, DBAPIError) else error) from error

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

    def _explain(self, error: BaseException) -> HeimdallError:
        reason = first_line(error)
        if self.is_local or any(word in reason for word in REFUSALS):
            return UsageError(f"studies cannot be kept in {self.name} ({reason}); check --storage and what you may do there")
        return ServiceUnavailableError(
            f"{self.name} does not answer ({reason}); check --storage, then run the same command again"
        )


def _parse(text: str) -> URL:
    try:
        import sqlalchemy
    except ImportError as error:
        raise UsageError("a sweep needs sqlalchemy; install it: pip install optuna") from error
    scheme, separator, rest = text.partition("://")
    driver = {"postgresql": "postgresql+psycopg", "postgres": "postgresql+psycopg"}.get(scheme, scheme)
    try:
        url = sqlalchemy.make_url(f"{driver}{separator}{rest}")
    except (sqlalchemy.exc.ArgumentError, ValueError):
        url = None
    if (
        url is None
        or driver not in ("sqlite", "postgresql+psycopg")
        or (driver == "sqlite" and url.database in (None, "", ":memory:"))
    ):
        raise UsageError(
            f"--storage {without_credentials(text)} is not usable; wanted sqlite:///FILE or postgresql://USER@HOST/DATABASE"
        )
    return url
