"""How fast is ONNX Runtime, against PyTorch eager, on the CPU, in this one run?

    python bench/inference.py --backbones tiny large

Exports networks with random weights (what a network has learned does not change its speed) for the default spec, and measures
PyTorch in inference mode and ONNX Runtime in turns, on the same inputs: medians of alternating calls. Both use as many threads
as there are cores; neither lets them spin between calls. PyTorch runs in channels_last as well: the faster format counts.

The issue's bar: at least 1.5 times as fast as PyTorch at batch 1, for tiny and large.
"""

from __future__ import annotations

import os

os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # or PyTorch's threads spin while ONNX Runtime is measured

import argparse
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from exporter.graph.features_graph import Located, export_graph, network_to_export
from exporter.graph.iq_graph import export_iq_graph
from exporter.graph.runtime import median_latencies_ms, open_session
from featurestore.tensor.spec import FeatureSpec
from trainer.network.checkpoints import Checkpoint, TrainedOn
from trainer.network.geometry import Region, geodesic_m
from trainer.network.model import LocalizationNet
from trainer.network.network_spec import NetworkSpec
from trainer.network.training_spec import TrainingSpec

SPEC = FeatureSpec()
BAR = 1.5
BATCHES = (1, 8, 32)


def random_checkpoint(backbone: str) -> Checkpoint:
    """A network that has learned nothing, but whose blocks count as much as those of one that has."""
    torch.manual_seed(0)
    network = NetworkSpec(backbone)
    net = LocalizationNet(network)
    for name, parameter in net.named_parameters():
        if name.endswith("gamma"):  # 1e-6 in a new ConvNeXt
            parameter.data = torch.randn(parameter.shape) * 0.3
    levels = np.full((3, SPEC.n_bands), -80, np.float32), np.full((3, SPEC.n_bands), 9, np.float32)
    return Checkpoint(
        source="random",
        sha256="0" * 64,
        training=TrainingSpec(network),
        region=Region(45.0, 8.0, 100_000.0),
        features=TrainedOn("random", SPEC, "random", *levels),
        epoch=0,
        step=0,
        run_id=None,
        weights=net.state_dict(),
    )


def measure(checkpoint: Checkpoint, directory: Path, repeats: int) -> dict[int, float]:
    """Print a line for each batch size; the speed-up by batch size."""
    graph = export_graph(checkpoint, directory / "model.onnx")
    session = open_session(graph.path)
    eager = Located(network_to_export(checkpoint), checkpoint.region).eval()
    channels_last = Located(network_to_export(checkpoint), checkpoint.region).eval()
    channels_last.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch leaves it out of its types
    speedups = {}
    for size in BATCHES:
        features = np.random.default_rng(size).normal(size=(size, *SPEC.tensor_shape)).astype(np.float32)
        tensor = torch.from_numpy(features)
        last = tensor.to(memory_format=torch.channels_last)
        calls: dict[str, Callable[[], Any]] = {
            "torch": partial(eager, tensor),
            "channels_last": partial(channels_last, last),
            "onnx": partial(session.run, None, {"features": features}),
        }
        with torch.inference_mode():
            found = median_latencies_ms(calls, max(3, repeats // size))
            difference_m = float(geodesic_m(calls["torch"]()[0].numpy(), calls["onnx"]()[0]).max())
        speedups[size] = min(found["torch"], found["channels_last"]) / found["onnx"]
        print(
            f"| {checkpoint.training.network.backbone} | {size} | {found['torch']:.1f} | {found['channels_last']:.1f} | "
            f"{found['onnx']:.1f} | {speedups[size]:.2f} | {graph.size_bytes / 1e6:.0f} | {difference_m:.3f} |",
            flush=True,
        )
    return speedups


def measure_iq(checkpoint: Checkpoint, directory: Path, repeats: int) -> None:
    """Print what signal processing in the graph costs."""
    whole = open_session(export_iq_graph(checkpoint, directory / "model-iq.onnx").path)
    network = open_session(export_graph(checkpoint, directory / "model.onnx").path)
    iq = np.random.default_rng(1).normal(scale=0.1, size=(1, 2, 192_000)).astype(np.float32)
    features = np.zeros((1, *SPEC.tensor_shape), np.float32)
    calls: dict[str, Callable[[], Any]] = {
        "iq": lambda: whole.run(None, {"iq": iq}),
        "features": lambda: network.run(None, {"features": features}),
    }
    found = median_latencies_ms(calls, repeats)
    name = checkpoint.training.network.backbone
    print(f"\n{name}: model-iq.onnx takes {found['iq']:.1f} ms for one capture of 192,000 samples,")
    print(f"model.onnx {found['features']:.1f} ms for its features")


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbones", nargs="+", default=["tiny", "large"])
    parser.add_argument("--repeats", type=int, default=31)
    parser.add_argument("--smallest", action="store_true", help="just see that it runs (make bench-check)")
    arguments = parser.parse_args()
    if arguments.smallest:
        arguments.backbones, arguments.repeats = ["convnext_atto"], 3
    torch.set_num_threads(os.cpu_count() or 1)
    print("| backbone | batch | torch, ms | torch channels_last, ms | ONNX Runtime, ms | speed-up | file, MB | difference, m |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    low = []
    with tempfile.TemporaryDirectory(prefix="heimdall-bench-") as name:
        for backbone in arguments.backbones:
            speedups = measure(random_checkpoint(backbone), Path(name), arguments.repeats)
            if speedups[1] < BAR:
                low.append(f"{backbone} {speedups[1]:.2f}")
        measure_iq(random_checkpoint(arguments.backbones[0]), Path(name), arguments.repeats)
    print(f"speed-up at batch 1, bar {BAR}: {'MISSED by ' + ', '.join(low) if low else 'holds'}")


if __name__ == "__main__":
    main()
