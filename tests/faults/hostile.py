"""Objects made to do harm to whoever reads them: damaged, lying and poisonous `.npy` files, as Hypothesis strategies."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from featurestore.tensor.spec import FeatureSpec

SPEC = FeatureSpec(sample_rate_hz=48_000, n_fft=64, hop_length=16, n_frames=4, n_mels=8, windows_per_capture=2)
HUGE = "0x" + "f" * 3700  # of more digits than Python writes out

DESCRS = [
    *(
        "'<c16'",
        "'<c8'",
        "'>c16'",
        "'>c8'",
        "'=c8'",
        "'c16'",
        "'complex64'",
        "'<c32'",
        "'<f8'",
        "'<i2'",
        "'?'",
        "'S1'",
        "'<U999999999'",
    ),
    *(
        "'O'",
        "'|O8'",
        "[('a', 'O')]",
        "[('a', '<c16')]",
        "[('a', '<c16'), ('a', '<c16')]",
        "[('', '<c16')]",
        "[('i', 'f4'), ('q', 'f4')]",
    ),
    *("('<c16', (1,))", "('<c16', (1000000000,))", "'(2,)c16'", "'c16,c16'", "'" + "c16," * 400 + "'", "'V1073741824'", "'V0'"),
    *(
        "'M8[99999999999999999999s]'",
        "''",
        "None",
        "1",
        "b'<c16'",
        "{'names': ['a'], 'formats': ['<c16']}",
        "'\\n\\x1b[31m'",
        "'é'",
    ),
]
SHAPES = [
    *(
        "(1000,)",
        "(100,)",
        "(0,)",
        "()",
        "(1000, 1)",
        "(1, 1000)",
        "(2, 3, 4)",
        "(-1,)",
        "(True,)",
        "(1e3,)",
        "(1000.0,)",
        "('1000',)",
    ),
    *("(1000L,)", "[1000]", "1000", "(None,)", "(1j,)", "(1000,), (1000,)", "(1000", "(10**18,)", "(1000000000000000000,)"),
    *(
        "(9223372036854775807,)",
        "(18446744073709551616,)",
        f"({HUGE},)",
        f"(-{HUGE},)",
        f"({HUGE}, 1)",
        "(" + "1," * 1000 + ")",
    ),
]
MORE = ["", ", 'more': 1", ", 'shape': (1000,)", ", 'descr': 'O'", "}{", ", '\\x00'", "\x00", ", **{}", "# comment"]


def noise(n_samples: int, dtype: str = "<c16", seed: int = 0) -> Any:
    rng = np.random.default_rng((seed, n_samples))
    return (rng.normal(size=n_samples) + 1j * rng.normal(size=n_samples)).astype(dtype)


def npy(array: Any, version: tuple[int, int] = (1, 0)) -> bytes:
    """What numpy writes."""
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.asarray(array), version)
    return stream.getvalue()


def header(text: str, version: tuple[int, int] = (1, 0), length: int | None = None) -> bytes:
    """A header of any text, which may lie about its length and version."""
    body = text.encode("latin-1", "replace")
    width = 2 if version[0] == 1 else 4
    size = (len(body) if length is None else length) % (1 << 8 * width)
    return b"\x93NUMPY" + bytes(version) + size.to_bytes(width, "little") + body


def described(descr: str, shape: str, order: str = "False", more: str = "") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}{more}}}"


class Payload:
    """Unpickling it leaves a file behind."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self._marker), "w")


def poisoned(marker: Path) -> list[bytes]:
    """Files of pickled objects that leave `marker` behind when they are unpickled."""
    payload = pickle.dumps(Payload(marker))
    array = np.empty(1000, object)
    array[:] = [Payload(marker)] * len(array)
    return [
        payload + bytes(20_000),
        npy(array) + bytes(20_000),
        *(
            header(described("'O'", shape), version) + payload + bytes(20_000)
            for shape in SHAPES[:4]
            for version in ((1, 0), (3, 0))
        ),
        header(described("[('a', '<c16'), ('b', 'O')]", "(1000,)")) + payload + bytes(24_000),
        header(f"__import__('os').system('touch {marker}')") + bytes(20_000),
        header(described("'<c16'", f"(open({str(marker)!r}, 'w'),)")) + bytes(20_000),
    ]


@st.composite
def lies(draw: st.DrawFn) -> bytes:
    """Headers that promise what is not there, or cannot be."""
    text = described(
        draw(st.sampled_from(DESCRS) | st.text(max_size=20).map(repr)),
        draw(st.sampled_from(SHAPES) | st.integers().map("({},)".format)),
        draw(st.sampled_from(["False", "True", "0", "None", "'no'"])),
        draw(st.sampled_from(MORE)),
    )
    version = draw(st.sampled_from([(1, 0), (2, 0), (3, 0), (1, 1), (4, 0), (9, 0), (0, 0), (255, 255)]))
    length = draw(st.none() | st.sampled_from([0, 1, 117, 65_535, 2**32 - 1]))
    return header(text, version, length) + npy(noise(draw(st.sampled_from([0, 5, 1000]))))[128:]


@st.composite
def deep(draw: st.DrawFn) -> bytes:
    """Headers that break parsers by depth or length."""
    piece = draw(
        st.sampled_from(
            ["(", "[", "{", "((1,", "-", "~", "not ", "1+", "1j+", "9", "0x", "'", "f'{", "\\", " ", "\n", "1,", "#"]
        )
    )
    text = piece * draw(st.sampled_from([50, 200, 900, 3000, 20_000]))
    where = draw(st.sampled_from(["shape", "descr", "all"]))
    shaped = described("'<c16'", text) if where == "shape" else described(text, "(1000,)")
    version = draw(st.sampled_from([(1, 0), (2, 0), (3, 0)]))
    return header(text if where == "all" else shaped, version) + bytes(16_000)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """Real files with bits flipped, pieces cut out and put in."""
    dtype, version = draw(st.sampled_from(["<c8", "<c16", ">c8", ">c16"])), draw(st.sampled_from([(1, 0), (2, 0), (3, 0)]))
    data = bytearray(npy(noise(draw(st.sampled_from([90, 600, 1000])), dtype), version))
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, 140) | st.integers(0, max(0, len(data) - 1)))
        what = draw(st.sampled_from(["flip", "cut", "insert", "end"]))
        if what == "flip" and place < len(data):
            data[place] ^= 1 << draw(st.integers(0, 7))
        elif what == "cut":
            del data[place : place + draw(st.integers(1, 64))]
        elif what == "insert":
            data[place:place] = draw(st.binary(min_size=1, max_size=64))
        elif what == "end":
            del data[place:]
    return bytes(data)


@st.composite
def poisonous_samples(draw: st.DrawFn) -> bytes:
    """Whole files of samples that no tensor can be made of, or hardly."""
    dtype = draw(st.sampled_from(["<c8", "<c16", ">c8", ">c16"]))
    samples = noise(draw(st.sampled_from([112, 500])), dtype)
    odd = draw(st.sampled_from([np.nan, np.inf, -np.inf, complex(0, np.nan), 1e308, 1e30, 3e38, 5e-324, 1e-40, 0, -0.0]))
    with np.errstate(over="ignore"):  # what a complex64 cannot hold becomes infinite
        samples[slice(draw(st.sampled_from([0, 1, 50])), None, draw(st.sampled_from([1, 2, 7])))] = odd
    return npy(samples)


HOSTILE = st.one_of(lies(), deep(), damaged(), poisonous_samples(), st.binary(max_size=300), st.just(b""))
