"""What is true of simulated captures, and the `truth.csv` that keeps it, so that what is knowable can be computed."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass, fields
from uuid import UUID


@dataclass(frozen=True)
class CaptureTruth:
    """One capture as it really was; a row of `truth.csv`, in the order of its columns.

    Attributes:
        session_id: the session.
        websdr_id: the receiver.
        site: name of the repeater site, empty elsewhere.
        latitude: true position of the transmitter in degrees (the catalog's has an error).
        longitude: likewise.
        eirp_dbm: radiated power.
        frequency_mhz: channel.
        ctcss_hz: tone.
        distance_m: from transmitter to receiver.
        shadowing_db: what the radio map adds at this place.
        level_dbm: mean received power by the radio map, before fading.
        level_dbfs: the same relative to full scale.
        snr_db: `level_dbm` over the noise in one channel of 12.5 kHz.
        fading_db: mean power of the fading over this capture; `snr_db + fading_db` is the SNR it has.
        doppler_hz: largest Doppler shift.
        carrier_hz: where the carrier lies in the capture, tuning and clock errors included, the direct Doppler shift not.
        clipped_fraction: share of samples beyond full scale.
        approved: 1 if the catalog says so, else 0.
        broken: rejection reason that the capture was made for, or empty.
        delay_s: how long the direct wave took; this and what follows is empty without a clock.
        second_path_s: how much later the scattered waves came.
        start_time_ns: when the first sample was taken, Unix time.
        time_error_s: what the catalog says of that, less the truth.
        sample_clock_ppm: how much too fast the sample clock ran at the first sample.
        drift_ppm_per_s: how fast that grew.
    """

    session_id: UUID
    websdr_id: int
    site: str
    latitude: float
    longitude: float
    eirp_dbm: float
    frequency_mhz: float
    ctcss_hz: float
    distance_m: float
    shadowing_db: float
    level_dbm: float
    level_dbfs: float
    snr_db: float
    fading_db: float
    doppler_hz: float
    carrier_hz: float
    clipped_fraction: float
    approved: bool
    broken: str
    delay_s: float | None = None
    second_path_s: float | None = None
    start_time_ns: int | None = None
    time_error_s: float | None = None
    sample_clock_ppm: float | None = None
    drift_ppm_per_s: float | None = None


DECIMALS = {
    "latitude": 7,
    "longitude": 7,
    "frequency_mhz": 4,
    "ctcss_hz": 1,
    "distance_m": 1,
    "clipped_fraction": 6,
    "delay_s": 12,
    "second_path_s": 12,
    "time_error_s": 12,
    "sample_clock_ppm": 6,
    "drift_ppm_per_s": 6,
}
"""Digits after the point; three for all other numbers."""


def truth_csv(rows: Iterable[CaptureTruth]) -> bytes:
    """The rows as CSV (RFC 4180, but with bare line feeds), UTF-8, under one line of column names."""
    names = [field.name for field in fields(CaptureTruth)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([_cell(name, getattr(row, name)) for name in names] for row in rows)
    return text.getvalue().encode()


def _cell(name: str, value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(int(value))
    return f"{value:.{DECIMALS.get(name, 3)}f}" if isinstance(value, float) else str(value)
