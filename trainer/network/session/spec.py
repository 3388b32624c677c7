"""What a network for sessions is made of: its record, without torch, for the help of `train` reads it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from featurestore.errors import UsageError
from featurestore.option import SESSIONS, option
from featurestore.tensor.spec import differing_fields

FUSIONS = ("radio-map", "attention")
RECEIVERS_BY = ("identity", "position", "both")
LEVELS = "levels"


@dataclass(frozen=True)
class SessionSpec:
    """How captures of a session are read and put together.

    Attributes:
        components: of the mixture of `attention`.
        width: of its tokens.
        layers: of self-attention.
        heads: of each.
        receiver_dropout: probability that a capture is hidden in training.

    Raises:
        UsageError: when a value is impossible.
    """

    fusion: str = option(
        "radio-map",
        "How captures of a session are put together: by their levels and a kriged map of each receiver (radio-map), or by "
        "self-attention over captures, learnt from scratch (attention).",
        SESSIONS,
        choices=FUSIONS,
    )
    encoder: str = option(
        LEVELS,
        "What reads a capture: levels (mean and spread over time of each band, then a small MLP), or a ConvNeXt as for "
        "--backbone, which learns some thousand sessions by heart.",
        SESSIONS,
    )
    receivers_by: str = option(
        "both",
        "How receivers are known: by identity (only those of the training), by position (also those that training never "
        "heard), or both: by identity where it is known, else by position.",
        SESSIONS,
        choices=RECEIVERS_BY,
    )
    grid_km: float = option(
        0.0, "Side of the posterior's cells in km.", SESSIONS, metavar="KM", unset="the region is at most 200 cells wide"
    )
    exclude_receivers: tuple[int, ...] = option(
        (),
        "Number of a receiver (its websdr_id) that training leaves out. Repeat the option for several.",
        SESSIONS,
        name="exclude-receiver",
        metavar="N",
    )
    components: int = 5
    width: int = 128
    layers: int = 2
    heads: int = 4
    receiver_dropout: float = 0.3

    def __post_init__(self) -> None:
        for name, known in (("fusion", FUSIONS), ("receivers_by", RECEIVERS_BY)):
            if getattr(self, name) not in known:
                raise UsageError(f"{name} is {getattr(self, name)!r}; expected one of {', '.join(known)}")
        if not 0 <= self.grid_km < math.inf:
            raise UsageError(f"grid_km is {self.grid_km}; expected the side of a cell in km, or 0 to have it chosen by region")
        if not 0 <= self.receiver_dropout < 1:
            raise UsageError(f"receiver_dropout is {self.receiver_dropout}; expected a probability from 0 to below 1")
        if min(self.components, self.width, self.layers, self.heads) < 1 or self.width % self.heads:
            raise UsageError(
                f"components {self.components}, width {self.width}, layers {self.layers}, heads {self.heads}: wanted at least "
                "1 each, and a width that the heads divide"
            )
        object.__setattr__(self, "exclude_receivers", tuple(sorted(set(map(int, self.exclude_receivers)))))

    @property
    def title(self) -> str:
        """What reports call the network."""
        return f"{self.encoder} + {self.fusion}"

    @classmethod
    def from_json(cls, values: Mapping[str, Any], source: str) -> Self:
        """The spec that `source` holds; `UsageError` names unknown or missing fields."""
        if odd := differing_fields(cls, values):
            raise UsageError(
                f"{source} holds no session network this version understands: fields {odd} differ; use a matching version"
            )
        return cls(**{**values, "exclude_receivers": tuple(values["exclude_receivers"])})
