"""Everything that makes a trained network what it is, but for the data: network, optimizer, loss, augmentation, seed.

Records only, without torch: the help of `train` and `sweep` is made from them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from featurestore.errors import UsageError
from featurestore.option import AUGMENTATION, OPTIMIZER, option
from featurestore.tensor.spec import differing_fields
from trainer.network.network_spec import NetworkSpec
from trainer.network.session.spec import SessionSpec

LOSSES = ("gaussian-nll", "beta-nll")


@dataclass(frozen=True)
class OptimizerSpec:
    """AdamW (Loshchilov & Hutter 2019), and its rate over the epochs: a linear warm-up, then half a cosine to zero.

    Raises:
        UsageError: when a value is impossible.
    """

    learning_rate: float = option(1e-3, "Highest learning rate of AdamW.", OPTIMIZER)
    weight_decay: float = option(1e-4, "Weight decay of AdamW. Biases and norms have none.", OPTIMIZER)
    warmup_epochs: int = option(5, "Number of epochs until the learning rate is highest.", OPTIMIZER)
    max_epochs: int = option(
        100, "Number of epochs until the learning rate is zero, and training ends.", OPTIMIZER, name="epochs"
    )

    def __post_init__(self) -> None:
        if not 0 < self.learning_rate < math.inf:
            raise UsageError(f"learning_rate is {self.learning_rate!r}; expected a number above 0, as 0.001")
        if not 0 <= self.weight_decay < math.inf:
            raise UsageError(f"weight_decay is {self.weight_decay!r}; expected a number from 0")
        if self.max_epochs < 1 or not self.warmup_epochs >= 0:
            raise UsageError(
                f"max_epochs is {self.max_epochs!r}, warmup_epochs {self.warmup_epochs!r}; expected at least 1 and 0"
            )

    def factor(self, epochs: float) -> float:
        """The share of the highest rate after so many epochs."""
        warmup = min(self.warmup_epochs, self.max_epochs - 1)
        if epochs < warmup:
            return max(epochs, 1e-3) / warmup
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (epochs - warmup) / max(self.max_epochs - warmup, 1e-9))))


@dataclass(frozen=True)
class LossSpec:
    """Which loss is trained.

    Raises:
        UsageError: when a value is impossible; the message names it.
    """

    kind: str = option(
        "gaussian-nll",
        "Loss to minimize. beta-nll keeps rows with a large sigma from being neglected.",
        OPTIMIZER,
        name="loss",
        choices=LOSSES,
    )
    beta: float = option(
        0.5,
        "Exponent of beta-nll, from 0 (the plain likelihood) to 1 (the mean has the gradients of a squared error).",
        OPTIMIZER,
    )
    mean_warmup_epochs: int = option(
        0, "Number of epochs at the start in which sigma is held constant, so that only the mean learns.", OPTIMIZER
    )

    def __post_init__(self) -> None:
        if self.kind not in LOSSES:
            raise UsageError(f"loss {self.kind!r} is not known; use one of {', '.join(LOSSES)}")
        if not 0 <= self.beta <= 1:  # NaN too
            raise UsageError(f"beta is {self.beta}; it must lie in [0, 1], and 0.5 is usual")
        epochs = self.mean_warmup_epochs
        if isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 0:
            raise UsageError(f"mean_warmup_epochs is {epochs!r}; it must be a whole number of at least 0")

    def holds_sigma(self, epoch: int) -> bool:
        """Whether σ is held in this epoch, counted from 0."""
        return epoch < self.mean_warmup_epochs


@dataclass(frozen=True)
class AugmentSpec:
    """What is done to the tensors of a training batch, each row drawing its own numbers.

    Zero is the mean of a band, as tensors are normalized: what is dropped or shifted in says nothing.

    Raises:
        UsageError: when a value is impossible.
    """

    band_dropout: float = option(0.1, "Probability that a band is zeroed, in all channels and frames.", AUGMENTATION)
    time_dropout: float = option(0.1, "Probability that a frame is zeroed, in all channels and bands.", AUGMENTATION)
    max_shift: int = option(5, "Largest shift to either side, in frames. Zeros come in.", AUGMENTATION)
    scale: float = option(0.05, "All values are multiplied by a number that is this far from 1, at most.", AUGMENTATION)

    def __post_init__(self) -> None:
        for name in ("band_dropout", "time_dropout", "scale"):
            if not 0 <= getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)!r}; expected a number from 0 to below 1")
        if self.max_shift < 0:
            raise UsageError(f"max_shift is {self.max_shift!r}; expected a number of frames from 0")


NOTHING = AugmentSpec(band_dropout=0, time_dropout=0, max_shift=0, scale=0)


@dataclass(frozen=True)
class TrainingSpec:
    """Everything that makes a trained network what it is, but for the data.

    `session` says how sessions are located; `None`: captures are, one by one.
    """

    network: NetworkSpec = NetworkSpec()  # noqa: RUF009 - frozen, as all of them are
    optimizer: OptimizerSpec = OptimizerSpec()
    loss: LossSpec = LossSpec()
    augment: AugmentSpec = AugmentSpec()
    seed: int = option(42, "Number that decides initial weights, order, dropout and augmentation.", OPTIMIZER)
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
        parameters: dict[str, Any] = {}
        for name, value in self.to_json().items():
            parameters |= {f"{name}.{key}": inner for key, inner in value.items()} if isinstance(value, dict) else {name: value}
        return parameters


PARTS: dict[str, Any] = {"network": NetworkSpec, "optimizer": OptimizerSpec, "loss": LossSpec, "augment": AugmentSpec}


def usual_training(session: SessionSpec | None) -> TrainingSpec:
    """The training where nothing else is said: the records' own defaults for captures, other ones for sessions.

    Sessions are fewer, and levels are what is read of them: scaling and dropout would falsify these (docs/log.md).
    """
    if session is None:
        return TrainingSpec()
    optimizer = OptimizerSpec(2e-3, 1e-2, 1, 6) if session.fusion == "radio-map" else OptimizerSpec(1e-3, 1e-2, 2, 40)
    return TrainingSpec(optimizer=optimizer, augment=NOTHING, session=session)
