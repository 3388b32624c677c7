"""What decides a pair feature's values (`PairSpec`): frozen and validated, as `tensor.spec` has it for tensors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from featurestore.errors import UsageError
from featurestore.option import PAIRS, option
from featurestore.tensor.spec import NamedSpec

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from featurestore.delay.pairs import PairOptions


@dataclass(frozen=True)
class PairSpec(NamedSpec):
    """Every parameter that changes how a pair correlates. Lags are evenly spaced; the occupied bins are found within the band.

    Raises:
        UsageError: when a value is impossible; the message names it.
    """

    max_lag_us: float = option(
        1000.0,
        "Largest delay between two receivers in microseconds: the longest distance between them at 300 m/µs, and what their "
        "clocks may be off.",
        PAIRS,
    )
    n_lags: int = option(257, "Number of lags from minus to plus the largest delay; an odd number, so that 0 is one.", PAIRS)
    pair_seconds: float = option(30.0, "Use at most this many seconds of what two receivers heard together.", PAIRS)
    band_low_hz: float | None = option(
        None, "Lowest frequency to correlate, in Hz from the captures' centre.", PAIRS, unset="no bound"
    )
    band_high_hz: float | None = option(
        None, "Highest frequency to correlate, in Hz from the captures' centre.", PAIRS, unset="no bound"
    )

    def __post_init__(self) -> None:
        if not (0 < self.max_lag_us <= 100_000):
            raise UsageError(f"max_lag_us is {self.max_lag_us}; expected microseconds above 0, at most 100000")
        if not (3 <= self.n_lags <= 65_535 and self.n_lags % 2):
            raise UsageError(f"n_lags is {self.n_lags}; expected an odd number from 3 to 65535")
        if not 0 < self.pair_seconds <= 3600:
            raise UsageError(f"pair_seconds is {self.pair_seconds}; expected seconds above 0, at most 3600")
        if not self.band[0] < self.band[1]:
            raise UsageError(f"band_low_hz is {self.band_low_hz}; expected less than band_high_hz, {self.band_high_hz}")

    @property
    def band(self) -> tuple[float, float]:
        """Both bounds, infinite where there is none."""
        low = -math.inf if self.band_low_hz is None else self.band_low_hz
        return low, math.inf if self.band_high_hz is None else self.band_high_hz

    @property
    def lag_s(self) -> npt.NDArray[np.float64]:
        """(n_lags,) the lags: how much later the first receiver of a pair hears than the second."""
        import numpy as np  # here, because the help of `build-pairs` reads this record, and is quick

        half = self.n_lags // 2
        return np.asarray(np.arange(-half, half + 1) * (self.max_lag_us * 1e-6 / half))

    @property
    def options(self) -> PairOptions:
        """The same for `delay.measure_pairs`."""
        from featurestore.delay.pairs import PairOptions

        unbounded = self.band_low_hz is None and self.band_high_hz is None
        return PairOptions(self.max_lag_us * 1e-6, self.pair_seconds, None if unbounded else self.band)
