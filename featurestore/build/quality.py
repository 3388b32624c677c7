"""Which captures of a plan are rejected, as far as is known, and whether they are too many."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping

import numpy as np

from featurestore.build.plan import NOT_WANTED, Plan, SegmentUse, explain_rejection
from featurestore.errors import DataQualityError
from featurestore.tensor.rejection import Reason, RejectedCapture, RejectedRows

KEY_LENGTH = 200


class Quality:
    """Collects rejections. A capture counts once, under the reason of its first bad window, however many of them are bad."""

    def __init__(self, plan: Plan, max_fraction: float) -> None:
        self._plan = plan
        self._max_fraction = max_fraction
        self._reasons = plan.capture_reason.copy()  # (capture,)
        self._found: dict[int, dict[int, tuple[Reason, str]]] = defaultdict(dict)  # capture → window → reason, detail
        for use in plan.segments:
            if use.reason is not None:
                bad = np.flatnonzero(use.wanted & (use.reason != Reason.VALID))[::-1]  # backwards: the first window stays
                self._reasons[use.capture[bad]] = use.reason[bad]

    def add(self, use: SegmentUse, rejected: RejectedRows) -> None:
        """Rows of a segment that are rejected; those that the set does not want do not count."""
        for row, (reason, detail) in rejected.items():
            capture = int(use.capture[row])
            if capture != NOT_WANTED:
                windows = self._found[capture]
                windows[int(use.rows.window[row])] = reason, detail
                self._reasons[capture] = windows[min(windows)][0]

    def counts(self) -> dict[str, int]:
        """Rejected captures by reason."""
        codes = Counter(self._reasons[self._reasons != Reason.VALID].tolist())
        return {Reason(code).label: count for code, count in sorted(codes.items())}

    def check(self) -> None:
        """Give up as soon as it is certain that too many captures are rejected.

        Raises:
            DataQualityError: when the share exceeds what is allowed.
        """
        n_rejected, n_captures = int(np.count_nonzero(self._reasons)), len(self._reasons)
        if n_rejected <= self._max_fraction * n_captures:
            return
        by_reason = ", ".join(f"{reason} {count:,}" for reason, count in self.counts().items())
        example = self._describe(int(np.flatnonzero(self._reasons)[0]))
        raise DataQualityError(
            f"{n_rejected:,} of {n_captures:,} captures are rejected ({by_reason}), more than "
            f"--max-rejected-fraction {self._max_fraction:g}; nothing was published. For example capture "
            f"{example.capture_id}, {_shown(example.iq_key)}: {example.reason}, {example.detail}. Correct the captures, "
            "withdraw their approval, or raise the fraction, and run this again: what is computed is kept"
        )

    def entries(self) -> list[RejectedCapture]:
        """One entry per rejected capture, in order of capture id."""
        return [self._describe(int(capture)) for capture in np.flatnonzero(self._reasons)]

    def _describe(self, capture: int) -> RejectedCapture:
        snapshot = self._plan.snapshot
        by_window = self._found.get(capture)
        if self._plan.capture_reason[capture]:
            detail = explain_rejection(self._plan, capture)
        elif not by_window:
            detail = "known from an earlier build"
        else:
            detail = describe_windows(by_window, self._plan.spec.windows_per_capture)
        reason = Reason(int(self._reasons[capture]))
        return RejectedCapture(int(snapshot.capture_id[capture]), snapshot.key(capture), reason.label, detail)


def describe_windows(by_window: Mapping[int, tuple[Reason, str]], n_windows: int) -> str:
    """The detail of a rejected capture.

    Args:
        by_window: reason and detail of each window that is rejected, by its number.
        n_windows: windows per capture.
    """
    if n_windows == 1:
        return by_window[0][1]
    return "; ".join(f"window {window}: {text}" for window, (_, text) in sorted(by_window.items()))


def _shown(key: str) -> str:
    """A key on one line, whatever the catalog holds."""
    text = key if key.isprintable() and key else repr(key)
    return text if len(text) <= KEY_LENGTH else f"{text[:KEY_LENGTH]}…"
