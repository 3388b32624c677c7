"""Whether `model-iq.onnx` computes what `featurestore` and the network do: on real captures, before anybody relies on it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from exporter.graph.features_graph import Located, network_to_export
from exporter.graph.iq_graph import combine
from exporter.graph.runtime import Outputs
from exporter.predict.predictor import Predictor
from exporter.validate.validate import WORST, Tolerance, Validation, compare
from featurestore.errors import DataQualityError, UsageError
from featurestore.objects.objects import Location, open_objects
from featurestore.source.captures import CaptureReader
from featurestore.store.bases import represent
from featurestore.tensor.mel import LogMel
from featurestore.tensor.rejection import Rejection
from trainer.network.checkpoints import Checkpoint, TrainedOn

IQ_TOLERANCE = Tolerance(absolute_m=1.0, relative=1e-3)
"""Wider than between PyTorch and ONNX Runtime: the build computes levels in float32, so that here and there a stored value is
the float16 number next to the graph's. A float16 step is 0.1% of a standard deviation of its band."""


def validate_iq(
    graph: Path | str | bytes, checkpoint: Checkpoint, paths: Sequence[Path | str], tolerance: Tolerance = IQ_TOLERANCE
) -> Validation:
    """Compare `model-iq.onnx` with the checkpoint it came from, on captures in files.

    Args:
        graph: file, or its content; its input must be `iq`.
        checkpoint: what PyTorch runs, on the tensors that a build would store.
        paths: .npy captures, at the spec's sample rate; those that a build would reject are refused.
        tolerance: see `IQ_TOLERANCE`.

    Raises:
        UsageError: when the graph or a capture is not usable.
        DataQualityError: when there is no capture. (A graph that fails only does so in `Validation.require`.)
    """
    if not paths:
        raise DataQualityError("there is no capture to validate the IQ graph on; give some .npy files")
    predictor = Predictor(graph)
    predicted = list(predictor.predict_files(paths, checkpoint.features.spec.sample_rate_hz))
    actual = np.concatenate([item.positions for item in predicted]), np.concatenate([item.uncertainties for item in predicted])
    result, distances = compare(expected_of(checkpoint, paths), actual, tolerance, 1)
    order = np.argsort(-distances, kind="stable")[:WORST]
    return Validation(
        graph=predictor.name,
        rows=len(paths),
        split="captured",
        feature_set=checkpoint.features.version,
        tolerance=tolerance,
        batches=(result,),
        worst=tuple((f"capture {paths[index]}", float(distances[index])) for index in order),
        latency_ms={},
        unit="captures",
    )


def expected_of(checkpoint: Checkpoint, paths: Sequence[Path | str]) -> Outputs:
    """What `featurestore` and PyTorch make of captures: (n, 2) float64 degrees, (n, 2) float32 metres."""
    network = network_to_export(checkpoint)
    located = Located(network, checkpoint.region)
    parts = []
    with torch.inference_mode():
        for path in paths:
            features = torch.from_numpy(stored_features(checkpoint.features, Path(path)).astype(np.float32))
            parts.append(located.place(combine(network(features), checkpoint.features.spec)))
    positions, uncertainties = (torch.cat(values).numpy() for values in zip(*parts, strict=True))
    return positions, uncertainties


def stored_features(features: TrainedOn, path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.float16]]:
    """The tensors that a build would store of a capture: (W, 3, band, frame) float16.

    Raises:
        UsageError: when a build would reject it.
    """
    spec = features.spec
    objects = open_objects(Location.parse(str(path.parent)).url)
    compute = LogMel(spec)
    rows = []
    for samples in CaptureReader(objects, spec).read(path.name, path.stat().st_size, range(spec.windows_per_capture)).windows:
        if isinstance(samples, Rejection):
            raise UsageError(f"capture {path} {samples.detail}; leave it out, as a build does")
        rows.append(represent(spec, compute(samples)))
    normalized = (np.stack(rows) - features.mean[..., None]) / features.std[..., None]
    return normalized.astype(np.float16)
