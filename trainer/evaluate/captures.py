"""A network for captures over every row of a split."""

from __future__ import annotations

import numpy as np
import torch

from featurestore.progress import Progress
from featurestore.store.feature_set import FeatureSet
from featurestore.store.split import Split
from trainer.evaluate.metrics import Int64
from trainer.evaluate.request import EvaluateRequest
from trainer.network.checkpoints import Checkpoint
from trainer.network.geometry import Float64
from trainer.stream.feature_stream import DataOptions, FeatureStream
from trainer.stream.options import StreamOptions


def run_captures(
    checkpoint: Checkpoint, feature_set: FeatureSet, request: EvaluateRequest, device: torch.device, progress: Progress
) -> tuple[Int64, Float64]:
    """Index in the set, (n,), and the network's outputs, (n, 4), of all rows of the split."""
    net = checkpoint.network().to(device)
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
    split = Split[request.split.upper()]
    stream = StreamOptions(threads=request.threads, cache="off")
    data = FeatureStream(feature_set, DataOptions(request.batch_size), stream, device=device)
    progress.start(f"evaluate {request.split}", data.order(split).table.n_rows, "rows")
    row, outputs = [], []
    try:
        with torch.inference_mode():
            for batch in data.evaluate(split):
                features = batch.features.float().contiguous(memory_format=torch.channels_last)  # (row, 3, band, frame)
                outputs.append(net(features).double().cpu().numpy())
                row.append(batch.row.cpu().numpy())
                progress.advance(len(batch), batch.features.nbytes)
    finally:
        data.close()
    return np.concatenate(row), np.concatenate(outputs)
