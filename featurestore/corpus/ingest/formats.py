"""One recording file of any known format → `Recording`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from featurestore.corpus.ingest.samples import RAW_FORMATS, NumberFormat, Recording, read_raw
from featurestore.corpus.ingest.sigmf_files import ARCHIVE, DATA, META, read_sigmf
from featurestore.corpus.ingest.wav import read_wav
from featurestore.errors import DataQualityError
from featurestore.source.npy_header import HEADER_LIMIT_BYTES, HeaderError, brief, parse_npy_header

SUFFIXES = {
    ".npy": "npy",
    ".wav": "wav",
    META: "sigmf",
    DATA: "sigmf",
    ARCHIVE: "sigmf",
    ".complex": "cf32",  # from here on: the names of Universal Radio Hacker, GNU Radio and UHD for the same bytes
    ".complex16s": "cs8",
    ".complex16u": "cu8",
    ".complex32s": "cs16",
    ".complex32u": "cu16",
    ".cfile": "cf32",
    ".fc32": "cf32",
    ".sc16": "cs16",
    ".sc8": "cs8",
    **{f".{name}": name for name in RAW_FORMATS},
}
"""Format by file name ending; endings that programs use for several formats (.iq, .raw, .bin, .dat, .c64) are not guessed."""

FORMATS = ("npy", "wav", "sigmf", *RAW_FORMATS)


def read_recording(path: Path, stated_format: str | None = None) -> Recording:
    """Open a recording; its samples are decoded when they are read.

    Args:
        path: the file.
        stated_format: one of `FORMATS`; `None` takes SigMF when there is metadata beside the file, else what the ending says.

    Raises:
        DataQualityError: when the file cannot be read as IQ; the message is a phrase without the file's name.
        OSError: when it cannot be opened.
    """
    if not path.is_file():
        raise DataQualityError("does not exist; correct the name in the labels")
    kind = stated_format or _guess(path)
    if kind == "npy":
        recording = _read_npy(path)
    elif kind == "wav":
        recording = read_wav(path)
    elif kind == "sigmf":
        recording = read_sigmf(path)
    else:
        recording = read_raw(path, RAW_FORMATS[kind])
    if len(recording) == 0:
        raise DataQualityError("holds no samples")
    return recording


def _guess(path: Path) -> str:
    kind = SUFFIXES.get(path.suffix.lower())
    if kind in (None, *RAW_FORMATS) and path.with_suffix(META).is_file():
        return "sigmf"
    if kind is None:
        raise DataQualityError(
            f"ends in {path.suffix!r}, which does not tell its format; add a 'format' to its label: one of {', '.join(FORMATS)}"
        )
    return kind


def _read_npy(path: Path) -> Recording:
    """1-D complex, or (n, 2) components of integers or floats."""
    with path.open("rb") as file:
        head = file.read(HEADER_LIMIT_BYTES)
    try:
        header = parse_npy_header(head)
    except HeaderError as error:
        raise DataQualityError(f"is no .npy of plain numbers: {error}; write it with numpy.save, never pickled") from error
    dtype, shape = header.dtype, header.shape
    if dtype.hasobject:
        raise DataQualityError("is no .npy of plain numbers: it holds pickled Python objects; write it with numpy.save")
    number = {np.dtype(known.dtype): known for known in RAW_FORMATS.values()}.get(dtype.newbyteorder("<"))
    pairs = len(shape) == 2 and shape[1] == 2 and number is not None
    if not pairs and not (len(shape) == 1 and dtype.kind == "c"):
        raise DataQualityError(
            f"holds {brief(dtype)} of shape {brief(shape)}; expected complex of shape (n,), or integers or floats of shape "
            "(n, 2)"
        )
    there = (path.stat().st_size - header.n_bytes) // (dtype.itemsize * (2 if pairs else 1))
    if not 0 <= shape[0] <= there:
        raise DataQualityError(
            f"is truncated: its header promises {brief(shape[0])} samples, and {there} are there; copy it again"
        )
    if shape[0] == 0:
        raise DataQualityError("holds no samples")
    order: Literal["F", "C"] = "F" if header.fortran_order else "C"
    stored: npt.NDArray[Any] = np.memmap(path, dtype, mode="r", offset=header.n_bytes, shape=shape, order=order)
    return Recording(stored, NumberFormat(dtype.str, number.zero, number.full_scale)) if pairs and number else Recording(stored)
