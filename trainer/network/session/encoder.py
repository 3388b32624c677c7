"""What one capture says, as a token: from its levels, or from its whole tensor."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainer.network.model import LocalizationNet
from trainer.network.network_spec import NetworkSpec
from trainer.network.session.spec import LEVELS

HIDDEN = 128
EPSILON = 1e-4


class LevelsEncoder(nn.Module):
    """Time-mean and time-spread of each band, → a token.

    A tensor has 12,288 numbers, and what it tells of place is the level and how fast it fades. With some thousand sessions,
    convolutions learn the sessions by heart before they learn that (docs/log.md).

    Args:
        n_bands: of the tensors.
        width: of the token.
    """

    def __init__(self, n_bands: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(6 * n_bands, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, width)
        )

    def forward(self, features: Tensor) -> Tensor:
        """(n, 3, band, frame) → (n, width)."""
        mean = features.mean(dim=-1)
        spread = ((features - mean[..., None]).square().mean(dim=-1) + EPSILON).sqrt()
        token: Tensor = self.layers(torch.cat([mean, spread], dim=1).flatten(1))
        return token


class ConvNextEncoder(nn.Module):
    """Any ConvNeXt of timm with the neck of `LocalizationNet`, → a token."""

    def __init__(self, spec: NetworkSpec, width: int, *, pretrained: bool = False) -> None:
        super().__init__()
        self.net = LocalizationNet(spec, pretrained=pretrained)
        # Positions come from all captures together: the heads of one are not wanted, and not trained.
        self.net.position_head = self.net.uncertainty_head = nn.Identity()  # type: ignore[assignment]  # both are Sequential
        self.out = nn.Linear(512, width)

    def forward(self, features: Tensor) -> Tensor:
        """(n, 3, band, frame) → (n, width)."""
        token: Tensor = self.out(self.net.embed(features))
        return token


def make_encoder(name: str, spec: NetworkSpec, n_bands: int, width: int, *, pretrained: bool = False) -> nn.Module:
    """`levels`, or the ConvNeXt of that name.

    Raises:
        UsageError: when timm has no such ConvNeXt.
    """
    if name == LEVELS:
        return LevelsEncoder(n_bands, width)
    fields = {**spec.to_json(), "backbone": name}
    return ConvNextEncoder(NetworkSpec(**fields), width, pretrained=pretrained)
