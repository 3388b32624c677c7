"""A deadline on silence, for connections of libraries that know none: the socket is shut down under them."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from featurestore.errors import ServiceUnavailableError


@contextmanager
def limited_silence(descriptor: int, limit_s: float, name: str) -> Iterator[Callable[[], None]]:
    """Break a connection off when nothing was heard for `limit_s`; call what this yields at every sign of life.

    Args:
        descriptor: of the connection's socket.
        limit_s: seconds.
        name: of the server, for the error.

    Raises:
        ServiceUnavailableError: instead of what the library raises when its socket ends.
    """
    heard_at = time.monotonic()
    broken_off, over = False, threading.Event()

    def heard() -> None:
        nonlocal heard_at
        heard_at = time.monotonic()

    def watch() -> None:
        nonlocal broken_off
        while not over.wait(max(0.0, heard_at + limit_s - time.monotonic())):
            if time.monotonic() - heard_at >= limit_s:
                broken_off = True
                with suppress(OSError):  # it has ended by itself meanwhile
                    connection.shutdown(socket.SHUT_RDWR)  # wakes whoever waits for it, as the end of the stream does
                return

    # A copy of its own: the library may close its descriptor at any time, and somebody else get the same number.
    with socket.socket(fileno=os.dup(descriptor)) as connection:
        watcher = threading.Thread(target=watch, name="limited-silence", daemon=True)
        watcher.start()
        try:
            yield heard
        except Exception as error:
            if not broken_off:
                raise
            raise ServiceUnavailableError(
                f"{name} timed out: no answer for {limit_s:.0f} s; check the server and the network, then try again"
            ) from error
        finally:
            over.set()
            watcher.join()
