"""`.npy` recordings of every shape whose meaning is certain, mapped from disk."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from featurestore.corpus.ingest.samples import RAW_FORMATS, NumberFormat, Recording
from featurestore.errors import DataQualityError
from featurestore.source.npy_header import HEADER_LIMIT_BYTES, HeaderError, NpyHeader, brief, parse_npy_header

MUCH_LONGER = 10
"""How many times longer than the axis of I and Q the other one must be, where I and Q come first."""

FIELDS = ({"re", "im"}, {"i", "q"}, {"real", "imag"})
"""Names of the two fields of a structured sample, in any case and order."""

NUMBERS = {np.dtype(known.dtype): known for known in RAW_FORMATS.values()}
EXPECTED = (
    "expected complex of shape (n,); integers or floats of shape (n, 2) or (2, n); fields re and im, i and q, or real and imag"
)


def read_npy(path: Path) -> Recording:
    """Complex samples along one axis, pairs of components along two, or structured samples; other axes of length 1 are dropped.

    Raises:
        DataQualityError: when it is something else, damaged, truncated or pickled.
        OSError: when the file cannot be opened.
    """
    with path.open("rb") as file:
        head = file.read(HEADER_LIMIT_BYTES)
    try:
        header = parse_npy_header(head)
    except HeaderError as error:
        raise DataQualityError(f"is no .npy of plain numbers: {error}; write it with numpy.save, never pickled") from error
    dtype = header.dtype
    if dtype.hasobject:
        raise DataQualityError("is no .npy of plain numbers: it holds pickled Python objects; write it with numpy.save")
    pair = _pair(dtype)
    component = dtype if pair is None else pair[0]
    number = NUMBERS.get(component.newbyteorder("<"))
    axes = _axes(header.shape, complex_or_pair=dtype.kind == "c" or (pair is not None and number is not None))
    if axes is None or (dtype.kind != "c" and number is None):
        raise DataQualityError(f"holds {brief(dtype)} of shape {brief(header.shape)}; {EXPECTED}")
    stored = _map(path, header, n_samples=max(header.shape, default=0))
    if dtype.kind == "c":
        return Recording(stored.reshape(-1))
    assert number is not None
    if pair is not None:
        stored = stored.reshape(-1).view(component).reshape(-1, 2)
        stored = stored[:, ::-1] if pair[1] else stored
    else:
        stored = np.squeeze(stored, _ones(header.shape))
        stored = stored if axes == "n2" else stored.T
    return Recording(stored, NumberFormat(component.str, number.zero, number.full_scale))


def _pair(dtype: np.dtype[Any]) -> tuple[np.dtype[Any], bool] | None:
    """Type of I and Q in structured samples, and whether Q comes first."""
    if dtype.names is None or dtype.fields is None or {name.lower() for name in dtype.names} not in FIELDS:
        return None
    first, second = (dtype.fields[name] for name in dtype.names)
    if (
        first[0] != second[0]
        or sorted((first[1], second[1])) != [0, first[0].itemsize]
        or dtype.itemsize != 2 * first[0].itemsize
    ):
        return None  # two types, or padding between them
    q_named_first = dtype.names[0].lower() in ("im", "q", "imag")
    return first[0], q_named_first != (first[1] > second[1])


def _ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Axes of length 1 that say nothing: all beyond the two of a matrix with I and Q along one."""
    return () if len(shape) == 2 and 2 in shape else tuple(axis for axis, length in enumerate(shape) if length == 1)


def _axes(shape: tuple[int, ...], *, complex_or_pair: bool) -> Literal["n", "n2", "2n"] | None:
    """Where the samples lie, and I and Q: the meaning of a shape, if it has one."""
    if complex_or_pair:
        lengths = [length for length in shape if length != 1] or list(shape[:1])
        return "n" if len(lengths) == 1 else None
    ones = _ones(shape)
    lengths = [length for axis, length in enumerate(shape) if axis not in ones]
    if len(lengths) != 2:
        return None
    if lengths[1] == 2:
        return "n2"
    return "2n" if lengths[0] == 2 and lengths[1] >= 2 * MUCH_LONGER else None


def _map(path: Path, header: NpyHeader, n_samples: int) -> npt.NDArray[Any]:
    shape = header.shape
    there = (path.stat().st_size - header.n_bytes) // header.dtype.itemsize
    if min(shape) < 0 or math.prod(shape) > there:
        per_sample = max(1, math.prod(shape) // n_samples) if n_samples > 0 else 1
        raise DataQualityError(
            f"is truncated: its header promises {brief(n_samples)} samples, and {max(0, there // per_sample)} are there; "
            "copy it again"
        )
    if math.prod(shape) == 0:
        raise DataQualityError("holds no samples")
    order: Literal["F", "C"] = "F" if header.fortran_order else "C"
    return np.memmap(path, header.dtype, mode="r", offset=header.n_bytes, shape=shape, order=order)
