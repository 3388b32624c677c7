"""Mean and variance that merge: each part is summed up by itself, and the parts are joined without loss (Chan et al. 1979)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
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
    def of(cls, rows: Iterable[npt.NDArray[np.float32]], shape: tuple[int, ...]) -> Self:
        """Moments over all rows and all frames, in float64.

        One pass over rows that stay in the cache, of deviations from the mean of the first row: with a pivot inside the
        data no digits are lost (Chan, Golub & LeVeque 1983, "shifted data").

        Args:
            rows: each (channel, band, frame).
            shape: (channel, band).
        """
        remaining = iter(rows)
        head = next(remaining, None)
        if head is None:
            return cls.empty(shape)
        pivot = np.repeat(head.mean(axis=-1, keepdims=True, dtype=np.float64), head.shape[-1], axis=-1)
        deviation, first, second = np.empty(head.shape), np.zeros(head.shape), np.zeros(head.shape)
        n_rows = 0
        for row in chain([head], remaining):
            deviation[:] = row
            np.subtract(deviation, pivot, out=deviation)
            np.add(first, deviation, out=first)
            np.multiply(deviation, deviation, out=deviation)
            np.add(second, deviation, out=second)
            n_rows += 1
        count = n_rows * head.shape[-1]
        total = first.sum(axis=-1)
        return cls(count, pivot[..., 0] + total / count, np.maximum(second.sum(axis=-1) - total * total / count, 0.0))

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
