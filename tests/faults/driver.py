"""`cli.py` as these tests run it: small chunks, a store that takes its time, little patience. Dask's workers load it, too."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import wraps
from pathlib import Path, PurePosixPath

from cli import main
from featurestore.objects import objects
from featurestore.objects.objects import Objects, WritableBytes
from featurestore.store import rows

rows.CHUNK_ROWS = int(os.environ.get("FAULTS_CHUNK_ROWS", rows.CHUNK_ROWS))
PAUSE_S = float(os.environ.get("FAULTS_PAUSE_S", "0"))
PATIENCE_S = float(os.environ.get("FAULTS_PATIENCE_S", "60"))

HOLD_AT = os.environ.get("FAULTS_HOLD_AT", "")
"""A pattern of keys: a process that has written `HOLD_AFTER` of them says so and writes nothing more, until it is released."""

HOLD_AFTER = int(os.environ.get("FAULTS_HOLD_AFTER", "1"))
HOLD = Path(os.environ.get("FAULTS_HOLD", os.devnull))

held = threading.Event()
written: list[str] = []

put_at_once = getattr(Objects.put, "__wrapped__", Objects.put)  # a worker that is told to preload this file loads it twice


@wraps(put_at_once)
def put_slowly(
    self: Objects, key: str, data: WritableBytes, *, create: bool = False, metadata: Mapping[str, str] | None = None
) -> bool:
    """A local file is written too quickly to be interrupted."""
    time.sleep(PAUSE_S)
    while held.is_set() and not HOLD.with_suffix(".release").exists():
        time.sleep(0.01)
    done = bool(put_at_once(self, key, data, create=create, metadata=metadata))
    if HOLD_AT and PurePosixPath(key).match(HOLD_AT):
        written.append(key)
        if len(written) == HOLD_AFTER:
            held.set()
            HOLD.with_suffix(f".held{os.getpid()}").touch()
    return done


Objects.put = put_slowly  # type: ignore[method-assign]  # the very same, later
objects.PATIENCE = replace(objects.PATIENCE, total_s=PATIENCE_S)

if __name__ == "__main__":
    main()
