"""Servers that all processes of one test run share: the first that asks starts them, and stops them after the last has ended.

    worker 1:  starts them, writes running.json ─ tests ─ ends, waits until nobody holds `users` ─ stops them
    worker 2:              reads running.json ─ tests ─────── ends, lets go of `users`

Both hold the file `users` locked, as the system does until a process is gone, however it ends.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from io import BufferedWriter
from pathlib import Path

import pytest
from made_once import directory_of_run

from featurestore.services import Running, running

both_servers = pytest.mark.parametrize("s3_services", ["seaweedfs", "swift"], indirect=True)
"""Marks a test of `bucket` that runs on each embedded S3 server: what works with both was written for neither."""


def shared(factory: pytest.TempPathFactory, config: pytest.Config, name: str, *, postgres: bool, s3: bool | str) -> Running:
    """The servers `name` of this test run. In processes that did not start them, they have no `servers`.

    Args:
        factory: where this run's directory is.
        config: told what to do when this process ends: a fixture would count waiting as time of the last test.
        name: of a directory.
        postgres: as for `running`, like `s3`.
        s3: see there.
    """
    directory = directory_of_run(factory) / name
    directory.mkdir(exist_ok=True)
    with _starting(directory):
        users = (directory / "users").open("ab")
        fcntl.flock(users, fcntl.LOCK_SH)
        found = _found(directory)
        if found is not None:
            config.add_cleanup(users.close)
            return found
        servers = ExitStack()
        services = servers.enter_context(running(directory / "services", postgres=postgres, s3=s3))
        kept = {key: value for key, value in vars(services).items() if key != "servers"} | {
            "directory": str(services.directory)
        }
        (directory / "running.json").write_text(json.dumps({"pid": os.getpid(), "running": kept}))
    config.add_cleanup(_stop_after_the_last(directory, users, servers))
    return services


@contextmanager
def _starting(directory: Path) -> Iterator[None]:
    """One process at a time starts or stops them."""
    with (directory / "starting").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _found(directory: Path) -> Running | None:
    """What another process started; None when there is none, or it is gone, and its servers with it."""
    try:
        found = json.loads((directory / "running.json").read_text())
        os.kill(found["pid"], 0)
    except (FileNotFoundError, ProcessLookupError):
        return None
    return Running(**found["running"] | {"directory": Path(found["running"]["directory"]), "servers": ()})


def _stop_after_the_last(directory: Path, users: BufferedWriter, servers: ExitStack) -> Callable[[], None]:
    def stop() -> None:
        while True:
            with _starting(directory), suppress(BlockingIOError):
                fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                (directory / "running.json").unlink()
                servers.close()
                users.close()
                return
            time.sleep(0.1)

    return stop
