"""The predictions file: what is written is read back, whole or not at all."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq  # type: ignore[import-untyped]  # it ships no types
import pytest

from featurestore.errors import UsageError
from featurestore.whole_file import whole_file
from trainer.evaluate.predictions import require_directory, require_format, write_predictions

TABLE: dict[str, Any] = {
    "row": np.array([3, 4]),
    "session_id": ["00000000-0000-0000-0000-000000000001", "00000000-0000-0000-0000-000000000002"],
    "snr_db": np.array([12.3, np.nan], np.float32),
    "error_m": np.array([1 / 3, 1e5]),
}


def test_parquet_keeps_types_and_says_where_it_is_from(tmp_path: Path) -> None:
    path = tmp_path / "predictions.parquet"
    write_predictions(path, TABLE, {"version": "0123456789ab"})
    found = pq.read_table(path)
    assert [str(kind) for kind in found.schema.types] == ["int64", "string", "float", "double"]
    assert found.to_pydict() == {
        "row": [3, 4],
        "session_id": TABLE["session_id"],
        "snr_db": [pytest.approx(12.3), None],
        "error_m": [1 / 3, 1e5],
    }
    assert json.loads(found.schema.metadata[b"heimdall"]) == {"version": "0123456789ab"}


def test_csv_is_plain_and_exact(tmp_path: Path) -> None:
    path = tmp_path / "predictions.CSV"
    write_predictions(path, TABLE, {})
    text = path.read_text()
    assert '"' not in text
    with path.open() as file:
        first, second = csv.DictReader(file)
    assert list(first) == list(TABLE)
    assert (first["row"], first["session_id"], first["snr_db"]) == ("3", TABLE["session_id"][0], "12.3")
    assert float(first["error_m"]) == 1 / 3
    assert second["snr_db"] == ""
    assert math.isclose(float(second["error_m"]), 1e5)


@pytest.mark.parametrize("name", ["predictions.txt", "predictions", "parquet"])
def test_an_unknown_suffix_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"expected a name that ends in \.parquet or \.csv"):
        require_format(tmp_path / name)
    with pytest.raises(UsageError, match=r"expected a name that ends in \.parquet or \.csv"):
        write_predictions(tmp_path / name, TABLE, {})


def test_what_was_there_stays_until_all_is_written(tmp_path: Path) -> None:
    path = tmp_path / "old.csv"
    path.write_text("old")
    with pytest.raises(TypeError), whole_file(path) as file:
        file.writelines([b"new", None])  # type: ignore[list-item]  # what makes it fail halfway
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    with whole_file(path) as file:
        file.write(b"new")
    assert path.read_text() == "new"


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be made"):
        require_directory(tmp_path / "file" / "below")
    with pytest.raises(UsageError, match="cannot be written"), whole_file(tmp_path / "file" / "below.csv"):
        pass
