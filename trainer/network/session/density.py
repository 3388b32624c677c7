"""Densities of place as tensors: spatial median and covariance on a grid, mixtures. Plain operations, to be exported."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

MEDIAN_STEPS = 40
"""Weiszfeld's iteration converges linearly; so many bring it within a hundredth of a cell on posteriors of sessions."""
LOG_2PI = math.log(2 * math.pi)


class Located(NamedTuple):
    """Where sessions are; positions in units of the region's half-extent, as those of `LocalizationNet`.

    Attributes:
        position: (b, 2) spatial median: the point of least expected distance.
        covariance: (b, 2, 2) of east and north, in the same units squared.
        log_density: (b, cells) per square unit, normalized over the grid.
    """

    position: Tensor
    covariance: Tensor
    log_density: Tensor


class Mixture(NamedTuple):
    """K Gaussians in the plane: log weights (b, K), means (b, K, 2), σ of east and north (b, K, 2), correlations (b, K)."""

    log_weight: Tensor
    mean: Tensor
    sigma: Tensor
    correlation: Tensor

    def log_density(self, points: Tensor) -> Tensor:
        """(b, m) at (b or 1, m, 2) points.

        With u = Δe/σ_e, v = Δn/σ_n: ln N = −½(u² − 2ρuv + v²)/(1 − ρ²) − ln(2π·σ_e·σ_n·√(1 − ρ²)).
        """
        offset = (points[:, :, None] - self.mean[:, None]) / self.sigma[:, None]  # (b, m, K, 2)
        east, north, rho = offset[..., 0], offset[..., 1], self.correlation[:, None]
        rest = 1 - rho * rho
        squared = (east * east - 2 * rho * east * north + north * north) / rest
        volume = self.sigma.log().sum(dim=-1)[:, None] + 0.5 * rest.log()
        return torch.logsumexp(self.log_weight[:, None] - 0.5 * squared - volume - LOG_2PI, dim=-1)

    def covariance(self) -> Tensor:
        """(b, 2, 2): Σ wₖ·(Σₖ + μₖμₖᵀ) − μμᵀ."""
        weight = self.log_weight.exp()[..., None, None]
        cross = (self.correlation * self.sigma[..., 0] * self.sigma[..., 1])[..., None]
        square = self.sigma * self.sigma
        own = torch.stack([torch.cat([square[..., :1], cross], -1), torch.cat([cross, square[..., 1:]], -1)], dim=-2)
        mean = (weight[..., 0] * self.mean).sum(dim=1)  # (b, 2)
        second = (weight * (own + self.mean[..., :, None] * self.mean[..., None, :])).sum(dim=1)
        return second - mean[:, :, None] * mean[:, None, :]


def locate(log_density: Tensor, points: Tensor, cell: float, steps: int = MEDIAN_STEPS) -> Located:
    """Normalize densities over a grid, and sum them up.

    Args:
        log_density: (b, cells), up to a constant each.
        points: (cells, 2) their centres.
        cell: side of a cell, in the same units.
        steps: from the mean towards the median.
    """
    normal = torch.log_softmax(log_density, dim=1) - 2 * math.log(cell)
    mass = normal.exp() * cell**2
    here = mass @ points  # (b, 2)
    products = torch.stack([points[:, 0] ** 2, points[:, 0] * points[:, 1], points[:, 1] ** 2], dim=1)  # (cells, 3)
    second = (mass @ products)[:, [0, 1, 1, 2]].reshape(-1, 2, 2)
    covariance = second - here[:, :, None] * here[:, None, :]
    covariance = covariance + torch.eye(2, dtype=covariance.dtype, device=covariance.device) * (cell**2 / 12)
    square = (points * points).sum(dim=-1)
    for _ in range(steps):
        # A cell is a square, not a point: √(d² + cell²/12), see `featurestore.place.density.medians_m`.
        # |p|² − 2·p·h + |h|² instead of |p − h|²: one product of matrices for a batch, and no array (b, cells, 2).
        squared = square - 2 * here @ points.T + (here * here).sum(dim=1, keepdim=True)
        pull = mass * (squared.clamp(min=0) + cell**2 / 12).rsqrt()
        here = pull @ points / pull.sum(dim=1, keepdim=True)
    return Located(here, covariance, normal)
