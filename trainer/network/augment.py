"""Augmentation of a batch where it is, on the GPU if there: never stored, and the same again when a run is resumed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from featurestore.errors import UsageError


@dataclass(frozen=True)
class AugmentSpec:
    """What is done to the tensors of a training batch, each row drawing its own numbers.

    Zero is the mean of a band, as tensors are normalized: what is dropped or shifted in says nothing.

    Attributes:
        band_dropout: probability that a band is zeroed, in all channels and frames.
        time_dropout: probability that a frame is zeroed, in all channels and bands.
        max_shift: largest shift in frames, to either side; zeros come in.
        scale: all values are multiplied by a number from [1 - scale, 1 + scale].

    Raises:
        UsageError: when a value is impossible.
    """

    band_dropout: float = 0.1
    time_dropout: float = 0.1
    max_shift: int = 5
    scale: float = 0.05

    def __post_init__(self) -> None:
        for name in ("band_dropout", "time_dropout", "scale"):
            if not 0 <= getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)!r}; wanted a number from 0 to below 1")
        if self.max_shift < 0:
            raise UsageError(f"max_shift is {self.max_shift!r}; wanted a number of frames from 0")


NOTHING = AugmentSpec(band_dropout=0, time_dropout=0, max_shift=0, scale=0)


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
    band = (of_band >= spec.band_dropout).float()  # (row, band)
    gain = (of_frame >= spec.time_dropout) * (1 - spec.scale + 2 * spec.scale * of_scale)  # (row, frame)
    shift = (of_shift * (2 * spec.max_shift + 1)).floor() - spec.max_shift  # (row, 1)
    frame = torch.arange(n_frames, device=device)
    moved = torch.where(frame[:, None] == (frame - shift)[:, None, :], gain[:, None, :], 0.0)  # (row, from frame, to frame)
    kept = (features.float() * band[:, None, :, None]).view(n_rows, n_channels * n_bands, n_frames)
    with torch.autocast(device.type, enabled=False):  # a gain of 1.03 needs more digits than bfloat16 has
        return torch.bmm(kept, moved).view(features.shape)
