"""Tasks on a Dask cluster, few at a time: a lost worker's run again, and a lost scheduler is noticed."""

from __future__ import annotations

import asyncio
import concurrent.futures
import pickle
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from featurestore.errors import HeimdallError, ServiceUnavailableError, first_line

Task = TypeVar("Task")
Result = TypeVar("Result")

TASKS_IN_FLIGHT_PER_THREAD = 3
"""Enough that no worker waits for its next task, so few that the scheduler never holds a whole plan."""

LOOK_INTERVAL_S = 5.0
"""When no task has ended for so long, the scheduler is asked whether it is there, and has workers."""

ANSWER_TIMEOUT_S = 20.0
"""A scheduler that takes longer to answer counts as gone."""

WORKERLESS_S = 300.0
"""Workers of a scheduler that has none may take so long to come: a cluster that grows on demand starts machines first."""

LOCAL_WORKERLESS_S = 60.0
"""Worker processes of this machine that are all gone are back within seconds, unless something kills them again and again."""

CANCELLED = (asyncio.CancelledError, concurrent.futures.CancelledError)


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
