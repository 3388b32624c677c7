"""The header of an .npy file, read without believing it: bounded in time and memory, whatever its bytes are.

`numpy.lib.format` reads the same, but goes over the text of a damaged header a second time, token by token, warns on stderr,
and raises whatever its parsers do.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

MAGIC = b"\x93NUMPY"

HEADER_LIMIT_BYTES = 4096
"""Many times what an array of numbers needs; parsing takes time, and memory, that grow with the square of the length."""

VERSIONS = ((1, 0), (2, 0), (3, 0))
FIELDS = {"descr", "fortran_order", "shape"}
PYTHON_2_LENGTH = re.compile(r"(\d)L\b")
BRIEF_LENGTH = 160


class HeaderError(ValueError):
    """The bytes are no .npy header; the message is a phrase without the object's name."""


@dataclass(frozen=True)
class NpyHeader:
    """What an .npy file says of its array. Nothing is checked against the file's size.

    Attributes:
        dtype: of its elements; may hold Python objects.
        shape: whole numbers, of any size and sign.
        fortran_order: whether the first index runs fastest.
        n_bytes: length of the header: where the array begins.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    fortran_order: bool
    n_bytes: int


def header_bytes(head: bytes) -> int:
    """Length of the .npy header that begins with `head`; that of `head` itself where it is none."""
    if len(head) < 12 or not head.startswith(MAGIC):
        return len(head)
    if head[6] == 1:
        return 10 + int.from_bytes(head[8:10], "little")
    return 12 + int.from_bytes(head[8:12], "little")


def parse_npy_header(head: bytes) -> NpyHeader:
    """What an .npy header says.

    Args:
        head: the first bytes of the file: all of its header, or more.

    Raises:
        HeaderError: when it is none.
    """
    if not head.startswith(MAGIC):
        raise HeaderError(f"is no .npy file: begins with {head[:8]!r}")
    n_bytes = header_bytes(head)
    if n_bytes > min(len(head), HEADER_LIMIT_BYTES):
        raise HeaderError("ends within its .npy header, or the header is absurdly long")
    try:
        return _parse(head[:n_bytes])
    except Exception as error:
        raise HeaderError(f"has a damaged .npy header ({brief(str(error) or type(error).__name__)})") from error


def _parse(header: bytes) -> NpyHeader:
    version = header[6], header[7]
    if version not in VERSIONS:
        raise ValueError(f"version {version[0]}.{version[1]}; expected 1.0, 2.0 or 3.0")
    text = header[10 if version == (1, 0) else 12 :].decode("utf-8" if version == (3, 0) else "latin-1")
    if "\\" in text:  # Python warns of escapes that it does not know
        raise ValueError("it holds a backslash")
    fields = ast.literal_eval(PYTHON_2_LENGTH.sub(r"\1", text))
    if not isinstance(fields, dict) or fields.keys() != FIELDS:
        raise ValueError(f"wanted a dict of {', '.join(sorted(FIELDS))}")
    shape, fortran_order = fields["shape"], fields["fortran_order"]
    if not isinstance(shape, tuple) or not all(type(length) is int for length in shape):
        raise ValueError("its shape is no tuple of whole numbers")
    if type(fortran_order) is not bool:
        raise ValueError("its fortran_order is neither True nor False")
    return NpyHeader(np.lib.format.descr_to_dtype(fields["descr"]), shape, fortran_order, len(header))


def brief(value: object) -> str:
    """What a hostile header says, so that it can be shown: one short line, whatever it holds."""
    try:
        text = " ".join(str(value).split())
    except ValueError:  # a whole number of more than 4300 digits, which Python does not write out
        return "more than can be written down"
    text = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
    return text if len(text) <= BRIEF_LENGTH else f"{text[:BRIEF_LENGTH]}…"
