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


def step_seed(*place: int) -> int:
    """A seed that belongs to one step (seed, epoch, batch, rank): a resumed run draws what an uninterrupted one would."""
    digest = hashlib.sha256("/".join(map(str, place)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def seeded(*place: int, device: torch.device) -> torch.Generator:
    """Random numbers of one step, see `step_seed`."""
    return torch.Generator(device).manual_seed(step_seed(*place))


def augment(features: Tensor, spec: AugmentSpec, generator: torch.Generator) -> Tensor:
    """A changed copy of a batch.

    Args:
        features: (row, channel, band, frame), normalized.
        spec: what to do.
        generator: on the device of the features.

    Returns:
        The same shape and dtype.
    """
    n_rows, _, n_bands, n_frames = features.shape
    device = features.device

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, device=device)

    keep_band = uniform(n_rows, 1, n_bands, 1) >= spec.band_dropout
    keep_frame = uniform(n_rows, 1, 1, n_frames) >= spec.time_dropout
    factor = 1 + spec.scale * (2 * uniform(n_rows, 1, 1, 1) - 1)
    shift = torch.randint(-spec.max_shift, spec.max_shift + 1, (n_rows, 1), generator=generator, device=device)
    source = torch.arange(n_frames, device=device) - shift  # (row, frame)
    inside = ((source >= 0) & (source < n_frames))[:, None, None, :]
    index = source.clamp(0, n_frames - 1)[:, None, None, :].expand_as(features)
    return features.gather(-1, index) * (factor * (keep_band & keep_frame & inside)).to(features.dtype)
