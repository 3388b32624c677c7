"""What a sweep searches: hyperparameters, each a list of values or a range, and the networks that they stand for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from featurestore.errors import UsageError
from trainer.fitting.hyperparameters import ALIASES, SEARCHABLE, parse_value, with_values
from trainer.fitting.request import TrainRequest


@dataclass(frozen=True)
class Parameter:
    """One hyperparameter: the values it may take, or a range, drawn from evenly or, with `log`, by its logarithm."""

    name: str
    values: tuple[Any, ...] = ()
    low: float = 0
    high: float = 0
    log: bool = False

    def __str__(self) -> str:
        """As `parse_space` reads it."""
        if self.values:
            return f"{self.name}={','.join(map(str, self.values))}"
        return f"{self.name}={'log:' if self.log else ''}{self.low}..{self.high}"

    @property
    def distribution(self) -> BaseDistribution:
        """As Optuna knows it."""
        if self.values:
            return CategoricalDistribution(self.values)
        if isinstance(self.low, int) and isinstance(self.high, int):
            return IntDistribution(self.low, self.high, log=self.log)
        return FloatDistribution(self.low, self.high, log=self.log)


def parse_space(searches: Iterable[str], request: TrainRequest) -> tuple[Parameter, ...]:
    """What the options of a sweep ask for.

    Args:
        searches: such as `learning_rate=log:1e-4..3e-3` or `batch_size=64,128`.
        request: into which the values have to fit.

    Raises:
        UsageError: when a name is unknown, or a value cannot be; the message says what there is.
    """
    chosen: dict[str, Parameter] = {}
    for parameter in map(_parse, searches):
        if parameter.name in chosen:
            raise UsageError(f"--search names {parameter.name} twice; give all its values at once, as {parameter.name}=A,B,C")
        chosen[parameter.name] = parameter
        for value in parameter.values or (parameter.low, parameter.high):
            try:
                with_values(request, {parameter.name: value})
            except UsageError as error:
                raise UsageError(f"--search {parameter}: {error}") from error
    return tuple(chosen.values())


def _parse(text: str) -> Parameter:
    name, separator, rest = (part.strip() for part in text.partition("="))
    name = ALIASES.get(name, name.replace("-", "_"))
    if name not in SEARCHABLE:
        raise UsageError(f"--search {text}: there is no hyperparameter {name!r}; there are {', '.join(sorted(SEARCHABLE))}")
    kind = SEARCHABLE[name][1]
    if not separator or not rest:
        raise UsageError(f"--search {text}: expected {name}=A,B,C, {name}=LOW..HIGH or {name}=log:LOW..HIGH")
    if ".." not in rest:
        values = tuple(_value(name, part, text) for part in rest.split(","))
        if len(set(values)) < len(values):
            raise UsageError(f"--search {text} names a value twice; give each of them once")
        return Parameter(name, values)
    if kind not in (int, float):
        raise UsageError(f"--search {text}: {name} is no number and has no range; list its values, as {name}=A,B,C")
    log = rest.startswith("log:")
    low, high = (_value(name, part, text) for part in rest.removeprefix("log:").split("..", 1))
    if not low < high or (log and low <= 0):
        raise UsageError(f"--search {text}: expected LOW below HIGH{', and above 0 on a logarithmic scale' if log else ''}")
    return Parameter(name, low=low, high=high, log=log)


def _value(name: str, part: str, whole: str) -> Any:
    try:
        return parse_value(name, part.strip())
    except UsageError as error:
        raise UsageError(f"--search {whole}: {error}") from error
