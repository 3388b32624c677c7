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
SESSION_UNITS = {
    "receiver_id": "numbers of receivers, websdr_id",
    "receiver_position": "degrees, WGS84: latitude, longitude; NaN where unknown",
    "present": "whether there is a capture; what stands where there is none changes nothing",
    "covariances": "m²: of east and north",
    "log_density": "nats, of the density per m², on session.grid: rows from south to north, columns from west to east",
    "session.grid": "m east and north of the region's centre, azimuthal equidistant; centres of the cells",
}
"""Of what only graphs for sessions have."""

PLAIN = ("input", "release", "precision", "checkpoint_sha256", "backbone", "feature_set", "basis")
LOCATED, SESSION = "located", "session"
"""What only graphs for sessions say."""
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
        session: of a graph that locates sessions: `fusion`, `encoder`, `receivers_by`; `receivers`, each with `websdr_id`,
            `latitude` and `longitude` (null where unknown); `grid`: `cell_m`, `rows`, `columns`, `east_m` and `north_m` of the
            first cell's centre. `None` where captures are located.
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
    session: Mapping[str, Any] | None = None

    @property
    def located(self) -> str:
        """What one position is of: `session` or `capture`."""
        return "capture" if self.session is None else "session"

    @property
    def units(self) -> dict[str, str]:
        """Of inputs, outputs and metadata."""
        if self.session is None:
            return UNITS
        return {name: unit for name, unit in UNITS.items() if name != "uncertainties"} | SESSION_UNITS

    def require_located(self, wanted: str, name: str) -> None:
        """Refuse a graph `name` that locates something else.

        Raises:
            UsageError: when it does.
        """
        if self.located != wanted:
            raise UsageError(f"{name} locates {self.located}s, and {wanted}s were asked for; use a release that locates those")

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
            "units": self.units,
            "software": dict(self.software),
            "mean": _shortest(self.mean),
            "std": _shortest(self.std),
            **({} if self.session is None else {SESSION: dict(self.session)}),
        }
        texts = {name: json.dumps(value, allow_nan=False) for name, value in structured.items()}
        located = {} if self.session is None else {LOCATED: self.located}
        return {"schema": SCHEMA, **{name: getattr(self, name) for name in PLAIN}, **located, **texts}

    @classmethod
    def from_props(cls, props: Mapping[str, str], source: str) -> Self:
        """What the metadata of `source` says.

        Raises:
            UsageError: when it is not there, incomplete, or of another schema.
        """
        if props.get("schema") != SCHEMA:
            raise UsageError(
                f"{source} has metadata of schema {props.get('schema')!r}; expected {SCHEMA!r}: use a graph that "
                "heimdall export "
                "of this version wrote"
            )
        if missing := ", ".join(name for name in (*PLAIN, *STRUCTURED) if name not in props):
            raise UsageError(f"{source} lacks the metadata {missing}; export it again")
        try:
            values: dict[str, Any] = {name: json.loads(props[name]) for name in STRUCTURED}
            spec = FeatureSpec.from_json(values["spec"], source)
            mean, std = (np.asarray(values[name], np.float32) for name in ("mean", "std"))
            session = json.loads(props[SESSION]) if SESSION in props else None
        except (ValueError, TypeError, AttributeError) as error:
            raise UsageError(f"{source} has damaged metadata ({error}); export it again") from error
        wanted = (3, spec.n_bands)
        if props["input"] not in INPUTS or mean.shape != wanted or std.shape != wanted:
            raise UsageError(
                f"{source} has input {props['input']!r}, mean {mean.shape} and std {std.shape}; expected features or iq, and "
                f"{wanted} twice: export it again"
            )
        plain: dict[str, Any] = {name: props[name] for name in PLAIN}
        about = {name: values[name] for name in ("region", "software")}
        return cls(**plain, **about, spec=spec, mean=mean, std=std, session=session)


def _shortest(values: npt.NDArray[np.float32]) -> list[list[float]]:
    """The decimal numbers with the fewest digits that are these in float32."""
    return [[float(str(value)) for value in row] for row in values]
