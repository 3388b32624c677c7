"""A corpus on real servers, and what a build of it without faults wrote: by that is told whether faults lost anything."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

import psycopg
import pytest
from corpus_for_tests import Corpus
from psycopg import sql

from featurestore.care.verify.verify import verify
from featurestore.objects.objects import Location, open_objects
from featurestore.services import SHADOWING, Running, postgres
from featurestore.source.catalog_writing import create_table
from featurestore.store.feature_set import open_set
from featurestore.store.sets import list_sets

CHUNK_ROWS = 8
SESSIONS = range(8)


@contextmanager
def s3_at(services: Running, url: str) -> Iterator[None]:
    """Everything that opens object stores in this process finds the server at `url`."""
    with pytest.MonkeyPatch.context() as patch:
        for name in SHADOWING:
            patch.delenv(name, raising=False)
        for name, value in services.environment.items():
            if name.startswith("AWS_"):
                patch.setenv(name, value)
        for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
            patch.setenv(name, url)
        for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
            patch.setenv(name, "/nonexistent")
        patch.setenv("NO_PROXY", "127.0.0.1")
        open_objects.cache_clear()
        try:
            yield
        finally:
            open_objects.cache_clear()


def port_of(url: str) -> int:
    return int(urlsplit(url).port or 0)


@dataclass
class World:
    """A corpus, built once without faults.

    Attributes:
        services: the servers.
        corpus: captures in S3 and PostgreSQL.
        version: of the set.
        chunks: every chunk that the build wrote, by key.
    """

    services: Running
    corpus: Corpus
    version: str = ""
    chunks: dict[str, bytes] | None = None

    @property
    def bucket(self) -> str:
        """Its name."""
        return urlsplit(self.corpus.raw.url).netloc

    def elsewhere(self, store: str, catalog_port: int | None = None) -> Corpus:
        """The same corpus, to be built into another store, by way of another port to the catalog."""
        catalog = self.corpus.catalog
        if catalog_port is not None:
            catalog = catalog.replace(f":{self.services.environment['PGPORT']}/", f":{catalog_port}/")
        return replace(self.corpus, store=Location.parse(f"s3://{self.bucket}/{store}"), catalog=catalog)

    def read_chunks(self, store: Location) -> dict[str, bytes]:
        """Every chunk in a store, by key."""
        objects = open_objects(store.url)
        return {info.key: objects.get(info.key) for info in objects.walk() if "/c/" in info.key}

    def bytes_lost(self, store: Location) -> int:
        """Bytes of the build without faults that a store does not hold at their places."""
        assert self.chunks
        found = self.read_chunks(store)
        assert found.keys() == self.chunks.keys()
        pairs = [(wanted, found[key]) for key, wanted in self.chunks.items()]
        return sum(a != b for wanted, got in pairs for a, b in zip(wanted, got, strict=False)) + sum(
            abs(len(wanted) - len(got)) for wanted, got in pairs
        )

    def wrongly_readable(self, store: Location) -> list[str]:
        """Versions that can be opened, and are not whole."""
        manifests, damaged = list_sets(open_objects(store.url))
        wrong = list(damaged)
        for manifest in manifests:
            opened = open_set(store.url, manifest.version)
            whole = manifest.version == self.version and len(opened.labels.split) == manifest.n_rows
            if not whole or verify(store.url, manifest.version).problems:
                wrong.append(manifest.version)
        return wrong


@contextmanager
def made_world(services: Running) -> Iterator[World]:
    """A corpus in a bucket and a database of its own, and the set that is right."""
    name = f"faults-{uuid.uuid4().hex[:12]}"
    database = sql.Identifier(name)
    services.create_buckets(name)
    with psycopg.connect(services.catalog, autocommit=True) as connection, pytest.MonkeyPatch.context() as patch:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(database))
        catalog = services.catalog.removesuffix(postgres.DATABASE) + name
        create_table(catalog)
        patch.setattr("featurestore.store.rows.CHUNK_ROWS", CHUNK_ROWS)
        corpus = Corpus(Location.parse(f"s3://{name}/raw"), Location.parse(f"s3://{name}/right"), catalog)
        world = World(services, corpus)
        with s3_at(services, services.endpoint):
            corpus.add(*SESSIONS)
            corpus.add(len(SESSIONS), broken="silent")
            world.version = corpus.build(max_rejected_fraction=0.2).version
            world.chunks = world.read_chunks(corpus.store)
        yield world
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(database))
