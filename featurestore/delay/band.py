"""Which bins of the spectra may say something of a delay: where a signal is, without carriers and birdies."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.ndimage import median_filter, minimum_filter1d

from featurestore.delay.segments import smooth_over

Float64 = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

OCCUPIED = 2.0
"""Power over the floor, 3 dB."""
FLOOR_SHARE = 0.1
"""The floor is the power that this share of bins stays below."""
RANGE = 1e-4
"""Bins 40 dB below the strongest ones hold what leaked from those, and their delay: a receiver's filter leaves such bins."""
SMOOTH_BINS = 17
LINE = 10.0
"""Power of a bin over the median of its neighbours, 10 dB: a tone. It tells the phase, which hides in the unknown phases of the
receivers, not the delay; what it adds is a ripple over all lags."""
LINE_BINS = 33
NOTCH_BINS = 2
"""On each side of a tone: the main lobe of a Hann window."""
EDGE = 0.25
"""Bins this far below the mean of their neighbours lie on a band's edge, where the neighbours' coherence is not theirs."""
LEAST_BINS = 8


def find_band(powers: list[Float64], frequency_hz: Float64, band_hz: tuple[float, float] | None) -> Mask:
    """The bins of a session that are worth correlating: those that stand out at one receiver or more.

    Args:
        powers: of each receiver, (bins,) mean power.
        frequency_hz: (bins,) of the bins.
        band_hz: lowest and highest frequency to look at; `None` for all.

    Returns:
        (bins,) which ones; none where only tones are heard.
    """
    if not powers:
        return np.zeros(len(frequency_hz), bool)
    found = np.any([occupied(power) for power in powers], axis=0)
    if band_hz is not None:
        found &= (frequency_hz >= band_hz[0]) & (frequency_hz <= band_hz[1])
    tones = np.any([lines(power) for power in powers], axis=0)
    kept = found & ~tones
    kept &= np.all([power > EDGE * smooth_over(kept, power) for power in powers], axis=0)
    # A comb of lines is no birdie, but the signal: a pulse that repeats.
    return np.asarray(found if found.sum() >= 4 * LEAST_BINS and kept.sum() < found.sum() / 4 else kept)


def occupied(power: Float64) -> Mask:
    """Bins where the smoothed power stands out of the floor; all bins, where nothing stands out."""
    smooth = median_filter(power, SMOOTH_BINS, mode="nearest")
    found = (smooth > OCCUPIED * np.quantile(smooth, FLOOR_SHARE)) & (smooth > RANGE * smooth.max())
    return np.asarray(found if found.sum() >= LEAST_BINS else np.ones(len(power), bool))


def lines(power: Float64) -> Mask:
    """Bins of tones, and those beside them."""
    tone = power > LINE * median_filter(power, LINE_BINS, mode="nearest")
    return np.asarray(minimum_filter1d(~tone, 2 * NOTCH_BINS + 1, mode="nearest") == 0)
