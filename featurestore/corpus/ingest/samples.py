"""Stored IQ of any number format, decoded to complex full scale 1 only where it is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from featurestore.errors import DataQualityError

Complex = npt.NDArray[np.complexfloating[Any, Any]]
ComplexName = Literal["complex64", "complex128"]


@dataclass(frozen=True)
class NumberFormat:
    """How one component (I or Q) is stored, and how it becomes full scale 1: `(stored - zero) / full_scale`."""

    dtype: str
    zero: float = 0.0
    full_scale: float = 1.0

    @property
    def component_bytes(self) -> int:
        """Bytes of one component."""
        return 3 if self.dtype == PACKED_24_BIT else np.dtype(self.dtype).itemsize


PACKED_24_BIT = "i3"
"""Little-endian 24-bit integers, which numpy has no type for."""

RAW_FORMATS = {
    # An RTL-SDR has no code for zero: its middle lies between 127 and 128 (recordings average 127.4).
    "cu8": NumberFormat("u1", 127.5, 127.5),
    "cs8": NumberFormat("i1", 0, 2.0**7),
    "cu16": NumberFormat("<u2", 32767.5, 32767.5),
    "cs16": NumberFormat("<i2", 0, 2.0**15),
    "cs32": NumberFormat("<i4", 0, 2.0**31),
    "cf32": NumberFormat("<f4"),
    "cf64": NumberFormat("<f8"),
}
"""Interleaved I, Q, I, Q without a header, little-endian, by the names that rtl_433 and others gave them."""


@dataclass(frozen=True)
class ClockStep:
    """A place where samples are missing, or stand twice.

    Attributes:
        sample: the first one after it.
        jump_s: how much later that sample is than its index says, on top of all earlier jumps.
    """

    sample: int
    jump_s: float


@dataclass(frozen=True)
class Recording:
    """What one file holds, and what it says of itself; samples stay on disk until `read`.

    Attributes:
        stored: (n,) complex, (n, 2) I and Q components, or (n, 2, 3) bytes of packed 24-bit components.
        number: how a component maps to full scale 1.
        sample_rate_hz: the rate that the header states.
        gps_rate_hz: the true rate, measured against GPS time.
        frequency_mhz: centre frequency that the header states.
        timestamp: time of the first sample that the header states.
        gps_start_s: time of the first sample in seconds of the GPS week, as the stamps have it; `start_time_ns` is `None` then.
        start_time_ns: time of the first sample that the header states, Unix time in ns.
        time_sigma_s: one standard deviation of either; `None`: unknown.
        steps: where its clock jumps.
        notes: what the user should know, each a phrase.
        origins: who says what is not in the header proper, by attribute: `{"timestamp": "its name"}`.
        sure_utc: whether `timestamp` is UTC for certain.
    """

    stored: npt.NDArray[Any]
    number: NumberFormat = RAW_FORMATS["cf32"]
    sample_rate_hz: float | None = None
    gps_rate_hz: float | None = None
    frequency_mhz: float | None = None
    timestamp: datetime | None = None
    gps_start_s: float | None = None
    start_time_ns: int | None = None
    time_sigma_s: float | None = None
    steps: tuple[ClockStep, ...] = ()
    notes: tuple[str, ...] = ()
    origins: Mapping[str, str] = field(default_factory=dict)
    sure_utc: bool = True

    def __len__(self) -> int:
        return len(self.stored)

    def read(self, start: int, stop: int, *, swap_iq: bool = False, dtype: ComplexName = "complex64") -> Complex:
        """Samples `start` to `stop` at full scale 1; `swap_iq` exchanges I and Q, for files that store Q first."""
        part = np.asarray(self.stored[start:stop])
        if part.ndim == 3:
            part = _widen(part)
        samples = np.empty(len(part), dtype)
        components = samples.view(samples.real.dtype).reshape(-1, 2)  # (sample, I or Q)
        i, q = (part.real, part.imag) if part.ndim == 1 else (part[:, 0], part[:, 1])
        with np.errstate(over="ignore"):  # what complex64 cannot hold becomes infinite, and is refused as such
            components[:, 0], components[:, 1] = (q, i) if swap_iq else (i, q)
        if self.number.zero:
            components -= self.number.zero
        if self.number.full_scale != 1:
            components /= self.number.full_scale
        return samples


def split_components(stored: npt.NDArray[np.uint8], number: NumberFormat) -> npt.NDArray[Any]:
    """Bytes as (n, 2) components ((n, 2, 3) bytes when 24 bits are packed); an incomplete last sample is left out."""
    whole = len(stored) // (2 * number.component_bytes) * 2 * number.component_bytes
    if number.dtype == PACKED_24_BIT:
        return stored[:whole].reshape(-1, 2, 3)
    return stored[:whole].view(number.dtype).reshape(-1, 2)


def map_bytes(path: Path, start: int = 0, n_bytes: int | None = None) -> npt.NDArray[np.uint8]:
    """The bytes of a file, mapped into memory, not read.

    Raises:
        DataQualityError: when the file is empty.
        OSError: when it cannot be opened.
    """
    size_bytes = path.stat().st_size
    if size_bytes == 0:
        raise DataQualityError("is empty (0 bytes); record or copy it again")
    mapped = np.memmap(path, np.uint8, mode="r")
    return mapped[start : size_bytes if n_bytes is None else start + n_bytes]


def read_raw(path: Path, number: NumberFormat) -> Recording:
    """A file of nothing but samples; it states no sample rate."""
    stored = map_bytes(path)
    rest = len(stored) % (2 * number.component_bytes)
    notes = (f"{rest} bytes after the last whole sample are left out",) if rest else ()
    return Recording(split_components(stored, number), number, notes=notes)


def _widen(packed: npt.NDArray[np.uint8]) -> npt.NDArray[np.int32]:
    """(n, 2, 3) little-endian 24-bit to (n, 2) int32, the sign kept by way of the upper three bytes."""
    wide = np.zeros((*packed.shape[:2], 4), np.uint8)
    wide[:, :, 1:] = packed
    return wide.view("<i4")[:, :, 0] >> 8
