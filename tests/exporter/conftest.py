"""A small set, and a checkpoint that knows its features: made once per test process."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import psycopg
import pytest
import torch
from corpus_for_tests import SMALL, Corpus
from exports_for_tests import Built, save_checkpoint
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
        database = f"test_{uuid.uuid4().hex[:12]}"  # as long-lived as the server
        with psycopg.connect(services.catalog, autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(database)))
        catalog = services.catalog.removesuffix(postgres.DATABASE) + database
        create_table(catalog)
        directory = tmp_path_factory.mktemp("built")
        raw, store = directory / "raw", directory / "store"
        raw.mkdir()
        corpus = Corpus(Location.parse(str(raw)), Location.parse(str(store)), catalog, spec)
        corpus.add(*range(20))
        report = corpus.build(split=SplitSpec(val_fraction=0.3, test_fraction=0.3))
        return Built(corpus, open_set(str(corpus.store), report.version))

    return make


@pytest.fixture(scope="session")
def built(build_set: Callable[[FeatureSpec], Built]) -> Built:
    return build_set(SMALL)


@pytest.fixture(scope="session")
def checkpoint(built: Built) -> Checkpoint:
    return built.checkpoint()


@pytest.fixture(scope="session")
def graph(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> ExportedGraph:
    """`model.onnx` of the checkpoint."""
    return export_graph(checkpoint, tmp_path_factory.mktemp("graph") / "model.onnx", "1.2.3")


@pytest.fixture(scope="session")
def iq_graph(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> ExportedGraph:
    """`model-iq.onnx` of the same."""
    return export_iq_graph(checkpoint, tmp_path_factory.mktemp("graph") / "model-iq.onnx", "1.2.3")


@pytest.fixture(scope="session")
def session_checkpoint(built: Built) -> Checkpoint:
    return built.session_checkpoint()


@pytest.fixture(scope="session")
def session_graph(session_checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> ExportedGraph:
    """`model.onnx` of the checkpoint for sessions."""
    return export_session_graph(session_checkpoint, tmp_path_factory.mktemp("graph") / "model.onnx", "1.2.3")


@pytest.fixture(scope="session")
def session_iq_graph(session_checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> ExportedGraph:
    """`model-iq.onnx` of the same."""
    return export_session_iq_graph(session_checkpoint, tmp_path_factory.mktemp("graph") / "model-iq.onnx", "1.2.3")


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
def mlflow_database(services: Running) -> Iterator[str]:
    """The address of a database for MLflow: one for all, since MLflow takes seconds to make its tables."""
    name = f"mlflow_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(services.catalog, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        url = services.catalog.removesuffix(postgres.DATABASE) + name
        yield url.replace("postgresql://", "postgresql+psycopg://")
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
