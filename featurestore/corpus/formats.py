"""One recording file of any known format → `Recording`."""

from __future__ import annotations

from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
import numpy.typing as npt

from featurestore.corpus.samples import RAW_FORMATS, NumberFormat, Recording, read_raw
from featurestore.corpus.sigmf_files import ARCHIVE, DATA, META, read_sigmf
from featurestore.corpus.wav import read_wav
from featurestore.errors import DataQualityError

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
    try:
        stored: npt.NDArray[Any] = np.lib.format.open_memmap(path, mode="r")
    except (ValueError, TypeError, SyntaxError, TokenError, EOFError, OverflowError) as error:  # numpy parses it as Python
        reason = " ".join(str(error).split())[:200]
        raise DataQualityError(f"is no .npy of plain numbers ({reason}); write it with numpy.save, never pickled") from error
    if stored.ndim == 1 and stored.dtype.kind == "c":
        return Recording(stored)
    by_type = {np.dtype(number.dtype): number for number in RAW_FORMATS.values()}
    number = by_type.get(stored.dtype.newbyteorder("<"))
    if stored.ndim == 2 and stored.shape[1] == 2 and number is not None:
        return Recording(stored, NumberFormat(stored.dtype.str, number.zero, number.full_scale))
    raise DataQualityError(
        f"holds {stored.dtype} of shape {stored.shape}; expected complex of shape (n,), or integers or floats of shape (n, 2)"
    )
