"""Writes KiwiSDR GPS WAVs as kiwirecorder lays them out, with any fault one likes."""

from __future__ import annotations

import struct
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

BLOCK = 512


def kiwi_wav(
    n_blocks: int = 60,
    *,
    rate_hz: float = 12001.1,
    first_s: float = 1000.25,
    ages: dict[int, int] | None = None,
    times_s: dict[int, float] | None = None,
    lost_after: int | None = None,
    header_hz: int = 12001,
    riff_size: int | None = None,
    signal: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.complex128]] | None = None,
) -> bytes:
    """`n_blocks` blocks of a ramp: I counts samples, Q is their negative.

    Args:
        n_blocks: blocks of 512 samples.
        rate_hz: the true rate.
        first_s: GPS time of the first block; it wraps at the end of the week.
        ages: age of the GPS solution of single blocks; -1 for all the others.
        times_s: stamps of single blocks, in place of the right ones.
        lost_after: a block after which 10 more were lost on the way.
        header_hz: rate in the fmt chunk.
        riff_size: size in the RIFF header, in place of the right one.
        signal: of full scale 1 at seconds after `first_s`, in place of the ramp.
    """
    ages, times_s = ages or {}, times_s or {}
    body = b"WAVE" + struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 2, header_hz, header_hz * 4, 4, 16)
    for block in range(n_blocks):
        elapsed = block + (10 if lost_after is not None and block > lost_after else 0)
        time_s = times_s.get(block, (first_s + elapsed * BLOCK / rate_hz) % 604_800)
        stamp = struct.pack("<BBII", ages.get(block, ages.get(-1, 1)), 0, int(time_s), round((time_s % 1) * 1e9))
        i = np.arange(block * BLOCK, (block + 1) * BLOCK) % 30_000
        heard = i - 1j * i
        if signal is not None:
            heard = np.rint(32_767 * signal((elapsed * BLOCK + np.arange(BLOCK)) / rate_hz))
        samples = np.stack([heard.real, heard.imag], axis=1).astype("<i2").tobytes()
        body += struct.pack("<4sI", b"kiwi", 10) + stamp + struct.pack("<4sI", b"data", len(samples)) + samples
    return b"RIFF" + struct.pack("<I", len(body) if riff_size is None else riff_size) + body
