"""Networks for sessions: captures of several receivers → where the transmitter is, as a density on a grid.

Both encode captures one by one (`encode`), and put any subset of them together (`log_density`). What is absent is masked, and
may hold anything. All operations are plain ones with both axes free, so that the networks can be exported.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trainer.network.loss import bounded_sigma
from trainer.network.network_spec import NetworkSpec
from trainer.network.session.density import Located, Mixture, locate
from trainer.network.session.encoder import make_encoder
from trainer.network.session.place import SessionPlace
from trainer.network.session.radio_map import NEAREST_M, REFERENCE_M, RadioMap
from trainer.network.session.spec import SessionSpec

METRES_PER_DEGREE = 111_195.0
"""On a sphere; for distance laws and embeddings, where 0.3% do not matter."""
UNSEEN = 0.1
"""Share of captures whose receiver `attention` is not told in training, so that it can do without."""
RHO_LIMIT = 0.95
INITIAL_RAW_SIGMA = 1.0


class SessionNet(nn.Module):
    """What both fusions share: receivers by number or position, the grid, and `forward`.

    Args:
        spec: what to build.
        backbone: dropout and the like of a ConvNeXt encoder.
        place: region, receivers and grid.
        n_bands: of the tensors.
        width: of the tokens.
        pretrained: begin a ConvNeXt with the weights of timm's hub.
    """

    def __init__(  # noqa: PLR0913 - subclasses alone call it
        self,
        spec: SessionSpec,
        backbone: NetworkSpec,
        place: SessionPlace,
        n_bands: int,
        width: int,
        *,
        pretrained: bool = False,
    ) -> None:
        super().__init__()
        self.spec = spec
        self.cell = place.cell_m / place.region.half_extent_m
        self.encoder = make_encoder(spec.encoder, backbone, n_bands, width, pretrained=pretrained)
        self.centre = (place.region.latitude, place.region.longitude)
        self.half_extent_m = place.region.half_extent_m
        self.points: Tensor
        self.register_buffer("points", _float(place.region.encode(place.grid.degrees)), persistent=False)
        self.receivers: Tensor
        self.register_buffer("receivers", torch.from_numpy(place.websdr_id.astype(np.int64)), persistent=False)

    def forward(self, features: Tensor, receiver: Tensor, receiver_position: Tensor, present: Tensor) -> Located:
        """Locate sessions.

        Args:
            features: (b, r, 3, band, frame), normalized; anything where absent.
            receiver: (b, r) int64 numbers of receivers.
            receiver_position: (b, r, 2) latitude, longitude in degrees; NaN where it is not known.
            present: (b, r) bool.
        """
        return locate(
            self.log_density(self.encode(features, present), receiver, receiver_position, present), self.points, self.cell
        )

    def encode(self, features: Tensor, present: Tensor) -> Tensor:
        """(b, r, 3, band, frame) → (b, r, width), 0 where absent."""
        shape = features.shape
        heard = torch.where(present[..., None, None, None], features.float(), 0.0)
        token = self.encoder(heard.reshape(-1, *shape[2:])).float().reshape(shape[0], shape[1], -1)
        return torch.where(present[..., None], token, 0.0)

    def log_density(self, token: Tensor, receiver: Tensor, receiver_position: Tensor, present: Tensor) -> Tensor:
        """(b, cells), up to a constant for each session, from tokens (b, r, width); the rest as for `forward`."""
        raise NotImplementedError

    def known(self, receiver: Tensor) -> Tensor:
        """(b, r, R) float: 1 where a receiver is that of the training; all 0 for others, and when identity is not used."""
        one_hot = (receiver[..., None] == self.receivers).float()
        return one_hot * 0.0 if self.spec.receivers_by == "position" else one_hot

    def plane(self, position: Tensor) -> tuple[Tensor, Tensor]:
        """(b, r, 2) degrees → east, north in units of the half-extent (0 where unknown), and (b, r) whether it is known."""
        known = torch.isfinite(position).all(dim=-1)
        latitude, longitude = self.centre
        north = (position[..., 0] - latitude) * (METRES_PER_DEGREE / self.half_extent_m)
        turn = position[..., 1] - longitude
        turn = turn - 360 * torch.floor((turn + 180) / 360)
        east = turn * (METRES_PER_DEGREE * math.cos(math.radians(latitude)) / self.half_extent_m)
        where = torch.stack([east, north], dim=-1)
        known = known & (self.spec.receivers_by != "identity")
        return torch.where(known[..., None], where, 0.0), known


class RadioMapNet(SessionNet):
    """Levels from the encoder, maps of levels from kriging, Bayes on the grid; see `trainer.network.session.radio_map`.

    The encoder's token is a level and the logarithm of its σ, in units of `level_unit` (mean and σ of what it is trained on).
    """

    def __init__(
        self, spec: SessionSpec, backbone: NetworkSpec, place: SessionPlace, n_bands: int, *, pretrained: bool = False
    ) -> None:
        super().__init__(spec, backbone, place, n_bands, 2, pretrained=pretrained)
        n_receivers, n_cells = len(place.websdr_id), len(place.grid.points_m)
        for name, value in {
            "level_unit": torch.tensor([0.0, 10.0]),
            "mean": torch.zeros(n_receivers, n_cells),
            "variance": torch.ones(n_receivers, n_cells),
            "noise": torch.ones(n_receivers),
            "reading": torch.ones(()),
            "power": torch.zeros(()),
            "law": torch.zeros(2),
            "law_covariance": torch.eye(2),
            "law_variance": torch.ones(2),
            "table": torch.zeros(n_receivers, 4),
            "log_prior": torch.zeros(n_cells),
            "temperature": torch.ones(()),
        }.items():
            self.register_buffer(name, value)
        self.level_unit: Tensor
        self.mean: Tensor
        self.variance: Tensor
        self.noise: Tensor
        self.reading: Tensor
        self.power: Tensor
        self.law: Tensor
        self.law_covariance: Tensor
        self.law_variance: Tensor
        self.table: Tensor
        self.log_prior: Tensor
        self.temperature: Tensor

    def levels(self, token: Tensor) -> tuple[Tensor, Tensor]:
        """Level in dB and its variance in dB², each (b, r), from tokens (b, r, 2)."""
        level = token[..., 0] * self.level_unit[1] + self.level_unit[0]
        sigma = bounded_sigma(token[..., 1]) * self.level_unit[1]
        return level, sigma * sigma

    def log_density(self, token: Tensor, receiver: Tensor, receiver_position: Tensor, present: Tensor) -> Tensor:
        """Ln p(levels | cell) + ln p(cell), with the power p ~ N(0, P) integrated out.

        With residuals d, variances v and w = 1/v of the captures: ln p = −½·(Σ w·d² − P·(Σ w·d)²/(1 + P·Σ w) + Σ ln v +
        ln(1 + P·Σ w)) + constant (matrix determinant lemma; Sherman and Morrison 1950), divided by the temperature.
        """
        level, read = self.levels(token)
        one_hot = self.known(receiver)
        where, has_place = self.plane(receiver_position)
        mapped = one_hot.sum(dim=-1) > 0
        # Where a known receiver stands is in its map already; for others the law says what to expect from how far.
        law_mean, law_variance = self._law(where, has_place)
        mean = torch.where(mapped[..., None], torch.einsum("brk,kc->brc", one_hot, self.mean), law_mean)
        variance = torch.where(mapped[..., None], torch.einsum("brk,kc->brc", one_hot, self.variance), law_variance)
        noise = torch.where(mapped, one_hot @ self.noise, self.law_variance[1])
        usable = present & (mapped | has_place)
        # `noise` holds the mean error of reading; single captures are read better or worse than that.
        own = torch.maximum(noise + read - self.reading, 0.25 * noise)
        variance = variance + own[..., None]
        weight = torch.where(usable[..., None], 1 / variance, 0.0)
        rest = torch.where(usable[..., None], level[..., None] - mean, 0.0)
        heard = 1 + self.power * weight.sum(dim=1)
        pull = (weight * rest).sum(dim=1)
        squared = (weight * rest * rest).sum(dim=1) - self.power * pull * pull / heard
        volume = torch.where(usable[..., None], variance.log(), 0.0).sum(dim=1) + heard.log()
        return (self.log_prior - 0.5 * (squared + volume)) / self.temperature

    def _law(self, where: Tensor, has_place: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance (b, r, cells) of the level of a receiver that only its position is known of."""
        offset = (self.points - where[..., None, :]) * self.half_extent_m  # (b, r, cells, 2)
        metres = (offset * offset).sum(dim=-1).clamp(min=NEAREST_M**2).sqrt()
        decades = (metres / REFERENCE_M).log10()
        mean = self.law[0] + self.law[1] * decades
        spread = self.law_covariance
        variance = spread[0, 0] + 2 * spread[0, 1] * decades + spread[1, 1] * decades * decades + self.law_variance[0]
        return torch.where(has_place[..., None], mean, 0.0), variance

    def set_map(self, radio_map: RadioMap, log_prior: np.ndarray[Any, Any], reading: float) -> None:
        """Take over a fitted map, the prior of the cells, and the mean variance of reading that is part of its noise."""
        values: Mapping[str, Any] = {
            "mean": radio_map.mean,
            "variance": radio_map.variance,
            "noise": radio_map.noise,
            "reading": reading,
            "power": radio_map.power,
            "law": radio_map.law,
            "law_covariance": radio_map.law_covariance,
            "law_variance": [radio_map.law_variance, radio_map.law_noise],
            "table": radio_map.table,
            "log_prior": log_prior,
        }
        for name, value in values.items():
            buffer: Tensor = getattr(self, name)
            buffer.copy_(_float(value).reshape(buffer.shape))


class AttentionNet(SessionNet):
    """Tokens of captures and receivers → self-attention → a pooled token → a mixture of Gaussians."""

    def __init__(
        self, spec: SessionSpec, backbone: NetworkSpec, place: SessionPlace, n_bands: int, *, pretrained: bool = False
    ) -> None:
        super().__init__(spec, backbone, place, n_bands, spec.width, pretrained=pretrained)
        width = spec.width
        self.identity = nn.Linear(len(place.websdr_id), width, bias=False)
        self.unknown = nn.Parameter(torch.zeros(width))
        self.position = nn.Sequential(nn.Linear(3, width), nn.GELU(), nn.Linear(width, width))
        self.pooled = nn.Parameter(torch.randn(width) * 0.02)
        self.blocks = nn.ModuleList([_Block(width, spec.heads, backbone.dropout) for _ in range(spec.layers)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, 6 * spec.components))

    def log_density(self, token: Tensor, receiver: Tensor, receiver_position: Tensor, present: Tensor) -> Tensor:
        """Of the mixture, at the cells."""
        return self.mixture(token, receiver, receiver_position, present).log_density(self.points[None])

    def mixture(self, token: Tensor, receiver: Tensor, receiver_position: Tensor, present: Tensor) -> Mixture:
        """From tokens (b, r, width); the rest as for `forward`."""
        one_hot = self.known(receiver)
        if self.training:
            known = torch.rand(one_hot.shape[:-1], device=one_hot.device) >= UNSEEN
            one_hot = one_hot * known[..., None]
        where, has_place = self.plane(receiver_position)
        is_known = one_hot.sum(dim=-1, keepdim=True)
        place = self.position(torch.cat([where, has_place[..., None].float()], dim=-1))
        token = token + self.identity(one_hot) + (1 - is_known) * self.unknown + place
        token = torch.where(present[..., None], token, 0.0)
        pooled = self.pooled.expand(token.shape[0], 1, -1)
        row = torch.cat([pooled, token], dim=1)
        # The pooled token is always there, so that no softmax is over nothing.
        usable = torch.cat([torch.ones_like(present[:, :1]), present], dim=1)
        for block in self.blocks:
            row = block(row, usable)
        raw = self.head(self.norm(row[:, 0])).reshape(row.shape[0], -1, 6)  # (b, K, 6)
        return Mixture(
            torch.log_softmax(raw[..., 0], dim=1),
            raw[..., 1:3],
            bounded_sigma(raw[..., 3:5] + INITIAL_RAW_SIGMA),
            RHO_LIMIT * torch.tanh(raw[..., 5]),
        )


class _Block(nn.Module):
    """Pre-norm self-attention with a mask, and an MLP; as in torch's `TransformerEncoderLayer`, in operations that export."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.before = nn.LayerNorm(width)
        self.between = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Dropout(dropout), nn.Linear(2 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, row: Tensor, usable: Tensor) -> Tensor:
        """(b, t, width), (b, t) bool → (b, t, width)."""
        b, t, width = row.shape
        parts = self.qkv(self.before(row)).reshape(b, t, 3, self.heads, width // self.heads)
        query, key, value = (parts[:, :, i].transpose(1, 2) for i in range(3))  # (b, head, t, depth)
        score = query @ key.transpose(-1, -2) / math.sqrt(width // self.heads)
        score = torch.where(usable[:, None, None, :], score, -1e9)
        mixed = (torch.softmax(score, dim=-1) @ value).transpose(1, 2).reshape(b, t, width)
        row = row + self.dropout(self.out(mixed))
        out: Tensor = row + self.dropout(self.mlp(self.between(row)))
        return out


def make_session_net(
    spec: SessionSpec, backbone: NetworkSpec, place: SessionPlace, n_bands: int, *, pretrained: bool = False
) -> SessionNet:
    """The network that a spec describes."""
    kind = RadioMapNet if spec.fusion == "radio-map" else AttentionNet
    return kind(spec, backbone, place, n_bands, pretrained=pretrained)


def _float(values: Any) -> Tensor:
    return torch.as_tensor(np.array(values, np.float32))
