"""Captures broken on purpose, one way for every reason by which a build rejects a capture."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from featurestore.source.catalog_writing import CaptureRecord

SHORT_SAMPLES = 1000
NON_FINITE_STEP = 997
"""A prime: whatever window is read of a capture, unless absurdly short, it holds some of the bad samples."""


def npy_bytes(samples: npt.NDArray[Any], dtype: str | None = None) -> memoryview:
    """The array as an .npy file, version 1.0, cast to `dtype` on the way: one pass over the samples."""
    descr = np.dtype(dtype or samples.dtype).newbyteorder("<")
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": descr.str, "fortran_order": False, "shape": samples.shape})
    header = np.frombuffer(stream.getvalue(), np.uint8)
    file = np.empty(header.size + samples.size * descr.itemsize, np.uint8)
    file[: header.size] = header
    file[header.size :].view(descr)[:] = samples.reshape(-1)
    return file.data


def broken_object(samples: npt.NDArray[Any], reason: str, count: int) -> bytes | memoryview | None:
    """The object that a broken capture gets.

    Args:
        samples: what it should have held, (n,) complex.
        reason: one of `rejection.REASONS`.
        count: captures broken for this reason before; ways of one reason take turns.

    Returns:
        Its bytes, or `None` when there shall be no object. Reasons that lie in the catalog leave the object whole.
    """
    match reason:
        case "missing_object":
            return None
        case "unreadable":
            return _unreadable(samples, count)
        case "wrong_dtype":
            return npy_bytes(samples.real.astype(np.float32) if count % 2 == 0 else (samples.real * 32767).astype(np.int16))
        case "wrong_shape":
            even = samples[: len(samples) // 2 * 2]
            return npy_bytes(even.reshape(2, -1) if count % 2 == 0 else even.reshape(-1, 2))
        case "too_short":
            return npy_bytes(samples[: min(SHORT_SAMPLES, len(samples) // 10)])
        case "non_finite":
            bad = samples.copy()
            bad[count % NON_FINITE_STEP :: NON_FINITE_STEP] = np.nan if count % 2 == 0 else np.inf
            return npy_bytes(bad)
        case "silent":
            return npy_bytes(np.full_like(samples, 0 if count % 2 == 0 else 0.25 - 0.125j))
        case _:
            return npy_bytes(samples)


def broken_record(record: CaptureRecord, reason: str, count: int) -> CaptureRecord:
    """The catalog row that a broken capture gets; unchanged where the reason lies in the object."""
    if reason == "sample_rate_mismatch":
        return replace(record, sample_rate_hz=record.sample_rate_hz / 2)
    if reason == "bad_position":
        return replace(record, latitude=(float("nan"), 145.0, -91.0)[count % 3])
    return record


def _unreadable(samples: npt.NDArray[Any], count: int) -> bytes | memoryview:
    """No .npy at all, one cut off in its data, one cut off in its header, or one that holds a pickle."""
    whole = npy_bytes(samples)
    way = count % 4
    if way == 0:
        return b"RIFF" + bytes(whole[4:])
    if way == 1:
        return whole[: len(whole) // 3]
    if way == 2:
        return whole[:40]
    pickled = np.empty(1, object)
    pickled[0] = samples[:SHORT_SAMPLES]
    stream = io.BytesIO()
    np.save(stream, pickled, allow_pickle=True)
    return stream.getvalue()
