"""Server processes: start one under its guard, wait until it answers, stop it, tell why it did not start."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from featurestore.errors import HeimdallError
from featurestore.services import guard

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = guard.GRACE_S + 5
POLL_S = 0.02
TAIL_LINES = 12


@dataclass(frozen=True)
class Command:
    """How to run a server.

    Attributes:
        words: the command.
        stop_signal: ends it in order.
        environment: variables it needs on top of ours. They may hold keys.
        without: it sees none of our variables that begin like this.
        directory: where it works.
        leaves: files outside its directory that it may leave behind; they are removed when it has ended.
    """

    words: list[str]
    stop_signal: signal.Signals = signal.SIGTERM
    environment: dict[str, str] = field(default_factory=dict, repr=False)
    without: tuple[str, ...] = ()
    directory: Path = Path("/")
    leaves: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Server:
    """A running server, with the guard that stops it. Use it as a context: it stops when the context ends."""

    name: str
    log: Path
    process: subprocess.Popen[bytes]

    @classmethod
    def start(cls, name: str, command: Command, log: Path, lock: int) -> Self:
        """Start `command`; what it prints goes to `log`. It lives in a session of its own, out of Ctrl-C's reach.

        Args:
            name: what people call it.
            command: what to run.
            log: a file, appended to.
            lock: descriptor of a locked file; it stays locked until the server is gone, even when we go before.
        """
        leaves = os.pathsep.join(map(str, command.leaves))
        guarded = [sys.executable, "-I", "-S", guard.__file__, str(int(command.stop_signal)), leaves, *command.words]
        ours = {name: value for name, value in os.environ.items() if not name.startswith(command.without)}
        with log.open("ab") as output:
            process = subprocess.Popen(  # noqa: S603 - the command is ours
                guarded,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                cwd=command.directory,
                env={**ours, **command.environment},
                start_new_session=True,
                pass_fds=[lock],
            )
        return cls(name, log, process)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.stop()

    def wait_until_ready(self, ask: Callable[[], str], timeout_s: float = START_TIMEOUT_S) -> None:
        """Ask until the server answers.

        Args:
            ask: asks once; returns nothing when there is a good answer, else what was wrong with it.
            timeout_s: for how long to try.

        Raises:
            HeimdallError: when it ends, or does not answer in time; the message ends with the last lines of its log.
        """
        deadline = time.monotonic() + timeout_s
        while problem := ask():
            if (code := self.process.poll()) is not None:
                raise HeimdallError(f"{self.name} ended with code {code} instead of starting; {tail(self.log)}")
            if time.monotonic() > deadline:
                raise HeimdallError(f"{self.name} did not answer within {timeout_s:.0f} s ({problem}); {tail(self.log)}")
            time.sleep(POLL_S)

    def check(self) -> None:
        """Raise `HeimdallError` when the server has ended."""
        if (code := self.process.poll()) is not None:
            raise HeimdallError(f"{self.name} ended with code {code}; {tail(self.log)}")

    def stop(self) -> None:
        """End the server and wait until it is gone."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        try:
            self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def free_port(preferred: int | None = None) -> int:
    """`preferred`, when that port of 127.0.0.1 is free; else one that is."""
    for port in [preferred, 0] if preferred else [0]:
        with socket.socket() as candidate:
            candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: TIME_WAIT does not count
            try:
                candidate.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(candidate.getsockname()[1])
    raise HeimdallError("no TCP port of 127.0.0.1 is free; end some of the programs that hold them")


def tail(log: Path) -> str:
    """The last lines of a log, for an error message."""
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return "\n  ".join([f"{log} ends with:", *lines[-TAIL_LINES:]]) if lines else f"{log} is empty"
