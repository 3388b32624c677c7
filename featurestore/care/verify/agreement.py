"""Whether two computations of a tensor agree, by the contract of docs/features.md: within 0.01 dB where it can be heard."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from featurestore.tensor.spec import FeatureSpec

TOLERANCE_DB = 0.01
RANGE_DB = 80
"""Below a frame's peak by more than this, float32's rounding of the peak is heard, and it differs between FFT builds."""

Float32 = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


def near_peak(logmel: Float32) -> Mask:
    """Which values of (row, channel, mel, frame) are within 80 dB of the peak of their frame."""
    mask: Mask = logmel > logmel.max(axis=2, keepdims=True) - RANGE_DB
    return mask


def logmel_difference(stored: Float32, exact: Float32) -> npt.NDArray[np.float64]:
    """(row,) largest difference in dB from `exact` near its peaks; NaN where `stored` holds NaN."""
    difference = np.where(near_peak(exact), np.abs(stored.astype(np.float64) - exact), 0)
    return np.asarray(np.where(np.isnan(stored).any(axis=(1, 2, 3)), np.nan, difference.max(axis=(1, 2, 3))))


def features_agree(spec: FeatureSpec, stored: npt.NDArray[np.float16], logmel: Float32, exact: Float32, std: Float32) -> Mask:
    """(row,) whether stored features agree with what another computation of log-mel normalizes to.

    They may differ by a step of float16, which is how they are stored, and by the tolerance of log-mel: near zero, where
    steps are finest, that is more.

    Args:
        spec: of the tensors.
        stored: (row, 3, band, frame) as stored.
        logmel: (row, 3, mel, frame) of the other computation, without NaN.
        exact: (row, 3, band, frame) what that normalizes to, before it is rounded to float16.
        std: (3, band) of the basis.
    """
    heard, tolerance_db = near_peak(logmel), TOLERANCE_DB
    if spec.n_mfcc:  # every coefficient is a sum over all bands, of weights whose squares add up to 1
        heard = np.asarray(heard.all(axis=2, keepdims=True), bool)
        tolerance_db *= math.sqrt(spec.n_mels)
    with np.errstate(invalid="ignore"):  # NaN is close to nothing
        step = np.spacing(np.maximum(np.abs(stored), np.abs(exact).astype(np.float16))).astype(np.float64)
        close: Mask = np.abs(stored.astype(np.float64) - exact) <= step + tolerance_db / std[..., None]
    return np.asarray((close | ~heard).all(axis=(1, 2, 3)) & ~np.isnan(stored).any(axis=(1, 2, 3)), bool)
