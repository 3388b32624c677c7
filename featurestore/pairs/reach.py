"""How large a delay between two receivers of a session can be: the default of `--max-lag-us`."""

from __future__ import annotations

import math

import numpy as np

from featurestore.place.delays import clock_margin_s, longest_delay_s
from featurestore.source.snapshot import NO_TIMESTAMP, Snapshot

MOST_CLOCK_US = 1000.0
"""Clocks worse than this say little of any place; longer lags for them would cost the others accuracy."""
STEP_US = 50.0
"""Rounded up to a multiple of this, so that a corrected position or sigma seldom makes another spec."""


def largest_delay_us(snapshot: Snapshot) -> float | None:
    """The longest distance between receivers that know the time, at the speed of light, and what their clocks may be off.

    Args:
        snapshot: whose captures with a start count; its receivers say where they stand.

    Returns:
        Microseconds, a multiple of `STEP_US`; `None` where fewer than two of those receivers have a position.
    """
    timed = snapshot.start_time_ns != NO_TIMESTAMP
    if snapshot.receivers is None:
        return None
    position = snapshot.receivers.select(np.unique(snapshot.websdr_id[timed])).position
    if len(position) < 2:
        return None
    sigma_s = snapshot.time_sigma_s[timed]
    worst_s = float(sigma_s[np.isfinite(sigma_s)].max(initial=0.0))
    clock_us = min(clock_margin_s(worst_s) * 1e6, MOST_CLOCK_US)
    return max(math.ceil((longest_delay_s(position) * 1e6 + clock_us) / STEP_US), 1) * STEP_US
