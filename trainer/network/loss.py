"""How wrong a batch is: Gaussian negative log-likelihood of east and north, each with its own predicted σ."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from trainer.network.training_spec import LossSpec

MIN_SIGMA, MAX_SIGMA = 0.01, 1.0
"""In units of the half-extent. Without a floor the likelihood of one memorized row has no bound, and training diverges."""
HELD_SIGMA = 0.5
"""σ while the mean warms up: about that of targets spread evenly over [−1, 1], which is 1/√3."""
HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


class Loss(NamedTuple):
    """`per_row`, shape (B,), and their `mean`, shape (), which is minimized; float32."""

    per_row: torch.Tensor
    mean: torch.Tensor


def localization_loss(outputs: torch.Tensor, targets: torch.Tensor, spec: LossSpec, *, hold_sigma: bool = False) -> Loss:
    """Negative log-likelihood of targets under the predicted Gaussians, summed over east and north.

    Gaussian: Σ ½·((t − μ)/σ)² + ln σ + ½·ln 2π, in nats. β-NLL multiplies each axis by σ^(2β), through which no gradient flows
    (Seitzer et al., "On the Pitfalls of Heteroscedastic Uncertainty Estimation with Probabilistic Neural Networks", ICLR
    2022, eq. 4). It is no likelihood then: compare networks by `gaussian-nll`.
    With σ held, both kinds are a squared error in nats: the Gaussian one at σ = `HELD_SIGMA`.

    Always float32, also under autocast: (t − μ)² and ln σ lose their digits in half precision. (Outputs in float64 stay so.)

    Args:
        outputs: (B, 4) east, north, σ_east, σ_north in units of the half-extent, σ > 0.
        targets: (B, 2) east, north in the same units.
        spec: which loss.
        hold_sigma: replace σ by a constant; its gradient is zero.

    Raises:
        ValueError: when the shapes do not fit (they would broadcast to nonsense).
    """
    if outputs.ndim != 2 or outputs.shape[1] != 4 or targets.shape != (outputs.shape[0], 2):
        raise ValueError(f"outputs {tuple(outputs.shape)} and targets {tuple(targets.shape)} must be (B, 4) and (B, 2)")
    with torch.autocast(device_type=outputs.device.type, enabled=False):
        outputs = _full_precision(outputs)
        mean, sigma = outputs[:, :2], outputs[:, 2:]  # (row, axis) each
        if hold_sigma:
            # Zero gradients rather than none: DDP waits for the gradient of every parameter.
            sigma = HELD_SIGMA + 0.0 * sigma
        nats = 0.5 * ((targets.to(outputs.dtype) - mean) / sigma).square() + sigma.log() + HALF_LOG_2PI
        if spec.kind == "beta-nll" and not hold_sigma:
            nats = nats * sigma.detach().pow(2 * spec.beta)
        per_row = nats.sum(dim=1)
        return Loss(per_row, per_row.mean())


def bounded_sigma(raw: torch.Tensor) -> torch.Tensor:
    """σ in [`MIN_SIGMA`, `MAX_SIGMA`], float32 at least, from any real number; 0 gives their geometric mean, 0.1.

    ln σ follows a sigmoid of `raw`: the arc tangent, not the logistic one. The logistic's gradient is rounded to zero from
    raw = 17 on, and a σ that got there never comes back; 1/(1 + raw²) is still 10⁻¹² at a million. A clamp has none at all.
    """
    # No autocast context: neither operation is lowered by it, and it would be a node of its own in exported graphs.
    share = 0.5 + torch.atan(_full_precision(raw)) / math.pi  # (0, 1)
    return torch.exp(math.log(MIN_SIGMA) + math.log(MAX_SIGMA / MIN_SIGMA) * share)


def _full_precision(values: torch.Tensor) -> torch.Tensor:
    return values if values.dtype == torch.float64 else values.float()
