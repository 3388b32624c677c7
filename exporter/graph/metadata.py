"""What an exported graph says of itself: enough to use a lone file, in ONNX's own `metadata_props`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from featurestore.errors import UsageError
from featurestore.tensor.spec import FeatureSpec

if TYPE_CHECKING:
    from featurestore.store.feature_set import FeatureSet

SCHEMA = "heimdall-onnx/1"
INPUTS = ("features", "iq")
UNITS = {
    "features": "normalized: (L - mean) / std along (channel, band), channels I, Q, |I + jQ|",
    "iq": "I and Q, full scale |I + jQ| = 1, at spec.sample_rate_hz",
    "mean": "dBFS, or the unit of cepstral coefficients when spec.n_mfcc is not 0",
    "std": "dB, or likewise",
    "positions": "degrees, WGS84: latitude, longitude",
    "uncertainties": "m, one standard deviation: east, north",
    "region": "degrees, WGS84; half_extent_m in m",
}
"""Of the inputs, the outputs and the numbers in the metadata itself."""

PLAIN = ("input", "release", "precision", "checkpoint_sha256", "backbone", "feature_set", "basis")
STRUCTURED = ("spec", "region", "units", "software", "mean", "std")


@dataclass(frozen=True)
class GraphInfo:
    """All that a user of a graph must know, and where it comes from.

    Attributes:
        input: name of its input, `features` or `iq`.
        release: version of the model, as `1.2.0`.
        precision: `fp32`, `fp16` or `int8-weights`.
        checkpoint_sha256: of the file that it was exported from, in hex.
        backbone: its name in timm.
        feature_set: version of the set that it was trained on.
        spec: how features are computed.
        basis: name of mean and std.
        mean: (3, band) float32.
        std: (3, band) float32.
        region: latitude and longitude of the centre, and half_extent_m: where the network can point to.
        software: names and versions of what exported it.
    """

    input: str
    release: str
    precision: str
    checkpoint_sha256: str
    backbone: str
    feature_set: str
    spec: FeatureSpec
    basis: str
    mean: npt.NDArray[np.float32]
    std: npt.NDArray[np.float32]
    region: Mapping[str, float]
    software: Mapping[str, str]

    def require_takes(self, feature_set: FeatureSet, name: str) -> None:
        """Refuse a set whose tensors the graph `name` does not take.

        Raises:
            UsageError: naming what differs.
        """
        if self.input != "features":
            raise UsageError(
                f"{name} takes {self.input}, and rows of a set are features; use the model.onnx of the same release"
            )
        ours, theirs = (self.spec.id, self.basis), (feature_set.spec.id, feature_set.manifest.basis)
        if ours != theirs:
            raise UsageError(
                f"{name} takes features of spec {ours[0]}, basis {ours[1]}, and {feature_set.url} has {theirs[0]}, "
                f"{theirs[1]}; use a set such as {self.feature_set}"
            )

    def to_props(self) -> dict[str, str]:
        """As strings: plain ones, or JSON. Mean and std are nested lists of float32, each with the digits that it needs."""
        structured = {
            "spec": self.spec.to_json(),
            "region": dict(self.region),
            "units": UNITS,
            "software": dict(self.software),
            "mean": _shortest(self.mean),
            "std": _shortest(self.std),
        }
        texts = {name: json.dumps(value, allow_nan=False) for name, value in structured.items()}
        return {"schema": SCHEMA, **{name: getattr(self, name) for name in PLAIN}, **texts}

    @classmethod
    def from_props(cls, props: Mapping[str, str], source: str) -> Self:
        """What the metadata of `source` says.

        Raises:
            UsageError: when it is not there, incomplete, or of another schema.
        """
        if props.get("schema") != SCHEMA:
            raise UsageError(
                f"{source} has metadata of schema {props.get('schema')!r}; wanted {SCHEMA!r}: use a graph that heimdall export "
                "of this version wrote"
            )
        if missing := ", ".join(name for name in (*PLAIN, *STRUCTURED) if name not in props):
            raise UsageError(f"{source} lacks the metadata {missing}; export it again")
        try:
            values: dict[str, Any] = {name: json.loads(props[name]) for name in STRUCTURED}
            spec = FeatureSpec.from_json(values["spec"], source)
            mean, std = (np.asarray(values[name], np.float32) for name in ("mean", "std"))
        except (ValueError, TypeError, AttributeError) as error:
            raise UsageError(f"{source} has damaged metadata ({error}); export it again") from error
        wanted = (3, spec.n_bands)
        if props["input"] not in INPUTS or mean.shape != wanted or std.shape != wanted:
            raise UsageError(
                f"{source} has input {props['input']!r}, mean {mean.shape} and std {std.shape}; wanted features or iq, and "
                f"{wanted} twice: export it again"
            )
        plain = {name: props[name] for name in PLAIN}
        return cls(**plain, spec=spec, mean=mean, std=std, region=values["region"], software=values["software"])


def _shortest(values: npt.NDArray[np.float32]) -> list[list[float]]:
    """The decimal numbers with the fewest digits that are these in float32."""
    return [[float(str(value)) for value in row] for row in values]
