"""What is watched while a network trains: progress, and how long it waited for data."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any

from featurestore.progress import Progress
from trainer.fitting.engine import callbacks, lightning
from trainer.fitting.loader import FeatureDataModule
from trainer.stream.batches import Batch

MAX_WAIT_SHARE = 0.05
STEP_HOOKS = (
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
)


def leave_out_idle_hooks(watchers: Sequence[callbacks.Callback]) -> None:
    """Spare Lightning calling hooks of a step in which nothing happens: eight callbacks have over forty of them.

    Lightning passes over a hook that is not callable. `ModelCheckpoint` acts behind steps only where it is told to save there.
    """
    for watcher in watchers:
        for hook in STEP_HOOKS:
            by_epoch = isinstance(watcher, callbacks.ModelCheckpoint) and type(watcher) is callbacks.ModelCheckpoint
            if getattr(type(watcher), hook) is getattr(callbacks.Callback, hook) or by_epoch:
                setattr(watcher, hook, None)


class DataWait(callbacks.Callback):
    """Logs what each epoch spent on waiting for batches, and advises when that is more than 5%.

    Args:
        say: prints a line for the user.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._step_ended = 0.0

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,  # noqa: ARG002 - Lightning's signature
        pl_module: lightning.LightningModule,  # noqa: ARG002
        outputs: Any,  # noqa: ARG002
        batch: Batch,  # noqa: ARG002
        batch_idx: int,  # noqa: ARG002
    ) -> None:
        """The stream learns of a step's end by the next request only, and after the last step there is none."""
        self._step_ended = perf_counter()

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Log share of waiting, rows and bytes per second, and hits of the cache."""
        module = getattr(trainer, "datamodule")  # noqa: B009 - Lightning sets it, but does not declare it
        if not isinstance(module, FeatureDataModule):
            return
        stats = module.data.train_stats
        seconds = max(self._step_ended - stats.began, 1e-9)
        share = stats.waited_s / seconds
        pl_module.log("data/wait_share", share, sync_dist=True)
        pl_module.log("data/rows_per_s", stats.rows / seconds, sync_dist=True, reduce_fx="sum")
        pl_module.log("data/mb_per_s", stats.bytes_fetched / seconds / 1e6, sync_dist=True, reduce_fx="sum")
        pl_module.log("data/cache_hits", float(stats.cache_hits), sync_dist=True, reduce_fx="sum")
        if share > MAX_WAIT_SHARE and stats.bytes_fetched:
            self._say(
                f"warning: {share:.0%} of epoch {trainer.current_epoch + 1} was spent waiting for data "
                f"({stats.rows / seconds:,.0f} rows/s); keep the set in memory (--cache ram), or read with more --threads"
            )


class EpochProgress(callbacks.Callback):
    """Shows how far training is, and one line for each epoch.

    Args:
        progress: where to.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:  # noqa: ARG002
        """Begin to count steps; of a resumed run those that are left."""
        n_batches = int(trainer.num_training_batches)
        self._progress.start("train", (trainer.max_epochs or 0) * n_batches - trainer.global_step, "steps")

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,  # noqa: ARG002 - Lightning's signature
        pl_module: lightning.LightningModule,  # noqa: ARG002
        outputs: Any,  # noqa: ARG002
        batch: Batch,  # noqa: ARG002
        batch_idx: int,  # noqa: ARG002
    ) -> None:
        """One more."""
        self._progress.advance(1)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:  # noqa: ARG002
        """Sum the epoch up."""
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        parts = [
            f"{name} {metrics[name]:.4f}" for name in ("train/loss", "val/loss") if math.isfinite(metrics.get(name, math.nan))
        ]
        if "val/error_median_m" in metrics:
            parts.append(f"median error {metrics['val/error_median_m'] / 1000:.2f} km")
        parts.append(f"{metrics.get('data/rows_per_s', 0):,.0f} rows/s")
        parts.append(f"{metrics.get('data/wait_share', 0):.1%} waiting for data")
        self._progress.say(f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}: {', '.join(parts)}")
