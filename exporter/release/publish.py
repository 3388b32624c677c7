"""Write a release: take its number before anything is made, write its files, the marker last; give it back on failure."""

from __future__ import annotations

import hashlib
import os
import socket
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from exporter.release.release import CLAIM, MARKER, Release, Version, claimed_versions, find_release, now
from featurestore.errors import HeimdallError, StoreError, UsageError
from featurestore.objects.objects import Objects

ATTEMPTS = 100
"""To get the next number, when others take it first."""


FIRST = Version(0, 1, 0)


def claim(objects: Objects, wanted: Version | None) -> Version:
    """Take a number, atomically.

    Args:
        objects: the models.
        wanted: the number; `None`: one patch above the highest that is taken.

    Raises:
        UsageError: when it is taken.
    """
    for _ in range(ATTEMPTS):
        version = wanted or _next(claimed_versions(objects))
        if _claim(objects, version):
            return version
        if wanted is not None:
            raise UsageError(_taken(objects, version))
    raise StoreError(f"no number was free in {objects.location} in {ATTEMPTS} attempts; try again, or give --release")


def _next(taken: Sequence[Version]) -> Version:
    return Version(taken[-1].major, taken[-1].minor, taken[-1].patch + 1) if taken else FIRST


def _claim(objects: Objects, version: Version) -> bool:
    """Whether the number is ours now; whatever an unfinished release left there is gone then."""
    key = f"{version.directory}/{CLAIM}"
    ours = {
        "release": str(version),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "since": now(),
        "token": uuid.uuid4().hex,
    }
    if not objects.put_json(key, ours, create=True) and _content(objects, key) != ours:  # a repeated request meets itself
        return False
    names = objects.names(version.directory)
    if MARKER in names:  # somebody has deleted the claim of a complete release
        return False
    objects.delete(f"{version.directory}/{name}" for name in names if name != CLAIM)
    return True


def _taken(objects: Objects, version: Version) -> str:
    name = f"{objects.location}/{version.directory}"
    if find_release(objects, version) is not None:
        return (
            f"release {version} exists at {name}, and releases are never changed; choose another number, or leave --release out"
        )
    by = _content(objects, f"{version.directory}/{CLAIM}")
    who = f"process {by.get('pid')} on {by.get('host')} since {by.get('since')}" if isinstance(by, dict) else "another export"
    return (
        f"release {version} is being written to {name} by {who}, or was left unfinished there; wait for it, choose another "
        f"number, or, when that process is no more, delete {name}"
    )


@contextmanager
def claimed(objects: Objects, wanted: Version | None, say: Callable[[str], None]) -> Iterator[Version]:
    """A number, for as long as a release is made and published; given back when that fails."""
    version = claim(objects, wanted)
    try:
        yield version
    except BaseException:
        try:
            withdraw(objects, version)
        except HeimdallError as error:
            say(f"warning: {objects.location}/{version.directory} is left unfinished ({error}); delete it")
        raise


def withdraw(objects: Objects, version: Version) -> None:
    """Remove what is there of a release, its claim last; a complete one stays."""
    names = objects.names(version.directory)
    if MARKER not in names:
        objects.delete(f"{version.directory}/{name}" for name in names if name != CLAIM)
        objects.delete([f"{version.directory}/{CLAIM}"])
        if objects.location.is_local:  # an empty directory would look like a number that is taken
            with suppress(OSError):
                (objects.location.directory / version.directory).rmdir()


def publish(objects: Objects, version: Version, paths: Sequence[Path], about: Mapping[str, Any]) -> Release:
    """Write the files of a claimed release, and its marker last.

    Args:
        objects: the models.
        version: what `claimed` gave.
        paths: files; they keep their names.
        about: see `Release`.

    Raises:
        StoreError: when the store refuses.
    """
    files = {}
    for path in paths:
        objects.put_file(f"{version.directory}/{path.name}", path)
        files[path.name] = describe_file(path)
    release = Release(objects, version, now(), files, about)
    key = f"{version.directory}/{MARKER}"
    if not objects.put_json(key, release.to_json(), create=True) and _content(objects, key) != release.to_json():
        raise StoreError(f"{release.url} was completed by somebody else; delete nothing there, and export again")
    return release


def describe_file(path: Path) -> dict[str, Any]:
    """Size and digest."""
    with path.open("rb") as file:
        return {"size_bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _content(objects: Objects, key: str) -> Any:
    try:
        return objects.get_json(key)
    except (FileNotFoundError, StoreError):
        return None
