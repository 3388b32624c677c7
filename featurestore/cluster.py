"""Where tasks run: in this process, on a local Dask cluster, or on one that exists; the same results from all three."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any, Protocol, TypeVar

from featurestore.errors import ServiceUnavailableError, UsageError
from featurestore.progress import Progress

Task = TypeVar("Task")
Result = TypeVar("Result")

IN_PROCESS_TASKS = 3
"""Up to so many tasks a cluster's start would cost more than it saves."""

TASKS_IN_FLIGHT_PER_THREAD = 3
"""Enough that no worker waits for its next task, so few that the scheduler never holds a whole plan."""

CONNECT_TIMEOUT_S = 10

WORKER_ENVIRONMENT = {
    # Dask's nanny starts workers so that every large temporary goes back to the kernel and is faulted in again.
    "MALLOC_TRIM_THRESHOLD_": "1073741824",
    "MALLOC_MMAP_THRESHOLD_": "1073741824",
}


QUIET = {
    # Dask looks after itself all the time, and each look takes the GIL from a worker's computation: at the usual intervals
    # of 10 and 20 ms, 15% of the build's time goes there.
    "distributed.worker.profile.interval": "200ms",
    "distributed.admin.tick.interval": "1s",
}


class Runner(Protocol):
    """Applies one function to many tasks."""

    def run(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
        """The results, as they become ready, in no particular order; a task's exception is raised."""


class InProcess:
    """The serial twin of the cluster."""

    def run(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
        """One task after the other."""
        return map(function, tasks)


class OnDask:
    """Runs tasks on a Dask cluster, few at a time; tasks of a lost worker run again elsewhere."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def run(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
        """Keep every worker busy, and hand on each result as it comes."""
        from distributed import as_completed

        waiting = iter(tasks)
        in_flight = TASKS_IN_FLIGHT_PER_THREAD * max(1, sum(self._client.nthreads().values()))
        completed = as_completed(self._submit(function, islice(waiting, in_flight)), loop=self._client.loop)
        for future in completed:
            yield future.result()
            for successor in self._submit(function, islice(waiting, 1)):
                completed.add(successor)

    def _submit(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> list[Any]:
        return [self._client.submit(function, task, pure=False) for task in tasks]


@contextmanager
def open_runner(workers: int | None, scheduler: str | None, progress: Progress, n_tasks: int) -> Iterator[Runner]:
    """A runner for `n_tasks` tasks.

    Args:
        workers: processes on this machine; 0 works in this process, `None` decides by the amount of work.
        scheduler: address of a Dask scheduler to use instead, as `tcp://host:8786`.
        progress: is told the dashboard's address.
        n_tasks: how many tasks there will be.

    Raises:
        UsageError: when `scheduler` is no address.
        ServiceUnavailableError: when no scheduler answers there.
    """
    if n_tasks == 0 or (scheduler is None and (workers == 0 or (workers is None and n_tasks <= IN_PROCESS_TASKS))):
        yield InProcess()
        return
    with _client(workers, scheduler) as client:
        progress.say(f"Dask dashboard: {client.dashboard_link}")
        yield OnDask(client)


@contextmanager
def _client(workers: int | None, scheduler: str | None) -> Iterator[Any]:
    from distributed import Client

    if scheduler is not None:
        # A malformed address is noticed here: a Client that was never opened takes 20 s and a traceback to go away.
        if not re.fullmatch(r"((tcp|tls|wss?|ucx)://)?[^/\s:]+:\d{1,5}", scheduler):
            raise UsageError(f"--scheduler is {scheduler!r}; wanted an address as tcp://host:8786")
        try:
            client = Client(scheduler, timeout=CONNECT_TIMEOUT_S, set_as_default=False)
        except (OSError, TimeoutError) as error:
            raise ServiceUnavailableError(
                f"no Dask scheduler answers at {scheduler} ({error}); start one with 'dask scheduler', or leave --scheduler out"
            ) from error
        with client:
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
    with (
        dask.config.set({"distributed.nanny.pre-spawn-environ": environment, **QUIET}),
        LocalCluster(n_workers=n_workers, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0") as cluster,
    ):
        yield cluster
