"""Tasks run in this process or on Dask with the same results; a lost worker costs only its tasks."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import dask
import pytest
from distributed import get_worker

from featurestore.cluster.runner import open_runner
from featurestore.errors import UsageError
from featurestore.progress import Silent


def square(number: int) -> int:
    return number * number


def fail(number: int) -> int:
    raise UsageError(f"no {number}; expected another")


def die_once(place: tuple[str, int]) -> int:
    """The first process that gets number 5 is killed."""
    directory, number = place
    if number == 5:
        try:
            os.close(os.open(f"{directory}/died", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return number
        os.kill(os.getpid(), signal.SIGKILL)
    return number


@pytest.mark.parametrize("workers", [0, 2])
def test_every_task_gives_its_result(workers: int) -> None:
    with open_runner(workers, None, Silent(), 100) as runner:
        assert sorted(runner.run(square, range(100))) == [number * number for number in range(100)]


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_a_task_is_raised_as_it_is(workers: int) -> None:
    with open_runner(workers, None, Silent(), 100) as runner, pytest.raises(UsageError, match="no 7; expected another"):
        list(runner.run(fail, [7]))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of the connection that was cut
def test_a_lost_worker_costs_only_its_tasks(tmp_path: Path) -> None:
    with open_runner(2, None, Silent(), 100) as runner:
        done = sorted(runner.run(die_once, [(str(tmp_path), number) for number in range(20)]))
    assert done == list(range(20))
    assert (tmp_path / "died").exists()


def is_profiled(_: int) -> bool:
    """Whether the worker that runs this has Dask's profiler on."""
    return "profile" in get_worker().periodic_callbacks


def test_workers_are_not_profiled() -> None:
    """On Python 3.11 a profiler that looks at other threads' frames can meet the garbage collector, and stop for good."""
    with dask.config.set({"distributed.worker.profile.enabled": True}), open_runner(1, None, Silent(), 100) as runner:
        assert list(runner.run(is_profiled, [0])) == [False]


def test_little_work_starts_no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    progress = Silent()
    monkeypatch.setattr(progress, "say", said.append)
    with open_runner(None, None, progress, 3) as runner:
        assert list(runner.run(square, [2])) == [4]
    assert not said
