"""Why a capture, or one window of it, cannot become a feature."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Reason(IntEnum):
    """What the `reason` array of a segment holds; the numbers are part of the format and never change."""

    VALID = 0
    MISSING_OBJECT = 1
    UNREADABLE = 2
    WRONG_DTYPE = 3
    WRONG_SHAPE = 4
    TOO_SHORT = 5
    NON_FINITE = 6
    SILENT = 7
    SAMPLE_RATE_MISMATCH = 8
    BAD_POSITION = 9

    @property
    def label(self) -> str:
        """The reason as people and manifests write it."""
        return self.name.lower()


REASONS = tuple(reason.label for reason in Reason if reason)


@dataclass(frozen=True)
class Rejection:
    """A reason, and in words what was found."""

    reason: Reason
    detail: str


RejectedRows = dict[int, tuple[Reason, str]]
"""Rejected rows of a segment: row → reason and detail."""


@dataclass(frozen=True)
class RejectedCapture:
    """An entry of `rejected.json`."""

    capture_id: int
    iq_key: str
    reason: str
    detail: str
