"""Sessions located by an exported graph, with ONNX Runtime and numpy; needs no torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from exporter.graph.opened_graph import OpenedGraph
from exporter.graph.session_rows import ABSENT, SessionRows, read_sessions, receivers_of
from exporter.graph.session_runtime import SESSIONS_AT_ONCE, SessionOutputs, grid_of, require_numbers, run_sessions
from exporter.predict.capture_input import CaptureInput
from featurestore.errors import UsageError
from featurestore.place.grid import Grid
from featurestore.place.posterior import Posterior
from featurestore.source.receivers import Receivers
from featurestore.store.feature_set import FeatureSet
from featurestore.store.split import Split


@dataclass(frozen=True, eq=False)
class Heard:
    """One session in files.

    Attributes:
        session_id: its name.
        paths: of its captures.
        receiver_id: (r,) who recorded each.
        receiver_position: (r, 2) degrees, NaN where unknown.
    """

    session_id: str
    paths: tuple[Path, ...]
    receiver_id: npt.NDArray[np.int64]
    receiver_position: npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class PredictedSession:
    """Where one transmitter is.

    Attributes:
        session_id: its name.
        receivers: numbers of those that heard it.
        position: (2,) latitude, longitude in degrees, of least expected distance.
        covariance_m2: (2, 2) of east and north.
        posterior: the density.
    """

    session_id: str
    receivers: tuple[int, ...]
    position: npt.NDArray[np.float64]
    covariance_m2: npt.NDArray[np.float64]
    posterior: Posterior


class SessionPredictor:
    """An exported graph for sessions, ready to be used; may be used by several threads.

    Args:
        source: a file, its content, or what was opened already.
        threads: that one operation may use; 0: one for each core.

    Attributes:
        info: what the graph says of itself.

    Raises:
        UsageError: when the graph is absent, damaged, not one of ours, or locates captures.
    """

    def __init__(self, source: Path | str | bytes | OpenedGraph, threads: int = 0) -> None:
        graph = source if isinstance(source, OpenedGraph) else OpenedGraph.open(source, threads)
        self._graph, self.name, self.info = graph, graph.name, graph.info
        self.info.require_located("session", self.name)

    @cached_property
    def grid(self) -> Grid:
        """Of the densities."""
        return grid_of(self.info)

    @cached_property
    def receivers(self) -> Receivers:
        """Those that training knew, as far as their positions are known."""
        return receivers_of(self.info.session)

    def run(self, rows: SessionRows, batch_size: int = SESSIONS_AT_ONCE) -> SessionOutputs:
        """The graph's outputs for all sessions, so many at a time.

        Raises:
            DataQualityError: when an output is not a number.
        """
        return require_numbers(self.name, run_sessions(self._graph, rows, batch_size), rows)

    def predict(self, rows: SessionRows) -> Iterator[PredictedSession]:
        """One prediction for each session, in order.

        Raises:
            DataQualityError: when an output is not a number.
        """
        for start in range(0, len(rows), SESSIONS_AT_ONCE):
            part = rows.select(slice(start, start + SESSIONS_AT_ONCE))
            for index, (position, covariance, log_density) in enumerate(zip(*self.run(part), strict=True)):
                heard = np.unique(part.receiver_id[index][part.present[index]])
                posterior = Posterior(self.grid, log_density.astype(np.float64))
                yield PredictedSession(part.session_id[index], tuple(heard.tolist()), position, covariance, posterior)

    def read_set(self, feature_set: FeatureSet, split: Split, limit: int | None = None) -> SessionRows:
        """Sessions of a feature set as the graph takes them.

        Raises:
            UsageError: when the graph takes IQ, or other features than the set has.
            DataQualityError: when the split has no sessions.
        """
        self.info.require_takes(feature_set, self.name)
        return read_sessions(feature_set, split, receivers_of(self.info.session, feature_set.receivers), limit)

    def read_files(self, sessions: Sequence[Heard], sample_rate_hz: float | None) -> SessionRows:
        """Sessions in files as the graph takes them.

        Raises:
            UsageError: when the graph takes features, the rate is another, or a file is not usable; it is named.
        """
        if self.info.input != "iq":
            raise UsageError(f"{self.name} takes {self.info.input}, not captures; use the model-iq.onnx of the same release")
        captures = CaptureInput(self.info.spec, self.name)
        captures.require_rate(sample_rate_hz)
        shape = (len(sessions), max(len(session.paths) for session in sessions))
        iq = np.full((*shape, 2, self.info.spec.windows_per_capture * self.info.spec.span), np.nan, np.float32)
        receiver, where = np.full(shape, ABSENT), np.full((*shape, 2), np.nan, np.float32)
        for line, session in enumerate(sessions):
            n_captures = len(session.paths)
            for place, path in enumerate(session.paths):
                iq[line, place] = captures.read_windows(path)
            known: Any = np.isfinite(session.receiver_position)
            own = self.receivers.positions_of(session.receiver_id)
            receiver[line, :n_captures] = session.receiver_id
            where[line, :n_captures] = np.where(known, session.receiver_position, own)
        names = tuple(session.session_id for session in sessions)
        return SessionRows(iq, receiver, where, receiver != ABSENT, names, np.full((len(sessions), 2), np.nan))
