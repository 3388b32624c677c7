"""Local files as memory: the page cache itself instead of a copy of it, which would cost as much as all the rest of a chunk."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

POPULATE_READ = 22
"""MADV_POPULATE_READ of Linux 5.14, which Python 3.11 has no name for."""


def map_file(path: Path, n_bytes: int) -> memoryview | None:
    """The content of a file that will not change; `None` when that cannot be had in this way, and it must be read.

    All pages are read here. Otherwise the first use of one on a bad disk would end the process (SIGBUS), whereas `madvise`
    says that there is an error; it also says so on kernels that cannot do it. What is deleted or replaced by another file
    later stays as it is here.

    Args:
        path: of the file.
        n_bytes: that it must have.
    """
    try:
        with path.open("rb", buffering=0) as file:
            if os.fstat(file.fileno()).st_size != n_bytes:
                return None
            mapped = mmap.mmap(file.fileno(), n_bytes, access=mmap.ACCESS_COPY)  # torch dislikes what is read-only
        mapped.madvise(POPULATE_READ)
    except OSError:
        return None
    return memoryview(mapped)
