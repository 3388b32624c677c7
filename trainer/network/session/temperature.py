"""How sure posteriors may be: one temperature T for all, of greatest likelihood on validation sessions.

ln p is divided by T and normalized again (Guo et al., On Calibration of Modern Neural Networks, ICML 2017). Hyperparameters of
maps are taken as known, as if they had no error of their own, so that posteriors come out a little too narrow: T is some 1.05
with 3,232 train sessions.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

TEMPERATURES = (0.8, 0.9, 1.0, 1.1, 1.2, 1.35, 1.5)
LEAST_SESSIONS = 50
"""With fewer, chance decides: the error of T is some T/√n. It stays 1 then."""


def nats_by_temperature(log_density: Tensor, truth: Tensor) -> Tensor:
    """Negative log-likelihood of the true cells, (b, temperature), up to a constant.

    Args:
        log_density: (b, cells), up to a constant for each session.
        truth: (b,) int64, the true cell.
    """
    nats = []
    for temperature in TEMPERATURES:
        tempered = log_density / temperature
        nats.append(tempered.logsumexp(dim=1) - tempered.gather(1, truth[:, None])[:, 0])
    return torch.stack(nats, dim=1)


def best_temperature(nats: npt.NDArray[np.float64]) -> float:
    """The temperature of least mean nats, between those tried: the vertex of the parabola through the best and its neighbours.

    Args:
        nats: (n, temperature), from all validation sessions.

    Returns:
        1 when there are fewer than `LEAST_SESSIONS`.
    """
    if len(nats) < LEAST_SESSIONS:
        return 1.0
    mean = nats.mean(axis=0)
    best = int(np.argmin(mean))
    if best in (0, len(TEMPERATURES) - 1):
        return TEMPERATURES[best]
    near = slice(best - 1, best + 2)
    curvature, slope, _ = np.polyfit(TEMPERATURES[near], mean[near], 2)
    return float(-slope / (2 * curvature))
