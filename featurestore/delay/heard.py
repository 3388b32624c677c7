"""What one receiver heard, and when: samples on a clock that all receivers share."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.signal import firwin, resample_poly

from featurestore.errors import UsageError

Complex = npt.NDArray[np.complexfloating[Any, Any]]

NS = 1_000_000_000
RATIO_TOLERANCE = 1e-5
HALF_LENGTH, CUT_OFF, KAISER_BETA = 48, 0.94, 7.857
"""A filter that is flat up to 0.89 of the lower Nyquist frequency, aliases 80 dB down (Kaiser)."""


@dataclass(frozen=True)
class Step:
    """A place where a recording's clock jumps, since samples are missing there (or were written twice).

    Attributes:
        sample: index of the first sample after the jump.
        jump_s: how much later that sample is than its index says, on top of all earlier jumps.
    """

    sample: int
    jump_s: float


@dataclass(frozen=True, eq=False)
class Heard:
    """One receiver's samples of a session.

    Attributes:
        samples: (n,) complex.
        rate_hz: the true sample rate, not the nominal one: 1 ppm is 30 µs in half a minute.
        start_time_ns: of the first sample, Unix time UTC.
        time_sigma_s: one standard deviation of `start_time_ns`.
        steps: jumps of the clock, in the order of samples.

    Raises:
        UsageError: when a value is impossible.
    """

    samples: Complex
    rate_hz: float
    start_time_ns: int
    time_sigma_s: float = 0.0
    steps: tuple[Step, ...] = ()

    def __post_init__(self) -> None:
        if self.samples.ndim != 1 or not np.iscomplexobj(self.samples):
            raise UsageError(f"samples are {self.samples.dtype} of shape {self.samples.shape}; expected complex, (n,)")
        if not (math.isfinite(self.rate_hz) and self.rate_hz > 0):
            raise UsageError(f"rate_hz is {self.rate_hz}; expected a number above 0")
        if not self.time_sigma_s >= 0:
            raise UsageError(f"time_sigma_s is {self.time_sigma_s}; expected seconds from 0")

    @property
    def duration_s(self) -> float:
        """From the first sample to the end of the last, jumps included."""
        return len(self.samples) / self.rate_hz + sum(step.jump_s for step in self.steps)

    @property
    def stop_time_ns(self) -> int:
        """Unix time at which the last sample ends."""
        return self.start_time_ns + round(self.duration_s * NS)

    @property
    def is_silent(self) -> bool:
        """Whether all samples are one value, or some are not finite: nothing can be correlated with that."""
        return len(self.samples) == 0 or not np.isfinite(self.samples).all() or bool((self.samples == self.samples[0]).all())

    def pieces(self) -> list[Heard]:
        """The stretches between jumps, each with its own start and without steps."""
        borders = [0, *(step.sample for step in self.steps), len(self.samples)]
        jumps_s = np.concatenate([[0.0], np.cumsum([step.jump_s for step in self.steps])])
        return [
            replace(
                self,
                samples=self.samples[first:stop],
                start_time_ns=self.start_time_ns + round((first / self.rate_hz + jump_s) * NS),
                steps=(),
            )
            for first, stop, jump_s in zip(borders[:-1], borders[1:], jumps_s.tolist(), strict=True)
            if stop > first
        ]

    def at_rate(self, rate_hz: float) -> Heard:
        """Itself at another rate: its spectrum cut off at the new one's Nyquist frequency, its times kept.

        Only for recordings without steps: a filter runs across them.
        """
        ratio = _ratio(rate_hz / self.rate_hz)
        factor = max(ratio.numerator, ratio.denominator)
        taps: Any = firwin(2 * HALF_LENGTH * factor + 1, CUT_OFF / factor, window=("kaiser", KAISER_BETA))
        # I and Q apart, for scipy would make the taps complex, too.
        parts = [
            resample_poly(part, ratio.numerator, ratio.denominator, window=taps)
            for part in (self.samples.real, self.samples.imag)
        ]
        samples = np.asarray(parts[0] + 1j * parts[1], np.complex64)
        return replace(self, samples=samples, rate_hz=self.rate_hz * float(ratio))


def _ratio(exact: float) -> Fraction:
    """A ratio of whole numbers near another: what it is off goes into the rate, which stays true."""
    for largest in (10, 100, 1000, 10_000, 65_536):
        ratio = Fraction(exact).limit_denominator(largest)
        if ratio and abs(float(ratio) / exact - 1) < RATIO_TOLERANCE:
            return ratio
    raise UsageError(
        f"rates that differ by a factor of {1 / exact:g} are too far apart; bring the recordings to one rate first"
    )
