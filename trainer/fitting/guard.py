"""Gradients on their way to the optimizer: one norm, by which they are clipped, or the step is skipped, on the device.

The fused AdamW takes both from two numbers on the device, as it does from a gradient scaler: it divides the gradients by
`grad_scale`, and changes nothing at all (weights, moments, step count) where `found_inf` is 1. So the host never asks whether a
norm is finite, and no gradient is touched twice.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trainer.network.training_spec import OptimizerSpec

FUSED = frozenset({"cpu", "cuda"})
"""Devices on which torch has fused AdamW in one kernel; each of them knows `grad_scale` and `found_inf`."""
GRADIENT_CLIP = 1.0


def adamw(parameters: list[torch.nn.Parameter], spec: OptimizerSpec, *, scaled: bool) -> torch.optim.AdamW:
    """AdamW over what learns; biases and norms are not decayed.

    Args:
        parameters: those that do not learn are left out.
        spec: rate and decay.
        scaled: a gradient scaler will be at work. It unscales before the norm is taken, which fused steps do not allow.
    """
    learning = [parameter for parameter in parameters if parameter.requires_grad]
    groups = [
        {"params": [each for each in learning if each.ndim > 1], "weight_decay": spec.weight_decay},
        {"params": [each for each in learning if each.ndim <= 1], "weight_decay": 0.0},
    ]
    fused = all(is_fused(each.device, scaled=scaled) for each in learning)
    return torch.optim.AdamW(groups, lr=spec.learning_rate, fused=fused or None)


def is_fused(device: torch.device, *, scaled: bool) -> bool:
    """Whether the optimizer of parameters on a device is the fused one."""
    return device.type in FUSED and not scaled


def clip_or_skip(optimizer: torch.optim.Optimizer, clip: float = GRADIENT_CLIP) -> Tensor:
    """Prepare a step: gradients longer than `clip` are shortened to it, and those that are NaN or infinite will change nothing.

    Where the optimizer is not fused (beside a gradient scaler, which waits for the device by itself, or on a device without
    a fused AdamW), the host decides.

    Args:
        optimizer: with the step's gradients; of several ranks all have the same ones, hence decide alike.
        clip: largest norm of all gradients together.

    Returns:
        Their norm () before.
    """
    learning = [each for group in optimizer.param_groups for each in group["params"] if each.grad is not None]
    norm = torch.nn.utils.get_total_norm([each.grad for each in learning]).float()
    if optimizer.defaults.get("fused"):
        # torch reads both, but declares neither. 0 · ∞ and 0 · NaN are NaN.
        setattr(optimizer, "grad_scale", (norm / clip).clamp(min=1.0))  # noqa: B010
        setattr(optimizer, "found_inf", (norm * 0).ne(0).float())  # noqa: B010
    elif bool(norm.isfinite()):
        torch.nn.utils.clip_grads_with_norm_(learning, clip, norm)
    else:
        for each in learning:
            each.grad = None
    return norm
