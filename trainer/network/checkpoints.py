"""Checkpoints: what one says of itself, read without executing anything that is in it."""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from featurestore.errors import UsageError, first_line
from featurestore.objects.objects import Location, open_objects
from featurestore.store.feature_set import FeatureSet, open_set
from featurestore.tensor.spec import FeatureSpec, differing_fields
from trainer.network.geometry import Region
from trainer.network.model import LocalizationNet
from trainer.network.session.nets import SessionNet, make_session_net
from trainer.network.session.place import SessionPlace
from trainer.network.training_spec import TrainingSpec

ZIP = b"PK"
"""What a checkpoint of torch begins with."""
NET = "net."
"""What the names of the network's tensors begin with in a Lightning checkpoint."""


@dataclass(frozen=True)
class TrainedOn:
    """The features that a network knows: it must be given such, and no others.

    Attributes:
        version: of the feature set.
        spec: how its tensors were made.
        basis: name of the mean and std by which they are normalized.
        mean: (3, band) float32, dB (or the unit of cepstral coefficients).
        std: (3, band) float32.
    """

    version: str
    spec: FeatureSpec
    basis: str
    mean: npt.NDArray[np.float32]
    std: npt.NDArray[np.float32]

    @classmethod
    def of(cls, feature_set: FeatureSet) -> Self:
        """What a feature set is."""
        basis = feature_set.basis
        return cls(feature_set.version, feature_set.spec, feature_set.manifest.basis, basis.mean, basis.std)

    def to_state(self) -> dict[str, Any]:
        """What a checkpoint keeps: plain values and tensors."""
        fields = {"version": self.version, "spec": self.spec.to_json(), "basis": self.basis}
        return {**fields, "mean": torch.from_numpy(self.mean.copy()), "std": torch.from_numpy(self.std.copy())}

    @classmethod
    def from_state(cls, state: Mapping[str, Any], source: str) -> Self:
        """What `source` holds; `UsageError` names unknown or missing fields."""
        if odd := differing_fields(cls, state):
            raise UsageError(f"{source} names no features this version understands: fields {odd} differ; train again")
        spec = FeatureSpec.from_json(state["spec"], source)
        return cls(state["version"], spec, state["basis"], state["mean"].numpy(), state["std"].numpy())

    def require_same(self, feature_set: FeatureSet, source: str) -> None:
        """Refuse features that were computed or normalized otherwise.

        Raises:
            UsageError: naming the parameters that differ.
        """
        theirs, ours = self.spec.to_json(), feature_set.spec.to_json()
        if theirs != ours:
            odd = ", ".join(f"{name} {theirs[name]} (the set has {ours[name]})" for name in ours if theirs[name] != ours[name])
            raise UsageError(
                f"{source} was trained on features with {odd}; use it with a set of spec {self.spec.id}, such as "
                f"{self.version}, or train on {feature_set.version}"
            )
        if self.basis != feature_set.manifest.basis:
            raise UsageError(
                f"{source} was trained on features normalized by basis {self.basis}, and those of {feature_set.url} are by "
                f"{feature_set.manifest.basis}; use a set of that basis, such as {self.version}, or train on this one"
            )


@dataclass(frozen=True)
class Checkpoint:
    """A trained network and all that is needed to use it.

    Attributes:
        source: file or URL it was read from.
        sha256: of the file, in hex.
        training: how it was trained.
        region: the unit of its outputs.
        features: what it was trained on.
        epoch: in which it was saved, from 0.
        step: optimizer steps.
        run_id: of the MLflow run, if it was tracked.
        weights: the network's tensors.
        place: receivers and grid of a network for sessions.
    """

    source: str
    sha256: str
    training: TrainingSpec
    region: Region
    features: TrainedOn
    epoch: int
    step: int
    run_id: str | None
    weights: Mapping[str, Tensor]
    place: SessionPlace | None = None

    def session_network(self) -> SessionNet:
        """The network for sessions with these weights, in evaluation mode, on the CPU.

        Raises:
            UsageError: when it locates captures, when training ended before the first map, or the weights do not fit.
        """
        session = self.training.session
        if session is None or self.place is None:
            raise UsageError(f"{self.source} locates captures, and sessions were asked for; train with --locate session")
        net = make_session_net(session, self.training.network, self.place, self.features.spec.tensor_shape[1])
        self._load(net)
        if session.fusion == "radio-map" and not bool(torch.as_tensor(self.weights["log_prior"]).any()):
            raise UsageError(f"{self.source} was saved before its first map was fitted; go on with --resume to the epoch's end")
        return net.eval()

    def network(self) -> LocalizationNet:
        """The network with these weights, in evaluation mode, on the CPU.

        Raises:
            UsageError: when it locates sessions, or the weights do not fit the network that the checkpoint describes.
        """
        if self.training.session is not None:
            raise UsageError(f"{self.source} locates sessions, and captures were asked for; train with --locate capture")
        net = LocalizationNet(self.training.network)
        self._load(net)
        return net.eval()

    def _load(self, net: torch.nn.Module) -> None:
        try:
            net.load_state_dict(dict(self.weights))
        except RuntimeError as error:
            reason = str(error).splitlines()[-1].strip()
            raise UsageError(
                f"{self.source} holds weights that do not fit its network {self.training.title} ({reason}); "
                "use a checkpoint that this version wrote"
            ) from error

    def open_features(self, store: str, version: str | None) -> FeatureSet:
        """A set in a store whose features the network knows.

        Args:
            store: where sets are.
            version: of the set, or a tag; `None` is the one that the network was trained on.

        Raises:
            UsageError: when there is no such set, or its features are others.
            StoreError: when it is damaged.
        """
        try:
            feature_set = open_set(store, version or self.features.version)
        except UsageError as error:
            if version is not None:
                raise
            raise UsageError(f"{error}; it is the one that {self.source} was trained on, --features names another") from error
        self.features.require_same(feature_set, self.source)
        return feature_set

    def describe(self) -> dict[str, Any]:
        """Everything but the numbers, as plain values."""
        return {
            "source": self.source,
            "sha256": self.sha256,
            "epoch": self.epoch,
            "step": self.step,
            "training": self.training.to_json(),
            "region": asdict(self.region),
            "features": {"version": self.features.version, "spec": self.features.spec.to_json(), "basis": self.features.basis},
            **({} if self.place is None else {"receivers": self.place.websdr_id.tolist(), "grid_km": self.place.cell_m / 1000}),
        }


def read_checkpoint(source: str | Path) -> Checkpoint:
    """Read a checkpoint of `heimdall train`.

    Args:
        source: a file, or `s3://bucket/…/NAME.ckpt` where training uploaded it.

    Raises:
        UsageError: when it is absent, cut short, damaged, holds code, or is another program's.
        ServiceUnavailableError: when the store does not answer.
    """
    name = str(source)
    data = _read(name)
    if not data.startswith(ZIP):  # an old pickle, or no checkpoint at all
        raise UsageError(f"{name} is damaged, cut short or no checkpoint; give one that heimdall train wrote")
    try:
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UsageError(
            f"{name} holds more than tensors and plain values, and loading it could run code that somebody put there; "
            "only checkpoints that heimdall train wrote are read"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise UsageError(
            f"{name} is damaged, cut short or no checkpoint ({first_line(error)}); expected a whole one: fetch it again"
        ) from error
    try:
        parameters, weights = content["hyper_parameters"], content["state_dict"]
        training = TrainingSpec.from_json(parameters["training"], name)
        region = Region.from_json(parameters["region"], name)
        features = TrainedOn.from_state(content["features"], name)
        epoch, step = int(content["epoch"]), int(content["global_step"])
        place = SessionPlace.from_json(parameters["place"], name) if "place" in parameters else None
        own = {key.removeprefix(NET): tensor for key, tensor in weights.items() if key.startswith(NET)}
    except (KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{name} is no checkpoint of heimdall train ({error!r} is missing); give one that it wrote") from error
    sha256, run_id = hashlib.sha256(data).hexdigest(), content.get("run_id")
    return Checkpoint(name, sha256, training, region, features, epoch, step, run_id, own, place)


def _read(name: str) -> bytes:
    if "://" not in name:
        try:
            return Path(name).read_bytes()
        except OSError as error:
            raise UsageError(
                f"checkpoint {name} cannot be read ({error.strerror}); look in the directory that heimdall train wrote to"
            ) from error
    parent, _, key = name.rpartition("/")
    try:
        return open_objects(Location.parse(parent).url).get(key)
    except FileNotFoundError as error:
        raise UsageError(f"there is no checkpoint {name}; list {parent} to see what there is") from error
