"""Where tasks run: in this process, on a local Dask cluster, or on one that exists; the same results from all three."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

from featurestore.cluster.dask_cluster import open_client, silent_dask
from featurestore.cluster.on_dask import OnDask
from featurestore.progress import Progress

Task = TypeVar("Task")
Result = TypeVar("Result")

IN_PROCESS_TASKS = 3
"""Up to so many tasks a cluster's start would cost more than it saves."""


class Runner(Protocol):
    """Applies one function to many tasks."""

    def run(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
        """The results, as they become ready, in no particular order; a task's exception is raised."""


class InProcess:
    """The serial twin of the cluster."""

    def run(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
        """One task after the other."""
        return map(function, tasks)


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
    with silent_dask(), open_client(workers, scheduler) as client:
        progress.say(f"Dask dashboard: {client.dashboard_link}")
        yield OnDask(client, scheduler)
