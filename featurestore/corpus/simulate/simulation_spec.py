"""What a simulated corpus shall be (`SimulationSpec`): frozen and validated, and which of its captures are special."""

from __future__ import annotations

import math
from dataclasses import dataclass

from featurestore.errors import UsageError
from featurestore.option import SIMULATION, option
from featurestore.tensor.rejection import REASONS

SITES = ("repeaters", "uniform")
CLOCKS = ("none", "perfect", "gps", "ntp")
DTYPES = {"complex64": 8, "complex128": 16}
"""Bytes of a sample."""
MIN_SAMPLE_RATE_HZ = 24_000.0
"""Holds one channel with its offset, and the image-free part of the filter."""

GOLDEN_RATIO = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True)
class SimulationSpec:
    """Every option that changes a simulated corpus.

    Session i is the same in every corpus with the same seed, sites, rate, duration and clock: asking for more sessions adds to
    those that exist, and a higher approved fraction approves more of them without withdrawing any.

    Raises:
        UsageError: when a value is impossible; the message names it.
    """

    sessions: int = option(60, "Number of transmissions. All seven receivers hear each of them at once.", SIMULATION)
    seed: int = option(7, "Number that decides the simulated world and all that is drawn in it.", SIMULATION)
    sites: str = option(
        "repeaters",
        "Transmit from ten known hilltops (repeaters), or from anywhere in the region (uniform).",
        SIMULATION,
        choices=SITES,
    )
    duration_s: float = option(1.0, "Length of every capture in seconds.", SIMULATION, name="duration")
    sample_rate_hz: float = option(192_000, "Sample rate of every capture in Hz.", SIMULATION)
    dtype: str = option("complex128", "Type of the samples in the .npy files.", SIMULATION, choices=tuple(DTYPES))
    approved_fraction: float = option(1.0, "Share of sessions that are approved, evenly spread.", SIMULATION)
    broken_fraction: float = option(
        0.0, "Share of captures that are spoilt, evenly spread, by every rejection reason in turn.", SIMULATION
    )
    min_snr_db: float | None = option(
        None, "Leave out captures below this SNR in dB, measured in 12.5 kHz.", SIMULATION, unset="keep all"
    )
    clock: str = option(
        "none",
        "What receivers know of time. With none, all record the same instants and waves take no time. With another one, "
        "waves take their time, and captures have start times of that kind.",
        SIMULATION,
        choices=CLOCKS,
    )
    second_path: bool = option(False, "Let scattered waves arrive later than the direct one. This needs a clock.", SIMULATION)

    def __post_init__(self) -> None:
        self._require(self.sessions >= 1, "sessions", "at least 1")
        self._require(self.seed >= 0, "seed", "a whole number of at least 0")
        self._require(self.sites in SITES, "sites", " or ".join(SITES))
        self._require(self.dtype in DTYPES, "dtype", " or ".join(DTYPES))
        self._require(
            MIN_SAMPLE_RATE_HZ <= self.sample_rate_hz < math.inf, "sample_rate_hz", f"at least {MIN_SAMPLE_RATE_HZ:g} Hz"
        )
        self._require(0.01 <= self.duration_s <= 60, "duration_s", "between 0.01 and 60 s")
        self._require(0 <= self.approved_fraction <= 1, "approved_fraction", "a share from 0 to 1")
        self._require(0 <= self.broken_fraction <= 1, "broken_fraction", "a share from 0 to 1")
        self._require(self.min_snr_db is None or math.isfinite(self.min_snr_db), "min_snr_db", "a number of dB, or nothing")

        self._require(self.clock in CLOCKS, "clock", " or ".join(CLOCKS))
        self._require(not self.second_path or self.clock != "none", "second_path", "a clock other than none with it")

    @property
    def n_samples(self) -> int:
        """Samples of one capture."""
        return round(self.duration_s * self.sample_rate_hz)

    @property
    def capture_bytes(self) -> int:
        """Size of the samples of one capture."""
        return self.n_samples * DTYPES[self.dtype]

    def approved(self, session: int) -> bool:
        """Whether a session is approved: multiples of the golden ratio spread any share evenly, and shares are nested."""
        return session * GOLDEN_RATIO % 1 < self.approved_fraction

    def broken(self, session: int, receiver: int) -> tuple[str, int] | None:
        """How the capture of a session by a receiver (index) is broken: reason and count of that reason before; or not."""
        from featurestore.corpus.simulate.sites import (
            RECEIVERS,
        )  # not above: it loads numpy, and the help of `simulate` does not

        n = len(RECEIVERS)
        place = session * n + (receiver + session) % n  # turned by one each session, or one receiver could get them all
        rank = math.floor(place * self.broken_fraction)
        if math.floor((place + 1) * self.broken_fraction) == rank:
            return None
        return REASONS[rank % len(REASONS)], rank // len(REASONS)

    def _require(self, valid: bool, name: str, wanted: str) -> None:
        if not valid:
            raise UsageError(f"{name} is {getattr(self, name)!r}; expected {wanted}")
