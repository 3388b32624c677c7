"""`model-iq.onnx`: raw IQ → position and σ.

Framing, taper, DFT, mel, dB and normalization are in the graph, so that whoever serves it needs no signal processing of their
own, and cannot do it otherwise than training did.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import scipy.fft
import torch
from torch import Tensor, nn

from exporter.graph.features_graph import Located, describe_checkpoint, network_to_export
from exporter.graph.onnx_file import ExportedGraph, trace, write
from featurestore.tensor.mel import mel_filters, taper
from featurestore.tensor.spec import FeatureSpec
from trainer.network.checkpoints import Checkpoint, TrainedOn


class Features(nn.Module):
    """`featurestore.tensor.mel` and `Basis.normalize` as a graph: the tensors that a build would store of these samples.

    Levels are computed in float64. ONNX Runtime's DFT of float32 errs by 0.01 dB, and by 0.1 dB when n_fft is no power of two;
    in float64 it takes a few milliseconds more. The rounding to float16 is in the graph, too: the network has seen no other
    values. What remains is the build's own float32, about 0.001 dB, by which a value near the middle between two float16
    numbers may have been rounded to the other one.
    """

    samples: Tensor
    window: Tensor
    filters: Tensor
    mean: Tensor
    std: Tensor
    cosines: Tensor

    def __init__(self, trained_on: TrainedOn) -> None:
        super().__init__()
        spec = self.spec = trained_on.spec
        self.register_buffer("samples", torch.arange(spec.span))
        window = taper(spec)
        self.register_buffer("window", torch.from_numpy(2.0 * window / window.sum()))  # so that |X|² is already P
        self.register_buffer("filters", torch.from_numpy(mel_filters(spec).T.copy()))  # (bin, mel)
        self.register_buffer("mean", torch.from_numpy(trained_on.mean.copy())[..., None])  # (channel, band, 1)
        self.register_buffer("std", torch.from_numpy(trained_on.std.copy())[..., None])
        if spec.n_mfcc:
            cosines = scipy.fft.dct(np.eye(spec.n_mels), type=2, norm="ortho", axis=0)[: spec.n_mfcc]
            self.register_buffer("cosines", torch.from_numpy(cosines).float())  # (coefficient, mel)

    def forward(self, iq: Tensor) -> Tensor:
        """(batch, 2, samples) float32, at least `spec.span` samples → (batch · W, 3, band, frame) float32."""
        spec = self.spec
        spare = iq.shape[2] - spec.span
        last = spec.windows_per_capture - 1
        starts = [k * spare // last for k in range(last + 1)] if last else [spare // 2]  # as FeatureSpec.starts
        # By index, after a slice without end: all shapes from here on are constant but for the batch, and a capture that is too
        # short is an index out of range, an error, instead of a shorter window.
        windows = torch.stack([iq[:, :, start:].index_select(2, self.samples) for start in starts], dim=1)
        windows = windows.flatten(0, 1).double()  # (window, 2, sample)
        magnitude = windows.square().sum(dim=1, keepdim=True).sqrt()
        channels = torch.cat([windows, magnitude], dim=1)  # (window, 3, sample)
        frames = channels.unfold(2, spec.n_fft, spec.hop_length)  # (window, 3, frame, sample)
        spectrum = torch.view_as_real(torch.fft.rfft(frames * self.window))  # (window, 3, frame, bin, re/im)
        power = spectrum.square().sum(dim=-1)
        mel = (power @ self.filters).clamp(min=10.0 ** (spec.floor_db / 10.0))  # (window, 3, frame, mel)
        decibels = (mel.log() * (10.0 / math.log(10.0))).float().transpose(2, 3)
        if spec.n_mfcc:
            decibels = self.cosines @ decibels
        return ((decibels - self.mean) / self.std).half().float()


class LocatedFromIq(nn.Module):
    """Features of IQ, network, geometry.

    The W windows of a capture give W predictions, which become one: the Gaussian with the mean and the variance of their equal
    mixture, in the units of the plane: μ = mean of μₖ, σ² = mean of σₖ² + (μₖ − μ)², for each axis. Windows of one capture
    share its receiver and its path, so that their errors are not independent: weighting by 1/σₖ² as if they were would claim a
    σ too small by up to √W. That of the mixture grows where the windows disagree instead.
    """

    def __init__(self, features: Features, located: Located) -> None:
        super().__init__()
        self.features = features
        self.network = located.network
        self.located = located

    def forward(self, iq: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, 2, samples) float32 → positions (batch, 2) float64, uncertainties (batch, 2) float32."""
        outputs = self.network(self.features(iq))  # (batch · W, 4)
        return self.located.place(combine(outputs, self.features.spec))


def combine(outputs: Tensor, spec: FeatureSpec) -> Tensor:
    """(batch · W, 4) outputs of the network → (batch, 4): mean and standard deviation of the windows' equal mixture."""
    if spec.windows_per_capture == 1:
        return outputs
    windows = outputs.reshape(-1, spec.windows_per_capture, 4)  # (batch, window, output)
    mean, sigma = windows[..., :2], windows[..., 2:]
    centre = mean.mean(dim=1)
    variance = (sigma.square() + (mean - centre[:, None]).square()).mean(dim=1)
    return torch.cat([centre, variance.sqrt()], dim=1)


def export_iq_graph(checkpoint: Checkpoint, path: Path | str, release: str = "0.0.0") -> ExportedGraph:
    """Write `model-iq.onnx`.

    Input: `iq` (batch, 2, samples) float32, I and Q with full scale 1, at `spec.sample_rate_hz`; at least `spec.span` samples,
    and at least one row. Outputs are those of `export_graph`, one row for each capture, whatever `windows_per_capture` is (see
    `LocatedFromIq`).

    Args:
        checkpoint: what `trainer.network.checkpoints.read_checkpoint` gave.
        path: the file to write.
        release: version of the model, as `1.2.0`.

    Raises:
        UsageError: when the weights do not fit the network, the network does not fit one file, or `path` cannot be written.
    """
    spec = checkpoint.features.spec
    located = Located(network_to_export(checkpoint), checkpoint.region)
    module = LocatedFromIq(Features(checkpoint.features), located).eval()
    example = torch.zeros(2, 2, spec.span + 1013)
    dynamic = {0: torch.export.Dim("batch", min=1), 2: torch.export.Dim("samples", min=spec.span)}
    return write(trace(module, (example,), (dynamic,)), path, describe_checkpoint(checkpoint, "iq", release))
