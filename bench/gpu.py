"""Does training ever wait for data? Epochs fed by the stream, against epochs on one batch that is there all the time.

    python bench/gpu.py [--backbones tiny large] [--batch-sizes 256 512 1024]

Trains the real network (forward, loss, backward, AdamW; bf16 and compiled on a GPU, float32 on a CPU) on a set of noise in
local files, in turn: on one constant batch on the device, on the stream without a cache, cached in memory, and, where there
is a GPU, with all rows on it. Every way has had an epoch before it is measured; ratios are medians over the turns. The wait
is the share of an epoch in which the training loop asked for a batch and had none. CPU time, of the whole process and again
as a ratio to the constant batch, is what the stream costs where other people's work makes the clock useless.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from statistics import median

import torch
from noise_set import noise, write_set

from featurestore.objects.objects import open_objects
from featurestore.store.feature_set import FeatureSet
from featurestore.store.split import Split
from trainer.network.geometry import Region
from trainer.network.loss import localization_loss
from trainer.network.model import LocalizationNet
from trainer.network.network_spec import NetworkSpec
from trainer.network.training_spec import LossSpec
from trainer.stream.batches import Batch
from trainer.stream.feature_stream import DataOptions, FeatureStream
from trainer.stream.options import StreamOptions
from trainer.stream.prefetch import StreamStats

CONSTANT = "constant batch"
GPU_SHARE, CPU_SHARE = 0.97, 1 / 1.03


@dataclass(frozen=True)
class Defaults:
    """What is trained on a kind of device unless the command line says otherwise."""

    backbones: tuple[str, ...]
    batch_sizes: tuple[int, ...]
    rows: int
    wanted: float


ON_GPU = Defaults(("tiny", "large"), (256, 512, 1024), 32768, GPU_SHARE)
ON_CPU = Defaults(("convnext_atto",), (64,), 2048, CPU_SHARE)


@dataclass(frozen=True)
class Epoch:
    """What an epoch took."""

    samples_per_s: float
    wait_share: float
    cpu_s: float


class Training:
    """A network, its optimizer, and targets by row.

    Args:
        backbone: see `NetworkSpec`.
        feature_set: whose positions are learned.
        device: that trains.
    """

    def __init__(self, backbone: str, feature_set: FeatureSet, device: torch.device) -> None:
        self.device = device
        self._on_gpu = device.type == "cuda"
        net = LocalizationNet(NetworkSpec(backbone)).to(device)
        net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch declares it for tensors only
        self._net: Callable[[torch.Tensor], torch.Tensor] = torch.compile(net) if self._on_gpu else net
        self._optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4, fused=self._on_gpu)
        position = feature_set.labels.position
        self._targets = torch.from_numpy(Region.around(position).encode(position)).float().to(device)  # (N, 2)

    def step(self, batch: Batch) -> None:
        """One step, queued."""
        features, row = (part.to(self.device, non_blocking=True) for part in (batch.features, batch.row))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._on_gpu):
            outputs = self._net(features.float().contiguous(memory_format=torch.channels_last))
        loss = localization_loss(outputs, self._targets[row], LossSpec()).mean
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch's
        self._optimizer.step()

    def epoch(self, batches: Iterable[Batch], stats: Callable[[], StreamStats]) -> Epoch:
        """A step on each batch, and what all of them took."""
        self._finish()
        began, cpu_began, n_rows = time.perf_counter(), time.process_time(), 0
        for batch in batches:
            self.step(batch)
            n_rows += len(batch)
        self._finish()
        seconds = time.perf_counter() - began
        return Epoch(n_rows / seconds, stats().waited_s / seconds, time.process_time() - cpu_began)

    def _finish(self) -> None:
        if self._on_gpu:
            torch.cuda.synchronize(self.device)


def measure(training: Training, feature_set: FeatureSet, batch_size: int, repeats: int) -> dict[str, list[Epoch]]:
    """The epochs of each way, in turn."""
    modes = ("off", "ram", "gpu") if training.device.type == "cuda" else ("off", "ram")
    streams = {
        f"cache {mode}": FeatureStream(feature_set, DataOptions(batch_size), StreamOptions(cache=mode), device=training.device)
        for mode in modes
    }
    first = streams["cache off"]
    batches = first.train()
    constant = next(batches).copy()
    batches.close()
    first.seek(0, 0)
    steps = first.order(Split.TRAIN, 0).n_batches

    def train(way: str) -> Epoch:
        if way == CONSTANT:
            return training.epoch(repeat(constant, steps), StreamStats)
        return training.epoch(streams[way].train(), lambda: streams[way].train_stats)

    ways = [CONSTANT, *streams]
    for way in ways:
        train(way)
    epochs: dict[str, list[Epoch]] = {way: [] for way in ways}
    for turn in range(repeats):
        for way in ways if turn % 2 else reversed(ways):
            epochs[way].append(train(way))
    return epochs


def table(epochs: dict[str, list[Epoch]], wanted: float) -> Iterator[str]:
    """Lines: speed of each way, its ratio to the constant batch, and whether that is what is wanted."""
    for way, found in epochs.items():
        ratio = median(one.samples_per_s / other.samples_per_s for one, other in zip(found, epochs[CONSTANT], strict=True))
        line = f"  {way:<16}{median(each.samples_per_s for each in found):>10,.0f}{ratio:>12.3f}"
        if way != CONSTANT:
            cpu = median(one.cpu_s / other.cpu_s for one, other in zip(found, epochs[CONSTANT], strict=True))
            line += (
                f"{median(each.wait_share for each in found):>10.2%}{cpu:>12.3f}   {'holds' if ratio >= wanted else 'MISSED'}"
            )
        yield line


def main() -> None:
    """Measure, and print a table for each backbone and batch size."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    defaults = ON_GPU if device.type == "cuda" else ON_CPU
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbones", nargs="+", default=defaults.backbones)
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=defaults.batch_sizes)
    parser.add_argument("--rows", type=int, default=defaults.rows)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, help="of torch on a CPU; all cores by default")
    parser.add_argument("--smallest", action="store_true", help="just see that it runs (make bench-check)")
    arguments = parser.parse_args()
    if arguments.smallest:
        arguments.backbones, arguments.batch_sizes, arguments.rows, arguments.repeats = ("convnext_atto",), (8,), 16, 1
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(
        f"{name}; torch {torch.__version__}; {arguments.rows:,} rows, {arguments.repeats} turns; wanted {defaults.wanted:.3f}"
    )
    with tempfile.TemporaryDirectory(prefix="heimdall-bench-") as directory:
        feature_set = write_set(open_objects(Path(directory).as_uri()), noise(arguments.rows))
        for backbone in arguments.backbones:
            training = Training(backbone, feature_set, device)
            for batch_size in arguments.batch_sizes:
                print(f"{backbone}, batches of {batch_size}")
                print(f"  {'':<16}{'samples/s':>10}{'of constant':>12}{'wait':>10}{'CPU time':>12}")
                epochs = measure(training, feature_set, batch_size, arguments.repeats)
                print("\n".join(table(epochs, defaults.wanted)), flush=True)


if __name__ == "__main__":
    main()
