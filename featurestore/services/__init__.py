"""Embedded PostgreSQL and S3, for trying things out, for the demo and for tests. Not for production.

    with services.running(Path("heimdall-services")) as running:
        catalog.record(running.catalog, captures)

Data, logs and credentials stay in the directory; the servers listen on 127.0.0.1 only and end with the context, or with
the process, however that ends.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from featurestore.errors import UsageError
from featurestore.services import postgres as postgres_server
from featurestore.services import s3 as s3_servers
from featurestore.services.process import Server, free_port

RAW_BUCKET, FEATURES_BUCKET, MODELS_BUCKET = BUCKETS = ("heimdall-raw", "heimdall-features", "heimdall-models")
LOCK_TIMEOUT_S = 15.0
SHADOWING = ("AWS_PROFILE", "AWS_SESSION_TOKEN", "PGHOSTADDR", "PGSERVICE", "PGPASSFILE", "PGOPTIONS", "PGSSLMODE")
"""Variables that, left over from elsewhere, would lead clients away from the services."""


@dataclass(frozen=True)
class Settings:
    """What a directory of services keeps from one start to the next; ports change only when they are taken.

    `s3_server` names the one that wrote the objects: the other could not read them.
    """

    password: str = field(default_factory=lambda: secrets.token_hex(12), repr=False)
    secret_key: str = field(default_factory=lambda: secrets.token_hex(20), repr=False)
    postgres_port: int = 0
    s3_port: int = 0
    s3_server: str = ""


@dataclass(frozen=True)
class Running:
    """The services that run, and how to reach them; what belongs to a service that was left out is empty.

    Attributes:
        directory: where their data and logs are.
        catalog: URL of the catalog database.
        endpoint: URL of the S3 server.
        access_key: S3 access key.
        secret_key: S3 secret key.
        environment: all of it as the environment variables that PostgreSQL and S3 clients read.
        servers: the processes.
    """

    directory: Path
    catalog: str = field(repr=False)
    endpoint: str
    access_key: str
    secret_key: str = field(repr=False)
    environment: dict[str, str] = field(repr=False)
    servers: tuple[Server, ...]

    def create_buckets(self, *names: str) -> None:
        """Create S3 buckets that are not there yet."""
        s3_servers.create_buckets(self.endpoint, self.secret_key, names)

    def check(self) -> None:
        """Raise `HeimdallError` when a server has ended by itself."""
        for server in self.servers:
            server.check()


@contextmanager
def running(
    directory: Path,
    *,
    postgres: bool = True,
    s3: bool | str = True,
    table: bool = True,
    buckets: Iterable[str] = BUCKETS,
) -> Iterator[Running]:
    """Run the services on `directory`, which is created when absent, until the context ends.

    Args:
        directory: where data, logs and credentials are kept; the same directory brings back the same data.
        postgres: run PostgreSQL.
        s3: run S3: "seaweedfs" or "swift", or True for the one that wrote the directory's objects, else SeaweedFS where it is
            installed.
        table: create the `measurements` table when absent.
        buckets: create these S3 buckets when absent.

    Raises:
        UsageError: when the directory is in use or not usable, or the packages are not installed.
        HeimdallError: when a server does not start; the message holds the end of its log.
    """
    directory = directory.expanduser().absolute()
    with ExitStack() as stack:
        try:
            directory.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context(_locked(directory))
            settings = _settings(directory, s3)
            servers = []
            if s3:  # first: it takes longer, and PostgreSQL can be made ready meanwhile
                objects = s3_servers.start(settings.s3_server, directory / "s3", settings.s3_port, settings.secret_key, lock)
                servers.append(stack.enter_context(objects))
            if postgres:
                server = postgres_server.start(directory / "postgres", settings.postgres_port, settings.password, lock)
                servers.append(stack.enter_context(server))
        except OSError as error:
            raise UsageError(
                f"services cannot keep their data in {directory} ({error.strerror}: {error.filename}); "
                "choose a directory that you may write to"
            ) from error
        if postgres:
            postgres_server.wait_until_ready(server, settings.postgres_port, settings.password, table=table)
        if s3:
            s3_servers.wait_until_ready(objects, settings.s3_port)
            s3_servers.create_buckets(s3_servers.endpoint(settings.s3_port), settings.secret_key, buckets)
        yield _running(directory, settings, tuple(servers), postgres=postgres, s3=bool(s3))


def _running(directory: Path, settings: Settings, servers: tuple[Server, ...], *, postgres: bool, s3: bool) -> Running:
    endpoint = s3_servers.endpoint(settings.s3_port) if s3 else ""
    environment: dict[str, str] = {}
    if postgres:
        environment |= {
            "PGHOST": "127.0.0.1",
            "PGPORT": str(settings.postgres_port),
            "PGUSER": postgres_server.USER,
            "PGPASSWORD": settings.password,
            "PGDATABASE": postgres_server.DATABASE,
        }
    if s3:
        environment |= {
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ENDPOINT_URL_S3": endpoint,
            "AWS_ACCESS_KEY_ID": s3_servers.ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": settings.secret_key,
            "AWS_REGION": s3_servers.REGION,
            "AWS_DEFAULT_REGION": s3_servers.REGION,  # boto3 reads only this one
            "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",  # boto3 1.36 and later would send trailers
            "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
        }
    return Running(
        directory=directory,
        catalog=postgres_server.url(settings.postgres_port, settings.password) if postgres else "",
        endpoint=endpoint,
        access_key=s3_servers.ACCESS_KEY if s3 else "",
        secret_key=settings.secret_key if s3 else "",
        environment=environment,
        servers=servers,
    )


@contextmanager
def _locked(directory: Path) -> Iterator[int]:
    """Hold the directory for us and our servers. Waits a little: servers of a run that was killed may be stopping."""
    with (directory / "lock").open("ab") as file:
        deadline = time.monotonic() + LOCK_TIMEOUT_S
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise UsageError(
                        f"services already run in {directory}; use them, stop them, or choose another directory"
                    ) from None
            time.sleep(0.1)
        yield file.fileno()


def _settings(directory: Path, s3: bool | str) -> Settings:
    """The directory's settings, made at the first start; with ports that are free now.

    Args:
        directory: of the services.
        s3: as for `running`.
    """
    path = directory / "services.json"
    try:
        kept = Settings(**json.loads(path.read_text())) if path.exists() else Settings()
    except (TypeError, ValueError) as error:
        raise UsageError(f"{path} is damaged ({error}); restore it, or start with an empty directory") from error
    settings = replace(kept, postgres_port=free_port(kept.postgres_port), s3_port=free_port(kept.s3_port))
    if s3:
        wanted = s3 if isinstance(s3, str) else ""
        settings = replace(settings, s3_server=s3_servers.choose(directory / "s3", wanted, kept.s3_server))
    if settings != kept:
        unfinished = path.with_suffix(".unfinished")
        unfinished.unlink(missing_ok=True)
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)  # it holds passwords
        with os.fdopen(descriptor, "w") as file:
            json.dump(asdict(settings), file, indent=1)
        unfinished.rename(path)
    return settings
