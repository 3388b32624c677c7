"""Mean and variance that merge: each part is summed up by itself, and the parts are joined without loss (Chan et al. 1979)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]

MIN_STD = 0.1
"""In dB: so that what hardly varies does not overflow float16 when it is divided by its std."""


@dataclass(frozen=True)
class Moments:
    """Count, mean and sum of squared deviations per channel and band.

    Attributes:
        count: values per element (rows times frames).
        mean: shape (3, band).
        m2: Σ(x − mean)², shape (3, band).
    """

    count: int
    mean: Float64
    m2: Float64

    @classmethod
    def empty(cls, shape: tuple[int, ...]) -> Self:
        """Moments of nothing; the neutral element of `merge`."""
        return cls(0, np.zeros(shape), np.zeros(shape))

    @classmethod
    def of(cls, rows: npt.NDArray[np.float32]) -> Self:
        """Moments over the first and the last axis of (row, channel, band, frame), in float64.

        One row at a time, so that the float64 copy stays small; the order of summation is that of the rows.
        """
        total = cls.empty(rows.shape[1:3])
        if not len(rows):
            return total
        mean = np.zeros(rows.shape[1:3])
        for row in rows:
            mean += row.sum(axis=-1, dtype=np.float64)
        mean /= len(rows) * rows.shape[-1]
        m2 = np.zeros(rows.shape[1:3])
        for row in rows:
            deviation = row - mean[..., None]
            m2 += np.einsum("cbf,cbf->cb", deviation, deviation)
        return cls(len(rows) * rows.shape[-1], mean, m2)

    def merge(self, other: Moments) -> Moments:
        """Moments of both parts together (Chan, Golub & LeVeque 1979, eq. 2.1)."""
        count = self.count + other.count
        if not count:
            return self
        delta = other.mean - self.mean
        mean = self.mean + delta * (other.count / count)
        m2 = self.m2 + other.m2 + delta * delta * (self.count * (other.count / count))
        return Moments(count, mean, m2)

    @property
    def std(self) -> Float64:
        """Population standard deviation, at least `MIN_STD`."""
        return np.maximum(np.sqrt(self.m2 / max(self.count, 1)), MIN_STD)


def merge_all(parts: Iterable[Moments], shape: tuple[int, ...]) -> Moments:
    """All parts merged, in the order given (the last bits depend on it)."""
    total = Moments.empty(shape)
    for part in parts:
        total = total.merge(part)
    return total
