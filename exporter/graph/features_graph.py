"""`model.onnx`: normalized features → position in degrees and σ in metres, the geometry inside the graph."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor, nn

from exporter.graph.metadata import GraphInfo
from exporter.graph.onnx_file import ExportedGraph, trace, write
from featurestore.software import versions
from trainer.network.checkpoints import Checkpoint
from trainer.network.geometry import Region
from trainer.network.model import LocalizationNet

SOFTWARE = ("heimdall-featurestore", "torch", "timm", "onnx", "onnxscript")


class Located(nn.Module):
    """A network and the region that its outputs are in units of.

    Geometry is computed in float32, because ONNX Runtime has no arc tangent of float64; that costs 0.03 m in a region of 200 km
    and less than 0.15 m within 300 km of the centre. Only the centre's degrees are added in float64.
    """

    def __init__(self, network: LocalizationNet, region: Region) -> None:
        super().__init__()
        self.network = network
        self.region = region

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Where the transmitter is.

        Args:
            features: (batch, 3, n_bands, n_frames) float32, normalized as in the feature set.

        Returns:
            (batch, 2) float64 latitude, longitude in degrees: in float32, degrees step by up to 0.85 m; (batch, 2) float32
            σ_east, σ_north in metres.
        """
        return self.place(self.network(features))

    def place(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, 4) outputs of the network → positions and uncertainties.

        Where an output is not a number, position and uncertainty are none, either: ONNX Runtime's `Clip`, which geometry needs,
        would make a plausible position of NaN.
        """
        units = outputs[:, :2]
        known = torch.isfinite(outputs).all(dim=1, keepdim=True)
        positions = torch.where(known, self.region.decode_torch(units), math.nan)
        return positions, torch.where(known, outputs[:, 2:] * self.region.half_extent_m, math.nan)


def network_to_export(checkpoint: Checkpoint) -> LocalizationNet:
    """The network of a checkpoint without what only training needs."""
    network = checkpoint.network()
    if checkpoint.training.network.gradient_checkpointing and not checkpoint.training.network.freeze_backbone:
        getattr(network.backbone, "set_grad_checkpointing")(False)  # noqa: B009 - a plain attribute would be typed as a Tensor
    return network.requires_grad_(requires_grad=False)


def describe_checkpoint(checkpoint: Checkpoint, source: str, release: str) -> GraphInfo:
    """What a graph of this checkpoint says of itself.

    Args:
        checkpoint: what is exported.
        source: name of the graph's input, `features` or `iq`.
        release: version of the model, as `1.2.0`.
    """
    features = checkpoint.features
    return GraphInfo(
        input=source,
        release=release,
        precision="fp32",
        checkpoint_sha256=checkpoint.sha256,
        backbone=_backbone(checkpoint),
        feature_set=features.version,
        spec=features.spec,
        basis=features.basis,
        mean=features.mean,
        std=features.std,
        region=checkpoint.region.to_json(),
        software=versions(SOFTWARE),
    )


def _backbone(checkpoint: Checkpoint) -> str:
    """What encodes a capture: a ConvNeXt's name in timm, or `levels`."""
    session, network = checkpoint.training.session, checkpoint.training.network
    if session is None or session.encoder == network.backbone:
        return network.timm_name
    return session.encoder


def export_graph(checkpoint: Checkpoint, path: Path | str, release: str = "0.0.0") -> ExportedGraph:
    """Write `model.onnx`.

    Input: `features` (batch, 3, n_bands, n_frames) float32, normalized. Outputs: `positions` (batch, 2) float64, degrees;
    `uncertainties` (batch, 2) float32, metres. The batch may have any size from 1.

    Args:
        checkpoint: what `trainer.network.checkpoints.read_checkpoint` gave.
        path: the file to write.
        release: version of the model, as `1.2.0`.

    Raises:
        UsageError: when the weights do not fit the network, the network does not fit one file, or `path` cannot be written.
    """
    module = Located(network_to_export(checkpoint), checkpoint.region).eval()
    example = torch.zeros(2, *checkpoint.features.spec.tensor_shape)
    model = trace(module, (example,), ({0: torch.export.Dim("batch", min=1)},))
    return write(model, path, describe_checkpoint(checkpoint, "features", release))
