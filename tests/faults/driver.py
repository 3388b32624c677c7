"""`cli.py` as these tests run it: small chunks, a store that takes its time, little patience. Dask's workers load it, too."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import wraps

from cli import main
from featurestore.objects import objects
from featurestore.objects.objects import Objects, WritableBytes
from featurestore.store import rows

rows.CHUNK_ROWS = int(os.environ.get("FAULTS_CHUNK_ROWS", rows.CHUNK_ROWS))
PAUSE_S = float(os.environ.get("FAULTS_PAUSE_S", "0"))
PATIENCE_S = float(os.environ.get("FAULTS_PATIENCE_S", "60"))

put_at_once = getattr(Objects.put, "__wrapped__", Objects.put)  # a worker that is told to preload this file loads it twice


@wraps(put_at_once)
def put_slowly(
    self: Objects, key: str, data: WritableBytes, *, create: bool = False, metadata: Mapping[str, str] | None = None
) -> bool:
    """A local file is written too quickly to be interrupted."""
    time.sleep(PAUSE_S)
    return bool(put_at_once(self, key, data, create=create, metadata=metadata))


Objects.put = put_slowly  # type: ignore[method-assign]  # the very same, later
objects.PATIENCE = replace(objects.PATIENCE, total_s=PATIENCE_S)

if __name__ == "__main__":
    main()
