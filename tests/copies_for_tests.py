"""Copies of a corpus and its store: what takes several builds to grow is grown once, and every test has one of its own."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psycopg
from corpus_for_tests import Corpus
from psycopg import sql

from featurestore.objects.objects import Location
from featurestore.services import Running, postgres
from featurestore.source.catalog_writing import create_table


def empty_corpus(directory: Path, catalog: str) -> Corpus:
    """A corpus of files."""
    (directory / "raw").mkdir(exist_ok=True)
    return Corpus(Location.parse(str(directory / "raw")), Location.parse(str(directory / "store")), catalog)


@contextmanager
def database(services: Running, template: str | None = None) -> Iterator[str]:
    """The URL of a database: of an empty one with its table, or of a copy of another."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(services.catalog, autocommit=True) as connection:
        like = sql.SQL("") if template is None else sql.SQL(" TEMPLATE {}").format(sql.Identifier(template.rpartition("/")[2]))
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)) + like)
        url = services.catalog.removesuffix(postgres.DATABASE) + name
        if template is None:
            create_table(url)
        yield url
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@contextmanager
def copied(corpus: Corpus, directory: Path, services: Running) -> Iterator[Corpus]:
    """A copy of captures, catalog and store, times included: nothing is to be computed again."""
    with database(services, corpus.catalog) as catalog:
        for name in ("raw", "store"):
            shutil.copytree(corpus.raw.directory.parent / name, directory / name)
        yield replace(empty_corpus(directory, catalog), records=dict(corpus.records))
