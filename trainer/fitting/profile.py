"""Where a step goes: some steps are timed by phase, a few more are traced by `torch.profiler`; a table and a trace stay.

The timed steps run without the profiler, which costs more host time than a small step does. What the device did comes from the
trace: kernels take as long as ever.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from trainer.fitting.engine import callbacks, lightning
from trainer.fitting.loader import FeatureDataModule

WARM_UP, TIMED, TRACED = 10, 30, 5
OPERATORS = 15
"""Rows of the table of operators."""


@dataclass
class Phases:
    """Seconds of each timed step.

    Attributes:
        data: the host waited for the batch.
        loop: Lightning and callbacks between two steps, and the delivery of the batch.
        forward: random numbers, augmentation, network, loss; on a device, their launch.
        backward: gradients, and their exchange among ranks.
        optimizer: norm, clipping, update, learning rate, callbacks behind the step.
        whole: from the end of one step to that of the next.
        host: of these, CPU time of the thread that trains.
    """

    data: list[float] = field(default_factory=list)
    loop: list[float] = field(default_factory=list)
    forward: list[float] = field(default_factory=list)
    backward: list[float] = field(default_factory=list)
    optimizer: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)
    host: list[float] = field(default_factory=list)

    def lines(self, device_s: float | None) -> list[str]:
        """The table, medians over the steps.

        Args:
            device_s: in which the device had something to do in a step; `None` on a CPU, which is host and device in one.
        """
        whole = median(self.whole)
        rows = [(name, median(values)) for name, values in vars(self).items()]
        if device_s is not None:
            rows.append(("device busy", device_s))
        table = [f"  {name:<12}{seconds * 1e3:>9.3f}{seconds / whole:>9.1%}" for name, seconds in rows]
        return [f"where a step goes (median of {len(self.whole)})", f"  {'':<12}{'ms':>9}{'share':>9}", *table]


class StepProfile(callbacks.Callback):
    """Writes `table.txt` and `trace.json` (for Perfetto or chrome://tracing), once, when training has warmed up.

    Args:
        directory: where to.
        say: prints a line for the user.
    """

    def __init__(self, directory: Path, say: Callable[[str], None]) -> None:
        self._directory = directory
        self._say = say
        self._phases = Phases()
        self._step = 0
        self._timed_from = self._traced_from = self._end = 0
        self._stamps: list[float] = []
        self._ended: tuple[float, float, float] | None = None
        self._profile: profile | None = None

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:  # noqa: ARG002
        """Choose the steps: of a short training, what there is."""
        left = (trainer.max_epochs or 1) * int(trainer.num_training_batches) - trainer.global_step
        self._timed_from = min(WARM_UP, left // 4)
        self._traced_from = self._timed_from + max(1, min(TIMED, left // 4))
        self._end = self._traced_from + max(1, min(TRACED, left // 4))

    def on_train_batch_start(self, trainer: lightning.Trainer, *_: Any) -> None:
        """Before a step, when its batch is there."""
        if self._step == self._traced_from and trainer.is_global_zero:
            activities = [ProfilerActivity.CPU]
            if torch.cuda.is_available():
                activities.append(ProfilerActivity.CUDA)
            self._profile = profile(activities=activities)
            self._profile.start()
        self._stamps = [time.perf_counter()]

    def on_before_backward(self, *_: Any) -> None:
        """Between forward and backward."""
        self._stamps.append(time.perf_counter())

    def on_after_backward(self, *_: Any) -> None:
        """Between backward and optimizer."""
        self._stamps.append(time.perf_counter())

    def on_train_batch_end(self, trainer: lightning.Trainer, *rest: Any) -> None:
        """Behind a step."""
        module = getattr(trainer, "datamodule")  # noqa: B009 - Lightning sets it, but does not declare it
        waited = module.data.train_stats.waited_s if isinstance(module, FeatureDataModule) else 0.0
        now = time.perf_counter(), time.thread_time(), waited
        # The first step of an epoch comes behind a validation, which is no part of it.
        if self._timed_from <= self._step < self._traced_from and rest[-1] and self._ended and len(self._stamps) == 3:
            begun, forward, backward = self._stamps
            data = now[2] - self._ended[2]
            self._phases.data.append(data)
            self._phases.loop.append(begun - self._ended[0] - data)
            self._phases.forward.append(forward - begun)
            self._phases.backward.append(backward - forward)
            self._phases.optimizer.append(now[0] - backward)
            self._phases.whole.append(now[0] - self._ended[0])
            self._phases.host.append(now[1] - self._ended[1])
        self._ended = now
        self._step += 1
        if self._step == self._end:
            self._finish()

    def on_train_end(self, *_: Any) -> None:
        """A training that stopped early."""
        self._finish()

    def _finish(self) -> None:
        profile, self._profile = self._profile, None
        if profile is None:
            return
        profile.stop()
        if not self._phases.whole:
            self._say("warning: too few steps in an epoch for --profile; there must be two at least")
            return
        averages = profile.key_averages()
        on_device = sum(each.self_device_time_total for each in averages) / 1e6 / (self._end - self._traced_from)
        lines = self._phases.lines(on_device if torch.cuda.is_available() else None)
        by = "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
        self._directory.mkdir(parents=True, exist_ok=True)
        profile.export_chrome_trace(str(self._directory / "trace.json"))
        operators = averages.table(sort_by=by, row_limit=OPERATORS)
        (self._directory / "table.txt").write_text("\n".join([*lines, "", operators]))
        for line in [*lines, f"profile: {self._directory}/table.txt, trace.json"]:
            self._say(line)
