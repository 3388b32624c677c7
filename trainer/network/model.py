"""The network: a timm ConvNeXt, a neck to 512, and two heads that say where the transmitter is and how sure that is."""

from __future__ import annotations

import itertools
import math
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from featurestore.errors import ServiceUnavailableError, UsageError, first_line
from featurestore.tensor.spec import CHANNELS
from trainer.network.loss import bounded_sigma
from trainer.network.network_spec import NetworkSpec
from trainer.network.torchvision_ops import declare_missing_ops

STRIDE = 32  # of every ConvNeXt: the stem's 4, then 2 in each of three stages
EMBEDDING = 512
HEAD = (EMBEDDING, 128, 64, 2)
INITIAL_RAW_SIGMA = 1.95
"""`bounded_sigma` makes 0.5 of it, about the spread of targets over the region: a network that knows nothing yet should say so.
At 0 it would claim 0.1, and the likelihood of the first steps would be steep with errors of five and more σ."""


class LocalizationNet(nn.Module):
    """Log-mel tensors of a capture → where its transmitter is, and how uncertain that is.

    The parts are `backbone` (timm, without classifier), `neck`, `position_head` and `uncertainty_head`. Run it in any memory
    format; `net.to(memory_format=torch.channels_last)` is the fast one.

    Args:
        spec: what to build.
        pretrained: starts the backbone from the weights that timm's hub has for it.

    Raises:
        UsageError: when there are no weights for this backbone.
        ServiceUnavailableError: when the hub does not answer.
    """

    def __init__(self, spec: NetworkSpec, *, pretrained: bool = False) -> None:
        super().__init__()
        self.spec = spec
        self.backbone = _create_backbone(spec, pretrained=pretrained)
        width = int(getattr(self.backbone, "head_hidden_size"))  # noqa: B009 - a plain attribute would be typed as a Tensor
        # The backbone's own last norm carries scales learned elsewhere; this one evens them out, whatever the backbone.
        self.neck = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, EMBEDDING), nn.GELU())
        self.position_head = _head(spec.dropout)
        self.uncertainty_head = _head(spec.dropout)
        _initialize(self.neck)
        _initialize(self.position_head)
        _initialize(self.uncertainty_head, last_bias=INITIAL_RAW_SIGMA)
        if spec.freeze_backbone:
            self.backbone.requires_grad_(requires_grad=False)
            self.backbone.eval()
        elif spec.gradient_checkpointing:  # frozen, the backbone keeps no activations that could be saved
            getattr(self.backbone, "set_grad_checkpointing")(True)  # noqa: B009 - as above

    def forward(self, x: Tensor) -> Tensor:
        """Positions and their uncertainties, in units of the region's half-extent.

        Args:
            x: (B, 3, n_bands, n_frames), normalized. Sides that are no multiple of 32 are padded with 0 at their end.

        Returns:
            (B, 4): east, north (unbounded), σ_east, σ_north (in [0.01, 1.0]); float32 also under autocast.

        Raises:
            UsageError: when `x` has another number of axes or channels, or an empty band or frame axis.
        """
        embedding = self.embed(x)
        position = _without_autocast(self.position_head, embedding)  # (B, 2)
        sigma = bounded_sigma(_without_autocast(self.uncertainty_head, embedding))  # (B, 2)
        return torch.cat([position, sigma], dim=1)

    def embed(self, x: Tensor) -> Tensor:
        """What both heads see: (B, 3, n_bands, n_frames) → (B, 512)."""
        return _without_autocast(self.neck, self.backbone(_pad(x)))

    def train(self, mode: bool = True) -> Self:
        """As in `nn.Module`, but a frozen backbone stays in evaluation mode: no stochastic depth, no statistics that move."""
        super().train(mode)
        if self.spec.freeze_backbone:
            self.backbone.eval()
        return self


def _create_backbone(spec: NetworkSpec, *, pretrained: bool) -> nn.Module:
    declare_missing_ops()
    import timm
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    if pretrained and not timm.models.is_model_pretrained(spec.timm_name):
        raise UsageError(
            f"timm has no pretrained weights for the backbone {spec.timm_name}; take another backbone (such as tiny), "
            "or leave --pretrained out, or give your own with --weights FILE.safetensors"
        )
    try:
        # num_classes=0 leaves pooling and the last norm, and drops the classifier.
        return timm.create_model(
            spec.timm_name, pretrained=pretrained, in_chans=len(CHANNELS), num_classes=0, drop_path_rate=spec.drop_path
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, ConnectionError, TimeoutError) as error:
        cause = first_line(error)
        raise ServiceUnavailableError(
            f"the hub with timm's pretrained weights of {spec.timm_name} does not answer ({cause}); try again where it can be "
            "reached, or fetch the model's .safetensors there and give it with --weights"
        ) from error


def _head(dropout: float) -> nn.Sequential:
    """512 → 128 → 64 → 2."""
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(HEAD[:-1]):
        layers += [nn.Linear(before, after), nn.GELU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers, nn.Linear(HEAD[-2], HEAD[-1]))


def _initialize(part: nn.Sequential, last_bias: float = 0.0) -> None:
    """Hidden layers keep the scale of their input; the last layer of a head starts near its bias: 0 is the region's middle."""
    for layer in part:
        if isinstance(layer, nn.Linear):
            last = layer.out_features == HEAD[-1]
            gain = 0.1 if last else math.sqrt(2)  # √2: GELU halves the power, as ReLU does
            nn.init.normal_(layer.weight, std=gain / math.sqrt(layer.in_features))
            nn.init.constant_(layer.bias, last_bias if last else 0.0)


def _pad(x: Tensor) -> Tensor:
    """(B, 3, n_bands, n_frames), its last two axes grown to multiples of the backbone's stride.

    A strided convolution never reads what does not fill its last step: 13 cepstral coefficients would not leave a single cell,
    and 40 would silently lose some. Padding keeps all of them, and 0 is each band's mean in normalized tensors, hence
    says nothing; stretching to 32 instead would invent values between coefficients that are no neighbours.
    """
    if x.ndim != 4 or x.shape[1] != len(CHANNELS) or 0 in x.shape[2:]:
        raise UsageError(
            f"the network got a tensor of shape {tuple(x.shape)}, and takes (batch, {len(CHANNELS)}, n_bands, n_frames) "
            "with at least one band and one frame; give it normalized tensors of a feature set"
        )
    bands, frames = (-side % STRIDE for side in x.shape[2:])
    return functional.pad(x, (0, frames, 0, bands)) if bands or frames else x


def _without_autocast(part: nn.Module, x: Tensor) -> Tensor:
    """Runs neck or head in float32: bfloat16 has steps of 1/256 below 1, which is 370 m in a region of 190 km.

    They are 1% of the work or less. Weights that were cast themselves (`bf16-true`) decide how they compute; what comes out is
    float32 (or float64) all the same.
    """
    x = x.to(next(part.parameters()).dtype)
    kind = x.device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):  # "meta", for one, knows none
        with torch.autocast(kind, enabled=False):
            y: Tensor = part(x)
    else:  # no context manager here: an ONNX graph has no word for it
        y = part(x)
    return y.to(torch.promote_types(y.dtype, torch.float32))
