"""Everything that makes a trained network what it is, but for the data: network, optimizer, loss, augmentation, seed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from featurestore.errors import UsageError
from featurestore.tensor.spec import differing_fields
from trainer.network.augment import AugmentSpec
from trainer.network.loss import LossSpec
from trainer.network.network_spec import NetworkSpec
from trainer.network.session.spec import SessionSpec


@dataclass(frozen=True)
class OptimizerSpec:
    """AdamW, and its rate over the epochs: a linear warm-up, then half a cosine to zero.

    Attributes:
        learning_rate: highest rate.
        weight_decay: of AdamW (Loshchilov & Hutter 2019); biases and norms have none.
        warmup_epochs: epochs until the rate is highest.
        max_epochs: epochs until it is zero, and training ends.

    Raises:
        UsageError: when a value is impossible.
    """

    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    warmup_epochs: int = 5
    max_epochs: int = 100

    def __post_init__(self) -> None:
        if not 0 < self.learning_rate < math.inf:
            raise UsageError(f"learning_rate is {self.learning_rate!r}; wanted a number above 0, as 0.001")
        if not 0 <= self.weight_decay < math.inf:
            raise UsageError(f"weight_decay is {self.weight_decay!r}; wanted a number from 0")
        if self.max_epochs < 1 or not self.warmup_epochs >= 0:
            raise UsageError(
                f"max_epochs is {self.max_epochs!r}, warmup_epochs {self.warmup_epochs!r}; wanted at least 1 and 0"
            )

    def factor(self, epochs: float) -> float:
        """The share of the highest rate after so many epochs."""
        warmup = min(self.warmup_epochs, self.max_epochs - 1)
        if epochs < warmup:
            return max(epochs, 1e-3) / warmup
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (epochs - warmup) / max(self.max_epochs - warmup, 1e-9))))


@dataclass(frozen=True)
class TrainingSpec:
    """Everything that makes a trained network what it is, but for the data.

    `session` says how sessions are located; `None`: captures are, one by one.
    """

    network: NetworkSpec = NetworkSpec()  # noqa: RUF009 - frozen, as all of them are
    optimizer: OptimizerSpec = OptimizerSpec()
    loss: LossSpec = LossSpec()  # noqa: RUF009
    augment: AugmentSpec = AugmentSpec()  # noqa: RUF009
    seed: int = 42
    session: SessionSpec | None = None

    @property
    def title(self) -> str:
        """What reports call the network."""
        return self.network.timm_name if self.session is None else self.session.title

    def to_json(self) -> dict[str, Any]:
        """All fields, nested; plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any], source: str) -> Self:
        """The spec that `source` holds; `UsageError` names unknown or missing fields."""
        values = {"session": None, **values}  # which earlier versions do not have
        if odd := differing_fields(cls, values):
            raise UsageError(
                f"{source} holds no training this version understands: fields {odd} differ; use a matching version"
            )
        parts = {}
        for name, kind in PARTS.items():
            if odd := differing_fields(kind, values[name]):
                raise UsageError(
                    f"{source} holds no {name} this version understands: fields {odd} differ; use a matching version"
                )
            parts[name] = kind(**values[name])
        session = None if values["session"] is None else SessionSpec.from_json(values["session"], source)
        return cls(**parts, seed=values["seed"], session=session)

    def flat(self) -> dict[str, Any]:
        """All fields under names such as `optimizer.learning_rate`."""
        found: dict[str, Any] = {}
        for name, value in self.to_json().items():
            found |= {f"{name}.{key}": inner for key, inner in value.items()} if isinstance(value, dict) else {name: value}
        return found


PARTS: dict[str, Any] = {"network": NetworkSpec, "optimizer": OptimizerSpec, "loss": LossSpec, "augment": AugmentSpec}
