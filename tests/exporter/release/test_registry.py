"""MLflow's registry on PostgreSQL, releases in S3: versions, aliases, signature; and trackers that are none."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path

import mlflow
import numpy as np
import pytest
import yaml
from exports_for_tests import invoke, json_of, published

from exporter.graph.onnx_file import ExportedGraph
from exporter.release.latest import promote, read_release
from exporter.release.publish import claimed, publish
from exporter.release.registry import Registry, RegistryRequest, mlmodel, open_registry, signature
from exporter.release.release import MLMODEL, Release, Version
from featurestore.errors import ServiceUnavailableError, StoreError, UsageError
from featurestore.objects.objects import Location, open_objects
from trainer.network.checkpoints import Checkpoint


@pytest.fixture(scope="module")
def registry(mlflow_database: str) -> Registry:
    return open_registry(RegistryRequest(mlflow_database, "locator"))


def client(registry: Registry) -> mlflow.MlflowClient:
    return mlflow.MlflowClient(registry.request.uri, registry.request.uri)


def made(models: str, number: str, graph: ExportedGraph) -> Release:
    return published(models, number, graph, metrics={"val": {"error_mean_m": 1234.5678}}, signature=signature(graph.info))


def test_a_release_becomes_a_version_once_with_tags_and_aliases(registry: Registry, bucket: str, graph: ExportedGraph) -> None:
    release = made(bucket, "1.0.0", graph)
    number = registry.make_candidate(release, run_id="0" * 32)  # a run that this tracker does not know
    assert registry.register(release) == number
    assert registry.make_champion(release) == number
    assert registry.aliases() == {"candidate": "1.0.0", "champion": "1.0.0"}
    version = client(registry).get_model_version_by_alias("locator", "champion")
    assert version.source == release.url
    assert version.tags["sha256"] == graph.sha256
    assert version.tags["feature_set"] == graph.info.feature_set
    assert version.tags["spec"] == graph.info.spec.id
    assert version.tags["val.error_mean_m"] == "1234.57"
    assert json.loads(version.tags["signature"])["inputs"][0]["tensor-spec"]["shape"] == [-1, 3, 24, 8]
    assert not version.run_id


def test_the_run_of_the_training_is_linked(registry: Registry, bucket: str, graph: ExportedGraph) -> None:
    experiment = client(registry).create_experiment("training")
    run = client(registry).create_run(experiment)
    number = registry.make_candidate(made(bucket, "1.5.0", graph), run.info.run_id)
    assert client(registry).get_model_version("locator", number).run_id == run.info.run_id


def test_promote_and_rollback_move_champion_and_latest(mlflow_database: str, bucket: str, graph: ExportedGraph) -> None:
    registry = open_registry(RegistryRequest(mlflow_database, "moved"))
    options = ["--models", bucket, "--registry-uri", mlflow_database, "--model-name", "moved"]
    for number in ("1.0.0", "1.1.0"):
        made(bucket, number, graph)
        assert json_of("releases", "promote", number, *options)["release"] == number
        assert registry.aliases() == {"champion": number}
        assert str(read_release(bucket).version) == number
    text = invoke("releases", "promote", "1.1.0", *options).stdout  # again: nothing to be done
    assert "names release 1.1.0\n" in text
    assert "version 2 of the registered model is champion" in text
    assert json_of("releases", "rollback", *options)["before"] == "1.1.0"
    assert registry.aliases() == {"champion": "1.0.0"}
    assert str(read_release(bucket).version) == "1.0.0"


def test_releases_of_one_number_in_two_places_are_two_versions(mlflow_database: str, bucket: str, graph: ExportedGraph) -> None:
    registry = open_registry(RegistryRequest(mlflow_database, "two"))
    numbers = [registry.register(made(f"{bucket}/{place}", "1.0.0", graph)) for place in ("a", "b")]
    assert numbers == ["1", "2"]


@pytest.mark.filterwarnings("ignore")  # of mlflow.pyfunc about itself, when it is imported
def test_mlflow_loads_a_release_by_its_alias(
    registry: Registry, tmp_path: Path, graph: ExportedGraph, checkpoint: Checkpoint
) -> None:
    """By what stands in MLmodel, which we wrote and not MLflow."""
    shape = checkpoint.features.spec.tensor_shape
    (tmp_path / MLMODEL).write_text(yaml.safe_dump(mlmodel(signature(graph.info), "3.0.0", "1.0", "2026-11-22T00:00:00")))
    objects, version = open_objects(Location.parse(str(tmp_path / "models")).url), Version(3, 0, 0)
    with claimed(objects, version, print):
        release = publish(objects, version, [graph.path, tmp_path / MLMODEL], {})
    registry.make_candidate(release)
    mlflow.set_tracking_uri(registry.request.uri)
    try:
        found = mlflow.models.get_model_info("models:/locator@candidate").signature
        model = mlflow.pyfunc.load_model("models:/locator@candidate")
    finally:
        mlflow.set_tracking_uri(None)  # type: ignore[arg-type]  # None unsets it, which its annotation forgets
    assert found is not None
    assert [tensor.shape for tensor in found.inputs] == [(-1, *shape)]
    assert [tensor.name for tensor in found.outputs] == ["positions", "uncertainties"]
    assert model.predict(np.zeros((3, *shape), np.float32))["positions"].shape == (3, 2)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.mark.parametrize("uri", ["http://127.0.0.1:{port}", "postgresql+psycopg://me:secret@127.0.0.1:{port}/mlflow"])
def test_one_that_does_not_answer_is_said_soon(uri: str) -> None:
    began = time.monotonic()
    with pytest.raises(ServiceUnavailableError, match=r"does not answer.*--registry-uri, or use --no-registry") as caught:
        open_registry(RegistryRequest(uri.format(port=free_port())))
    assert time.monotonic() - began < 400
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("uri", "match"),
    [("./runs", "--registry-uri ./runs is not an address that MLflow accepts"), ("postgresql://h/d", "names no driver")],
)
def test_an_address_that_is_none_is_named(uri: str, match: str) -> None:
    with pytest.raises(UsageError, match=match):
        open_registry(RegistryRequest(uri))


def test_what_the_registry_refuses_is_said_and_services_stay_where_they_were(
    mlflow_database: str, bucket: str, graph: ExportedGraph
) -> None:
    release = made(bucket, "1.0.0", graph)
    with pytest.raises(StoreError, match=r"refuses model 'a/b'.*--model-name"):
        promote(release, open_registry(RegistryRequest(mlflow_database, "a/b")))
    with pytest.raises(UsageError, match="no release was promoted yet"):
        read_release(bucket)
