"""Objects in a local directory, read directly: obstore goes through another thread, which takes several times as long."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence

_UNFINISHED = re.compile(r"#\d+$")
"""What obstore calls a file while it is being written."""


def path_of(root: str, key: str) -> str:
    """The path of an object.

    Raises:
        OSError: when the key leads out of `root`.
    """
    if ".." in key.split("/") or key.startswith("/") or "\0" in key:
        raise OSError(f"{key} leaves {root}")
    return f"{root}/{key}"


def read(path: str) -> bytes:
    """The whole file."""
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123 - a Path would take longer than the read
        return file.readall()


def read_into(path: str, memory: memoryview) -> bool:
    """Fill `memory` with a file that is just as long; whether it was."""
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123 - as above
        return os.fstat(file.fileno()).st_size == len(memory) == file.readinto(memory)


def read_ranges(path: str, starts: Sequence[int], ends: Sequence[int]) -> Sequence[bytes]:
    """The bytes `[start, end)` of each range.

    Raises:
        OSError: when the file ends before; ESPIPE when it is none (a pipe, which is not waited for).
    """
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        parts = [os.pread(file, end - start, start) for start, end in zip(starts, ends, strict=True)]
    finally:
        os.close(file)
    if any(len(part) != end - start for part, start, end in zip(parts, starts, ends, strict=True)):
        raise OSError(f"{path} ends before the bytes that were asked for")
    return parts


def walk(root: str, prefix: str) -> Iterator[tuple[str, int, int]]:
    """Key, size in bytes and time of the last change in ns of every file below a prefix; links are followed."""
    pending = [prefix.strip("/")]
    linked: set[tuple[int, int]] = set()
    while pending:
        below = pending.pop()
        try:
            entries = os.scandir(path_of(root, below) if below else root)
        except (FileNotFoundError, NotADirectoryError):  # removed meanwhile, or never there
            continue
        with entries:
            for entry in entries:
                key = f"{below}/{entry.name}" if below else entry.name
                if entry.is_dir():
                    if entry.is_symlink():  # once each: a link can lead back up
                        status = entry.stat()
                        if (status.st_dev, status.st_ino) in linked:
                            continue
                        linked.add((status.st_dev, status.st_ino))
                    pending.append(key)
                elif "#" not in entry.name or not _UNFINISHED.search(entry.name):
                    try:
                        status = entry.stat()
                    except FileNotFoundError:  # removed meanwhile, or a link to nothing
                        continue
                    if entry.is_file():
                        yield key, status.st_size, status.st_mtime_ns
