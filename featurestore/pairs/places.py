"""What a session's pairs say of a place: its delays as `place.delays` takes them, ready to be multiplied with what levels say.

`Posterior.product(grid, [levels, log_likelihood(delays_of(…), Views.of(grid, receivers))])` is the fusion of both.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from featurestore.pairs.pair_set import SessionPairs
from featurestore.pairs.spec import PairSpec
from featurestore.place.delays import Delays


def delays_of(session: SessionPairs, spec: PairSpec, websdr_id: npt.NDArray[np.integer], path_sigma_s: float = 0.0) -> Delays:
    """The delays of one session between receivers in a given order.

    A pair counts when both receivers are known and both clocks are: how far to trust a clock of unknown error, nobody can say.

    Args:
        session: of a pair set.
        spec: of the set.
        websdr_id: (r,) numbers of the receivers, in the order of the positions that a grid is seen from.
        path_sigma_s: one standard deviation of each path's delay about that of light along the ground (docs/time.md).
    """
    numbers = np.asarray(websdr_id)
    place = {int(number): index for index, number in enumerate(numbers.tolist())}
    a, b = (np.array([place.get(number, -1) for number in session.websdr[:, side].tolist()], np.int64) for side in (0, 1))
    known = (a >= 0) & (b >= 0) & np.isfinite(session.clock_sigma_s).all(axis=1)
    clocks = np.zeros(len(numbers))
    for side, index in enumerate((a, b)):
        clocks[index[known]] = session.clock_sigma_s[known, side]
    return Delays(
        a[known],
        b[known],
        session.delay_s[known],
        session.sigma_s[known],
        session.wrong[known],
        np.hypot(clocks, path_sigma_s),
        spec.max_lag_us * 1e-6,
    )
