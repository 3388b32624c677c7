"""The inner loop of Lightning's `fit`, without what our trainings have no use for in a step.

Lightning's loop calls some two thousand Python functions per step, most of them for features that are switched off here:
profilers, hooks that nobody implements, accumulated gradients, metrics that are logged by step. This loop does the same things
in the same order (fetch, forward, backward, optimizer, schedule, counters, callbacks), and keeps the counters that checkpoints
hold, so a checkpoint of one loop resumes in the other. An epoch's end, validation and the first step of a resumed run are
Lightning's own. The base class is private to Lightning; `pyproject.toml` bounds its version for that reason.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from trainer.fitting.callbacks import STEP_HOOKS
from trainer.fitting.engine import TrainingEpochLoop, lightning, strategies
from trainer.fitting.loader import FeatureDataModule
from trainer.fitting.step import StepModule

Hook = Callable[..., object]


class LeanEpochLoop(TrainingEpochLoop):
    """Steps of one optimizer and one schedule that moves with every step; nothing is logged from within a step.

    Where it does not know its way (a gradient scaler, a strategy other than one device or DDP), Lightning's own step runs.
    """

    def on_run_start(self, data_fetcher: Any) -> None:
        """Look once per epoch at what every step needs."""
        super().on_run_start(data_fetcher)
        trainer = self.trainer
        self._lean = (
            type(trainer.strategy) in {strategies.SingleDeviceStrategy, strategies.DDPStrategy}
            and getattr(trainer.precision_plugin, "scaler", None) is None
            and isinstance(trainer.lightning_module, StepModule)
            and isinstance(getattr(trainer, "datamodule", None), FeatureDataModule)
        )
        self._hooks = {name: _implemented(trainer, name) for name in STEP_HOOKS}

    def advance(self, data_fetcher: Any) -> None:
        """One step."""
        if self.restarting or not self._lean:
            super().advance(data_fetcher)
            return
        trainer, progress = self.trainer, self.batch_progress
        self.val_loop.restarting = False
        batch, _, _ = next(data_fetcher)
        batch_idx = self.batch_idx + 1
        progress.is_last_batch = data_fetcher.done
        module, data = trainer.lightning_module, getattr(trainer, "datamodule")  # noqa: B009 - set, but not declared
        batch = data.transfer_batch_to_device(batch, trainer.strategy.root_device, 0)
        progress.increment_ready()
        self._tell("on_train_batch_start", trainer, module, batch, batch_idx)
        progress.increment_started()
        loss = self._optimize(batch, batch_idx)
        progress.increment_processed()
        self.scheduler_progress.increment_ready()
        trainer.lr_scheduler_configs[0].scheduler.step()
        self.scheduler_progress.increment_completed()
        self._tell("on_train_batch_end", trainer, module, {"loss": loss}, batch, batch_idx)
        progress.increment_completed()

    def _optimize(self, batch: Any, batch_idx: int) -> torch.Tensor:
        """Forward, backward, optimizer; the loss, detached."""
        trainer, done = self.trainer, self.automatic_optimization.optim_progress.optimizer
        strategy, module, optimizer = trainer.strategy, trainer.lightning_module, trainer.optimizers[0]
        done.step.increment_ready()
        loss: torch.Tensor = strategy.training_step(batch, batch_idx)
        done.zero_grad.increment_ready()
        self._tell("on_before_zero_grad", trainer, module, optimizer)
        done.zero_grad.increment_started()
        optimizer.zero_grad()
        done.zero_grad.increment_completed()
        strategy.pre_backward(loss)
        self._tell("on_before_backward", trainer, module, loss)
        loss.backward()  # type: ignore[no-untyped-call]  # torch's
        self._tell("on_after_backward", trainer, module)
        loss = loss.detach()
        strategy.post_backward(loss)
        self._tell("on_before_optimizer_step", trainer, module, optimizer)
        module.on_before_optimizer_step(optimizer)
        optimizer.step()
        done.step.increment_completed()
        return loss

    def on_advance_end(self, data_fetcher: Any) -> None:
        """Behind a step: within an epoch there is nothing to do but to count."""
        stopping = self.trainer.should_stop or self.trainer.received_sigterm
        if self.restarting or not self._lean or self.batch_progress.is_last_batch or stopping:
            super().on_advance_end(data_fetcher)
        else:
            self._batches_that_stepped += 1

    def _tell(self, hook: str, *args: Any) -> None:
        for each in self._hooks[hook]:
            each(*args)


def use_lean_loop(trainer: lightning.Trainer) -> None:
    """Let a trainer that has not begun yet run its steps by `LeanEpochLoop`."""
    trainer.fit_loop.epoch_loop = LeanEpochLoop(trainer, max_steps=trainer.max_steps)


def _implemented(trainer: lightning.Trainer, name: str) -> list[Hook]:
    """What callbacks have to say at a hook, in their order; `leave_out_idle_hooks` has taken out those that do nothing."""
    found = [getattr(each, name) for each in getattr(trainer, "callbacks")]  # noqa: B009 - set, but not declared
    return [hook for hook in found if callable(hook)]
