"""How far a long command is: a bar with rate, bytes and time left on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Protocol, Self

PLAIN_INTERVAL_S = 10.0


class Progress(Protocol):
    """What long-running functions report to."""

    def start(self, stage: str, total: int, unit: str) -> None:
        """A new stage of `total` units begins; the one before is over."""

    def advance(self, units: int, n_bytes: int = 0) -> None:
        """So much more is done, with so many bytes read."""

    def say(self, line: str) -> None:
        """A line worth keeping."""


class Silent:
    """Reports nothing; the default of every library function."""

    def start(self, stage: str, total: int, unit: str) -> None: ...

    def advance(self, units: int, n_bytes: int = 0) -> None: ...

    def say(self, line: str) -> None: ...


class Named:
    """Says in each line which of several things it is about.

    Args:
        progress: where to.
        name: of the thing, as `trial 3`.
    """

    def __init__(self, progress: Progress, name: str) -> None:
        self._progress = progress
        self._name = name

    def start(self, stage: str, total: int, unit: str) -> None:
        """See `Progress`."""
        self._progress.start(f"{self._name}: {stage}", total, unit)

    def advance(self, units: int, n_bytes: int = 0) -> None:
        """See `Progress`."""
        self._progress.advance(units, n_bytes)

    def say(self, line: str) -> None:
        """See `Progress`."""
        self._progress.say(f"{self._name}: {line}")


class Lines:
    """Plain lines on stderr, at most one in ten seconds, for logs and pipes."""

    def __init__(self, interval_s: float = PLAIN_INTERVAL_S) -> None:
        self._interval_s = interval_s
        self._stage, self._total, self._unit = "", 0, ""
        self._done = self._bytes = 0
        self._began = self._printed = time.monotonic()

    def start(self, stage: str, total: int, unit: str) -> None:
        self._stage, self._total, self._unit = stage, total, unit
        self._done = self._bytes = 0
        self._began = self._printed = time.monotonic()

    def advance(self, units: int, n_bytes: int = 0) -> None:
        self._done += units
        self._bytes += n_bytes
        now = time.monotonic()
        if now - self._printed >= self._interval_s or (self._done >= self._total > self._done - units):
            self._printed = now
            seconds = max(now - self._began, 1e-9)
            rate = self._done / seconds
            left = f", {format_seconds((self._total - self._done) / rate)} left" if rate and self._done < self._total else ""
            size = f", {self._bytes / 1e6:,.0f} MB" if self._bytes else ""
            self.say(
                f"{self._stage}: {self._done:,}/{self._total:,} {self._unit}, {format_rate(rate)}{size} "
                f"in {format_seconds(seconds)}{left}"
            )

    def say(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)


class Bar:
    """A live bar on a terminal (rich): stage, done/total, rate, bytes, time left."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        self._console = Console(stderr=True, highlight=False)
        self._bar = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}  {task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
        )
        self._began = time.monotonic()
        self._done = self._bytes = 0

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.stop()

    def start(self, stage: str, total: int, unit: str) -> None:
        self._began = time.monotonic()
        self._done = self._bytes = 0
        self._task = self._bar.add_task(stage, total=total, unit=unit, rate="")

    def advance(self, units: int, n_bytes: int = 0) -> None:
        self._done += units
        self._bytes += n_bytes
        seconds = max(time.monotonic() - self._began, 1e-9)
        rate = format_rate(self._done / seconds) + (f", {self._bytes / 1e6:,.0f} MB" if self._bytes else "")
        self._bar.update(self._task, advance=units, rate=rate)

    def say(self, line: str) -> None:
        self._console.print(line, markup=False, soft_wrap=True)


@contextmanager
def on_stderr(quiet: bool = False) -> Iterator[Progress]:
    """The reporter that suits stderr: a bar on a terminal, lines elsewhere, nothing when `quiet`."""
    if quiet:
        yield Silent()
    elif sys.stderr.isatty():
        with Bar() as bar:
            yield bar
    else:
        yield Lines()


def format_rate(per_second: float) -> str:
    """A rate for people: `1,234/s`, `1.2/s`."""
    return f"{per_second:,.0f}/s" if per_second >= 10 else f"{per_second:.2g}/s"


def format_seconds(seconds: float) -> str:
    """A duration for people: `0.8 s`, `42 s`, `3 min 20 s`, `2 h 05 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
