"""Files that are there when all of them is written, and not before: what was there until then stays."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from featurestore.errors import UsageError


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write to; it appears under its name when the block ends without an error.

    Raises:
        UsageError: when it cannot be written.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        try:
            with unfinished.open("wb") as file:
                yield file
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(
            f"{path} cannot be written ({error.strerror or error}); choose another file, in a directory that exists"
        ) from error


def make_directory(path: Path) -> Path:
    """The directory, absolute, made where it is not there; `UsageError` when it cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{path} cannot be made ({error.strerror}); choose another directory") from error
    return path.absolute()
