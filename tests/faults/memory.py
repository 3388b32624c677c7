"""What a piece of work takes: bytes that it allocates at most, and seconds of this thread's processor.

Only the work itself is looked at, since a program that is traced is some ten times slower. What other work of this process
(the garbage collector, an import, a thread of an earlier test) adds is not there when the same is done again.
"""

from __future__ import annotations

import resource
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

Found = TypeVar("Found")


def require_cheap(work: Callable[[], Found], limit_bytes: float, limit_s: float, attempts: int = 4) -> Found:
    """Do something that must not take more than this, and return what it gives.

    When it took more, it is done again: what it costs by itself, it costs every time.

    Args:
        work: what to do.
        limit_bytes: that may be allocated at once, by Python and numpy.
        limit_s: of CPU.
        attempts: how often it is done at most; once, when only the first time takes anything.
    """
    costs = []
    for _ in range(attempts):
        tracemalloc.start()
        try:
            began = time.thread_time()
            found = work()
            costs.append((tracemalloc.get_traced_memory()[1], time.thread_time() - began))
        finally:
            tracemalloc.stop()
        if costs[-1][0] < limit_bytes and costs[-1][1] < limit_s:
            return found
    message = f"it took (bytes, s) {costs}; expected less than {limit_bytes} bytes and {limit_s} s"
    raise AssertionError(message)


@contextmanager
def limited_address_space(spare_bytes: int) -> Iterator[None]:
    """Let this process ask for no more than so much beside what it has, from whatever language: it would be refused.

    A thread reserves up to 72 MB of addresses (its stack, and an arena of the allocator) and uses little of them.
    """
    status = Path("/proc/self/status")
    if not status.exists():  # Linux alone says what a process has
        yield
        return
    has = next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmSize")) * 1024
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (has + spare_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
