"""Recordings of one session → delays of all pairs → where the transmitter is."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from featurestore.corpus.ingest.labels import Remark
from featurestore.delay.heard import Heard
from featurestore.delay.pairs import MOST_LAG_S, PairOptions, Pairs, measure_pairs
from featurestore.errors import DataQualityError, UsageError
from featurestore.locate.recordings import Receiver, Session, SessionRecording, read_positions, read_session
from featurestore.place.delays import Delays, Views, clock_margin_s, expected_delays_s, log_likelihood, longest_delay_s
from featurestore.place.geodesic import distance_m
from featurestore.place.grid import Grid
from featurestore.place.posterior import LEVELS, Posterior
from featurestore.place.search import search
from featurestore.progress import Progress, Silent

Float64 = npt.NDArray[np.float64]

SAME_PLACE_M = 500.0
"""Receivers nearer than that are one place: light takes 1.7 µs, and what they hear differs by less than paths do."""
FIRST_CELLS = 150
LEAST_MARGIN_KM = 50.0
CHANCE = 0.5
"""A peak that is chance with at least this probability supports no answer by itself."""
EDGE_MASS = 0.01


@dataclass(frozen=True)
class LocateOptions:
    """How a session is located.

    Attributes:
        path_sigma_s: one standard deviation of each path's delay about that of light along the ground (docs/time.md).
        max_seconds: of overlap to use.
        band_hz: lowest and highest frequency from the recordings' centre; `None` for all.
        margin_km: how far beyond the receivers to search; `None` for as far as they are apart.

    Raises:
        UsageError: when a value is impossible.
    """

    path_sigma_s: float = 10e-6
    max_seconds: float = 60.0
    band_hz: tuple[float, float] | None = None
    margin_km: float | None = None

    def __post_init__(self) -> None:
        for name in ("path_sigma_s", "margin_km"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise UsageError(f"{name} is {value}; expected a number from 0")
        PairOptions(1e-3, self.max_seconds, self.band_hz)  # which checks the others


@dataclass(frozen=True, eq=False)
class Located:
    """The answer, and what it rests on.

    Attributes:
        receivers: those that took part, in the order of the files.
        position: (r, 2) of them.
        posterior: of the transmitter's place.
        where: the grid that was searched first.
        pairs: of the receivers.
        sigma_s: (p,) one standard deviation of each delay: noise and both clocks; no paths.
        skipped: files that did not take part, with the reasons.
        notes: what to know of the answer.
    """

    receivers: tuple[Receiver, ...]
    position: Float64
    posterior: Posterior
    where: Grid
    pairs: Pairs
    sigma_s: Float64
    skipped: tuple[Remark, ...]
    notes: tuple[str, ...]

    @property
    def residual_s(self) -> Float64:
        """(p,) measured delay less that of a transmitter at the answer."""
        return np.asarray(
            self.pairs.delay_s - expected_delays_s(self.position, self.posterior.point, self.pairs.a, self.pairs.b)
        )

    @property
    def peak_db(self) -> Float64:
        """(p,) power of each peak over what unrelated noise would give."""
        return np.asarray(10 * np.log10(np.maximum(self.pairs.peak, 1e-3)))

    def to_json(self) -> dict[str, Any]:
        """The answer as one JSON object; `peak` is in dB over what unrelated noise would give."""
        latitude, longitude = self.posterior.point.tolist()
        rows = zip(self.pairs.usable, *self._columns(), strict=True)
        names = ("a", "b", "delay_s", "sigma_s", "peak", "residual_s")
        return {
            "latitude": latitude,
            "longitude": longitude,
            "covariance_m2": self.posterior.covariance_m2.tolist(),
            "area_86_km2": self.posterior.area_km2(LEVELS[1]),
            "pairs": [dict(zip(names, row, strict=True)) for usable, *row in rows if usable],
            "skipped": [{"file": remark.file, "reason": remark.text} for remark in self.skipped],
        }

    def _columns(self) -> list[list[Any]]:
        number = np.array([receiver.websdr_id for receiver in self.receivers])
        columns = [number[self.pairs.a], number[self.pairs.b], self.pairs.delay_s, self.sigma_s, self.peak_db, self.residual_s]
        return [column.tolist() for column in columns]

    def lines(self) -> Iterator[str]:
        """The answer for people."""
        latitude, longitude = self.posterior.point.tolist()
        east, north = np.sqrt(np.diag(self.posterior.covariance_m2)) / 1e3
        yield f"{latitude:.4f}, {longitude:.4f} ± {east:.1f} km east, {north:.1f} km north"
        yield f"86.5% region: {self.posterior.area_km2(LEVELS[1]):,.0f} km²; from {len(self.receivers)} receivers"
        yield f"{'pair':>12} {'delay µs':>10} {'sigma µs':>9} {'peak dB':>8} {'residual µs':>12}"
        for index, (a, b, delay, sigma, peak, residual) in enumerate(zip(*self._columns(), strict=True)):
            if self.pairs.usable[index]:
                yield f"{f'{a} − {b}':>12} {delay * 1e6:10.2f} {sigma * 1e6:9.2f} {peak:8.1f} {residual * 1e6:12.2f}"
            else:
                yield f"{f'{a} − {b}':>12} {self.pairs.reason[index]}"
        yield from (f"note: {note}" for note in self.notes)
        yield from (f"skipped: {remark.file}: {remark.text}" for remark in self.skipped)


def locate(
    files: Sequence[Path], receivers: Path, options: LocateOptions | None = None, progress: Progress | None = None
) -> Located:
    """Where the transmitter is that all these recordings hold.

    Args:
        files: recordings, one per receiver.
        receivers: a CSV of file, websdr_id, latitude, longitude.
        options: how.
        progress: what to report to.

    Raises:
        UsageError: when the CSV or an option is not usable.
        DataQualityError: when the recordings cannot say where; the message names what is in the way.
    """
    options, progress = options or LocateOptions(), progress or Silent()
    return answer(read_session(files, read_positions(receivers, files), progress), options, progress)


def answer(session: Session, options: LocateOptions, progress: Progress) -> Located:
    """`locate`, of what has been read."""
    session = _of_one_time(session)
    _require_receivers(session)
    pairs = _measure(session, options, progress)
    session, pairs = _without_loners(session, pairs)
    position = positions_of(session.recordings)
    sigma_s = np.array([each.heard.time_sigma_s for each in session.recordings])
    delays = Delays(
        pairs.a,
        pairs.b,
        pairs.delay_s,
        pairs.sigma_s,
        pairs.wrong,
        np.hypot(sigma_s, options.path_sigma_s),
        _max_lag_s(session.recordings, options),
    )
    where = _where(position, options)
    progress.start("search", 1, "places")
    posterior = search(lambda grid: log_likelihood(delays, Views.of(grid, position)), where)
    progress.advance(1)
    own = np.sqrt(pairs.sigma_s**2 + sigma_s[pairs.a] ** 2 + sigma_s[pairs.b] ** 2)
    receivers = tuple(each.receiver for each in session.recordings)
    notes = tuple(_notes(position, pairs, posterior, where))
    return Located(receivers, position, posterior, where, pairs, own, tuple(session.skipped), notes)


def positions_of(recordings: Sequence[SessionRecording]) -> Float64:
    """(r, 2) latitude, longitude of receivers."""
    return np.array([(each.receiver.latitude, each.receiver.longitude) for each in recordings], np.float64).reshape(-1, 2)


def _measure(session: Session, options: LocateOptions, progress: Progress) -> Pairs:
    count = len(session.recordings) * (len(session.recordings) - 1) // 2
    progress.start("correlate", count, "pairs")
    wanted = PairOptions(_max_lag_s(session.recordings, options), options.max_seconds, options.band_hz)
    pairs = measure_pairs([each.heard for each in session.recordings], wanted)
    progress.advance(count)
    return pairs


def _max_lag_s(recordings: Sequence[SessionRecording], options: LocateOptions) -> float:
    """The longest baseline at the speed of light, and what clocks and paths may be off."""
    position = positions_of(recordings)
    worst_s = math.hypot(options.path_sigma_s, max(each.heard.time_sigma_s for each in recordings))
    return min(longest_delay_s(position) + clock_margin_s(worst_s) + 1e-6, MOST_LAG_S)


def _of_one_time(session: Session) -> Session:
    """Without recordings that were made while no other one was; unless that holds for all of them."""
    start, stop = ([getattr(each.heard, name) for each in session.recordings] for name in ("start_time_ns", "stop_time_ns"))
    shared = [sum(start[i] < stop[k] and start[k] < stop[i] for k in range(len(start))) > 1 for i in range(len(start))]
    if not any(shared):
        return session
    alone = [
        Remark(each.receiver.file, f"was recorded at {_time_of(each.heard)}, when no other recording was")
        for each, with_others in zip(session.recordings, shared, strict=True)
        if not with_others
    ]
    together = [each for each, with_others in zip(session.recordings, shared, strict=True) if with_others]
    return Session(together, [*session.skipped, *alone])


def _time_of(heard: Heard) -> str:
    return datetime.fromtimestamp(heard.start_time_ns / 1e9, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _require_receivers(session: Session) -> None:
    """At least two receivers at different places."""
    reasons = "".join(f"; {remark.file} {remark.text}" for remark in session.skipped)
    if len(session.recordings) < 2:
        raise DataQualityError(
            f"{len(session.recordings)} of {len(session.recordings) + len(session.skipped)} recordings can be used, at least 2 "
            f"are needed, 3 for a place{reasons}"
        )
    position = positions_of(session.recordings)
    if float(distance_m(position[:1], position).max()) < SAME_PLACE_M:
        raise DataQualityError(
            "all receivers stand at one place, and hear everything at one time from wherever it comes; give receivers that are "
            f"kilometres apart, or correct their positions{reasons}"
        )


def _without_loners(session: Session, pairs: Pairs) -> tuple[Session, Pairs]:
    """Without receivers that make no pair: those recorded at another time.

    Raises:
        DataQualityError: when no pair is left, or all peaks are chance.
    """
    if not pairs.usable.any():
        names = [each.receiver.file for each in session.recordings]
        why = "; ".join(
            f"{names[a]} and {names[b]}: {reason}" for a, b, reason in zip(pairs.a, pairs.b, pairs.reason, strict=True)
        )
        raise DataQualityError(f"no two recordings can be correlated ({why}); give recordings of the same minute")
    if not (pairs.wrong[pairs.usable] < CHANCE).any():
        raise DataQualityError(
            "no two recordings hold the same transmission: none of their correlations stands out of what chance gives; give "
            "longer recordings, or a band in which all hear it (--band-hz)"
        )
    paired = np.unique(np.concatenate([pairs.a[pairs.usable], pairs.b[pairs.usable]])).tolist()
    alone = [index for index in range(len(session.recordings)) if index not in paired]
    if not alone:
        return session, pairs
    skipped = [
        Remark(session.recordings[index].receiver.file, "shares too little time with the other recordings") for index in alone
    ]
    return Session([session.recordings[index] for index in paired], [*session.skipped, *skipped]), pairs.of(paired)


def _where(position: Float64, options: LocateOptions) -> Grid:
    """What is searched first: the receivers and a margin."""
    apart_km = float(distance_m(position[:, None], position[None]).max()) / 1e3
    margin_km = max(apart_km, LEAST_MARGIN_KM) if options.margin_km is None else options.margin_km
    cell_km = max((apart_km + 2 * margin_km) / FIRST_CELLS, 0.01)
    return Grid.around(position, cell_km, margin_km)


def _notes(position: Float64, pairs: Pairs, posterior: Posterior, where: Grid) -> Iterator[str]:
    if len(position) == 2:
        yield "two receivers know one hyperbola, no place on it; a third one at another place is needed"
    chance = int((pairs.wrong[pairs.usable] >= CHANCE).sum())
    if chance:
        yield f"{chance} of {int(pairs.usable.sum())} pairs correlate no better than by chance; they hardly count"
    points, mass = posterior.grid.points_m, posterior.masses.ravel()
    near = posterior.grid.cell_m
    edge = ((points - near < where.low_m) | (points + near > where.high_m)).any(axis=1)
    if mass[edge].sum() > EDGE_MASS:
        yield "the region reaches the edge of what was searched; the transmitter may lie beyond it: raise --margin-km"
