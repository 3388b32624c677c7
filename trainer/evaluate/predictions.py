"""Predictions as a table, one row for each: written as Parquet or CSV, whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from featurestore.errors import UsageError
from featurestore.source.snapshot import format_sessions
from featurestore.store.feature_set import FeatureSet
from featurestore.whole_file import whole_file
from trainer.evaluate.metrics import Predictions

SUFFIXES = (".parquet", ".csv")
METADATA_KEY = "heimdall"


def require_format(path: Path) -> None:
    """Refuse a file whose name does not say how it is to be written.

    Raises:
        UsageError: when it ends otherwise than `SUFFIXES`.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"predictions file {path} ends in {path.suffix!r}; expected a name that ends in .parquet or .csv")


def require_directory(directory: Path) -> None:
    """Create a directory that results are to go to, before anything costly is done.

    Raises:
        UsageError: when that cannot be done, or nothing can be written to it.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"directory {directory} cannot be made ({error.strerror}); choose another one") from error
    if not os.access(directory, os.W_OK):
        raise UsageError(f"directory {directory} cannot be written to; choose another one")


def columns(feature_set: FeatureSet, row: npt.NDArray[np.int64], predictions: Predictions) -> dict[str, Any]:
    """The table, column by column.

    Args:
        feature_set: of the rows.
        row: (n,) index in the set.
        predictions: of those rows.
    """
    labels = feature_set.labels
    return {
        "row": row,
        "capture_id": feature_set.fact("capture_id")[row],
        "window": feature_set.fact("window")[row],
        "session_id": format_sessions(feature_set.fact("session_id")[row]),
        "websdr_id": feature_set.fact("websdr_id")[row],
        "snr_db": labels.snr_db[row],
        "frequency_mhz": labels.frequency_mhz[row],
        "latitude": predictions.position_true[:, 0],
        "longitude": predictions.position_true[:, 1],
        "predicted_latitude": predictions.position[:, 0],
        "predicted_longitude": predictions.position[:, 1],
        "sigma_east_m": predictions.sigma_east_m,
        "sigma_north_m": predictions.sigma_north_m,
        "error_m": predictions.error_m,
        "east_error_m": predictions.east_error_m,
        "north_error_m": predictions.north_error_m,
    }


def write_predictions(path: Path, table: Mapping[str, Any], about: Mapping[str, Any]) -> None:
    """Write a table.

    Args:
        path: its suffix says how; the file is replaced when it is there.
        table: columns; NaN is written as null in Parquet, as nothing in CSV.
        about: where the predictions are from; kept in Parquet's metadata under `heimdall`, as JSON.

    Raises:
        UsageError: when the suffix is unknown, or the file cannot be written.
    """
    import pyarrow as pa  # type: ignore[import-untyped]  # it ships no types
    from pyarrow import csv, parquet

    require_format(path)
    arrays = {name: pa.array(values, from_pandas=True) for name, values in table.items()}  # from_pandas: NaN is null
    content = pa.table(arrays).replace_schema_metadata({METADATA_KEY: json.dumps(about)})
    with whole_file(path) as file:
        if path.suffix.lower() == ".parquet":
            parquet.write_table(content, file)
        else:
            file.write((",".join(table) + "\n").encode())  # Arrow's own header is in quotes
            csv.write_csv(content, file, csv.WriteOptions(include_header=False, quoting_style="none"))
