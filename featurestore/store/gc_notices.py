"""Notices of what `features gc` is about to remove, `removals/{id}.json`, so that nobody builds on it meanwhile.

gc writes its notice first, and looks for sets that were published then; a build writes its manifest first, and looks for
notices then. Whatever the order, at least one of the two sees the other.
"""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from featurestore.errors import ServiceUnavailableError
from featurestore.objects.objects import Objects

NOTICES = "removals"

LIFE = timedelta(hours=1)
"""A notice that nobody has renewed for so long is of a gc that was killed."""

RENEWAL_S = 600.0


@contextmanager
def announce(objects: Objects, paths: Iterable[str]) -> Iterator[Callable[[], None]]:
    """Say what will be removed, for as long as the context lasts.

    Args:
        objects: the store.
        paths: prefixes, as `dependencies.paths` gives them.

    Yields:
        A function to be called now and then, which renews the notice when it is time.
    """
    key = f"{NOTICES}/{uuid.uuid4().hex}.json"
    content = {"paths": sorted(paths), "host": socket.gethostname(), "pid": os.getpid()}
    objects.put_json(key, content)
    written = time.monotonic()

    def renew() -> None:
        nonlocal written
        if time.monotonic() - written > RENEWAL_S:
            objects.put_json(key, content)
            written = time.monotonic()

    try:
        yield renew
    finally:
        objects.delete([key])


def announced(objects: Objects) -> frozenset[str]:
    """What is being removed now, by whomever."""
    found: set[str] = set()
    for info in objects.walk(NOTICES):
        try:
            notice = objects.get_json(info.key)
        except FileNotFoundError:  # that gc has ended
            continue
        if not _is_stale(info.modified, notice["host"], notice["pid"]):
            found.update(notice["paths"])
    return frozenset(found)


def sweep_stale(objects: Objects) -> None:
    """Remove the notices of processes that were killed."""
    for info in list(objects.walk(NOTICES)):
        try:
            notice = objects.get_json(info.key)
        except FileNotFoundError:
            continue
        if _is_stale(info.modified, notice["host"], notice["pid"]):
            objects.delete([info.key])


def require_unannounced(objects: Objects, paths: Iterable[str]) -> None:
    """Check that nothing of what is about to be written or used is being removed.

    Raises:
        ServiceUnavailableError: when something is.
    """
    doomed = announced(objects).intersection(paths)
    if doomed:
        raise ServiceUnavailableError(
            f"features gc is removing {objects.location}/{min(doomed)}, which is needed here; "
            "run the same command again when it has ended"
        )


def require_stored(objects: Objects, things: Sequence[str], wanted: set[str], marker: str) -> None:
    """Check that all that a marker promises is there, now that it is written; else take the marker back.

    A gc that began after this command did, and ended before the marker was written, may have removed what was found there
    from before, or one half of what both were at. Whatever begins to be removed from now on loses its marker first.

    Args:
        objects: the store.
        things: prefixes of what was written, the one that holds all of it first.
        wanted: keys of all objects.
        marker: key of the marker.

    Raises:
        ServiceUnavailableError: when `features gc` took something, or is at it.
    """
    try:
        require_unannounced(objects, things)
        missing = wanted - {info.key for info in objects.walk(things[0])}
        if missing:
            raise ServiceUnavailableError(
                f"features gc removed {objects.location}/{min(missing)} while it was being written; run the same command again"
            )
    except ServiceUnavailableError:
        objects.delete([marker])
        raise


def _is_stale(modified: datetime, host: str, pid: int) -> bool:
    if datetime.now(UTC) - modified > LIFE:
        return True
    return host == socket.gethostname() and not Path(f"/proc/{pid}").exists() and Path("/proc/self").exists()
