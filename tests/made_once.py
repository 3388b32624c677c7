"""What takes seconds to make and no test changes: made by the first process of a run that wants it, found by the others."""

from __future__ import annotations

import fcntl
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, cast

import pytest

Made = TypeVar("Made")


def directory_of_run(factory: pytest.TempPathFactory) -> Path:
    """The temporary directory that all processes of a test run share."""
    base = factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], Made]) -> Made:
    """What `make` returns; in other processes of the run, a copy of it.

    Args:
        factory: where this run's directory is.
        name: of a directory; one for each thing.
        make: gets the empty directory, for files that its result names. What it returns must survive pickle.
    """
    directory = directory_of_run(factory) / name
    with directory.with_name(f"{name}.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # let go when the file is closed, however this process ends
        result = directory / "result.pickle"
        if not result.exists():  # also when another process failed halfway
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir()
            content = pickle.dumps(make(directory))
            result.with_suffix(".part").write_bytes(content)
            result.with_suffix(".part").rename(result)
        return cast("Made", pickle.loads(result.read_bytes()))
