"""Whether a training locates sessions or captures, where nobody says so."""

from __future__ import annotations

import numpy as np

from featurestore.store.feature_set import FeatureSet, open_set
from featurestore.store.split import Split


def choose_locate(asked: str | None, backbone: str | None, store: str, version: str) -> str:
    """`session` or `capture`.

    Args:
        asked: what was asked for, if anything.
        backbone: a network that sees one capture asks for captures.
        store: of the feature set.
        version: of the feature set.

    Raises:
        UsageError: when there is no such set.
    """
    if asked is not None:
        return asked
    if backbone is not None:
        return "capture"
    return "session" if has_sessions(open_set(store, version)) else "capture"


def has_sessions(feature_set: FeatureSet) -> bool:
    """Whether most train sessions were heard by two receivers or more."""
    sessions = feature_set.sessions(Split.TRAIN)
    if not len(sessions):
        return False
    changes = np.zeros(len(sessions.rows), bool)  # rows of a session are in the order of their receivers
    changes[1:] = sessions.websdr_id[1:] != sessions.websdr_id[:-1]
    changes[sessions.begin[:-1]] = True
    receivers = np.add.reduceat(changes, sessions.begin[:-1])
    return bool(np.median(receivers) >= 2)
