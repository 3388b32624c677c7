"""The catalog: what a snapshot holds, what is refused, and that no password is ever repeated."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from importlib.resources import files

import numpy as np
import psycopg
import pytest

from featurestore.errors import DataQualityError, UsageError
from featurestore.source.catalog import EVERY_CAPTURE_QUERY, read_snapshot
from featurestore.source.catalog_connection import describe
from featurestore.source.catalog_writing import ADD_TIMES, CaptureRecord, create_table, record
from featurestore.source.snapshot import NO_TIMESTAMP

SESSION = uuid.UUID("01234567-89ab-cdef-0123-456789abcdef")


def execute(catalog: str, statement: str) -> None:
    with psycopg.connect(catalog, autocommit=True) as connection:
        connection.execute(statement.encode())


def fill(catalog: str) -> None:
    full = CaptureRecord(SESSION, 2, 45.5, 7.25, 48_000, 145.0, 12.5, datetime(2026, 1, 2, 3, 4, 5, 678901, UTC), "x.npy", True)
    bare = CaptureRecord(SESSION, 1, -33.0, 151.0, 192_000, approved=True)
    hidden = CaptureRecord(SESSION, 3, 0.5, 0.5, 192_000, approved=False)
    record(catalog, [full, bare, hidden])


def test_a_snapshot_holds_the_approved_rows_in_order_of_id(catalog: str) -> None:
    fill(catalog)
    found = read_snapshot(catalog)
    assert found.capture_id.tolist() == [1, 2]
    assert [row.tobytes() for row in found.session_id] == [SESSION.bytes] * 2
    assert found.websdr_id.tolist() == [2, 1]
    assert found.position.tolist() == [[45.5, 7.25], [-33.0, 151.0]]
    np.testing.assert_array_equal(found.frequency_mhz, np.array([145, np.nan], np.float32))
    np.testing.assert_array_equal(found.snr_db, np.array([12.5, np.nan], np.float32))
    assert found.sample_rate_hz.tolist() == [48_000, 192_000]
    assert found.timestamp.tolist() == [1_767_323_045_678_901_000, NO_TIMESTAMP]
    assert list(found.keys()) == ["x.npy", f"sessions/{SESSION}/websdr_1.npy"]
    assert [found.key(i) for i in range(2)] == list(found.keys())


def test_times_are_kept_to_the_nanosecond(catalog: str) -> None:
    create_table(catalog)
    start = 1_597_301_541_000_000_123  # no float64 holds it
    record(catalog, [CaptureRecord(SESSION, 1, 1, 1, 12_000, approved=True, start_time_ns=start, time_sigma_s=6.5e-8)])
    record(catalog, [CaptureRecord(SESSION, 2, 1, 1, 12_000, approved=True)])
    found = read_snapshot(catalog)
    assert found.start_time_ns.tolist() == [start, NO_TIMESTAMP]
    np.testing.assert_array_equal(found.time_sigma_s, [6.5e-8, np.nan])
    again = read_snapshot(catalog, EVERY_CAPTURE_QUERY)
    assert again.start_time_ns.tolist() == found.start_time_ns.tolist()
    np.testing.assert_array_equal(again.time_sigma_s, found.time_sigma_s)


def test_a_catalog_of_before_times_is_read_and_gets_its_columns_when_it_is_written(catalog: str) -> None:
    fill(catalog)
    execute(catalog, "ALTER TABLE measurements DROP start_time_ns, DROP time_sigma_s")
    for query in (None, EVERY_CAPTURE_QUERY):
        found = read_snapshot(catalog, query)
        assert (found.start_time_ns == NO_TIMESTAMP).all()
        assert np.isnan(found.time_sigma_s).all()
    create_table(catalog)
    assert record(catalog, [CaptureRecord(SESSION, 2, 45.5, 7.25, 48_000, start_time_ns=5)]).updated == 1
    assert read_snapshot(catalog).start_time_ns.tolist() == [5, NO_TIMESTAMP]


def test_the_migration_in_the_schema_is_the_one_that_is_done() -> None:
    schema = " ".join(files("featurestore").joinpath("schema.sql").read_text().replace("--", " ").split())
    assert ADD_TIMES in schema


def test_a_key_that_is_the_usual_one_is_not_kept_as_a_custom_one(catalog: str) -> None:
    fill(catalog)
    execute(catalog, f"UPDATE measurements SET iq_key = 'sessions/{SESSION}/websdr_2.npy' WHERE id = 1")
    assert read_snapshot(catalog).custom_keys == {}


def test_limit_counts_by_id(catalog: str) -> None:
    fill(catalog)
    assert read_snapshot(catalog, limit=1).capture_id.tolist() == [1]


def test_an_empty_catalog_gives_an_empty_snapshot(catalog: str) -> None:
    assert len(read_snapshot(catalog)) == 0


def test_a_query_of_ones_own_is_filtered_by_approved_if_it_yields_it(catalog: str) -> None:
    fill(catalog)
    assert read_snapshot(catalog, "SELECT * FROM measurements -- all of them").capture_id.tolist() == [1, 2]
    names = 'id, session_id, websdr_id, latitude, longitude, frequency_mhz, sample_rate_hz, snr_db, "timestamp", iq_key'
    assert read_snapshot(catalog, f"SELECT {names} FROM measurements;").capture_id.tolist() == [1, 2, 3]


def test_a_query_cannot_write(catalog: str) -> None:
    fill(catalog)
    with pytest.raises(UsageError, match=r"lacks a right|correct the query"):
        read_snapshot(catalog, "WITH gone AS (DELETE FROM measurements RETURNING *) SELECT * FROM gone")
    assert len(read_snapshot(catalog)) == 2


@pytest.mark.parametrize(
    ("column", "value", "error"),
    [("session_id", "'no uuid'", UsageError), ("id", "NULL::bigint", DataQualityError), ("id", "7", DataQualityError)],
)
def test_values_that_cannot_be_used_are_named(catalog: str, column: str, value: str, error: type[Exception]) -> None:
    fill(catalog)
    names = ["id", "session_id", "websdr_id", "latitude", "longitude", "frequency_mhz", "sample_rate_hz", "snr_db", "iq_key"]
    columns = ", ".join(f"{value} AS {name}" if name == column else name for name in names)
    with pytest.raises(error, match=r"uuid|NULL id|id 7 more than once"):
        read_snapshot(catalog, f'SELECT {columns}, "timestamp" FROM measurements')


def test_the_table_is_created_once(catalog: str) -> None:
    fill(catalog)
    create_table(catalog)
    assert len(read_snapshot(catalog)) == 2


def test_recording_twice_changes_nothing_and_none_keeps_what_is_there(catalog: str) -> None:
    fill(catalog)
    fill(catalog)
    again = record(catalog, [CaptureRecord(SESSION, 2, 46.0, 7.25, 48_000)])
    assert (again.inserted, again.updated, again.unchanged) == (0, 1, 0)
    found = read_snapshot(catalog)
    assert found.position[0].tolist() == [46.0, 7.25]
    assert found.key(0) == "x.npy"


def test_a_catalog_is_described_without_user_and_password() -> None:
    assert describe("postgresql://me:secret@db.example.org:5433/radio") == "PostgreSQL db.example.org:5433/radio"
    assert "secret" not in describe("host=x password=secret")
