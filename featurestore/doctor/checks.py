"""Look whether everything is there that the commands need: checks, side by side, each with its deadline and its next step."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from featurestore.errors import HeimdallError, ServiceUnavailableError, first_line
from featurestore.progress import Progress, Silent

DEADLINE_S = 10.0
ATTEMPTS = 4
OK, FAILED, SKIPPED = "ok", "failed", "skipped"
MARKS = {OK: "✓", FAILED: "✗", SKIPPED: "–"}


class Skipped(Exception):  # noqa: N818 - no error
    """What there is nothing to check about; the message says why, and perhaps how to change that."""


@dataclass(frozen=True)
class Check:
    """One question about the surroundings.

    Attributes:
        name: for people.
        look: returns what was found; raises `Skipped`, or an error when something is wrong.
        next_step: what to do then, where the error does not say it itself.
        deadline_s: after which nobody waits for an answer.
    """

    name: str
    look: Callable[[], str]
    next_step: str
    deadline_s: float = DEADLINE_S


@dataclass(frozen=True)
class Finding:
    """An answer.

    Attributes:
        name: of the check.
        state: `ok`, `failed` or `skipped`.
        found: what there is.
        next_step: what to do when it failed.
        no_answer: it failed because somebody does not answer, and may do so later.
    """

    name: str
    state: str
    found: str
    next_step: str = ""
    no_answer: bool = False


@dataclass(frozen=True)
class Diagnosis:
    """All answers."""

    findings: list[Finding]

    @property
    def exit_code(self) -> int:
        """0 when nothing failed; 75 when all that failed is services that do not answer; else 1."""
        failed = [finding for finding in self.findings if finding.state == FAILED]
        if not failed:
            return 0
        return ServiceUnavailableError.exit_code if all(finding.no_answer for finding in failed) else HeimdallError.exit_code

    def to_json(self) -> dict[str, Any]:
        """All fields."""
        return {"findings": [asdict(finding) for finding in self.findings], "exit_code": self.exit_code}

    def lines(self) -> list[str]:
        """For people."""
        width = max((len(finding.name) for finding in self.findings), default=0)
        found = []
        for finding in self.findings:
            found.append(f"{MARKS[finding.state]} {finding.name.ljust(width)}  {finding.found}")
            if finding.next_step:
                found.append(f"  {' ' * width}  → {finding.next_step}")
        counts = {state: sum(finding.state == state for finding in self.findings) for state in MARKS}
        return [*found, ", ".join(f"{count} {state}" for state, count in counts.items())]


def run(checks: Sequence[Check], progress: Progress | None = None) -> list[Finding]:
    """The findings of all checks, in their order; none takes longer than its deadline, and none keeps another from its own."""
    progress = progress or Silent()
    progress.start("look", len(checks), "checks")
    findings: dict[int, Finding] = {}
    threads = []
    began = time.monotonic()
    for place, check in enumerate(checks):
        # Not a pool: Python would wait at its end for a check that hangs.
        thread = threading.Thread(target=lambda place=place, check=check: findings.setdefault(place, _look(check)), daemon=True)
        thread.start()
        threads.append(thread)
    for place, (check, thread) in enumerate(zip(checks, threads, strict=True)):
        thread.join(max(0.0, began + check.deadline_s - time.monotonic()))
        late = f"no answer within {check.deadline_s:g} s"
        findings.setdefault(place, Finding(check.name, FAILED, late, check.next_step, no_answer=True))
        progress.advance(1)
    return [findings[place] for place in range(len(checks))]


def _look(check: Check) -> Finding:
    try:
        return Finding(check.name, OK, _look_again(check))
    except Skipped as reason:
        return Finding(check.name, SKIPPED, str(reason))
    except HeimdallError as error:
        problem, _, next_step = str(error).partition("; ")
        no_answer = isinstance(error, ServiceUnavailableError)
        return Finding(check.name, FAILED, problem, next_step or check.next_step, no_answer)
    except Exception as error:  # noqa: BLE001 - whatever it is, the other checks go on
        return Finding(check.name, FAILED, f"{type(error).__name__}: {first_line(error)}", check.next_step)


def _look_again(check: Check) -> str:
    """What is found; a few times if need be.

    Two threads that parse Python at the same time, as imports and `packaging` do, confuse each other before Python 3.11.8 and
    3.12.2: "AST constructor recursion depth mismatch" (https://github.com/python/cpython/issues/106905).
    """
    for _ in range(ATTEMPTS - 1):
        with suppress(SystemError):
            return check.look()
    return check.look()
