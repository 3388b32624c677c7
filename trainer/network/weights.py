"""Start a backbone from a file of weights, without any network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from featurestore.errors import UsageError
from trainer.network.model import LocalizationNet


@dataclass(frozen=True)
class WeightsReport:
    """What became of the tensors in a weights file, by name.

    Attributes:
        path: the file.
        loaded: copied into the backbone.
        skipped: in the file, but not in the backbone: its classifier, or parts of another architecture.
        mismatched: in both, with another shape or not floating-point: `name (found, wanted)`.
        missing: in the backbone, but not in the file: they keep the values they had.
    """

    path: Path
    loaded: tuple[str, ...]
    skipped: tuple[str, ...]
    mismatched: tuple[str, ...]
    missing: tuple[str, ...]

    def __str__(self) -> str:
        """One line for a log."""
        parts = [f"loaded {len(self.loaded)} tensors from {self.path}"]
        for label, names in (
            ("skipped", self.skipped),
            ("of another shape or type", self.mismatched),
            ("not in the file", self.missing),
        ):
            if names:
                parts.append(f"{len(names)} {label} ({', '.join(names[:4])}{', …' if len(names) > 4 else ''})")
        return "; ".join(parts)


def load_weights(net: LocalizationNet, path: Path | str) -> WeightsReport:
    """Starts the backbone from a timm checkpoint, without any network.

    Args:
        net: its backbone is changed in place, and only when this returns.
        path: a `.safetensors` file. Nothing else: a pickle (`.pth`, `.pt`, `.bin`) runs whatever code its author put there.

    Returns:
        What was loaded, and what was not.

    Raises:
        UsageError: when the file is absent, damaged, of another kind, not finite, or holds nothing that fits.
    """
    path = Path(path)
    weights = _read_safetensors(path)
    wanted: dict[str, Tensor] = net.backbone.state_dict()
    fitting = {
        name: tensor
        for name, tensor in weights.items()
        if name in wanted and tensor.shape == wanted[name].shape and tensor.is_floating_point()
    }
    mismatched = sorted((weights.keys() & wanted.keys()) - fitting.keys())
    report = WeightsReport(
        path,
        loaded=tuple(sorted(fitting)),
        skipped=tuple(sorted(weights.keys() - wanted.keys())),
        mismatched=tuple(f"{name} ({_describe(weights[name])}, {_describe(wanted[name])})" for name in mismatched),
        missing=tuple(sorted(wanted.keys() - weights.keys())),
    )
    if not fitting:
        raise UsageError(
            f"{path} holds {len(weights)} tensors, none of which fits the backbone {net.spec.timm_name} ({report}); "
            f"give a timm checkpoint of {net.spec.timm_name}, or the --backbone that the file was made for"
        )
    bad = [name for name, tensor in fitting.items() if not tensor.isfinite().all()]
    if bad:
        raise UsageError(f"{path}: {', '.join(bad[:4])} hold NaN or infinity, and weights are finite; download the file again")
    net.backbone.load_state_dict(fitting, strict=False)
    return report


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if path.suffix != ".safetensors":
        raise UsageError(
            f"{path} is not a .safetensors file, the only kind of weights read here because it can hold no code; "
            "convert it with safetensors.torch.save_file, or download the model's .safetensors"
        )
    try:
        return load_file(path)
    except SafetensorError as error:
        raise UsageError(
            f"{path} is damaged, cut short or no .safetensors inside ({error}); expected a complete one: fetch it again"
        ) from error
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read ({error.strerror or error}); give a .safetensors file that exists and is readable"
        ) from error


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {'×'.join(map(str, tensor.shape)) or 'scalar'}"
