"""Which fault hits which request: drawn from a seed, so that what failed can be repeated."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from faults.tally import Tally

BEFORE = ("delay", "stall", "reset in request", "refuse", "answer 429", "answer 503", "answer 500", "flip in request")
"""What happens to a request that the server never sees as it was sent, or sees late."""

AFTER = ("reset in response", "truncate", "throttle", "answer lost", "flip in response")
"""What happens to the answer; the server has done what it was asked."""

HTTP_FAULTS = (*BEFORE, *AFTER)
TCP_FAULTS = ("delay", "stall", "reset", "truncate", "throttle", "refuse", "starting up")


@dataclass(frozen=True)
class Fault:
    """One fault; `amount` in [0, 1) says how late, how slow, how far into the answer, or which bit."""

    kind: str
    amount: float


class Schedule:
    """Draws a fault, or none, for one request (or connection) after the other; counts those that were injected.

    Args:
        service: name for the tally.
        seed: the n-th draw depends on it and n only.
        rates: probability of each kind of fault.
        tally: where to count.
        quiet: requests to let pass first.
    """

    def __init__(self, service: str, seed: int, rates: Mapping[str, float], tally: Tally, quiet: int = 0) -> None:
        self._service, self._seed, self._rates, self._tally, self._quiet = service, seed, dict(rates), tally, quiet
        self._drawn = 0
        self._lock = threading.Lock()
        self.injected: Counter[str] = Counter()

    def draw(self) -> Fault | None:
        """What is to happen to the next request."""
        with self._lock:
            number = self._drawn
            self._drawn += 1
        if number < self._quiet:
            return None
        rng = random.Random(f"{self._seed}:{number}")
        place = rng.random()
        for kind, rate in self._rates.items():
            if place < rate:
                return Fault(kind, rng.random())
            place -= rate
        return None

    def count(self, fault: Fault) -> None:
        """Say that a fault was really injected."""
        with self._lock:
            self.injected[fault.kind] += 1
        self._tally.add(f"faults injected: {self._service}, {fault.kind}")

    @property
    def n_injected(self) -> int:
        """Of all kinds."""
        return self.injected.total()
