"""Builds as processes of their own, to be watched, killed and waited for."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import psutil
from corpus_for_tests import Corpus, tree
from faults.tally import Tally

from featurestore.care.verify.verify import verify
from featurestore.objects.objects import Location, Objects
from featurestore.store.sets import list_sets, read_pointer

ROOT = Path(__file__).resolve().parents[2]
DRIVER = Path(__file__).with_name("driver.py")
POLL_S = 0.002
TIMEOUT_S = 600.0


@dataclass(frozen=True)
class Ended:
    """How a process ended: exit code (−n: by signal n), and what it printed."""

    code: int
    stdout: str
    stderr: str

    def require(self, code: int) -> Self:
        """Fail with all that it printed, unless it ended with `code` and without a traceback."""
        assert self.code == code, f"exit code {self.code}, expected {code}\n{self.stdout}\n{self.stderr}"
        assert "Traceback" not in self.stderr, self.stderr
        return self

    @property
    def error(self) -> str:
        """The one line that says what was wrong."""
        (line,) = [line for line in self.stderr.splitlines() if line.startswith("error: ")]
        return line


@dataclass(frozen=True)
class Hold:
    """Each process of a build stops writing as soon as it has written `after` objects whose keys match `pattern`.

    So it is met at this moment, however late the one looks who waits for it.
    """

    pattern: str
    after: int = 1


NOTES = "specs/*/segments/*/parts/*.json"
"""Keys of what is noted of each chunk that is written."""


@dataclass
class Build:
    """`build-features` in a session of its own."""

    process: subprocess.Popen[bytes]
    log: Path
    seen: dict[int, psutil.Process] = field(default_factory=dict)

    @classmethod
    def start(
        cls,
        corpus: Corpus,
        log: Path,
        *options: str,
        pause_s: float = 0,
        patience_s: float = 60,
        hold: Hold | None = None,
        variables: dict[str, str] | None = None,
    ) -> Self:
        """Begin a build of `corpus`; its output goes to `log`.out and `log`.err."""
        spec = corpus.spec.to_json()
        words = [f"--{name.replace('_', '-')}={value}" for name, value in spec.items() if value is not None]
        where = ["--catalog", corpus.catalog, "--raw", str(corpus.raw), "--store", str(corpus.store)]
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "FAULTS_CHUNK_ROWS": "8",
            "FAULTS_PAUSE_S": str(pause_s),
            "FAULTS_PATIENCE_S": str(patience_s),
            **({"FAULTS_HOLD_AT": hold.pattern, "FAULTS_HOLD_AFTER": str(hold.after), "FAULTS_HOLD": str(log)} if hold else {}),
            **(variables or {}),
        }
        for left in (log.with_suffix(".release"), *log.parent.glob(f"{log.name}.held*")):
            left.unlink(missing_ok=True)
        with log.with_suffix(".out").open("wb") as out, log.with_suffix(".err").open("wb") as err:
            process = subprocess.Popen(
                [sys.executable, str(DRIVER), "build-features", *where, *words, *options],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=environment,
                start_new_session=True,
            )
        return cls(process, log)

    def look(self) -> list[psutil.Process]:
        """Its descendants, remembered for `survivors`."""
        try:
            found: list[psutil.Process] = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        self.seen |= {child.pid: child for child in found}
        return found

    def workers(self) -> list[psutil.Process]:
        """The processes that compute: those that Dask spawned."""
        found = []
        for child in self.look():
            try:
                if any("spawn_main" in word for word in child.cmdline()):
                    found.append(child)
            except psutil.NoSuchProcess:
                continue
        return found

    def when(self, happened: Callable[[], bool], poll_s: float = POLL_S) -> bool:
        """Wait until something happened; false when the build ended before."""
        deadline = time.monotonic() + TIMEOUT_S
        while not happened():
            if self.process.poll() is not None:
                return happened()
            assert time.monotonic() < deadline, f"nothing happened in {TIMEOUT_S} s\n{self.text('.err')}"
            time.sleep(poll_s)
        return True

    def held(self, n_processes: int = 1) -> bool:
        """Wait until so many of its processes hold; false when it ended before."""
        return self.when(lambda: len(list(self.log.parent.glob(f"{self.log.name}.held*"))) >= n_processes)

    def release(self) -> None:
        """Let those that hold go on."""
        self.log.with_suffix(".release").touch()

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to the process that was started, and to no other."""
        self.look()
        self.process.send_signal(number)

    def end(self, timeout_s: float = TIMEOUT_S) -> Ended:
        """Wait for its end."""
        code = self.process.wait(timeout_s)
        return Ended(code, self.text(".out"), self.text(".err"))

    def text(self, suffix: str) -> str:
        """What it has printed so far."""
        return self.log.with_suffix(suffix).read_text(errors="replace")

    def survivors(self, within_s: float) -> list[psutil.Process]:
        """Its descendants that are still there after a while."""
        _, alive = psutil.wait_procs(list(self.seen.values()), timeout=within_s)
        return [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


def notes(store: Path) -> set[str]:
    """The chunks that are noted as written, of every segment that is not complete."""
    found = store.glob(NOTES)
    return {f"{path.parent.parent.name}/{int(path.stem)}" for path in found}


def written_at(store: Path, chunks: set[str]) -> dict[str, int]:
    """When the log-mel of chunks, named as by `notes`, was written, in ns."""
    places = {chunk: chunk.split("/") for chunk in chunks}
    return {
        chunk: next(store.glob(f"specs/*/segments/{segment}/logmel/c/{number}/0/0/0")).stat().st_mtime_ns
        for chunk, (segment, number) in places.items()
    }


def content(store: Path) -> dict[str, object]:
    """All that a store holds, but for times.

    Left out is what nobody reads, and `features gc` removes: notes about chunks of a segment that was complete when its build
    was killed, and files half written then (`…#1`).
    """
    files = {name: data for name, data in tree(store).items() if "/parts/" not in name and "#" not in name}
    return without_times(files)


def without_times(files: dict[str, bytes]) -> dict[str, object]:
    """Files, with metadata parsed and times taken out of it; and how much of it which build computed."""
    found: dict[str, object] = {}
    for name, data in files.items():
        if not name.endswith("zarr.json"):
            found[name] = data
            continue
        document = json.loads(data)
        attributes = document["attributes"]
        for volatile in ("created", "seconds"):
            attributes.pop(volatile, None)
        for volatile in ("computed", "reused"):
            attributes.get("counts", {}).pop(volatile, None)
        found[name] = document
    return found


def check_readable(store: Location, tally: Tally) -> list[str]:
    """Check that whatever can be opened as a feature set is whole, to the last byte; returns the versions."""
    objects = Objects(store)
    manifests, damaged = list_sets(objects)
    wrong = [*damaged, *(found.version for found in manifests if verify(store.url, found.version).problems)]
    latest = read_pointer(objects, "latest.json")
    versions = [found.version for found in manifests]
    tally.add("sets wrongly readable", len(wrong))
    assert not wrong
    assert latest is None or latest in versions
    return versions
