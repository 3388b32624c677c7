"""What a network is made of (`NetworkSpec`): frozen and validated, as it stands in checkpoints and releases."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, Self

from featurestore.errors import UsageError
from featurestore.option import NETWORK, option
from featurestore.tensor.spec import differing_fields

SIZES = {size: f"convnext_{size}" for size in ("tiny", "small", "base", "large")}


@dataclass(frozen=True)
class NetworkSpec:
    """What a network is made of: enough to build it again around saved weights.

    Stochastic depth falls linearly towards the first block (ConvNeXt paper, appendix A).

    Raises:
        UsageError: when a value is impossible; the message names it.
    """

    backbone: str = option(
        "large",
        "Network that reads the tensor of a capture: tiny, small, base, large, or the name of any ConvNeXt (V1 or V2) in timm.",
        NETWORK,
        metavar="NAME",
    )
    dropout: float = option(0.1, "Probability of dropout in both heads.", NETWORK)
    freeze_backbone: bool = option(False, "Keep the backbone's weights, and train neck and heads only.", NETWORK)
    gradient_checkpointing: bool = option(
        False, "Compute activations of the backbone again in the backward pass. This takes less memory and more time.", NETWORK
    )
    drop_path: float = option(
        0.1, "Stochastic depth: probability that the backbone's last block is skipped. Earlier ones are skipped less.", NETWORK
    )

    def __post_init__(self) -> None:
        _check_backbone(self.backbone)
        for name in ("dropout", "drop_path"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:  # NaN is not, either
                raise UsageError(f"{name} is {value!r}, not a probability from 0 to below 1; 0 turns it off")
        for name in ("freeze_backbone", "gradient_checkpointing"):
            if not isinstance(getattr(self, name), bool):
                raise UsageError(f"{name} is {getattr(self, name)!r}, not true or false; set one of them")

    @property
    def timm_name(self) -> str:
        """The backbone as timm knows it."""
        return SIZES.get(self.backbone, self.backbone)

    def to_json(self) -> dict[str, Any]:
        """All fields."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any], source: str) -> Self:
        """The spec that `source` holds; `UsageError` names unknown or missing fields."""
        if odd := differing_fields(cls, values):
            raise UsageError(
                f"{source} does not hold a network this version understands: fields {odd} differ; use a matching version"
            )
        return cls(**values)


@cache
def _timm_names() -> frozenset[str]:
    from trainer.network.torchvision_ops import declare_missing_ops  # it loads torch, and this record is read by `--help`

    declare_missing_ops()
    import timm

    return frozenset(timm.list_models(module="convnext")) | frozenset(timm.list_models(module="convnext", pretrained=True))


def _check_backbone(name: object) -> None:
    if isinstance(name, str) and (name in SIZES or name in _timm_names()):
        return
    close = difflib.get_close_matches(str(name), [*SIZES, *sorted(_timm_names())], n=3)
    raise UsageError(
        f"backbone is {name!r}, neither one of {', '.join(SIZES)} nor the name of a ConvNeXt in timm; "
        + (f"did you mean {' or '.join(close)}?" if close else "list them with timm.list_models(module='convnext')")
    )
