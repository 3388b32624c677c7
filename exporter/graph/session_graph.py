"""The graphs of a network for sessions: captures of several receivers → position, covariance, and the density on a grid."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from exporter.graph.features_graph import describe_checkpoint
from exporter.graph.iq_graph import Features
from exporter.graph.metadata import GraphInfo
from exporter.graph.onnx_file import ExportedGraph, trace, write
from exporter.graph.repeated import Repeated
from featurestore.errors import UsageError
from trainer.network.checkpoints import Checkpoint
from trainer.network.session.density import MEDIAN_STEPS, Located, locate
from trainer.network.session.nets import SessionNet
from trainer.network.session.place import SessionPlace

SESSION_OUTPUTS = ("positions", "covariances", "log_density")
SPARE_SAMPLES = 1013
"""Of the example that is traced: any number that no window explains."""


class MedianStep(nn.Module):
    """One step of Weiszfeld's iteration towards the spatial median, as in `trainer.network.session.density.locate`."""

    def __init__(self, softening: float) -> None:
        super().__init__()
        self.softening = softening

    def forward(self, here: Tensor, mass: Tensor, points: Tensor, axes: Tensor, square: Tensor) -> Tensor:
        """One step.

        All but `here` is computed outside: what two steps had in common, the exporter would let the second take from the first.

        Args:
            here: (b, 2).
            mass: (b, cells).
            points: (cells, 2).
            axes: (2, cells) the same.
            square: (cells,) their squared lengths, and the square of a place within its cell.
        """
        squared = square - 2 * here @ axes + (here * here).sum(dim=1, keepdim=True)
        pull = mass * squared.clamp(min=self.softening).rsqrt()
        return pull @ points / pull.sum(dim=1, keepdim=True)


class Summary(nn.Module):
    """`trainer.network.session.density.locate`, all but its iteration's first two steps to be put into a loop of the graph.

    Unrolled, forty steps keep the exporter busy for a minute. Outside of an export this is `locate` itself; that the graph
    computes the same is what validation finds out.
    """

    points: Tensor

    def __init__(self, points: Tensor, cell: float) -> None:
        super().__init__()
        self.cell = cell
        self.register_buffer("points", points)
        self.first_step, self.next_step = MedianStep(cell**2 / 12), MedianStep(cell**2 / 12)

    def forward(self, log_density: Tensor) -> Located:
        """(b, cells) float64 up to a constant → `Located`."""
        located = locate(log_density, self.points, self.cell, steps=0 if torch.compiler.is_exporting() else MEDIAN_STEPS)
        if not torch.compiler.is_exporting():
            return located
        mass = located.log_density.exp() * self.cell**2
        rest = (mass, self.points, self.points.T, (self.points * self.points).sum(dim=-1) + self.cell**2 / 12)
        return located._replace(position=self.next_step(self.first_step(located.position, *rest), *rest))


class LocatedSessions(nn.Module):
    """A network for sessions, and the place that its outputs are in units of.

    The density is summed up in float64: a covariance of float32 would be the difference of numbers a thousand times as large.
    """

    def __init__(self, network: SessionNet, place: SessionPlace) -> None:
        super().__init__()
        self.network = network
        self.region = place.region
        self.grid_shape = place.grid.shape
        self.summary = Summary(torch.from_numpy(place.grid.points_m / place.region.half_extent_m), network.cell)

    def forward(
        self, features: Tensor, receiver_id: Tensor, receiver_position: Tensor, present: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Where transmitters are.

        Args:
            features: (batch, receiver, 3, band, frame) float32, normalized; anything where absent, as in the other inputs.
            receiver_id: (batch, receiver) int64.
            receiver_position: (batch, receiver, 2) float32 latitude, longitude in degrees; NaN where unknown.
            present: (batch, receiver) bool.

        Returns:
            (batch, 2) float64 latitude, longitude of least expected distance, in degrees; (batch, 2, 2) float64 covariance of
            east and north, m²; (batch, rows, columns) float32 log density per m².
        """
        token = self.network.encode(features, present)
        found = self.network.log_density(token, receiver_id, receiver_position, present)
        unit = self.region.half_extent_m
        located = self.summary(found.double())
        log_density = (located.log_density - 2 * math.log(unit)).float()
        # ONNX Runtime's Clip, which geometry needs, would make a plausible position of NaN.
        known = torch.isfinite(located.log_density).all(dim=1, keepdim=True)
        positions = torch.where(known, self.region.decode_torch(located.position.float()), math.nan)
        covariances = torch.where(known[..., None], located.covariance * unit**2, math.nan)
        return positions, covariances, log_density.reshape(-1, *self.grid_shape)


class LocatedSessionsFromIq(nn.Module):
    """Features of IQ, then `LocatedSessions`; the W windows of a capture are W tokens, as in training."""

    def __init__(self, features: Features, located: LocatedSessions) -> None:
        super().__init__()
        self.features = features
        self.located = located

    def forward(
        self, iq: Tensor, receiver_id: Tensor, receiver_position: Tensor, present: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(batch, receiver, 2, samples) float32, at least `spec.span` samples; the rest as for `LocatedSessions`."""
        n_windows = self.features.spec.windows_per_capture
        heard = torch.where(present[..., None, None], iq, 0.0)
        tensors = self.features(heard.flatten(0, 1))  # (batch · receiver · W, 3, band, frame)
        batch, receiver = iq.shape[:2]
        features = tensors.reshape(batch, receiver * n_windows, *tensors.shape[1:])
        if n_windows == 1:
            return self.located(features, receiver_id, receiver_position, present)  # type: ignore[no-any-return]  # a Module's call

        def of_windows(values: Tensor) -> Tensor:
            return values.unsqueeze(2).expand(-1, -1, n_windows, *values.shape[2:]).flatten(1, 2)

        rest = (of_windows(values) for values in (receiver_id, receiver_position, present))
        return self.located(features, *rest)  # type: ignore[no-any-return]  # as above


def sessions_to_export(checkpoint: Checkpoint) -> LocatedSessions:
    """The network of a checkpoint for sessions, without what only training needs, with its geometry.

    Raises:
        UsageError: when the checkpoint locates captures, or its weights do not fit.
    """
    network = checkpoint.session_network()
    if checkpoint.place is None:
        raise UsageError(f"{checkpoint.source} has no place of its sessions; train again")
    for module in network.modules():
        # Not through the encoder's own type: `levels` has no such thing.
        if hasattr(module, "set_grad_checkpointing"):
            getattr(module, "set_grad_checkpointing")(False)  # noqa: B009 - a plain attribute would be typed as a Tensor
    return LocatedSessions(network.requires_grad_(requires_grad=False), checkpoint.place).eval()


def describe_sessions(checkpoint: Checkpoint, source: str, release: str) -> GraphInfo:
    """What a graph of this checkpoint says of itself; arguments as for `describe_checkpoint`."""
    session, place = checkpoint.training.session, checkpoint.place
    if session is None or place is None:
        raise UsageError(f"{checkpoint.source} locates captures, and sessions were asked for; train with --locate session")
    grid = place.grid
    receivers = [
        {"websdr_id": number, **dict(zip(("latitude", "longitude"), where, strict=True))}
        for number, where in zip(place.websdr_id.tolist(), _or_null(place.position), strict=True)
    ]
    about = {
        "fusion": session.fusion,
        "encoder": session.encoder,
        "receivers_by": session.receivers_by,
        "receivers": receivers,
        "grid": {
            "cell_m": grid.cell_m,
            "rows": grid.shape[0],
            "columns": grid.shape[1],
            "east_m": float(grid.east_m[0]),
            "north_m": float(grid.north_m[0]),
        },
    }
    return replace(describe_checkpoint(checkpoint, source, release), session=about)


def _or_null(position: np.ndarray[Any, Any]) -> list[list[float | None]]:
    return [[None if math.isnan(value) else value for value in row] for row in position.tolist()]


def export_session_graph(checkpoint: Checkpoint, path: Path | str, release: str = "0.0.0") -> ExportedGraph:
    """Write `model.onnx` of a network for sessions: inputs and outputs as those of `LocatedSessions.forward`.

    Batch and receivers may have any size from 1; receivers of a session stand in any order.

    Raises:
        UsageError: when the weights do not fit the network, the network does not fit one file, or `path` cannot be written.
    """
    shape = checkpoint.features.spec.tensor_shape
    return _export(sessions_to_export(checkpoint), (2, 3, *shape), {}, path, describe_sessions(checkpoint, "features", release))


def export_session_iq_graph(checkpoint: Checkpoint, path: Path | str, release: str = "0.0.0") -> ExportedGraph:
    """Write `model-iq.onnx` of a network for sessions: `iq` (batch, receiver, 2, samples) float32 instead of features.

    Captures of one call have equally many samples; see `exporter.predict.capture_input` for what to do with others.

    Raises:
        UsageError: as `export_session_graph`.
    """
    span = checkpoint.features.spec.span
    module = LocatedSessionsFromIq(Features(checkpoint.features), sessions_to_export(checkpoint)).eval()
    dynamic = {3: torch.export.Dim("samples", min=span)}
    info = describe_sessions(checkpoint, "iq", release)
    return _export(module, (2, 3, 2, span + SPARE_SAMPLES), dynamic, path, info)


def _export(
    module: nn.Module, shape: tuple[int, ...], more: dict[int, Any], path: Path | str, info: GraphInfo
) -> ExportedGraph:
    axes = {0: torch.export.Dim("batch", min=1), 1: torch.export.Dim("receiver", min=1)}
    example = (
        torch.zeros(shape),
        torch.zeros(shape[:2], dtype=torch.int64),
        torch.zeros(*shape[:2], 2),
        torch.ones(shape[:2], dtype=torch.bool),
    )
    loop = Repeated("summary.first_step", "summary.next_step", MEDIAN_STEPS - 1)
    model = trace(module, example, (axes | more, axes, axes, axes), SESSION_OUTPUTS, loop)
    return write(model, path, info)
