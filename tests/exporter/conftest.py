"""A small set, a checkpoint that knows its features, and its graphs: made once for all processes of a test run."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import psycopg
import pytest
import torch
from corpus_for_tests import SMALL, Corpus
from exports_for_tests import Built, save_checkpoint
from made_once import made_once
from psycopg import sql

from exporter.graph.features_graph import export_graph
from exporter.graph.iq_graph import export_iq_graph
from exporter.graph.onnx_file import ExportedGraph
from exporter.graph.session_graph import export_session_graph, export_session_iq_graph
from featurestore.objects.objects import Location
from featurestore.services import Running, postgres
from featurestore.source.catalog_writing import create_table
from featurestore.store.feature_set import open_set
from featurestore.tensor.spec import FeatureSpec, SplitSpec
from trainer.network.checkpoints import Checkpoint


@pytest.fixture(scope="session")
def build_set(services: Running, tmp_path_factory: pytest.TempPathFactory) -> Callable[[FeatureSpec], Built]:
    """Builds a set of 20 sessions, heard by three receivers each."""

    def make(spec: FeatureSpec) -> Built:
        corpus, version = _build(services, tmp_path_factory.mktemp("built"), spec)
        return Built(corpus, open_set(str(corpus.store), version))

    return make


def _build(services: Running, directory: Path, spec: FeatureSpec) -> tuple[Corpus, str]:
    database = f"test_{uuid.uuid4().hex[:12]}"  # as long-lived as the server
    with psycopg.connect(services.catalog, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(database)))
    catalog = services.catalog.removesuffix(postgres.DATABASE) + database
    create_table(catalog)
    raw, store = directory / "raw", directory / "store"
    raw.mkdir()
    corpus = Corpus(Location.parse(str(raw)), Location.parse(str(store)), catalog, spec)
    corpus.add(*range(20))
    return corpus, corpus.build(split=SplitSpec(val_fraction=0.3, test_fraction=0.3)).version


@pytest.fixture(scope="session")
def built(services: Running, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """A set that no test changes."""
    corpus, version = made_once(tmp_path_factory, "exporter-set", lambda directory: _build(services, directory, SMALL))
    return Built(corpus, open_set(str(corpus.store), version))


@pytest.fixture(scope="session")
def checkpoint(built: Built) -> Checkpoint:
    return built.checkpoint()


Trace = Callable[[Callable[[Checkpoint, Path, str], ExportedGraph], Checkpoint, str], ExportedGraph]


@pytest.fixture(scope="session")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    """Exports a graph to a file of that name, once in a test run."""

    def make(export: Callable[[Checkpoint, Path, str], ExportedGraph], checkpoint: Checkpoint, name: str) -> ExportedGraph:
        return made_once(tmp_path_factory, export.__name__, lambda directory: export(checkpoint, directory / name, "1.2.3"))

    return make


@pytest.fixture(scope="session")
def graph(checkpoint: Checkpoint, traced: Trace) -> ExportedGraph:
    """`model.onnx` of the checkpoint."""
    return traced(export_graph, checkpoint, "model.onnx")


@pytest.fixture(scope="session")
def iq_graph(checkpoint: Checkpoint, traced: Trace) -> ExportedGraph:
    """`model-iq.onnx` of the same."""
    return traced(export_iq_graph, checkpoint, "model-iq.onnx")


@pytest.fixture(scope="session")
def session_checkpoint(built: Built) -> Checkpoint:
    return built.session_checkpoint()


@pytest.fixture(scope="session")
def session_graph(session_checkpoint: Checkpoint, traced: Trace) -> ExportedGraph:
    """`model.onnx` of the checkpoint for sessions."""
    return traced(export_session_graph, session_checkpoint, "model.onnx")


@pytest.fixture(scope="session")
def session_iq_graph(session_checkpoint: Checkpoint, traced: Trace) -> ExportedGraph:
    """`model-iq.onnx` of the same."""
    return traced(export_session_iq_graph, session_checkpoint, "model-iq.onnx")


@pytest.fixture
def captures(built: Built) -> npt.NDArray[np.complex128]:
    """(4, samples) of the corpus."""
    return np.stack([built.corpus.samples(session, 1) for session in range(4)])


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Networks this small take longer when two threads wait for each other on cores that others use, too."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def checkpoint_file(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint as a file."""
    return save_checkpoint(checkpoint, tmp_path_factory.mktemp("checkpoint") / "last.ckpt")


@pytest.fixture(scope="session")
def mlflow_database(services: Running, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a database for MLflow: one for all, since MLflow takes seconds to make its tables."""

    def make(_: Path) -> str:
        import mlflow

        name = f"mlflow_{uuid.uuid4().hex[:12]}"
        with psycopg.connect(services.catalog, autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        address = (services.catalog.removesuffix(postgres.DATABASE) + name).replace("postgresql://", "postgresql+psycopg://")
        mlflow.MlflowClient(address, address).search_registered_models()  # makes the tables
        return address

    return made_once(tmp_path_factory, "mlflow-database", make)
