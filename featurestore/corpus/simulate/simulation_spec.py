"""What a simulated corpus shall be (`SimulationSpec`): frozen and validated, and which of its captures are special."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from featurestore.corpus.simulate.sites import RECEIVERS
from featurestore.errors import UsageError
from featurestore.tensor.rejection import REASONS

SITES = ("repeaters", "uniform")
CLOCKS = ("none", "perfect", "gps", "ntp")
DTYPES = ("complex64", "complex128")
MIN_SAMPLE_RATE_HZ = 24_000.0
"""Holds one channel with its offset, and the image-free part of the filter."""

GOLDEN_RATIO = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True)
class SimulationSpec:
    """Every option that changes a simulated corpus.

    Session i is the same in every corpus with the same seed, sites, rate, duration and clock: asking for more sessions adds to
    those that exist, and a higher approved fraction approves more of them without withdrawing any.

    Attributes:
        sessions: transmissions, each heard by all receivers at once.
        seed: names the world (radio map, receivers) and everything that is drawn in it.
        sites: `repeaters` transmits from known places, `uniform` from anywhere in the region.
        duration_s: length of every capture.
        sample_rate_hz: rate of every capture.
        dtype: of the .npy files, complex64 or complex128.
        approved_fraction: share of sessions that are approved, evenly spread.
        broken_fraction: share of captures made unusable, evenly spread, by every rejection reason in turn.
        clock: what the receivers know of time. `none`: nothing, and then nothing that takes time is simulated: all record the
            same instants, and hear the transmitter without delay. `perfect`, `gps`, `ntp`: the catalog has start times of that
            kind, and waves take their time.
        second_path: the scattered waves arrive later than the direct one.
        min_snr_db: leave out captures whose SNR is below; `None` keeps all, since receivers record whether they hear or not.

    Raises:
        UsageError: when a value is impossible; the message names it.
    """

    sessions: int = 60
    seed: int = 7
    sites: str = "repeaters"
    duration_s: float = 1.0
    sample_rate_hz: float = 192_000
    dtype: str = "complex128"
    approved_fraction: float = 1.0
    broken_fraction: float = 0.0
    min_snr_db: float | None = None
    clock: str = "none"
    second_path: bool = False

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
        return self.n_samples * np.dtype(self.dtype).itemsize

    def approved(self, session: int) -> bool:
        """Whether a session is approved: multiples of the golden ratio spread any share evenly, and shares are nested."""
        return session * GOLDEN_RATIO % 1 < self.approved_fraction

    def broken(self, session: int, receiver: int) -> tuple[str, int] | None:
        """How the capture of a session by a receiver (index) is broken: reason and count of that reason before; or not."""
        n = len(RECEIVERS)
        place = session * n + (receiver + session) % n  # turned by one each session, or one receiver could get them all
        rank = math.floor(place * self.broken_fraction)
        if math.floor((place + 1) * self.broken_fraction) == rank:
            return None
        return REASONS[rank % len(REASONS)], rank // len(REASONS)

    def _require(self, valid: bool, name: str, wanted: str) -> None:
        if not valid:
            raise UsageError(f"{name} is {getattr(self, name)!r}; wanted {wanted}")
