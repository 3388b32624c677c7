"""Off-air recordings that the tests use where they are at hand: HEIMDALL_REAL_IQ, or shared/real-iq beside the checkout."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest

BESIDE = Path(__file__).resolve().parents[1].parent / "shared" / "real-iq"
MADE_UP = (45.07, 7.69)
"""Where the index knows no transmitter: a position that is not true, so that the row can be ingested at all."""

SWAPPED = {"sonde_dfmIQ_100k.wav", "adsb_rsadsb_1641427457780_1090M_2.4M.cs16"}


def find_real_iq() -> Path:
    """The directory of recordings and index.csv; skips the test when there is none."""
    directory = Path(os.environ.get("HEIMDALL_REAL_IQ") or BESIDE)
    if not (directory / "index.csv").is_file():
        pytest.skip(f"no real recordings: set HEIMDALL_REAL_IQ (looked in {directory})")
    return directory


def read_index(directory: Path) -> dict[str, dict[str, str]]:
    """What is true of each recording, by file name."""
    with (directory / "index.csv").open(newline="") as file:
        return {row["file"]: row for row in csv.DictReader(file)}


def label_rows(directory: Path) -> list[dict[str, object]]:
    """One label per recording; the three of DCF77 are one session with receivers 1 to 3, every other one is its own."""
    rows: list[dict[str, object]] = []
    receivers = iter((1, 2, 3))
    for row in read_index(directory).values():
        dcf77 = row["file"].startswith("kiwi_dcf77")
        known = row["transmitter_lat"] != ""
        rows.append(
            {
                "file": row["file"],
                "latitude": row["transmitter_lat"] if known else MADE_UP[0],
                "longitude": row["transmitter_lon"] if known else MADE_UP[1],
                "websdr_id": next(receivers) if dcf77 else 10,
                "session_id": "dcf77-20200813T065220Z" if dcf77 else "",
                "sample_rate_hz": row["sample_rate_hz"],
                "frequency_mhz": float(row["center_freq_hz"]) / 1e6 if row["center_freq_hz"] else "",
                "timestamp": row["datetime"],
                "approved": "true",
                "swap_iq": str(row["file"] in SWAPPED).lower(),
                "position_is": "true" if known else "made up",
            }
        )
    return rows


def write_csv(path: Path, rows: list[dict[str, object]]) -> Path:
    """Rows as a labels file."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path
