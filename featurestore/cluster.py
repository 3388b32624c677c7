"""Where tasks run: in this process, on a local Dask cluster, or on one that exists; the same results from all three."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import os
import pickle
import re
import signal
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from multiprocessing import resource_tracker
from queue import Empty, SimpleQueue
from typing import Any, Protocol, TypeVar

from featurestore.errors import HeimdallError, ServiceUnavailableError, UsageError, first_line
from featurestore.progress import Progress
from featurestore.redaction import without_credentials

Task = TypeVar("Task")
Result = TypeVar("Result")

IN_PROCESS_TASKS = 3
"""Up to so many tasks a cluster's start would cost more than it saves."""

TASKS_IN_FLIGHT_PER_THREAD = 3
"""Enough that no worker waits for its next task, so few that the scheduler never holds a whole plan."""

CONNECT_TIMEOUT_S = 10

LOOK_INTERVAL_S = 5.0
"""When no task has ended for so long, the scheduler is asked whether it is there, and has workers."""

ANSWER_TIMEOUT_S = 20.0
"""A scheduler that takes longer to answer counts as gone."""

WORKERLESS_S = 300.0
"""Workers of a scheduler that has none may take so long to come: a cluster that grows on demand starts machines first."""

LOCAL_WORKERLESS_S = 60.0
"""Worker processes of this machine that are all gone are back within seconds, unless something kills them again and again."""

CANCELLED = (asyncio.CancelledError, concurrent.futures.CancelledError)

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


class Runner(Protocol):
    """Applies one function to many tasks."""

    def run(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
        """The results, as they become ready, in no particular order; a task's exception is raised."""


class InProcess:
    """The serial twin of the cluster."""

    def run(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
        """One task after the other."""
        return map(function, tasks)


@dataclass(frozen=True)
class _Failed:
    """What a task raised, sent as its result.

    Left to itself, Dask prints a traceback at the worker, and when it cannot unpickle an exception nobody hears of it.
    """

    error: Exception


def _attempt(function: Callable[[Task], Result], task: Task) -> Result | _Failed:
    try:
        return function(task)
    except Exception as error:  # noqa: BLE001 - raised again where the result is wanted
        if not isinstance(error, HeimdallError):
            error.add_note(f"In a worker process:\n{traceback.format_exc(limit=-20)}")
        error.__traceback__ = error.__cause__ = error.__context__ = None
        try:
            pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
        except Exception:  # noqa: BLE001 - of whatever kind: it cannot be sent
            return _Failed(RuntimeError("\n".join([repr(error), *error.__notes__])))
        return _Failed(error)


class OnDask:
    """Runs tasks on a Dask cluster, few at a time; tasks of a lost worker run again elsewhere.

    Dask itself waits for ever, for a scheduler that does not answer and for workers that do not come. This does not.
    """

    def __init__(self, client: Any, scheduler: str | None) -> None:
        self._client = client
        self._scheduler = scheduler
        self._workerless_since: float | None = None

    def run(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
        """Keep every worker busy, and hand on each result as it comes.

        Raises:
            HeimdallError: when a task's workers die again and again.
            ServiceUnavailableError: when the scheduler is gone, or has no workers for long.
        """
        waiting = iter(tasks)
        ended: SimpleQueue[Any] = SimpleQueue()
        in_flight: dict[str, Any] = {}

        def submit(n_tasks: int) -> None:
            for task in islice(waiting, n_tasks):
                future = self._client.submit(_attempt, function, task, pure=False)
                in_flight[future.key] = future
                future.add_done_callback(ended.put)

        n_threads = sum(self._threads().values())
        with self._noticing_loss():
            submit(TASKS_IN_FLIGHT_PER_THREAD * max(1, n_threads))
        while in_flight:
            try:
                future = in_flight.pop(ended.get(timeout=LOOK_INTERVAL_S).key)
            except Empty:
                self._look()
                continue
            yield self._result(future)
            with self._noticing_loss():
                submit(1)

    def _result(self, future: Any) -> Any:
        """What a task that has ended gave; Dask computes it again when its worker died before handing it over."""
        from distributed import KilledWorker

        while True:
            try:
                with self._noticing_loss():
                    result = future.result(timeout=LOOK_INTERVAL_S)
            except TimeoutError:
                self._look()
                continue
            except KilledWorker as error:
                raise HeimdallError(
                    f"{error.allowed_failures + 1} worker processes died, one after the other, while working on one chunk, "
                    "probably for want of memory; give them more (fewer --workers), or work in this process (--workers 0): "
                    "what is done is kept"
                ) from error
            if isinstance(result, _Failed):
                raise result.error
            return result

    def _threads(self) -> dict[str, int]:
        with self._noticing_loss():
            try:
                threads: dict[str, int] = self._client.sync(self._client.scheduler.ncores, callback_timeout=ANSWER_TIMEOUT_S)
            except TimeoutError as error:
                raise self._lost(f"no answer within {ANSWER_TIMEOUT_S:.0f} s") from error
        return threads

    def _look(self) -> None:
        """Find out whether waiting makes sense."""
        if self._threads():
            self._workerless_since = None
            return
        now = time.monotonic()
        self._workerless_since = self._workerless_since or now
        if self._scheduler is None and now - self._workerless_since > LOCAL_WORKERLESS_S:
            raise HeimdallError(
                f"every worker process has been gone for {LOCAL_WORKERLESS_S:.0f} s, and new ones do not stay; "
                "work in this process (--workers 0), or find out what ends them: what is done is kept"
            )
        if self._scheduler is not None and now - self._workerless_since > WORKERLESS_S:
            raise ServiceUnavailableError(
                f"the Dask scheduler at {self._scheduler} has had no worker for {WORKERLESS_S:.0f} s; start some with "
                f"'dask worker {self._scheduler}', then run the same command again to go on from here"
            )

    @contextmanager
    def _noticing_loss(self) -> Iterator[None]:
        """Turn what Dask raises when it has lost its scheduler into our error. No task's own exception passes here."""
        try:
            yield
        except TimeoutError:
            raise
        except (*CANCELLED, OSError, AttributeError) as error:  # a closed client has no scheduler any more
            raise self._lost(first_line(error)) from error

    def _lost(self, reason: str) -> ServiceUnavailableError:
        return ServiceUnavailableError(
            f"the Dask scheduler at {self._scheduler} does not answer any more ({reason}); "
            "start one, then run the same command again to go on from here"
        )


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
    with _silent_dask(), _client(workers, scheduler) as client:
        progress.say(f"Dask dashboard: {client.dashboard_link}")
        yield OnDask(client, scheduler)


@contextmanager
def _silent_dask() -> Iterator[None]:
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
        raise UsageError(f"--scheduler is {without_credentials(scheduler)!r}; wanted an address as tcp://host:8786")
    try:
        return Client(scheduler, timeout=timeout_s, set_as_default=False)
    except (OSError, TimeoutError) as error:
        raise ServiceUnavailableError(
            f"no Dask scheduler answers at {scheduler} ({first_line(error)}); start one with 'dask scheduler', or leave "
            "--scheduler out"
        ) from error


@contextmanager
def _client(workers: int | None, scheduler: str | None) -> Iterator[Any]:
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
