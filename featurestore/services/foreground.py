"""`services up`: run the services until told to stop, or for as long as one command runs."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType
from typing import Any

from featurestore.progress import Progress
from featurestore.services import FEATURES_BUCKET, MODELS_BUCKET, RAW_BUCKET, SHADOWING, Running

CHECK_INTERVAL_S = 1.0


def up(
    context: AbstractContextManager[Running], command: str | None, announce: Callable[[Running], None], progress: Progress
) -> int:
    """Run services in the foreground; returns the exit code.

    Args:
        context: the services, not yet started, as from `running`.
        command: a shell command to run with the services' environment; the services stop when it ends. Without it they run
            until SIGINT or SIGTERM.
        announce: told once how to reach the services, when there is no command.
        progress: told what happens.

    Raises:
        UsageError, HeimdallError: as `running` does; also when a server ends by itself.
    """
    with _handling(signal.SIGTERM, _interrupt), context as services:
        names = " and ".join(server.name for server in services.servers)
        if command is not None:
            progress.say(f"{names} are up; data and logs are in {services.directory}")
            return _run(command, {**os.environ, **environment(services)})
        announce(services)
        progress.say(f"{names} are up until Ctrl-C; data and logs are in {services.directory}")
        try:
            _wait(services)
        except KeyboardInterrupt:
            progress.say("stopping")
    return 0


def environment(services: Running) -> dict[str, str]:
    """The variables that lead clients to the services, and `HEIMDALL_…` ones that name the buckets."""
    buckets = {"RAW": RAW_BUCKET, "STORE": FEATURES_BUCKET, "MODELS": MODELS_BUCKET} if services.endpoint else {}
    return {
        **services.environment,
        **{f"HEIMDALL_{name}": f"s3://{bucket}" for name, bucket in buckets.items()},
        "NO_PROXY": ",".join(filter(None, [os.environ.get("NO_PROXY"), "127.0.0.1"])),
    }


def exports(services: Running) -> str:
    """Shell lines that make the services those of the shell that evaluates them."""
    lines = [f"unset {' '.join(SHADOWING)}"]
    lines += [f"export {name}={shlex.quote(value)}" for name, value in environment(services).items()]
    return "\n".join(lines)


def _run(command: str, variables: dict[str, str]) -> int:
    """Run a shell command and return its exit code, in a shell's way of counting. Signals are its business, not ours."""
    for name in SHADOWING:
        variables.pop(name, None)
    with subprocess.Popen(["/bin/sh", "-c", command], env=variables) as process:  # noqa: S603 - the user's own command

        def pass_on(_number: int, _frame: FrameType | None) -> None:
            process.terminate()

        def ignore(_number: int, _frame: FrameType | None) -> None:
            """A terminal sends SIGINT to the command too."""

        with _handling(signal.SIGTERM, pass_on), _handling(signal.SIGINT, ignore):
            code = process.wait()
    return code if code >= 0 else 128 - code


def _wait(services: Running) -> None:
    while True:
        time.sleep(CHECK_INTERVAL_S)
        services.check()


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@contextmanager
def _handling(number: signal.Signals, handler: Callable[[int, FrameType | None], Any]) -> Iterator[None]:
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)
