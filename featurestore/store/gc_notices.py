"""Notices of what `features gc` is about to remove, `removals/{id}.json`, and records of what it did, `removed/{id}.json`.

With a notice in sight nobody builds on what goes. A record, which stays for some days, tells what was removed from what was
never written.

gc writes its notice first, and looks for sets that were published then; a build writes its manifest first, and looks for
notices then. Whatever the order, at least one of the two sees the other.
"""

from __future__ import annotations

import json
import os
import socket
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from featurestore.errors import HeimdallError, ServiceUnavailableError, StoreError
from featurestore.objects.concurrently import get_all
from featurestore.objects.objects import Objects

NOTICES = "removals"
RECORDS = "removed"

LIFE = timedelta(hours=1)
"""A notice that nobody has renewed for so long is of a gc that was killed."""

RENEWAL_S = 600.0

RECORD_LIFE = timedelta(days=7)
"""Longer than any build takes."""

CLOCKS_DIFFER = timedelta(hours=1)
"""Between this machine and the object store, at most."""

_BEGAN = datetime.now(UTC)
"""What was removed long before this process began was not removed under its hands."""


class Notice:
    """What gc says of itself while it works."""

    def __init__(self, objects: Objects, paths: Iterable[str]) -> None:
        self._objects = objects
        self._name = f"{uuid.uuid4().hex}.json"
        self._content = {"paths": sorted(paths), "host": socket.gethostname(), "pid": os.getpid()}
        self._removed: list[str] = []
        self._write()

    def _write(self) -> None:
        self._objects.put_json(f"{NOTICES}/{self._name}", self._content)
        self._written = time.monotonic()

    def removing(self, path: str) -> None:
        """To be called before something goes."""
        self._removed.append(path)

    def renew(self) -> None:
        """To be called now and then: the notice is written again when it is time."""
        if time.monotonic() - self._written > RENEWAL_S:
            self._write()

    def end(self) -> None:
        """Put the record in place of the notice."""
        if self._removed:
            self._objects.put_json(f"{RECORDS}/{self._name}", {"paths": self._removed})
        self._objects.delete([f"{NOTICES}/{self._name}"])


@contextmanager
def announce(objects: Objects, paths: Iterable[str]) -> Iterator[Notice]:
    """Say what will be removed, for as long as the context lasts.

    Args:
        objects: the store.
        paths: prefixes, as `presence.paths` gives them.
    """
    notice = Notice(objects, paths)
    try:
        yield notice
    finally:
        notice.end()


def announced(objects: Objects) -> frozenset[str]:
    """What is being removed now, by whomever."""
    paths: set[str] = set()
    infos = list(objects.walk(NOTICES))
    for info, content in zip(infos, get_all(objects, [info.key for info in infos]), strict=True):
        if content is None:  # that gc has ended
            continue
        notice = json.loads(content)
        if not _is_stale(info.modified, notice["host"], notice["pid"]):
            paths.update(notice["paths"])
    return frozenset(paths)


def sweep_stale(objects: Objects) -> None:
    """Make records of the notices of processes that were killed, and remove old records."""
    for info in list(objects.walk(NOTICES)):
        try:
            notice = objects.get_json(info.key)
        except FileNotFoundError:
            continue
        if _is_stale(info.modified, notice["host"], notice["pid"]):
            objects.put_json(info.key.replace(NOTICES, RECORDS, 1), {"paths": notice["paths"]})
            objects.delete([info.key])
    objects.delete([info.key for info in objects.walk(RECORDS) if datetime.now(UTC) - info.modified > RECORD_LIFE])


def gone(objects: Objects, key: str) -> HeimdallError:
    """The error for an object, or all below a prefix, that should be there and is not.

    Returns:
        `ServiceUnavailableError` when `features gc` removed it; `StoreError` when it did not, so that nobody ever wrote it (a
        fault of who wrote what promises it), or it was lost.
    """
    url = f"{objects.location}/{key}"
    for prefix in (NOTICES, RECORDS):  # in this order: gc writes the record before it takes the notice away
        for info in objects.walk(prefix):
            if info.modified < _BEGAN - CLOCKS_DIFFER:
                continue
            try:
                paths = objects.get_json(info.key)["paths"]
            except FileNotFoundError:
                continue
            if any(key in (path, f"{path}.json") or key.startswith(f"{path}/") for path in paths):
                return ServiceUnavailableError(
                    f"features gc removed {url} ({info.modified:%Y-%m-%d %H:%M:%S} UTC) while this command used it; "
                    "run the same command again"
                )
    return StoreError(
        f"{url} is not there, and features gc did not remove it: it was never written, though something that refers to it "
        "was, or it was lost; run 'features repair', or build again into an empty store"
    )


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
        StoreError: when something was never written.
    """
    try:
        require_unannounced(objects, things)
        missing = wanted - {info.key for info in objects.walk(things[0])}
        if missing:
            raise gone(objects, min(missing))
    except HeimdallError:
        objects.delete([marker])
        raise


def _is_stale(modified: datetime, host: str, pid: int) -> bool:
    if datetime.now(UTC) - modified > LIFE:
        return True
    return host == socket.gethostname() and not Path(f"/proc/{pid}").exists() and Path("/proc/self").exists()
