"""Builds that are killed, and whose workers, scheduler or services are: nothing unfinished is readable, nothing is lost."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from corpus_for_tests import Corpus
from faults.processes import DRIVER, NOTES, ROOT, Build, Ended, Hold, check_readable, content, notes, written_at
from faults.tally import Tally

from featurestore import services as embedded
from featurestore.objects.objects import Location, open_objects
from featurestore.services.process import free_port

N_SESSIONS = 32
"""96 captures: 12 chunks of 8 rows, as the processes cut them."""

PAUSE_S = 0.02
"""Before every write: three or four of them a chunk."""

RANDOM_KILLS = 2
"""Per round."""

GONE_S = 180.0
"""Workers of a driver that was killed may take so long to end."""


@pytest.fixture
def corpus(tmp_path: Path, catalog: str) -> Corpus:
    (tmp_path / "raw").mkdir()
    corpus = Corpus(Location.parse(str(tmp_path / "raw")), Location.parse(str(tmp_path / "store")), catalog)
    corpus.add(*range(N_SESSIONS))
    return corpus


@pytest.fixture
def alone(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """What a build of the corpus writes when nothing disturbs it."""
    with monkeypatch.context() as patch:
        patch.setattr("featurestore.store.rows.CHUNK_ROWS", 8)
        corpus.build(store=Location.parse(str(tmp_path / "alone")))
    return content(tmp_path / "alone")


@pytest.fixture
def long_form(fault_rounds: int) -> None:
    """Clusters of processes are what costs time; asked for before what a test would start."""
    if fault_rounds == 1:
        pytest.skip("in the long form only: make faults")


def later(happened: Callable[[], bool], delay_s: float) -> Callable[[], bool]:
    """Whether so much time has passed since something happened."""
    seen: list[float] = []

    def passed() -> bool:
        if not seen and happened():
            seen.append(time.monotonic())
        return bool(seen) and time.monotonic() >= seen[0] + delay_s

    return passed


class Killer:
    """Starts builds of a corpus and kills them; what is noted as written before must not be written again."""

    def __init__(self, corpus: Corpus, log: Path, tally: Tally, *options: str) -> None:
        self._corpus, self._log, self._tally, self._options = corpus, log, tally, options
        self._written: dict[str, int] = {}

    def kill_at(self, moment: Hold) -> None:
        """Kill a build at exactly this moment."""
        build = Build.start(self._corpus, self._log, *self._options, hold=moment)
        assert build.held(), build.text(".err")
        build.kill()
        assert build.end().code == -signal.SIGKILL
        self._tally.add("kills survived")
        self.check()

    def kill_when(self, happened: Callable[[], bool]) -> None:
        """Kill a build when something has happened, if it has not ended before."""
        build = Build.start(self._corpus, self._log, *self._options, pause_s=PAUSE_S)
        build.when(happened)
        build.kill()
        code = build.end().code
        assert code in (0, -signal.SIGKILL), build.text(".err")
        self._tally.add("kills survived" if code else "builds finished")
        self.check()

    def has_planned(self) -> bool:
        """Whether the build that runs has read catalog, listing and store, and goes to work."""
        return "plan: " in self._log.with_suffix(".err").read_text()

    def finish(self) -> Ended:
        """Let a build run to its end."""
        ended = Build.start(self._corpus, self._log, *self._options).end().require(0)
        self._tally.add("builds finished")
        self.check()
        return ended

    def check(self) -> None:
        """Nothing unfinished is readable, and nothing that was finished is written again."""
        check_readable(self._corpus.store, self._tally)
        store = self._corpus.store.directory
        assert written_at(store, set(self._written)) == self._written
        self._written |= written_at(store, notes(store))


def test_a_driver_killed_at_any_moment(
    corpus: Corpus, tmp_path: Path, tally: Tally, fault_rounds: int, alone: dict[str, object]
) -> None:
    killer = Killer(corpus, tmp_path / "build", tally, "--workers=0")
    store = corpus.store.directory
    moments = [
        Hold("specs/*/segments/*/capture_id/c/0"),
        Hold(NOTES),
        Hold(NOTES, after=6),
        Hold("specs/*/bases/*/mean/zarr.json"),
        Hold("specs/*/segments/*/features-*/c/3/0/0/0"),
        Hold("specs/*/segments/*/segment.json"),
        Hold("sets/*/split/zarr.json"),
    ]
    for moment in moments if fault_rounds > 1 else moments[1::2]:
        killer.kill_at(moment)
        assert not list(store.glob("sets/*/zarr.json"))
        assert not (store / "latest.json").exists()
    killer.kill_at(Hold("sets/*/zarr.json"))  # all is written but for latest
    assert list(store.glob("sets/*/zarr.json"))
    assert not (store / "latest.json").exists()
    assert "is up to date" in killer.finish().stdout
    assert content(corpus.store.directory) == alone
    tally.add("bytes lost", 0)


def test_drivers_killed_at_random_until_one_gets_through(
    corpus: Corpus, tmp_path: Path, tally: Tally, fault_rounds: int, alone: dict[str, object]
) -> None:
    randomness = random.Random(20)
    for n_round in range(fault_rounds):
        corpus.store = Location.parse(str(tmp_path / f"store{n_round}"))
        killer = Killer(corpus, tmp_path / "build", tally, "--workers=0")
        for _ in range(RANDOM_KILLS):
            killer.kill_when(later(killer.has_planned, randomness.uniform(0, 1)))
        killer.finish()
        assert content(corpus.store.directory) == alone


def test_a_killed_driver_leaves_no_worker_behind(
    corpus: Corpus, tmp_path: Path, tally: Tally, alone: dict[str, object]
) -> None:
    build = Build.start(corpus, tmp_path / "build", "--workers=2", hold=Hold(NOTES, after=2))
    assert build.held(2)
    assert len(build.workers()) == 2
    build.kill()
    build.end()
    assert not build.survivors(GONE_S)
    tally.add("kills survived")
    killer = Killer(corpus, tmp_path / "again", tally, "--workers=0")
    killer.check()
    killer.finish()
    assert content(corpus.store.directory) == alone


def test_a_killed_worker_costs_only_its_tasks(corpus: Corpus, tmp_path: Path, tally: Tally, alone: dict[str, object]) -> None:
    build = Build.start(corpus, tmp_path / "build", "--workers=2", hold=Hold(NOTES, after=2))
    assert build.held(2)
    before = written_at(corpus.store.directory, notes(corpus.store.directory))
    assert len(before) == 4
    build.workers()[0].kill()
    build.release()
    ended = build.end().require(0)
    assert "distributed" not in ended.stderr
    assert written_at(corpus.store.directory, set(before)) == before
    assert content(corpus.store.directory) == alone
    check_readable(corpus.store, tally)
    tally.add("kills survived")
    tally.add("builds finished")


def test_workers_killed_again_and_again_are_a_clear_error(
    long_form: None, corpus: Corpus, tmp_path: Path, tally: Tally
) -> None:
    # Dask gives a task up when four workers died of it; here, when one did.
    impatient = {"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0"}
    build = Build.start(corpus, tmp_path / "build", "--workers=1", hold=Hold(NOTES), variables=impatient)
    assert build.held()
    build.workers()[0].kill()
    assert "worker processes died" in build.end().require(1).error
    assert not build.survivors(GONE_S)
    assert not check_readable(corpus.store, tally)
    tally.add("kills survived")
    tally.add("builds that ended with a clear error")


@pytest.mark.parametrize("ending", [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"])
def test_ctrl_c_and_the_end_of_a_service_end_all_processes_quietly(
    corpus: Corpus, tmp_path: Path, tally: Tally, fault_rounds: int, ending: tuple[signal.Signals, int]
) -> None:
    """Both signals reach every process of the group, as from a terminal or a service manager."""
    number, code = ending
    if fault_rounds == 1 and number is not signal.SIGINT:
        pytest.skip("in the long form only: make faults")
    build = Build.start(corpus, tmp_path / "build", "--workers=2", hold=Hold(NOTES))
    assert build.held(2)
    build.look()
    os.killpg(build.process.pid, number)
    ended = build.end().require(code)
    assert ended.error == "error: interrupted; run the same command again to go on from here"
    assert ended.stderr.splitlines()[-1] == ended.error
    assert not build.survivors(GONE_S)
    assert not check_readable(corpus.store, tally)
    tally.add("builds that ended with a clear error")


@contextmanager
def dask_cluster(port: int, log: Path, *, held: bool) -> Iterator[subprocess.Popen[bytes]]:
    """A scheduler and a worker, as their own commands start them; `held`: the worker writes three chunks and then nothing."""
    hold = {"FAULTS_HOLD_AT": NOTES, "FAULTS_HOLD_AFTER": "3", "FAULTS_HOLD": str(log)} if held else {}
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **hold}
    address = f"tcp://127.0.0.1:{port}"
    scheduler = ["dask_scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard"]
    worker = ["dask_worker", address, "--nthreads", "1", "--no-nanny", "--no-dashboard", "--death-timeout", "60"]
    with ExitStack() as stack, log.open("ab") as output:
        processes = []
        for command in [scheduler, [*worker, "--preload", str(DRIVER)]]:
            words = [sys.executable, "-m", f"distributed.cli.{command[0]}", *command[1:]]
            processes.append(subprocess.Popen(words, env=environment, stdout=output, stderr=output, cwd=log.parent))
            stack.callback(processes[-1].wait, 30)
            stack.callback(processes[-1].kill)
        yield processes[0]


def test_a_killed_scheduler_is_exit_75_and_a_new_one_goes_on(
    corpus: Corpus, tmp_path: Path, tally: Tally, alone: dict[str, object]
) -> None:
    port = free_port()
    option = f"--scheduler=tcp://127.0.0.1:{port}"
    with dask_cluster(port, tmp_path / "dask.log", held=True) as scheduler:
        build = Build.start(corpus, tmp_path / "build", option)
        assert build.when(lambda: len(notes(corpus.store.directory)) == 3)
        scheduler.kill()
        ended = build.end().require(75)
        assert f"the Dask scheduler at tcp://127.0.0.1:{port} does not answer any more" in ended.error
    assert not check_readable(corpus.store, tally)
    before = written_at(corpus.store.directory, notes(corpus.store.directory))
    with dask_cluster(port, tmp_path / "dask.log", held=False):
        Build.start(corpus, tmp_path / "build", option).end().require(0)
    assert written_at(corpus.store.directory, set(before)) == before
    assert content(corpus.store.directory) == alone
    check_readable(corpus.store, tally)
    tally.add("kills survived")
    tally.add("builds that ended with a clear error")
    tally.add("builds finished")


class Far:
    """A corpus in services of its own, which can be stopped and started again: same data, same ports."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._directory = directory
        self._s3, self._postgres = ExitStack(), ExitStack()
        self.start_postgres()
        running = self.start_s3()
        for name, value in running.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        raw, store = Location.parse("s3://heimdall-raw"), Location.parse("s3://heimdall-features")
        self.corpus = Corpus(raw, store, self._catalog)
        self.corpus.add(*range(N_SESSIONS))

    def start_s3(self) -> embedded.Running:
        return self._s3.enter_context(embedded.running(self._directory / "s3", postgres=False))

    def start_postgres(self) -> None:
        self._catalog = self._postgres.enter_context(embedded.running(self._directory / "postgres", s3=False)).catalog

    def stop_s3(self) -> None:
        self._s3.close()

    def stop_postgres(self) -> None:
        self._postgres.close()

    def stop(self) -> None:
        self.stop_s3()
        self.stop_postgres()


@pytest.fixture
def far(tmp_path: Path, s3_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Far]:
    open_objects.cache_clear()
    far = Far(tmp_path / "far", monkeypatch)
    yield far
    far.stop()
    open_objects.cache_clear()


def n_noted(corpus: Corpus) -> int:
    """How many chunks are noted as written, at a store of any kind."""
    return sum("/parts/" in info.key for info in open_objects(corpus.store.url).walk())


def test_services_that_go_away_and_come_back(far: Far, tmp_path: Path, tally: Tally) -> None:
    """PostgreSQL is not missed once the snapshot is read; S3 is waited for, and then it is exit 75."""
    corpus = far.corpus
    build = Build.start(corpus, tmp_path / "build", "--workers=0", patience_s=2, hold=Hold(NOTES, after=2))
    assert build.held()
    far.stop_postgres()
    far.stop_s3()
    build.release()
    assert "127.0.0.1" in build.end().require(75).error
    tally.add("builds that ended with a clear error")

    ended = Build.start(corpus, tmp_path / "build", "--workers=0", patience_s=2).end().require(75)
    assert "does not answer" in ended.error  # S3, asked first
    far.start_s3()
    ended = Build.start(corpus, tmp_path / "build", "--workers=0").end().require(75)
    assert "PostgreSQL" in ended.error
    tally.add("builds that ended with a clear error", 2)
    far.start_postgres()
    n_before = n_noted(corpus)
    assert n_before >= 2
    assert not check_readable(corpus.store, tally)

    build = Build.start(corpus, tmp_path / "build", "--workers=0", "--json", patience_s=200, hold=Hold(NOTES, after=2))
    assert build.held()
    far.stop_postgres()
    far.stop_s3()
    build.release()
    time.sleep(2)  # it asks in vain
    far.start_s3()
    build.end().require(0)
    assert f'"reused": {8 * n_before}' in build.text(".out")
    assert len(check_readable(corpus.store, tally)) == 1
    tally.add("builds finished")


def test_what_a_worker_cannot_reach_is_exit_75_from_a_cluster_too(
    long_form: None, far: Far, tmp_path: Path, tally: Tally
) -> None:
    build = Build.start(far.corpus, tmp_path / "build", "--workers=2", patience_s=2, hold=Hold(NOTES))
    assert build.held()
    far.stop_s3()
    build.release()
    ended = build.end().require(75)
    assert "127.0.0.1" in ended.error
    assert "distributed" not in ended.stderr
    assert not build.survivors(GONE_S)
    far.start_s3()
    assert not check_readable(far.corpus.store, tally)
    tally.add("builds that ended with a clear error")
