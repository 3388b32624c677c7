"""How a study searches: what, by which sampler, and when a trial is given up."""

from __future__ import annotations

import itertools
import random
import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from optuna.pruners import BasePruner, MedianPruner, NopPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler

from featurestore.errors import UsageError
from trainer.fitting.request import TrainRequest
from trainer.network.augment import step_seed
from trainer.sweep.defaults import GRID, RANGES, TRIALS
from trainer.sweep.space import Parameter, parse_space

STARTUP_TRIALS = 5
"""That are finished before the median counts."""


@dataclass(frozen=True)
class StudyPlan:
    """How a study goes about its search.

    Attributes:
        name: of the study.
        parameters: that are searched.
        sampler: one of `SAMPLERS`.
        prune_after: epochs before which no trial is given up for a loss above the median; `None`: none ever is.
        trials: of the study, over all processes; `None` is a grid's every combination.
        seed: of what is drawn.
    """

    name: str
    parameters: tuple[Parameter, ...]
    sampler: str = "grid"
    prune_after: int | None = 5
    trials: int | None = None
    seed: int = 42

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", self.name):
            raise UsageError(f"--study is {self.name!r}; expected a name of letters, digits, dots, dashes and underscores")
        if self.sampler == "grid" and not is_grid(self.parameters):
            named = ", ".join(str(parameter) for parameter in self.parameters if not parameter.values)
            raise UsageError(f"a grid has no ranges, and {named} is one; list its values, or use --sampler tpe")

    def highest(self, name: str, otherwise: int) -> int:
        """The largest value that a hyperparameter may have; `otherwise` where it is not searched."""
        return next((int(max(each.values or (each.high,))) for each in self.parameters if each.name == name), otherwise)

    def combinations(self) -> list[dict[str, Any]]:
        """Every combination of a grid once, in an order drawn from `seed`: the first few already cover the space."""
        lists = [[(parameter.name, value) for value in parameter.values] for parameter in self.parameters]
        found = [dict(pairs) for pairs in itertools.product(*lists)]
        random.Random(self.seed).shuffle(found)  # noqa: S311 - no secret
        return found

    def make_sampler(self, number: int) -> BaseSampler:
        """For one trial: drawn from its number, so that no two processes begin with the same points."""
        seed = step_seed(self.seed, number) % 2**32
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the liar, which keeps simultaneous trials apart, is called experimental
            return TPESampler(seed=seed, constant_liar=True) if self.sampler == "tpe" else RandomSampler(seed)

    def make_pruner(self) -> BasePruner:
        """Optuna's; epochs are its steps."""
        return NopPruner() if self.prune_after is None else MedianPruner(STARTUP_TRIALS, self.prune_after - 1)


def is_grid(parameters: tuple[Parameter, ...]) -> bool:
    """Whether every one of them is a list."""
    return all(parameter.values for parameter in parameters)


def plan_study(
    name: str, base: TrainRequest, searches: Iterable[str], sampler: str | None = None, trials: int | None = None
) -> StudyPlan:
    """The plan that the options of the command describe; what they leave open follows from what they say.

    Raises:
        UsageError: when a hyperparameter or a number cannot be.
    """
    parameters = parse_space(list(searches) or (GRID if sampler in (None, "grid") else RANGES), base)
    sampler = sampler or ("grid" if is_grid(parameters) else "tpe")
    trials = TRIALS if trials is None and sampler != "grid" else trials
    return StudyPlan(name, parameters, sampler, max(1, base.training.optimizer.warmup_epochs), trials, base.training.seed)
