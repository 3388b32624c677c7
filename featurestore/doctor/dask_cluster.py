"""The check of a Dask cluster: its scheduler, its workers, and whether they have what a build sends them."""

from __future__ import annotations

import sys
from importlib.metadata import version
from typing import Any

from featurestore.cluster.dask_cluster import connect
from featurestore.errors import HeimdallError

CONNECT_TIMEOUT_S = 4
MUST_AGREE = ("heimdall-featurestore", "numpy", "distributed")
"""Packages whose objects travel between a build and its workers."""


def look_at_dask(scheduler: str) -> str:
    """What a scheduler says of its workers.

    Raises:
        UsageError: when the address is none.
        ServiceUnavailableError: when nobody answers.
        HeimdallError: when there are no workers, or their software is not ours.
    """
    with connect(scheduler, CONNECT_TIMEOUT_S) as client:
        return _look_at_workers(client, scheduler)


def _look_at_workers(client: Any, scheduler: str) -> str:
    threads = client.nthreads()
    if not threads:
        raise HeimdallError(f"the scheduler at {scheduler} has no workers; start some: dask worker {scheduler}")
    for package in MUST_AGREE:
        ours = version(package)
        for worker, theirs in client.run(version, package, on_error="return").items():
            if theirs != ours:
                difference = (
                    f"lacks {package}" if isinstance(theirs, Exception) else f"has {package} {theirs}, and {ours} is here"
                )
                raise HeimdallError(f"worker {worker} {difference}; install the same there")
    for worker, risky in client.run(_may_freeze).items():
        if risky:
            raise HeimdallError(
                f"worker {worker} runs Python 3.11 with Dask's profiler, which can freeze it (CPython issue 106883); set "
                "distributed.worker.profile.enabled to false there (DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED=false), or use "
                "Python 3.12"
            )
    return f"{scheduler}: {len(threads)} workers with {sum(threads.values())} threads"


def _may_freeze() -> bool:
    """Run by a worker: whether Python's deadlock of `sys._current_frames` with the garbage collector can hit it."""
    import dask

    return sys.version_info[:2] == (3, 11) and bool(dask.config.get("distributed.worker.profile.enabled"))
