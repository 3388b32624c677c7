"""A small feature set to train on, built once per process, and a training that takes seconds."""

from __future__ import annotations

import uuid
from pathlib import Path

import psycopg
import pytest
import torch
from corpus_for_tests import Corpus
from psycopg import sql
from trainings_for_tests import tiny_training

from featurestore.objects.objects import Location
from featurestore.services import Running, postgres
from featurestore.source.catalog_writing import create_table
from trainer.fitting.request import Hardware, TrainRequest

SESSIONS = range(20)

torch.set_num_threads(1)  # several processes test at the same time, and tiny networks gain nothing by more


@pytest.fixture(scope="session")
def training_corpus(services: Running, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """60 captures in files, catalogued, with a feature set in chunks of 8 rows tagged `small`."""
    directory = tmp_path_factory.mktemp("training")
    (directory / "raw").mkdir()
    database = f"training_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(services.catalog, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(database)))
    catalog = services.catalog.removesuffix(postgres.DATABASE) + database
    create_table(catalog)
    corpus = Corpus(Location.parse(str(directory / "raw")), Location.parse(str(directory / "store")), catalog)
    corpus.add(*SESSIONS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("featurestore.store.rows.CHUNK_ROWS", 8)
        corpus.build(tag="small")
    return corpus


@pytest.fixture
def tiny(training_corpus: Corpus, tmp_path: Path) -> TrainRequest:
    """Two epochs of six steps."""
    directory = tmp_path / "checkpoints"
    return TrainRequest(
        str(training_corpus.store), "small", directory, tiny_training(2), batch_size=8, hardware=Hardware(accelerator="cpu")
    )
