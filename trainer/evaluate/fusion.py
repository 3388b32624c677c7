"""Sessions located by levels, by time, or by both: a network's posterior times the likelihood of its pairs' delays.

Cells of the network's grid are kilometres wide, and GPS tells tens of metres. So the product is taken on that grid first, where
`log_likelihood` widens each delay to the cells, then on ever finer grids of where its mass is, between whose cells the levels'
log density is linear.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from scipy.ndimage import map_coordinates

from featurestore.pairs.pair_set import PairSet, SessionPairs
from featurestore.pairs.places import delays_of
from featurestore.pairs.spec import PairSpec
from featurestore.place import density
from featurestore.place.delays import Delays, Views, log_likelihood
from featurestore.place.grid import Grid
from featurestore.place.posterior import Posterior
from featurestore.place.search import rounds
from featurestore.progress import Progress
from featurestore.source.receivers import Receivers
from trainer.evaluate.evaluation import km2, percent
from trainer.evaluate.request import LEVELS_ALONE, TIME_ALONE
from trainer.evaluate.session_metrics import SessionPredictions, session_summary
from trainer.evaluate.sessions import SESSIONS_AT_ONCE, EncodedSessions

Float64 = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

CELLS = 48
"""Along the longer side of a finer grid: it holds 3.3 standard deviations on either side, and a cell is a seventh of one."""
LEAST_CELL_M = 5.0


@dataclass(frozen=True, eq=False)
class SessionFusion:
    """Sessions that a network has encoded, and the pairs of each.

    Attributes:
        encoded: the sessions.
        version: of the pair set.
        spec: of the pairs.
        pairs: of each session; `None` where the pair set knows none.
        position: (R, 2) where the receivers of these sessions stand, degrees.
        websdr_id: (R,) their numbers, ascending.
        path_sigma_s: one standard deviation of a path's delay about that of light along the ground.
    """

    encoded: EncodedSessions
    version: str
    spec: PairSpec
    pairs: tuple[SessionPairs | None, ...]
    position: Float64
    websdr_id: npt.NDArray[np.int64]
    path_sigma_s: float

    @classmethod
    def of(cls, encoded: EncodedSessions, pair_set: PairSet, receivers: Receivers, path_sigma_s: float) -> Self:
        """Find the pairs of each session; receivers whose place is not known make none."""
        known = {session.session_id: session for session in pair_set.sessions()}
        table = encoded.table
        number = np.unique(table.receiver[table.present])
        position = receivers.positions_of(number)
        placed = np.isfinite(position).all(axis=1)
        pairs = tuple(known.get(session.tobytes()) for session in table.session_id)
        return cls(encoded, pair_set.version, pair_set.spec, pairs, position[placed], number[placed], path_sigma_s)

    @property
    def timed(self) -> Mask:
        """(n,) which sessions have a pair whose clocks and places are known."""
        present = self.encoded.table.present
        return np.array([self._delays(session, present[session]) is not None for session in range(len(present))], np.bool_)

    def predictions(self, fusion: str, present: Mask, progress: Progress) -> SessionPredictions:
        """Of all sessions, from the captures that `present` (n, r) leaves; by levels, where these make no pair."""
        parts = []
        for start in range(0, len(self.pairs), SESSIONS_AT_ONCE):
            numbers = np.arange(start, min(start + SESSIONS_AT_ONCE, len(self.pairs)))
            located = self.encoded.located(numbers, present[numbers])
            truth = self.encoded.table.position[numbers]
            levels = SessionPredictions.of(located, self.encoded.place, truth)
            if fusion == LEVELS_ALONE:
                parts.append(levels)
            else:
                log = located.log_density.double().cpu().numpy()
                for place, session in enumerate(numbers.tolist()):
                    found = self._rounds(fusion, session, present[session], log[place])
                    own = levels.select(np.array([place]))
                    parts.append(SessionPredictions.of_rounds(found, truth[place]) if found else own)
            progress.advance(len(numbers))
        return SessionPredictions.join(parts)

    def posterior(self, fusion: str, session: int) -> Posterior:
        """Of one session, from all of its captures, on the finest grid."""
        present = self.encoded.table.present[session]
        log = self.encoded.located(np.array([session]), present[None]).log_density.double().cpu().numpy()[0]
        found = self._rounds(fusion, session, present, log) if fusion != LEVELS_ALONE else []
        return found[-1] if found else Posterior(self._grid, log.reshape(self._grid.shape))

    @property
    def _grid(self) -> Grid:
        return self.encoded.place.grid

    @cached_property
    def _views(self) -> Views:
        """The whole grid, seen from all receivers: every session begins there."""
        return Views.of(self._grid, self.position)

    def _heard(self, session: int, present: Mask) -> npt.NDArray[np.intp]:
        """Which of the receivers a session has, of the captures that are left."""
        return np.flatnonzero(np.isin(self.websdr_id, self.encoded.table.receiver[session][present]))

    def _delays(self, session: int, present: Mask) -> Delays | None:
        pairs = self.pairs[session]
        if pairs is None:
            return None
        delays = delays_of(pairs, self.spec, self.websdr_id[self._heard(session, present)], self.path_sigma_s)
        return delays if len(delays) else None

    def _rounds(self, fusion: str, session: int, present: Mask, levels: Float64) -> list[Posterior]:
        """From the network's grid to the finest; none where the session has no pair."""
        delays, whole = self._delays(session, present), self._grid
        if delays is None:
            return []
        heard = self._heard(session, present)
        flat = np.maximum(levels.reshape(whole.shape), density.FLOOR)

        def log_density(grid: Grid) -> Float64:
            seen = self._views.of_receivers(heard) if grid is whole else Views.of(grid, self.position[heard])
            times = log_likelihood(delays, seen)
            return times if fusion == TIME_ALONE else times + _between_cells(flat, whole, grid)

        return list(rounds(log_density, whole, LEAST_CELL_M, CELLS))


def _between_cells(log_density: Float64, whole: Grid, grid: Grid) -> Float64:
    """Log densities of a grid, linear between its centres, at the centres of another one on the same plane."""
    if grid is whole:
        return log_density
    cells = whole.cells_of(grid.points_m)
    return np.asarray(map_coordinates(log_density, cells.T, order=1, mode="nearest")).reshape(grid.shape)


@dataclass(frozen=True, eq=False)
class SideBySide:
    """The same sessions, those with pairs, by levels, by time, and by both.

    Attributes:
        used: which of them the evaluation is of.
        version: of the pair set.
        sessions: of the split.
        timed: (n,) which of these have pairs.
        path_sigma_s: see `SessionFusion`.
        predictions: of all sessions of the split, by name.
    """

    used: str
    version: str
    timed: Mask
    path_sigma_s: float
    predictions: Mapping[str, SessionPredictions]

    @property
    def n_timed(self) -> int:
        """Sessions with pairs."""
        return int(self.timed.sum())

    @cached_property
    def metrics(self) -> dict[str, dict[str, float]]:
        """Of the sessions with pairs, by name; none without any."""
        if not self.n_timed:
            return {}
        return {name: session_summary(found.select(self.timed), ()) for name, found in self.predictions.items()}

    @property
    def ratios(self) -> dict[str, dict[str, float]]:
        """How many times farther off levels alone are than time and than both, by mean, median and p90."""
        if not self.n_timed:
            return {}
        levels = self.metrics[LEVELS_ALONE]
        return {
            name: {key: levels[f"error_{key}_m"] / max(each[f"error_{key}_m"], 1e-3) for key in ("mean", "median", "p90")}
            for name, each in self.metrics.items()
            if name != LEVELS_ALONE
        }

    def to_json(self) -> dict[str, Any]:
        """All of it, as plain values."""
        return {
            "used": self.used,
            "pairs": self.version,
            "sessions": len(self.timed),
            "sessions_with_pairs": self.n_timed,
            "path_sigma_us": self.path_sigma_s * 1e6,
            "metrics": self.metrics,
            "levels_over": self.ratios,
        }

    def note(self) -> str:
        """How many sessions have pairs, and what becomes of the others."""
        said = f"{self.n_timed:,} of {len(self.timed):,} sessions have pairs with known clocks in pair set {self.version}"
        return said if self.timed.all() or self.used == LEVELS_ALONE else f"{said}; the others are located by levels alone"

    def table(self) -> Iterator[Sequence[str]]:
        """Row by row; the first one names the columns."""
        header = ["mean, km", "median", "p90"]
        yield ["by", *header, "in 39.3%", "in 86.5%", "86.5%, km²", "NLL", "levels ÷ this: mean", *header[1:]]
        for name, each in self.metrics.items():
            errors = [f"{each[f'error_{key}_m'] / 1000:,.3f}" for key in ("mean", "median", "p90")]
            coverage = [percent(each[f"coverage_{k}_sigma"]) for k in (1, 2)]
            ratio = [f"{value:,.2f}" for value in self.ratios.get(name, {}).values()]
            rest = [*coverage, km2(each["area_86_median_km2"]), f"{each['nll']:.2f}"]
            yield [name, *errors, *rest, *(ratio or ["", "", ""])]


def side_by_side(fusion: SessionFusion, used: str, names: Sequence[str], progress: Progress) -> SideBySide:
    """Locate all sessions by levels, by time, and by both.

    Args:
        fusion: sessions and pairs.
        used: what the evaluation is of.
        names: of `request.EVIDENCE`, in the order of the table.
        progress: is told how far it is.
    """
    present, timed = fusion.encoded.table.present, fusion.timed
    found = {}
    for name in names:
        progress.start(f"locate by {name}", len(present), "sessions")
        found[name] = fusion.predictions(name, present, progress)
    return SideBySide(used, fusion.version, timed, fusion.path_sigma_s, found)
