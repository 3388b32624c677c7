"""A pair set of five simulated sessions: made once, and copied for tests that change it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from copies_for_tests import database
from pair_worlds import World

from featurestore.pairs import rows as pair_rows
from featurestore.services import Running
from featurestore.source.catalog_writing import create_table


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pair_rows, "CHUNK_ROWS", 45)  # two sessions of 21 pairs, and three rows that only fill


@pytest.fixture(scope="session")
def built_once(services: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with database(services) as catalog, pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(pair_rows, "CHUNK_ROWS", 45)
        world = World(tmp_path_factory.mktemp("pairs"), catalog)
        world.simulate()
        world.build()
        yield world


@pytest.fixture
def world(built_once: World, tmp_path: Path, services: Running) -> Iterator[World]:
    """A copy of it, to be changed."""
    shutil.copytree(built_once.directory, tmp_path / "w")
    with database(services) as catalog:
        copy = World(tmp_path / "w", catalog)
        create_table(catalog)
        with psycopg.connect(built_once.catalog) as source, psycopg.connect(catalog, autocommit=True) as target:
            columns = "id, session_id, websdr_id, latitude, longitude, frequency_mhz, sample_rate_hz, snr_db, approved"
            columns += ", start_time_ns, time_sigma_s"
            rows = source.execute(f"SELECT {columns} FROM measurements ORDER BY id".encode()).fetchall()
            for row in rows:
                target.execute(f"INSERT INTO measurements ({columns}) VALUES ({', '.join(['%s'] * 11)})".encode(), row)
            target.execute("SELECT setval(pg_get_serial_sequence('measurements', 'id'), 1000)")
        yield copy
