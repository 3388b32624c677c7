"""How much host time does a step of `heimdall train` take, and would a device ever wait for it?

    python bench/training.py [--device-ms 1 2 5 10] [--s3] [--smallest]

Everything here runs the real `fit`, with its callbacks, stream, schedule and checkpoints; only the network is another one.

* Host time per step: a network of one layer, batches of 32, one thread, against Lightning's bare loop and bare torch on one
  constant batch. Measured is CPU time of the thread that trains, in blocks of 16 steps, of which the median counts: what
  other people's work takes from the clock is not in it. Python calls per step are counted, too, and depend on nothing.
* Idle share: batches of 256, the device played by a clock (see `Device`), from RAM: how long it had nothing to do, when each
  step takes it so many milliseconds. Other work on the machine keeps the training thread from its processor: for `kept off` of
  the time, which is left out. Where that is much, the figures are of a thread with a processor of its own, and no more.
* Epochs: the same from files and from RAM (and from embedded S3), at 50,000 samples/s, against an epoch without any gap.

A GPU, where there is one, is left alone: `bench/gpu.py` trains there.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # the loop is measured, and not torch's threads

import argparse
import cProfile
import logging
import pstats
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
from noise_set import noise, write_set
from torch import Tensor, nn

from featurestore import services
from featurestore.objects.objects import open_objects
from featurestore.store.feature_set import FeatureSet
from featurestore.tensor.spec import SplitSpec
from trainer import TrainRequest, fit
from trainer.fitting.engine import callbacks, lightning
from trainer.fitting.request import Hardware
from trainer.network.network_spec import NetworkSpec
from trainer.network.training_spec import NOTHING, AugmentSpec, OptimizerSpec, TrainingSpec
from trainer.stream.options import StreamOptions

SMALL_BATCH, BATCH = 32, 256
WARM_UP, BLOCK = 20, 16
OF_LIGHTNING = 1.5
IDLE = {1.0: 0.03, 5.0: 0.01}
SAMPLES_PER_S, OF_IDEAL = 50_000, 0.97


class OneLayer(nn.Module):
    """The least that can be trained: takes batches in either memory order as they come."""

    def __init__(self, spec: NetworkSpec | None = None, *, pretrained: bool = False) -> None:  # noqa: ARG002 - as LocalizationNet
        super().__init__()
        self.layer = nn.Linear(3 * 128 * 32, 4)
        nn.init.zeros_(self.layer.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(b, 3, 128, 32) → (b, 4)."""
        flat = x.permute(0, 2, 3, 1) if x.is_contiguous(memory_format=torch.channels_last) else x
        y: Tensor = self.layer(flat.flatten(1))
        return torch.cat([y[:, :2], y[:, 2:].sigmoid() + 0.1], dim=1)


class Stamp(nn.Module):
    """A network whose work is the device's: on the host it costs a few launches, whatever the batch."""

    def __init__(self, spec: NetworkSpec | None = None, *, pretrained: bool = False) -> None:  # noqa: ARG002 - as LocalizationNet
        super().__init__()
        self.layer = nn.Linear(1, 4)
        nn.init.zeros_(self.layer.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(b, 3, 128, 32) → (b, 4), of a single value."""
        y: Tensor = self.layer(x[:, 0, 0, :1].float())
        return torch.cat([y[:, :2], y[:, 2:].sigmoid() + 0.1], dim=1)


class HostClock(callbacks.Callback):
    """CPU time of the training thread behind each step."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_batch_end(self, *_: Any) -> None:
        """Note it."""
        self.ends.append(time.thread_time())

    @property
    def ms(self) -> float:
        """Per step."""
        blocks = self.ends[WARM_UP::BLOCK] if len(self.ends) > WARM_UP + BLOCK else [self.ends[0], self.ends[BLOCK]]
        return median(end - begin for begin, end in pairwise(blocks)) / BLOCK * 1e3


class Calls(callbacks.Callback):
    """Python calls of the training thread."""

    def __init__(self) -> None:
        self._profile = cProfile.Profile()
        self._steps = 0

    def on_train_batch_end(self, *_: Any) -> None:
        """Count from the first steps on."""
        self._steps += 1
        if self._steps == WARM_UP:
            self._profile.enable()
        if self._steps == WARM_UP + BLOCK:
            self._profile.disable()

    @property
    def per_step(self) -> float:
        """Calls."""
        return float(getattr(pstats.Stats(self._profile), "total_calls")) / BLOCK  # noqa: B009 - its stubs lack it


def kept_off_s() -> float:
    """Seconds for which this thread could have run, but no processor was free (Linux counts them; elsewhere 0)."""
    try:
        counted = Path(f"/proc/self/task/{threading.get_native_id()}/schedstat").read_text().split()
    except OSError:
        return 0.0
    return int(counted[1]) / 1e9


def own_time() -> float:
    """A clock that stands still while other work has this thread's processor."""
    return time.perf_counter() - kept_off_s()


class Device(HostClock):
    """Plays a device that computes beside the host, `depth` steps behind it at most, as CUDA's queue of launches allows.

    No thread, only a clock: a step begins when the device is free and the host has queued it; if the device was free before, it
    was idle meanwhile. A host that is too far ahead sleeps, which leaves the processor to the stream. The clock is
    `own_time`; what other work on the machine does to the threads of the stream is not taken out.

    Args:
        step_s: what a step takes.
        depth: steps that can be queued.

    Attributes:
        idle: of each epoch, the share in which it had nothing to do, the wait for the first batch included.
        kept_off: of each epoch, the share of the time on the wall in which the clock stood still.
        gaps_s: between the last step of an epoch and the request for the first batch of the next one: metrics, checkpoints.
    """

    def __init__(self, step_s: float, depth: int = 2) -> None:
        super().__init__()
        self.idle: list[float] = []
        self.kept_off: list[float] = []
        self.gaps_s: list[float] = []
        self._step_s = step_s
        self._depth = depth
        self._free_at = self._began = self._idle_s = 0.0
        self._wall = self._off = 0.0

    def on_train_epoch_start(self, *_: Any) -> None:
        """What the host did since the last step was not the stream's doing."""
        self._wall, self._off = time.perf_counter(), kept_off_s()
        now = own_time()
        if self._free_at:
            self.gaps_s.append(max(0.0, now - self._free_at))
        self._began, self._idle_s = max(now, self._free_at), 0.0
        self._free_at = self._began

    def on_train_batch_end(self, *_: Any) -> None:
        """The host has queued a step."""
        super().on_train_batch_end()
        now = own_time()
        self._idle_s += max(0.0, now - self._free_at)
        self._free_at = max(self._free_at, now) + self._step_s
        ahead = self._free_at - self._depth * self._step_s - now
        if ahead > 0:
            time.sleep(ahead)

    def on_train_epoch_end(self, *_: Any) -> None:
        """Note the shares; the first epoch, which fills what is kept, is left out."""
        if self.gaps_s:
            self.idle.append(self._idle_s / (self._free_at - self._began))
            self.kept_off.append((kept_off_s() - self._off) / (time.perf_counter() - self._wall))


class ConstantBatch(lightning.LightningModule):
    """One layer on one batch that is there all the time: what Lightning's loop costs by itself, and torch's."""

    def __init__(self, n_steps: int) -> None:
        super().__init__()
        self.net = OneLayer()
        self.batches = Repeated((torch.randn(SMALL_BATCH, 3, 128, 32).half(), torch.randn(SMALL_BATCH, 2)), n_steps)

    def train_dataloader(self) -> Repeated:
        """The batch, again and again."""
        return self.batches

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:  # noqa: ARG002 - Lightning's signature
        """A loss like that of `fit`."""
        features, targets = batch
        outputs = self.net(features.float())
        mean, sigma = outputs[:, :2], outputs[:, 2:]
        loss: Tensor = (((mean - targets) / sigma).square() / 2 + sigma.log()).mean()
        return loss

    def configure_optimizers(self) -> Any:
        """AdamW as torch has it by default."""
        return torch.optim.AdamW(self.net.parameters(), 1e-4)


@dataclass(frozen=True)
class Repeated:
    """A batch, so many times."""

    batch: tuple[Tensor, Tensor]
    count: int

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter([self.batch] * self.count)


Watch = Callable[[callbacks.Callback], None]
"""Runs an epoch with a callback behind each step."""


def bare_torch(n_steps: int) -> Watch:
    """The loop that anybody would write."""

    def run(watch: callbacks.Callback) -> None:
        module = ConstantBatch(n_steps)
        optimizer = module.configure_optimizers()
        for number, batch in enumerate(module.batches):
            loss = module.training_step(batch, number)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch's
            optimizer.step()
            watch.on_train_batch_end(*[None] * 5)  # type: ignore[arg-type]  # they are not looked at

    return run


def bare_lightning(n_steps: int) -> Watch:
    """Lightning without any callback, logger or checkpoint."""

    def run(watch: callbacks.Callback) -> None:
        lightning.Trainer(
            accelerator="cpu",
            max_epochs=1,
            logger=False,
            callbacks=[watch],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        ).fit(ConstantBatch(n_steps))

    return run


@contextmanager
def network(kind: type[nn.Module]) -> Iterator[None]:
    """`fit` trains another network than ConvNeXt."""
    with patch("trainer.fitting.module.LocalizationNet", kind):
        yield


def train(feature_set: FeatureSet, batch_size: int, watch: callbacks.Callback, stream: StreamOptions, **more: Any) -> None:
    """The real `fit`; `more` is `augment` and `epochs`."""
    optimizer = OptimizerSpec(1e-4, warmup_epochs=0, max_epochs=more.get("epochs", 1))
    training = TrainingSpec(NetworkSpec("convnext_atto"), optimizer, augment=more.get("augment", AugmentSpec()))
    with tempfile.TemporaryDirectory() as directory:
        request = TrainRequest(
            feature_set.objects.location.url,
            feature_set.version,
            Path(directory),
            training,
            batch_size=batch_size,
            stream=stream,
            hardware=Hardware(accelerator="cpu"),
        )
        fit(request, watchers=[watch])


def host_time(feature_set: FeatureSet, repeats: int) -> Iterator[str]:
    """Lines: CPU time and Python calls of a step, each way in turn."""
    n_steps = feature_set.manifest.counts["train"] // SMALL_BATCH
    ram = StreamOptions(cache="ram")

    def ours(augment: AugmentSpec) -> Watch:
        return lambda watch: train(feature_set, SMALL_BATCH, watch, ram, augment=augment)

    bare = "Lightning's bare loop"
    ways = {
        "bare torch": bare_torch(n_steps),
        bare: bare_lightning(n_steps),
        "fit, no augmentation": ours(NOTHING),
        "fit": ours(AugmentSpec()),
    }
    found: dict[str, list[float]] = {way: [] for way in ways}
    with network(OneLayer):
        for _ in range(repeats):
            for way, run in ways.items():
                clock = HostClock()
                run(clock)
                found[way].append(clock.ms)
        calls = {way: Calls() for way in ways}
        for way, run in ways.items():
            run(calls[way])
    yield f"host time of a step, one layer, batches of {SMALL_BATCH}, {repeats} turns"
    yield f"  {'':<24}{'ms':>8}{'of Lightning':>14}{'Python calls':>14}"
    for way, times in found.items():
        ratio = median(one / other for one, other in zip(times, found[bare], strict=True))
        said = f"   wanted {OF_LIGHTNING}: {'holds' if ratio <= OF_LIGHTNING else 'MISSED'}" if way == "fit" else ""
        yield f"  {way:<24}{median(times):>8.2f}{ratio:>14.2f}{calls[way].per_step:>14,.0f}{said}"


def played(feature_set: FeatureSet, step_s: float, stream: StreamOptions, epochs: int) -> Device:
    """A device that has trained so many epochs, and one before."""
    device = Device(step_s)
    with network(Stamp), patch("trainer.fitting.module.augmented_losses", launched):
        train(feature_set, BATCH, device, stream, epochs=epochs + 1)
    return device


def launched(net: nn.Module, features: Tensor, targets: Tensor, spec: TrainingSpec, hold_sigma: bool) -> Any:
    """`augmented_losses` as one graph that the host launches: the device's work is not the host's."""
    from trainer.network.loss import localization_loss

    return localization_loss(net(features), targets, spec.loss, hold_sigma=hold_sigma)


def idle_shares(feature_set: FeatureSet, device_ms: list[float], repeats: int) -> Iterator[str]:
    """Lines: how long a device would have nothing to do."""
    yield f"a device, batches of {BATCH} from RAM, {repeats} epochs"
    yield f"  {'ms per step':>11}{'idle':>8}{'kept off':>10}{'host ms':>9}{'gap ms':>8}"
    for step_ms in device_ms:
        device = played(feature_set, step_ms / 1e3, StreamOptions(cache="ram"), repeats)
        share, wanted = median(device.idle), IDLE.get(step_ms)
        said = "" if wanted is None else f"   wanted {wanted:.0%}: {'holds' if share <= wanted else 'MISSED'}"
        off, gap_ms = median(device.kept_off), median(device.gaps_s) * 1e3
        yield f"  {step_ms:>11.1f}{share:>8.1%}{off:>10.1%}{device.ms:>9.2f}{gap_ms:>8.0f}{said}"


def epochs(feature_set: FeatureSet, caches: tuple[str, ...], repeats: int) -> Iterator[str]:
    """Lines: epochs against one without a gap."""
    step_s = BATCH / SAMPLES_PER_S
    yield f"epochs at {SAMPLES_PER_S:,} samples/s, {feature_set.objects.location.url.split(':')[0]}, {repeats} epochs"
    for cache in caches:
        device = played(feature_set, step_s, StreamOptions(cache=cache), repeats)
        of_ideal, off = 1 - median(device.idle), median(device.kept_off)
        said = f"   wanted {OF_IDEAL}: {'holds' if of_ideal >= OF_IDEAL else 'MISSED'}" if cache == "off" else ""
        yield f"  cache {cache:<6}{of_ideal:>10.3f} of the ideal, kept off {off:.1%}{said}"


def bench(arguments: argparse.Namespace, store: str) -> Iterator[str]:
    """All lines."""
    feature_set = write_set(open_objects(store), noise(arguments.rows), split=SplitSpec(val_fraction=0.02, test_fraction=0))
    if not arguments.s3:
        yield from host_time(feature_set, arguments.repeats)
        yield from idle_shares(feature_set, arguments.device_ms, arguments.repeats)
    yield from epochs(feature_set, ("off",) if arguments.s3 else ("off", "ram"), arguments.repeats)


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=16384)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device-ms", nargs="+", type=float, default=[1.0, 2.0, 5.0, 10.0], help="of a step")
    parser.add_argument("--s3", action="store_true", help="epochs from the embedded S3 server instead")
    parser.add_argument("--smallest", action="store_true", help="see that it runs")
    arguments = parser.parse_args()
    if arguments.smallest:
        arguments.rows, arguments.repeats, arguments.device_ms = 4096, 1, [1.0]
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", module="lightning")
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="heimdall-bench-") as directory:
        if arguments.s3:
            with services.running(Path(directory) / "services", postgres=False, buckets=["bench"]) as running:
                os.environ.update(running.environment)
                print("\n".join(bench(arguments, "s3://bench/store")))
        else:
            for line in bench(arguments, Path(directory, "store").as_uri()):
                print(line, flush=True)


if __name__ == "__main__":
    main()
