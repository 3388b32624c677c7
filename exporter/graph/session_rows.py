"""Sessions of a split, read from the store, as a graph for sessions takes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from featurestore.errors import DataQualityError
from featurestore.source.receivers import Receivers
from featurestore.source.snapshot import format_session
from featurestore.store.feature_set import FeatureSet
from featurestore.store.split import Split

ABSENT = -1


@dataclass(frozen=True, eq=False)
class SessionRows:
    """n sessions with room for r captures each.

    Attributes:
        values: (n, r, 3, band, frame) float32 features, or (n, r, 2, samples) float32 IQ; NaN where absent.
        receiver_id: (n, r) int64, −1 where absent.
        receiver_position: (n, r, 2) float32 degrees, NaN where unknown.
        present: (n, r) bool.
        session_id: n names.
        position: (n, 2) float64 degrees, true; NaN where unknown.
    """

    values: npt.NDArray[np.float32]
    receiver_id: npt.NDArray[np.int64]
    receiver_position: npt.NDArray[np.float32]
    present: npt.NDArray[np.bool_]
    session_id: tuple[str, ...]
    position: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.session_id)

    def inputs(self, name: str, part: slice | None = None) -> dict[str, npt.NDArray[Any]]:
        """What the graph takes, by name; its first input is `features` or `iq`."""
        part = part or slice(None)
        values: tuple[npt.NDArray[Any], ...] = (self.values, self.receiver_id, self.receiver_position, self.present)
        names = (name, "receiver_id", "receiver_position", "present")
        return {key: value[part] for key, value in zip(names, values, strict=True)}

    def select(self, part: slice) -> Self:
        """Those sessions only."""
        return type(self)(
            self.values[part],
            self.receiver_id[part],
            self.receiver_position[part],
            self.present[part],
            self.session_id[part],
            self.position[part],
        )

    def with_room(self, n_captures: int) -> Self:
        """The same sessions with room for so many captures each; those beyond it are left out."""
        kept = min(n_captures, self.present.shape[1])
        more = n_captures - kept

        def resized(values: npt.NDArray[Any], fill: float) -> npt.NDArray[Any]:
            widths = [(0, 0), (0, more), *[(0, 0)] * (values.ndim - 2)]
            return np.pad(values[:, :kept], widths, constant_values=fill)

        return type(self)(
            resized(self.values, np.nan),
            resized(self.receiver_id, ABSENT),
            resized(self.receiver_position, np.nan),
            resized(self.present, 0),
            self.session_id,
            self.position,
        )


def read_sessions(feature_set: FeatureSet, split: Split, receivers: Receivers, limit: int | None = None) -> SessionRows:
    """Sessions of a split, whole.

    Args:
        feature_set: an open set.
        split: which one.
        receivers: where they stand.
        limit: at most so many, spread evenly over the split; all of them without it.

    Raises:
        DataQualityError: when the split has no sessions.
        StoreError: when the set is damaged.
    """
    sessions = feature_set.sessions(split)
    if not len(sessions):
        raise DataQualityError(
            f"the {split.name.lower()} split of {feature_set.url} has no sessions; use a set with other shares of its splits"
        )
    n_sessions = len(sessions) if limit is None else min(limit, len(sessions))
    chosen = np.arange(n_sessions) * len(sessions) // n_sessions
    line = sessions.of_row()
    place = np.arange(len(line)) - sessions.begin[line]
    wanted = np.isin(line, chosen)
    line, place = np.searchsorted(chosen, line[wanted]), place[wanted]
    row, number = sessions.rows[wanted], sessions.websdr_id[wanted].astype(np.int64)
    shape = (n_sessions, int(place.max()) + 1)
    values = np.full((*shape, *feature_set.spec.tensor_shape), np.nan, np.float32)
    values[line, place] = feature_set.read_rows(row)
    receiver, where = np.full(shape, ABSENT), np.full((*shape, 2), np.nan, np.float32)
    receiver[line, place], where[line, place] = number, receivers.positions_of(number)
    names = tuple(format_session(sessions.session_id[index].tobytes()) for index in chosen)
    return SessionRows(values, receiver, where, receiver != ABSENT, names, sessions.position[chosen])


def receivers_of(session: Any, known: Receivers | None = None) -> Receivers:
    """Where receivers stand: as `known` says, else as the metadata of a graph do (`GraphInfo.session`)."""
    places = [
        (entry["websdr_id"], entry["latitude"], entry["longitude"], None, None)
        for entry in session["receivers"]
        if entry["latitude"] is not None
    ]
    own = Receivers.of(places)
    return own if known is None else known.or_else(own)
