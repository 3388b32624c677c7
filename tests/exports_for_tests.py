"""A feature set with its captures, a checkpoint that knows its features without training, and releases without export."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from click.testing import CliRunner, Result
from corpus_for_tests import Corpus

from cli import main
from exporter.graph.onnx_file import ExportedGraph, write
from exporter.release.publish import claimed, publish
from exporter.release.release import Release, Version
from featurestore.objects.objects import Location, open_objects
from featurestore.place.geodesic import distance_m
from featurestore.store.feature_set import FeatureSet
from trainer.network.checkpoints import Checkpoint, TrainedOn
from trainer.network.geometry import Region
from trainer.network.model import LocalizationNet
from trainer.network.network_spec import NetworkSpec
from trainer.network.session.nets import RadioMapNet, make_session_net
from trainer.network.session.place import SessionPlace
from trainer.network.session.radio_map import Sessions, fit_radio_map
from trainer.network.session.spec import SessionSpec
from trainer.network.training_spec import TrainingSpec

SMALLEST = "test_convnext2"  # timm's own for tests: of the code of tiny to large, with 0.5 M parameters


@dataclass(frozen=True)
class Built:
    """A feature set with the captures behind it."""

    corpus: Corpus
    feature_set: FeatureSet

    def capture_files(self) -> dict[int, Path]:
        """Capture id → file."""
        return {key: found[0] for key, found in self.corpus.captures().items()}

    def checkpoint(self, backbone: str = SMALLEST, *, gradient_checkpointing: bool = True) -> Checkpoint:
        """Random weights, of sizes that training gives them: new blocks of a ConvNeXt are scaled by 10⁻⁶, and do nothing.

        Gradient checkpointing is of no use to an exported graph, and must not be in its way.
        """
        torch.manual_seed(0)
        network = NetworkSpec(backbone, gradient_checkpointing=gradient_checkpointing)
        net = LocalizationNet(network)
        for name, parameter in net.named_parameters():
            if name.endswith("gamma"):
                parameter.data = torch.randn(parameter.shape) * 0.3
        return Checkpoint(
            source="made.ckpt",
            sha256="5e" * 32,
            training=TrainingSpec(network),
            region=Region(45.1, 7.2, 100_000.0),
            features=TrainedOn.of(self.feature_set),
            epoch=3,
            step=12,
            run_id=None,
            weights=net.state_dict(),
        )

    def session_checkpoint(self, fusion: str = "radio-map") -> Checkpoint:
        """A network for sessions with random weights; its radio map is fitted to levels that fall with distance.

        Receiver 3 stands nowhere that is known.
        """
        torch.manual_seed(0)
        feature_set, rng = self.feature_set, np.random.default_rng(0)
        region = Region(45.1, 7.2, 20_000.0)
        stands = np.array([[45.05, 7.05], [45.2, 7.3], [np.nan, np.nan]])
        place = SessionPlace.around(region, feature_set.labels.position, [1, 2, 3], stands, grid_km=0.5)
        training = TrainingSpec(NetworkSpec(SMALLEST), session=SessionSpec(fusion, width=16, heads=2, layers=1))
        assert training.session is not None
        net = make_session_net(training.session, training.network, place, feature_set.spec.n_bands)
        if isinstance(net, RadioMapNet):
            position = region.decode(rng.uniform(-1, 1, (40, 2)))
            decades = np.log10(np.stack([distance_m(position, where) for where in stands[:2]], axis=1) / 10_000)
            level = np.column_stack([-30 * decades, rng.normal(0, 5, 40)]) + rng.normal(0, 2, (40, 3))
            found = fit_radio_map(Sessions(place.grid.plane.to_plane(position), position, level), stands, place.grid)
            n_cells = len(place.grid.points_m)
            net.set_map(found, np.full(n_cells, -np.log(n_cells)), reading=0.5)
        made = self.checkpoint()
        return replace(made, source="sessions.ckpt", training=training, region=region, weights=net.state_dict(), place=place)


def save_checkpoint(checkpoint: Checkpoint, path: Path, **changes: object) -> Path:
    """A file as training writes it, but for what only resuming needs."""
    place = {} if checkpoint.place is None else {"place": checkpoint.place.to_json()}
    content = {
        "hyper_parameters": {"training": checkpoint.training.to_json(), "region": checkpoint.region.to_json(), **place},
        "state_dict": {f"net.{name}": tensor for name, tensor in checkpoint.weights.items()},
        "features": checkpoint.features.to_state(),
        "epoch": checkpoint.epoch,
        "global_step": checkpoint.step,
        "run_id": checkpoint.run_id,
    }
    torch.save({**content, **changes}, path)
    return path


def with_weight(graph: ExportedGraph, name: str, path: Path, value: float = 0.0, factor: float = 1.0) -> ExportedGraph:
    """The same graph, one of its tensors multiplied and moved."""
    model = onnx.load(graph.path)
    tensor = next(tensor for tensor in model.graph.initializer if name in tensor.name)
    values = onnx.numpy_helper.to_array(tensor) * np.float32(factor) + np.float32(value)
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    return write(model, path, graph.info)


def published(models: str, number: str, graph: ExportedGraph, *more: ExportedGraph, **about: object) -> Release:
    """A release of graphs that exist already, without what an export says beside them."""
    objects, version = open_objects(Location.parse(models).url), Version.parse(number)
    facts = {"feature_set": graph.info.feature_set, "spec": graph.info.spec.id, "precision": "fp32", **about}
    with claimed(objects, version, print):
        return publish(objects, version, [graph.path, *(other.path for other in more)], facts)


def invoke(*arguments: object) -> Result:
    """`heimdall …`, in this process."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def json_of(*arguments: object) -> Any:
    """What `heimdall … --json` prints, if it succeeds."""
    done = invoke(*arguments, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)
