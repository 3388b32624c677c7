"""Runs one server and stops it when the process that asked for it is gone, however that one ended.

Started by path (`python guard.py SIGNAL LEAVES COMMAND…`) with a pipe as stdin that nobody writes to. The pipe closes when
its owner closes it, or dies, even by SIGKILL: then the server gets SIGNAL, and SIGKILL if it has not stopped some seconds
later. The files of LEAVES, paths with a colon between, are removed when the server has ended. Needs the standard library
only, so that it starts within milliseconds.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from types import FrameType

GRACE_S = 10.0
PR_SET_PDEATHSIG = 1


def main(stop_signal: int, leaves: list[str], command: list[str]) -> int:
    """Run `command` until it ends or stdin does; returns its exit code, 128 + n when signal n ended it."""

    def die_with_guard() -> None:
        # A second line for Linux, should the guard itself be killed. Safe after fork: this process has one thread.
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, stop_signal)

    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=die_with_guard)  # noqa: S603, PLW1509 - see above

    def pass_on(_number: int, _frame: FrameType | None) -> None:
        server.send_signal(stop_signal)

    signal.signal(signal.SIGTERM, pass_on)
    threading.Thread(target=_stop_at_end_of_stdin, args=(server, stop_signal), daemon=True).start()
    code = server.wait()
    for path in leaves:
        with contextlib.suppress(OSError):
            os.unlink(path)  # noqa: PTH108 - pathlib would double the start-up time
    return code if code >= 0 else 128 - code


def _stop_at_end_of_stdin(server: subprocess.Popen[bytes], stop_signal: int) -> None:
    while os.read(0, 1):  # not sys.stdin, whose lock would be in the way when the interpreter ends
        pass
    server.send_signal(stop_signal)
    time.sleep(GRACE_S)
    server.kill()


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), [path for path in sys.argv[2].split(os.pathsep) if path], sys.argv[3:]))
