"""Run a network for sessions over a split: tokens of all captures once, posteriors of all, and of random subsets of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from featurestore.progress import Progress
from featurestore.source.receivers import Receivers
from featurestore.store.feature_set import FeatureSet
from featurestore.store.split import Split
from trainer.evaluate.metrics import thresholds_m
from trainer.evaluate.session_metrics import SessionPredictions, random_subsets, session_summary
from trainer.network.checkpoints import Checkpoint
from trainer.network.session.density import Located, locate
from trainer.network.session.nets import SessionNet
from trainer.network.session.place import SessionPlace
from trainer.network.session.table import SessionTable, positions_of
from trainer.stream.batches import SessionBatch
from trainer.stream.feature_stream import DataOptions, FeatureStream
from trainer.stream.options import StreamOptions

SESSIONS_AT_ONCE = 64
"""Posteriors computed together: with 7 receivers and 10,000 cells, 18 MB for each array."""
MAX_CAPTURES_AT_ONCE = 2048

Locator = Callable[[npt.NDArray[np.bool_]], SessionPredictions]
"""Locates all sessions from the captures that a mask (n, r) leaves."""


@dataclass(frozen=True, eq=False)
class EncodedSessions:
    """Tokens of all captures of a split; any subset of them is located from here.

    Attributes:
        net: that made them.
        place: region, receivers and grid.
        table: the sessions.
        token: (n, r, width).
        receiver_position: (n, r, 2) float32 degrees, NaN where unknown.
        device: of the network.
    """

    net: SessionNet
    place: SessionPlace
    table: SessionTable
    token: Tensor
    receiver_position: Tensor
    device: torch.device

    def located(self, session: npt.NDArray[np.intp], present: npt.NDArray[np.bool_]) -> Located:
        """Posteriors of some sessions (b,), from the captures that `present` (b, r) leaves."""
        to = self.device
        receiver = torch.from_numpy(self.table.receiver[session])
        with torch.inference_mode():
            log_density = self.net.log_density(
                self.token[session].to(to),
                receiver.to(to),
                self.receiver_position[session].to(to),
                torch.from_numpy(present).to(to),
            )
            return locate(log_density, self.net.points, self.net.cell)

    def predictions(self, present: npt.NDArray[np.bool_], progress: Progress) -> SessionPredictions:
        """Of all sessions, from the captures that `present` (n, r) leaves."""
        parts = []
        for start in range(0, len(self.table), SESSIONS_AT_ONCE):
            session = np.arange(start, min(start + SESSIONS_AT_ONCE, len(self.table)))
            located = self.located(session, present[session])
            parts.append(SessionPredictions.of(located, self.place, self.table.position[session]))
            progress.advance(len(session))
        return SessionPredictions.join(parts)

    def by_receivers_present(self, predictions: Locator) -> dict[str, dict[str, float]]:
        """Metrics of every session from random subsets of 1, 2, … of its captures; of those that have so many.

        Args:
            predictions: of all sessions, from the captures that a mask (n, r) leaves.
        """
        present, by_count = self.table.present, {}
        thresholds = thresholds_m(self.place.region.half_extent_m)
        for size in range(1, int(present.sum(axis=1).max()) + 1):
            subset = random_subsets(present, size)
            those = np.flatnonzero(subset.any(axis=1))
            by_count[str(size)] = session_summary(predictions(subset).select(those), thresholds)
        return by_count


def encode_sessions(  # noqa: PLR0913, PLR0917 - all of it is wanted, and asked for in two places
    checkpoint: Checkpoint,
    feature_set: FeatureSet,
    split: Split,
    receivers: Receivers,
    device: torch.device,
    threads: int,
    progress: Progress,
) -> EncodedSessions:
    """Read a split, and encode each of its captures.

    Args:
        checkpoint: of a network for sessions.
        feature_set: whose features it knows.
        split: that has sessions.
        receivers: where receivers stand.
        device: of the network.
        threads: that fetch chunks.
        progress: is told how far it is.
    """
    net = checkpoint.session_network().to(device)
    table = SessionTable.of(feature_set, split)
    at_once = max(1, MAX_CAPTURES_AT_ONCE // max(1, table.row.shape[1]))
    options = DataOptions(min(at_once, len(table)), by="session")
    data = FeatureStream(feature_set, options, StreamOptions(threads=threads, cache="off"), device=device)
    progress.start(f"evaluate {split.name.lower()}", len(table), "sessions")
    token = None
    try:
        with torch.inference_mode():
            for batch in data.evaluate(split):
                if not isinstance(batch, SessionBatch):
                    raise TypeError("a stream of sessions is wanted")
                encoded = net.encode(batch.features, batch.present).cpu()
                if token is None:
                    token = torch.zeros(*table.row.shape, encoded.shape[2])
                token[batch.session.cpu(), : encoded.shape[1]] = encoded
                progress.advance(len(batch), batch.features.nbytes)
    finally:
        data.close()
    if token is None or checkpoint.place is None:
        raise ValueError(f"split {split.name} of {feature_set.url} has no sessions")
    where = torch.from_numpy(positions_of(receivers, table.receiver).astype(np.float32))
    return EncodedSessions(net, checkpoint.place, table, token, where, device)
