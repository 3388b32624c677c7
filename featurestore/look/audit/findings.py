"""What an audit looks at, and what it finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

EXAMPLES = 3
"""Captures, receivers or bands named in a message; one line is to hold them."""


@dataclass(frozen=True)
class ServedRows:
    """What an audit looks at: of the n rows that a set serves, as columns; see `RowFacts` and `Labels`.

    Attributes:
        capture_id: (n,) int64.
        session_id: (n, 16) uint8.
        websdr_id: (n,) int32.
        content: (n, 16) uint8, equal for rows of equal log-mel; zeros where unknown.
        has_content: (n,) bool, whether it is known.
        split: (n,) uint8, train, val or test.
        position: (n, 2) float64, degrees.
        snr_db: (n,) float32, NaN where unknown.
        frequency_mhz: (n,) float32, NaN where unknown.
        timestamp: (n,) int64, `NO_TIMESTAMP` where unknown.
    """

    capture_id: npt.NDArray[np.int64]
    session_id: npt.NDArray[np.uint8]
    websdr_id: npt.NDArray[np.int32]
    content: npt.NDArray[np.uint8]
    has_content: npt.NDArray[np.bool_]
    split: npt.NDArray[np.uint8]
    position: npt.NDArray[np.float64]
    snr_db: npt.NDArray[np.float32]
    frequency_mhz: npt.NDArray[np.float32]
    timestamp: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.capture_id)


@dataclass(frozen=True)
class Finding:
    """One thing to look at.

    Attributes:
        kind: name of the check, as in docs/audit.md.
        level: `warning`, or `note` where it may well be intended.
        message: what was found, what was wanted, and what to do.
        figures: the same in numbers.
    """

    kind: str
    level: str
    message: str
    figures: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """An entry of `warnings` in `features show --json`."""
        return {"kind": self.kind, "level": self.level, "message": self.message, **self.figures}


def warning(kind: str, message: str, figures: dict[str, Any]) -> Finding:
    """Something that makes results worse, or look better than they are."""
    return Finding(kind, "warning", message, figures)


def note(kind: str, message: str, figures: dict[str, Any]) -> Finding:
    """Something that may well be intended, and that a reader of results must know."""
    return Finding(kind, "note", message, figures)


def some(names: list[str]) -> str:
    """The first few of several names."""
    return ", ".join(names[:EXAMPLES]) + (", …" if len(names) > EXAMPLES else "")


def some_pairs(captures: npt.NDArray[np.int64]) -> str:
    """The first few of (n, 2) capture ids."""
    return some([f"{one} and {other}" for one, other in captures[: EXAMPLES + 1].tolist()])
