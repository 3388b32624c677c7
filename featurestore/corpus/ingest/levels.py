"""Whether float samples can be those of a receiver at all: bytes of another type make numbers no receiver writes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from featurestore.corpus.ingest.samples import Recording
from featurestore.errors import DataQualityError

LOUDEST, FAINTEST = 1e6, 1e-12
"""Beyond: floats of raw 16-bit integers reach 32,768; a 24-bit converter's smallest step is 1.2e-7 of its full scale."""

MAX_SHARE_TOO_LOUD, MAX_SHARE_DENORMAL, MAX_SHARE_TOO_FAINT = 1e-3, 0.1, 0.5
"""Of the components that are not zero: a glitch may be loud, and what filters leave of silence denormal."""

PLACES, SAMPLES_EACH = 64, 1024
"""What is looked at, spread evenly, so that a recording of any length takes as long."""

MIN_COMPONENTS = 64
LEAST_FLOAT32_SHARE = 0.95


def check_levels(recording: Recording) -> None:
    """Refuse floats whose exponents cannot be radio.

    Raises:
        DataQualityError: naming the level found and what to do.
    """
    kind = recording.stored.dtype.kind
    if kind not in "fc" or len(recording) == 0:
        return
    values = _some_components(recording)
    if _is_narrower(values):
        level = np.median(np.abs(np.ascontiguousarray(values).view("f4")))
        raise DataQualityError(
            f"is said to hold 64-bit floats, but its bytes are 32-bit floats (median level {level:.2g}); correct its header to "
            "32 bits (cf32_le in SigMF, a known fault of old writers), or give its label the format cf32"
        )
    sizes = np.abs(values[np.isfinite(values) & (values != 0)])
    if len(sizes) == 0:
        return
    denormal = float((sizes < np.finfo(sizes.dtype).tiny).mean())
    loud, faint = float((sizes > LOUDEST).mean()), float((sizes < FAINTEST).mean())
    if denormal > MAX_SHARE_DENORMAL or loud > MAX_SHARE_TOO_LOUD or faint > MAX_SHARE_TOO_FAINT:
        raise DataQualityError(
            f"holds floats that no receiver writes: {sizes.min():.2g} to {sizes.max():.2g}, median {np.median(sizes):.2g}, "
            "where full scale is 1; its number type or byte order must be another than is said (core:datatype, 'format'): "
            "correct it, or scale the samples"
        )


def _some_components(recording: Recording) -> npt.NDArray[Any]:
    """Stored I and Q of up to `PLACES` places, flat, in native byte order."""
    n_samples = len(recording)
    last = max(0, n_samples - SAMPLES_EACH)
    starts = sorted({round(last * k / (PLACES - 1)) for k in range(PLACES)})
    parts = [np.asarray(recording.stored[start : start + SAMPLES_EACH]) for start in starts]
    flat = np.concatenate([np.ascontiguousarray(part).reshape(-1) for part in parts])
    flat = flat.astype(flat.dtype.newbyteorder("="))
    return flat.view(flat.real.dtype) if flat.dtype.kind == "c" else flat


def _is_narrower(values: npt.NDArray[Any]) -> bool:
    """Whether 64-bit floats are pairs of 32-bit ones.

    The lower half of a true double is noise or zero: as a float it is almost never between 1e-9 and 1e6, or is nothing but
    zero. In pairs of floats both halves are alike.
    """
    if values.dtype.itemsize != 8 or len(values) < MIN_COMPONENTS:
        return False
    halves = values.view("f4").reshape(-1, 2)
    with np.errstate(invalid="ignore"):
        sizes = np.abs(halves)
        sane = (halves == 0) | ((sizes > 1e-9) & (sizes < LOUDEST))
    return bool(sane.mean() > LEAST_FLOAT32_SHARE and min((halves != 0).mean(axis=0)) > 0.5)
