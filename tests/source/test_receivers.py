"""Where receivers stand: what a table may look like, what is refused, and what is made of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from featurestore.errors import UsageError
from featurestore.objects.objects import open_objects
from featurestore.source.receivers import Receivers, read_receivers, receivers_csv

ROWS = [(7, 45.478, 9.123, "Milano, Baggio"), (1, -45.03, -7.27, "")]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_bytes(receivers_csv(ROWS))
    found = read_receivers(str(tmp_path / "r.csv"))
    assert found.websdr_id.tolist() == [1, 7]
    assert found.position.tolist() == [[-45.03, -7.27], [45.478, 9.123]]
    assert found.name == ("", "Milano, Baggio")
    assert found.labels() == ["1", "Milano, Baggio"]


def test_a_name_alone_is_a_file_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("r.csv").write_text("\ufeff Longitude ;latitude;WEBSDR_ID;mast\n9;45;3;tall\n", encoding="utf-8")
    found = read_receivers("r.csv")
    assert (found.websdr_id.tolist(), found.position.tolist(), found.name) == ([3], [[45.0, 9.0]], ("",))


def test_a_table_in_s3(bucket: str) -> None:
    open_objects(f"{bucket}/raw").put("r.csv", receivers_csv(ROWS))
    assert read_receivers(f"{bucket}/raw/r.csv").websdr_id.tolist() == [1, 7]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", r"has no column websdr_id, latitude, longitude; it has none"),
        (b"id,lat,lon\n", r"has no column websdr_id, latitude, longitude; it has id, lat, lon"),
        (b"websdr_id,latitude,longitude\n1,91,7\n", r"line 2: latitude is '91'; expected degrees from -90 to 90"),
        (b"websdr_id,latitude,longitude\n1,45,nan\n", r"line 2: longitude is 'nan'; expected degrees"),
        (b"websdr_id,latitude,longitude\n1,45\n", r"line 2: longitude is None; expected degrees"),
        (b"websdr_id,latitude,longitude\n1.5,45,7\n", r"line 2: websdr_id is '1.5'; expected a whole number"),
        (b"websdr_id,latitude,longitude\n1,45,7\n\n1,46,7\n", r"line 4: receiver 1 is there twice"),
        (b'websdr_id,latitude,longitude\n1,45,"7\n', r"line 1: unexpected end of data; correct the CSV"),
        (b"websdr_id,latitude,longitude\n\xff\n", r"is not UTF-8; give a CSV"),
    ],
)
def test_tables_that_are_none(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "r.csv").write_bytes(content)
    with pytest.raises(UsageError, match=f"--receivers .*/r.csv,? {words}"):
        read_receivers(str(tmp_path / "r.csv"))


def test_files_that_are_none(tmp_path: Path, bucket: str) -> None:
    for where in (str(tmp_path / "absent.csv"), str(tmp_path / "no" / "such.csv"), str(tmp_path), f"{bucket}/absent.csv"):
        with pytest.raises(UsageError, match="does not exist; give a CSV"):
            read_receivers(where)


def test_positions_of_rows() -> None:
    receivers = Receivers(np.array([2, 5]), np.array([[45.0, 7.0], [46.0, 8.0]]), ("a", "b"))
    np.testing.assert_array_equal(
        receivers.positions_of(np.array([5, 1, 2, 9])), [[46, 8], [np.nan, np.nan], [45, 7], [np.nan, np.nan]]
    )
    assert receivers.sharing() == [[0], [1]]
    nobody = receivers.select([7])
    assert (len(nobody), nobody.name) == (0, ())
    np.testing.assert_array_equal(nobody.positions_of(np.array([5])), [[np.nan, np.nan]])
    assert receivers.select(np.array([5, 5, 6])).name == ("b",)
