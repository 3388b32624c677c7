"""How long services are waited for: a deadline on every attempt, and more attempts with exponential backoff and jitter."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, stop_after_delay, stop_all, wait_random_exponential

from featurestore.errors import ServiceUnavailableError

FIRST_WAIT_S = 0.1
LONGEST_WAIT_S = 10.0
LEAST_ATTEMPTS = 2
"""Even when the first one took all the time: what hangs is often one connection, not the service."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class Patience:
    """How long an object store is waited for, in seconds.

    Attributes:
        connect_s: for a connection.
        silence_s: for the next byte of an answer, when nothing large is sent.
        request_s: for a request and its answer as a whole.
        total_s: how long an operation is tried again before its service counts as unavailable.
    """

    connect_s: float = 5.0
    silence_s: float = 30.0
    request_s: float = 120.0
    total_s: float = 60.0

    def call(self, attempt: Callable[[], Result]) -> Result:
        """What `attempt` returns; it is called again while it raises `ServiceUnavailableError`, whose last one is raised."""
        return insist(attempt, self.total_s, ServiceUnavailableError)


def insist(attempt: Callable[[], Result], total_s: float, temporary: type[Exception]) -> Result:
    """What `attempt` returns; called again when it raises `temporary`, until `total_s` are over.

    Waits are random, up to 0.1, 0.2, 0.4 … 10 s ("full jitter"): clients that failed together do not come back together.
    """
    began = time.monotonic()
    try:
        return attempt()  # which does, as a rule: tenacity alone takes longer than a read from memory
    except temporary as error:
        failed: list[Exception] = [error]

    def again() -> Result:
        if failed:
            raise failed.pop()
        return attempt()

    retrying = Retrying(
        retry=retry_if_exception_type(temporary),
        stop=stop_all(stop_after_attempt(LEAST_ATTEMPTS), stop_after_delay(total_s - (time.monotonic() - began))),
        wait=wait_random_exponential(multiplier=FIRST_WAIT_S, max=LONGEST_WAIT_S),
        reraise=True,
    )
    return retrying(again)
