"""From a second of some GPS week, which receivers stamp on samples, to Unix time."""

from __future__ import annotations

from datetime import UTC, datetime

from featurestore.corpus.ingest.times import NS

WEEK_S = 604_800
GPS_EPOCH_UNIX_S = 315_964_800
"""1980-01-06T00:00:00Z."""

LEAP_SECONDS_AS_OF = "IERS Bulletin C 72 of 6 July 2026: none since 2017-01-01, none at the end of December 2026"
LEAP_SECONDS = (
    # From this UTC on, GPS time is ahead of UTC by so many seconds.
    ("1999-01-01", 13),
    ("2006-01-01", 14),
    ("2009-01-01", 15),
    ("2012-07-01", 16),
    ("2015-07-01", 17),
    ("2017-01-01", 18),
)
"""TAI − UTC of the IERS's `leap-seconds.list`, less the 19 s by which TAI is ahead of GPS time. Receivers that stamp samples
are younger than the first entry. A leap second after the last would put every time one second off, all receivers alike:
delays stay right."""


def gps_to_unix_ns(week_second: float, near: datetime) -> int:
    """Unix time in ns of a second in the GPS week that puts it nearest to `near`, which may be off by three days.

    Args:
        week_second: seconds since the start of a GPS week; it may lie a little outside of the week.
        near: a time with zone.
    """
    near_s = near.timestamp()
    ahead_s = _ahead_s(near_s)
    week = round((near_s - GPS_EPOCH_UNIX_S + ahead_s - week_second) / WEEK_S)
    whole_s = int(week_second // 1)
    second = week * WEEK_S + whole_s + GPS_EPOCH_UNIX_S
    return (second - _ahead_s(second - ahead_s)) * NS + round((week_second - whole_s) * NS)


def _ahead_s(unix_s: float) -> int:
    """GPS time less UTC at a Unix time."""
    latest_s = 0
    for since, ahead_s in LEAP_SECONDS:
        if unix_s >= datetime.fromisoformat(since).replace(tzinfo=UTC).timestamp():
            latest_s = ahead_s
    return latest_s
