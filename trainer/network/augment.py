"""Augmentation of a batch where it is, on the GPU if there: never stored, and the same again when a run is resumed."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from trainer.network.training_spec import NOTHING, AugmentSpec


def step_seed(*place: int) -> int:
    """A seed that belongs to one step (seed, epoch, batch, rank): a resumed run draws what an uninterrupted one would."""
    digest = hashlib.sha256("/".join(map(str, place)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def augment(features: Tensor, spec: AugmentSpec) -> Tensor:
    """A changed copy of a batch.

    Shift, scale and dropped frames are one matrix S per row, by which its frames are multiplied, and dropped bands are zeros
    before it: y = (band · x) S with S[f, g] = gain[g] where f = g - shift, else 0. Each sum has one term that is not zero, so
    nothing is rounded but by the gain; and a batched product is several times as fast as a gather.

    Random numbers are those of torch's own generator on the device of the features: one draw of all of them.

    Args:
        features: (row, channel, band, frame), normalized, in any floating-point type.
        spec: what to do.

    Returns:
        The same shape, in float32.
    """
    if spec == NOTHING:
        return features.float()
    n_rows, n_channels, n_bands, n_frames = features.shape
    device = features.device
    drawn = torch.rand((n_rows, n_bands + n_frames + 2), device=device)
    of_band, of_frame, of_scale, of_shift = torch.split(drawn, [n_bands, n_frames, 1, 1], dim=1)
    band = of_band >= spec.band_dropout  # (row, band)
    gain = (of_frame >= spec.time_dropout) * (1 - spec.scale + 2 * spec.scale * of_scale)  # (row, frame)
    shift = (of_shift * (2 * spec.max_shift + 1)).floor() - spec.max_shift  # (row, 1)
    frame = torch.arange(n_frames, dtype=torch.float32, device=device)
    moved = (frame[:, None] == (frame - shift)[:, None, :]) * gain[:, None, :]  # (row, from frame, to frame)
    # In place, in the copy: fresh memory costs more than the product.
    kept = features.to(torch.float32, copy=True).mul_(band[:, None, :, None]).view(n_rows, n_channels * n_bands, n_frames)
    with torch.autocast(device.type, enabled=False):  # a gain of 1.03 needs more digits than bfloat16 has
        return torch.bmm(kept, moved).view(features.shape)
