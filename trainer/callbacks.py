"""What is watched while a network trains: how long it waited for data."""

from __future__ import annotations

from trainer.engine import callbacks, lightning
from trainer.loader import FeatureDataModule

MAX_WAIT_SHARE = 0.05


class DataWait(callbacks.Callback):
    """Logs what each epoch spent on waiting for batches, and advises when that is more than 5%."""

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Log share of waiting, rows and bytes per second, and hits of the cache."""
        module = getattr(trainer, "datamodule")  # noqa: B009 - Lightning sets it, but does not declare it
        if not isinstance(module, FeatureDataModule):
            return
        stats = module.data.train_stats
        seconds = max(stats.seconds, 1e-9)
        share = stats.waited_s / seconds
        pl_module.log("data/wait_share", share, prog_bar=True)
        pl_module.log("data/rows_per_s", stats.rows / seconds)
        pl_module.log("data/mb_per_s", stats.bytes_fetched / seconds / 1e6)
        pl_module.log("data/cache_hits", float(stats.cache_hits))
        if share > MAX_WAIT_SHARE and stats.bytes_fetched:
            print(
                f"warning: {share:.0%} of epoch {trainer.current_epoch} was spent waiting for data "
                f"({stats.rows / seconds:,.0f} rows/s); keep the set in memory (--cache ram), or read with more --threads"
            )
