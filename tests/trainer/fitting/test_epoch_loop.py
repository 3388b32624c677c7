"""The lean inner loop: a training by it is, to the bit, the training that Lightning's own loop would have done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from trainer import TrainRequest, fit
from trainer.fitting.callbacks import STEP_HOOKS
from trainer.fitting.engine import TrainingEpochLoop, callbacks, lightning
from trainer.fitting.epoch_loop import LeanEpochLoop


class Watch(callbacks.Callback):
    """Notes the hooks of each step, and which loop called them."""

    def __init__(self, *, by_lightning: bool) -> None:
        self.by_lightning = by_lightning
        self.heard: list[str] = []
        self.was_lean = False

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Put Lightning's own loop back."""
        if self.by_lightning:
            theirs = TrainingEpochLoop(trainer)
            theirs.val_loop = trainer.fit_loop.epoch_loop.val_loop
            trainer.fit_loop.epoch_loop = theirs

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """See that the loop is what it should be."""
        loop = trainer.fit_loop.epoch_loop
        self.was_lean = isinstance(loop, LeanEpochLoop) and loop._lean


def noting(name: str) -> Callable[..., None]:
    def hook(watch: Watch, *_: Any) -> None:
        watch.heard.append(name)

    return hook


for step_hook in STEP_HOOKS:  # on the class: hooks that a class lacks are left out
    setattr(Watch, step_hook, noting(step_hook))


def same(ours: Any, theirs: Any) -> bool:
    """Whether two checkpoints' parts are equal, tensors to the bit."""
    if isinstance(ours, torch.Tensor):
        return torch.equal(ours, theirs)
    if isinstance(ours, dict):
        return ours.keys() == theirs.keys() and all(same(ours[name], theirs[name]) for name in ours)
    if isinstance(ours, list | tuple):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    return bool(ours == theirs)


def trained(tiny: TrainRequest, directory: Path, *, by_lightning: bool) -> tuple[dict[str, Any], Watch]:
    watch = Watch(by_lightning=by_lightning)
    request = replace(tiny, directory=directory)
    fit(request, watchers=[watch])
    return torch.load(request.last, weights_only=True), watch


def test_weights_moments_schedule_counters_and_hooks_are_those_of_lightnings_loop(tiny: TrainRequest, tmp_path: Path) -> None:
    (ours, mine), (theirs, other) = (trained(tiny, tmp_path / str(way), by_lightning=way) for way in (False, True))
    assert mine.was_lean
    assert not other.was_lean
    assert mine.heard == other.heard
    assert set(mine.heard) == set(STEP_HOOKS)
    assert ours["global_step"] > 0
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "loops", "global_step", "epoch", "epoch_sums"):
        assert same(ours[part], theirs[part]), part
