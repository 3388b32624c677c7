"""How a study searches: what, by which sampler, and when a trial is given up."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

from featurestore.errors import UsageError
from trainer.network.augment import step_seed
from trainer.sweep.space import Space

if TYPE_CHECKING:
    import optuna

SAMPLERS = ("grid", "tpe", "random")
PRUNERS = ("median", "hyperband")


@dataclass(frozen=True)
class StudyPlan:
    """How a study goes about its search.

    Attributes:
        name: of the study.
        space: what is searched.
        sampler: `grid`: every combination once; `tpe`: where earlier trials were good; `random`.
        pruner: `median`, `hyperband`, or `None`: every trial runs to its end.
        prune_after: epochs before which no trial is given up.
        startup_trials: that are finished before the median counts.
        max_epochs: of a trial.
        trials: of the study, over all processes; `None` is a grid's every combination.
        seed: of what is drawn.
    """

    name: str
    space: Space
    sampler: str = "grid"
    pruner: str | None = "median"
    prune_after: int = 5
    startup_trials: int = 5
    max_epochs: int = 100
    trials: int | None = None
    seed: int = 42

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", self.name):
            raise UsageError(f"--study is {self.name!r}; wanted a name of letters, digits, dots, dashes and underscores")
        for option, value, known in (("--sampler", self.sampler, SAMPLERS), ("--pruner", self.pruner, (None, *PRUNERS))):
            if value not in known:
                raise UsageError(f"{option} is {value!r}; wanted one of {', '.join(filter(None, known))}")
        if self.sampler == "grid" and not self.space.is_grid:
            named = ", ".join(str(parameter) for parameter in self.space.parameters if not parameter.values)
            raise UsageError(f"a grid has no ranges, and {named} is one; list its values, or use --sampler tpe")
        if self.sampler != "grid" and self.trials is None:
            raise UsageError(f"--sampler {self.sampler} has no end of its own; say with --trials how many there shall be")
        if self.prune_after < 1 or self.startup_trials < 1 or (self.trials is not None and self.trials < 1):
            raise UsageError("trials, startup trials, and the epoch after which trials are pruned are numbers from 1")

    def make_sampler(self, number: int) -> optuna.samplers.BaseSampler:
        """For one trial: drawn from its number, so that no two processes begin with the same points."""
        from optuna.samplers import RandomSampler, TPESampler

        seed = step_seed(self.seed, number) % 2**32
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the liar, which keeps simultaneous trials apart, is called experimental
            return TPESampler(seed=seed, constant_liar=True) if self.sampler == "tpe" else RandomSampler(seed)

    def make_pruner(self) -> optuna.pruners.BasePruner:
        """As Optuna has it; epochs are its steps."""
        from optuna.pruners import HyperbandPruner, MedianPruner, NopPruner

        if self.pruner == "hyperband":
            return HyperbandPruner(self.prune_after, max(self.max_epochs, self.prune_after))
        if self.pruner == "median":
            return MedianPruner(self.startup_trials, self.prune_after - 1)
        return NopPruner()
