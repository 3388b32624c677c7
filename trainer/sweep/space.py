"""What a sweep searches: hyperparameters, each a list of values or a range, and the networks that they stand for."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from featurestore.errors import UsageError
from trainer.fitting.request import TrainRequest
from trainer.network.training_spec import PARTS
from trainer.sweep.presets import PRESETS

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

ALIASES = {"loss": "kind", "epochs": "max_epochs"}
"""Options of `heimdall train` whose names are not those of the fields."""


@dataclass(frozen=True)
class Parameter:
    """One hyperparameter: the values it may take, or the range [low, high].

    Attributes:
        name: of a field of the network, the optimizer, the loss or the augmentation; or `seed`, or `batch_size`.
        values: to choose from; empty for a range.
        low: lowest value of a range.
        high: highest value.
        log: a range is drawn from evenly on a logarithmic scale.
    """

    name: str
    values: tuple[Any, ...] = ()
    low: float = 0
    high: float = 0
    log: bool = False

    def __str__(self) -> str:
        """As `parse` reads it."""
        if self.values:
            return f"{self.name}={','.join(map(str, self.values))}"
        return f"{self.name}={'log:' if self.log else ''}{self.low}..{self.high}"

    @property
    def distribution(self) -> BaseDistribution:
        """As Optuna knows it."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.values:
            return CategoricalDistribution(self.values)
        if isinstance(self.low, int) and isinstance(self.high, int):
            return IntDistribution(self.low, self.high, log=self.log)
        return FloatDistribution(self.low, self.high, log=self.log)


@dataclass(frozen=True)
class Space:
    """All hyperparameters that are searched."""

    parameters: tuple[Parameter, ...]

    @property
    def is_grid(self) -> bool:
        """Whether every one of them is a list."""
        return all(parameter.values for parameter in self.parameters)

    @property
    def names(self) -> list[str]:
        """Of the hyperparameters."""
        return [parameter.name for parameter in self.parameters]

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """As Optuna knows them."""
        return {parameter.name: parameter.distribution for parameter in self.parameters}

    def combinations(self, seed: int) -> list[dict[str, Any]]:
        """Every combination of a grid once, in an order drawn from `seed`: the first few already cover the space."""
        lists = [parameter.values for parameter in self.parameters]
        found = [dict(zip(self.names, values, strict=True)) for values in itertools.product(*lists)]
        random.Random(seed).shuffle(found)  # noqa: S311 - no secret
        return found


@cache
def searchable() -> dict[str, tuple[str, type]]:
    """Every name that can be searched, with the part of the training it belongs to (none: the request) and its type."""
    found: dict[str, tuple[str, type]] = {"batch_size": ("", int), "seed": ("", int)}
    for part, kind in PARTS.items():
        found |= {field.name: (part, type(field.default)) for field in fields(kind)}
    return found


def with_values(request: TrainRequest, values: Mapping[str, Any]) -> TrainRequest:
    """The request with other hyperparameters; `UsageError` when one is impossible."""
    training, known = request.training, searchable()
    for part in PARTS:
        changed = {name: value for name, value in values.items() if known[name][0] == part}
        training = replace(training, **{part: replace(getattr(training, part), **changed)})
    training = replace(training, seed=values.get("seed", training.seed))
    return replace(request, training=training, batch_size=values.get("batch_size", request.batch_size))


def parse_space(preset: str | None, searches: Iterable[str], request: TrainRequest) -> Space:
    """What the options of a sweep ask for.

    Args:
        preset: one of `PRESETS`, or `None`.
        searches: such as `learning_rate=log:1e-4..3e-3` or `batch_size=64,128`; they go before the preset's of that name.
        request: into which the values have to fit.

    Raises:
        UsageError: when a name is unknown, or a value cannot be; the message says what there is.
    """
    chosen = {parameter.name: parameter for parameter in map(_parse, PRESETS[preset] if preset else ())}
    own = [_parse(text) for text in searches]
    for parameter in own:
        if sum(other.name == parameter.name for other in own) > 1:
            raise UsageError(f"--search names {parameter.name} twice; give all its values at once, as {parameter.name}=A,B,C")
        chosen[parameter.name] = parameter
    if not chosen:
        raise UsageError(f"nothing is searched; give --preset {'|'.join(PRESETS)} or --search NAME=A,B,C")
    for parameter in chosen.values():
        for value in parameter.values or (parameter.low, parameter.high):
            try:
                with_values(request, {parameter.name: value})
            except UsageError as error:
                raise UsageError(f"--search {parameter}: {error}") from error
    return Space(tuple(chosen.values()))


def _parse(text: str) -> Parameter:
    name, separator, rest = (part.strip() for part in text.partition("="))
    name = name.replace("-", "_")
    name = ALIASES.get(name, name)
    if name not in searchable():
        raise UsageError(f"--search {text}: there is no hyperparameter {name!r}; there are {', '.join(sorted(searchable()))}")
    kind = searchable()[name][1]
    if not separator or not rest:
        raise UsageError(f"--search {text}: wanted {name}=A,B,C, {name}=LOW..HIGH or {name}=log:LOW..HIGH")
    if ".." not in rest:
        values = tuple(_value(part.strip(), kind, text) for part in rest.split(","))
        if len(set(values)) < len(values):
            raise UsageError(f"--search {text} names a value twice; give each of them once")
        return Parameter(name, values)
    if kind not in (int, float):
        raise UsageError(f"--search {text}: {name} is no number and has no range; list its values, as {name}=A,B,C")
    log = rest.startswith("log:")
    low, high = (_value(part.strip(), kind, text) for part in rest.removeprefix("log:").split("..", 1))
    if not low < high or (log and low <= 0):
        raise UsageError(f"--search {text}: wanted LOW below HIGH{', and above 0 on a logarithmic scale' if log else ''}")
    return Parameter(name, low=low, high=high, log=log)


def _value(text: str, kind: type, whole: str) -> Any:
    try:
        if kind is bool:
            return {"true": True, "false": False}[text.lower()]
        value = kind(text)
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError
    except (KeyError, ValueError) as error:
        wanted = {bool: "true or false", int: "a whole number", float: "a number"}.get(kind, "a name")
        raise UsageError(f"--search {whole}: {text!r} is not {wanted}") from error
    if kind is str and not value:
        raise UsageError(f"--search {whole} names an empty value; leave out the comma")
    return value
