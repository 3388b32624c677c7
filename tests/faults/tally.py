"""What the fault-injection suite did, counted over all test processes and printed at the end of a run.

A pytest plugin (tests/conftest.py names it), because only plugins live in the process that prints the summary when
pytest-xdist runs the tests in others.
"""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

import pytest

_COUNTS = pytest.StashKey[Counter[str]]()
_OUTPUT = "fault tally"
SHOWN_AT_ZERO = ("bytes lost", "sets wrongly readable")
"""What must stay at 0, and is worth a line when it does."""


class Tally:
    """Counts of what happened, by name: "faults injected: reset", "builds finished", "bytes lost". Safe between threads."""

    def __init__(self, counts: Counter[str]) -> None:
        self._counts = counts
        self._lock = threading.Lock()

    def add(self, name: str, count: int = 1) -> None:
        """Count `name`; a count of 0 makes its line appear."""
        with self._lock:
            self._counts[name] += count


@pytest.fixture(scope="session")
def tally(pytestconfig: pytest.Config) -> Tally:
    """The one tally of this process."""
    return Tally(pytestconfig.stash[_COUNTS])


@pytest.fixture(scope="session")
def fault_rounds(pytestconfig: pytest.Config) -> int:
    """How many times as many rounds are wanted as in the short form: 1 in `make test`, more in `make faults`."""
    rounds: int = pytestconfig.getoption("fault_rounds")
    return rounds


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--fault-rounds`."""
    parser.addoption("--fault-rounds", type=int, default=1, metavar="N", help="run N times the rounds of fault injection")


def pytest_configure(config: pytest.Config) -> None:
    """Begin at nothing."""
    config.addinivalue_line("markers", "fault_seeds(n): run with n seeds, times --fault-rounds")
    config.stash[_COUNTS] = Counter()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Send a worker's counts to the process that prints them."""
    output: dict[str, Any] | None = getattr(session.config, "workeroutput", None)
    if output is not None:
        counts: Counter[str] = session.config.stash[_COUNTS]
        output[_OUTPUT] = {**counts}


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take over the counts of a worker of pytest-xdist; one that died sends none."""
    for name, count in getattr(node, "workeroutput", {}).get(_OUTPUT, {}).items():
        node.config.stash[_COUNTS][name] += count


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the report, if there was anything to count."""
    counts = config.stash[_COUNTS]
    if not counts:
        return
    terminalreporter.section("fault injection")
    injected = sum(count for name, count in counts.items() if name.startswith("faults injected"))
    lines = dict(sorted(counts.items())) | {name: counts[name] for name in SHOWN_AT_ZERO}
    width = max(map(len, ("faults injected", *lines)))
    for name, count in {"faults injected": injected, **lines}.items():
        terminalreporter.write_line(f"{name:{width}}  {count:>8,}")
