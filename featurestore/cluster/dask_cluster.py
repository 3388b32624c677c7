"""The Dask cluster: connect to one that exists, or start worker processes on this machine."""

from __future__ import annotations

import logging
import os
import re
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing import resource_tracker
from typing import Any

from featurestore.errors import HeimdallError, ServiceUnavailableError, UsageError, first_line
from featurestore.redaction import without_credentials

CONNECT_TIMEOUT_S = 10

WORKER_ENVIRONMENT = {
    # Dask's nanny starts workers so that every large temporary goes back to the kernel and is faulted in again.
    "MALLOC_TRIM_THRESHOLD_": "1073741824",
    "MALLOC_MMAP_THRESHOLD_": "1073741824",
}


QUIET = {
    # Dask looks after itself all the time, and each look takes the GIL from a worker's computation: at the usual intervals
    # of 10 and 20 ms, 15% of the build's time goes there.
    "distributed.admin.tick.interval": "1s",
    # Its profiler can also stop a worker for good: on Python 3.11, sys._current_frames() may collect garbage while it holds a
    # lock that collecting takes, too (CPython issue 106883).
    "distributed.worker.profile.enabled": False,
}


@contextmanager
def silent_dask() -> Iterator[None]:
    """Keep Dask's log lines off stderr: what matters of them comes as one of our errors, the rest is of no use to anybody."""
    import distributed

    names = [distributed.__name__, *(name for name in logging.root.manager.loggerDict if name.startswith("distributed."))]
    levels = {logger: logger.level for logger in map(logging.getLogger, names)}
    try:
        for logger in levels:
            logger.setLevel(logging.CRITICAL + 1)
        yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)


def connect(scheduler: str, timeout_s: float = CONNECT_TIMEOUT_S) -> Any:
    """A Dask client of a scheduler that exists.

    Raises:
        UsageError: when `scheduler` is no address.
        ServiceUnavailableError: when nobody answers there.
    """
    from distributed import Client

    # A malformed address is noticed here: a Client that was never opened takes 20 s and a traceback to go away.
    if not re.fullmatch(r"((tcp|tls|wss?|ucx)://)?[^/\s:]+:\d{1,5}", scheduler):
        raise UsageError(f"--scheduler is {without_credentials(scheduler)!r}; expected an address as tcp://host:8786")
    try:
        return Client(scheduler, timeout=timeout_s, set_as_default=False)
    except (OSError, TimeoutError) as error:
        raise ServiceUnavailableError(
            f"no Dask scheduler answers at {scheduler} ({first_line(error)}); start one with 'dask scheduler', or leave "
            "--scheduler out"
        ) from error


@contextmanager
def open_client(workers: int | None, scheduler: str | None) -> Iterator[Any]:
    """A Dask client: of the scheduler at this address, or of a cluster of so many processes on this machine."""
    from distributed import Client

    if scheduler is not None:
        with connect(scheduler) as client:
            yield client
        return
    with local_cluster(workers or len(os.sched_getaffinity(0))) as cluster, Client(cluster, set_as_default=False) as client:
        yield client


@contextmanager
def local_cluster(n_workers: int) -> Iterator[Any]:
    """A Dask cluster of processes on this machine, with one thread each; its dashboard is on a free port of 127.0.0.1."""
    import dask
    from distributed import LocalCluster

    environment = {**dask.config.get("distributed.nanny.pre-spawn-environ", {}), **WORKER_ENVIRONMENT}
    with dask.config.set({"distributed.nanny.pre-spawn-environ": environment, **QUIET}), ExitStack() as stack:
        # Ctrl-C reaches every process of a terminal, and the end of a service every one of its group: workers must leave it
        # to this process to end them. Threads and processes inherit what is blocked, those that Dask starts later, too.
        resource_tracker.ensure_running()  # or the first process that is spawned starts it, which unblocks both
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        try:
            cluster = LocalCluster(
                n_workers=n_workers,
                threads_per_worker=1,
                host="127.0.0.1",
                dashboard_address="127.0.0.1:0",
                silence_logs=logging.CRITICAL + 1,
            )
            stack.enter_context(cluster)
        except RuntimeError as error:
            raise HeimdallError(
                f"{n_workers} worker processes could not be started ({first_line(error.__cause__ or error)}); "
                "start fewer (--workers), or work in this process (--workers 0)"
            ) from error
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        yield cluster
