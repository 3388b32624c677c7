"""Predictions from an exported graph, with ONNX Runtime and numpy: what a service starts from. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from exporter.graph.opened_graph import OpenedGraph
from exporter.graph.rows import Rows, read_rows
from exporter.graph.runtime import run
from exporter.predict.capture_input import CaptureInput
from featurestore.errors import DataQualityError, UsageError
from featurestore.source.captures import DTYPES, Samples
from featurestore.store.feature_set import FeatureSet
from featurestore.store.split import Split

BATCH = 64
CAPTURE_BATCH = 16


@dataclass(frozen=True)
class Predicted:
    """Where transmitters are.

    Attributes:
        positions: (n, 2) float64 latitude, longitude in degrees, WGS84.
        uncertainties: (n, 2) float32 σ_east, σ_north in metres.
    """

    positions: npt.NDArray[np.float64]
    uncertainties: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.positions)


class Predictor:
    """An exported graph, ready to be used; may be used by several threads.

    `Predictor("model-iq.onnx").predict_iq(np.load("capture.npy"), sample_rate_hz=192_000).positions`

    Args:
        source: a file, its content, or what was opened already.
        threads: that one operation may use; 0: one for each core.

    Attributes:
        info: what the graph says of itself.

    Raises:
        UsageError: when the graph is absent, damaged, not one of ours, or locates sessions (`SessionPredictor` is for those).
    """

    def __init__(self, source: Path | str | bytes | OpenedGraph, threads: int = 0) -> None:
        graph = source if isinstance(source, OpenedGraph) else OpenedGraph.open(source, threads)
        self.name, self._session, self.info = graph.name, graph.session, graph.info
        self.info.require_located("capture", self.name)

    @property
    def _captures(self) -> CaptureInput:
        return CaptureInput(self.info.spec, self.name)

    def predict_features(self, features: npt.NDArray[Any]) -> Predicted:
        """One prediction for each tensor.

        Args:
            features: (n, 3, band, frame) float16 or float32, normalized as in the feature set.

        Raises:
            UsageError: when the graph takes IQ, or `features` has another shape or type, or is not finite.
            DataQualityError: when an output is not a number.
        """
        self._require_input("features")
        wanted = self.info.spec.tensor_shape
        if features.ndim != 4 or features.shape[1:] != wanted:
            raise UsageError(f"features have shape {features.shape}; {self.name} takes (n, {', '.join(map(str, wanted))})")
        if features.dtype not in (np.float16, np.float32):
            raise UsageError(f"features are {features.dtype}; expected float32, or float16 as they are stored")
        bad = np.flatnonzero(~np.isfinite(features).all(axis=(1, 2, 3)))
        if len(bad):
            raise UsageError(f"{len(bad)} of {len(features)} tensors, the first at {bad[0]}, are not finite; leave them out")
        return self._predict(features.astype(np.float32, copy=False), BATCH)

    def predict_set(self, feature_set: FeatureSet, split: Split, limit: int | None = None) -> tuple[Rows, Predicted]:
        """Predictions for rows of a feature set.

        Raises:
            UsageError: when the graph takes IQ, or other features than the set has.
            DataQualityError: when the split has no rows.
        """
        self.info.require_takes(feature_set, self.name)
        rows = read_rows(feature_set, split, limit)
        return rows, self.predict_features(rows.features)

    def predict_iq(self, iq: npt.NDArray[Any], sample_rate_hz: float | None) -> Predicted:
        """One prediction for each capture.

        Args:
            iq: (samples,) or (n, samples) complex64 or complex128, or (n, 2, samples) float32; full scale 1.
            sample_rate_hz: of these samples; it must be that of the graph.

        Raises:
            UsageError: when the graph takes features, the rate is unknown or another, or `iq` has another shape or type, is too
                short, not finite in a window, or silent there.
            DataQualityError: when an output is not a number.
        """
        self._require_input("iq")
        self._captures.require_rate(sample_rate_hz)
        with np.errstate(over="ignore"):  # infinite then, and found
            captures = self._captures.windows(_complex(iq)).astype(np.complex64)
        for index, capture in enumerate(captures):
            self._captures.require_usable(capture, f"capture {index} of {len(captures)}")
        pairs = np.stack([captures.real, captures.imag], axis=1)  # (capture, 2, sample)
        return self._predict(pairs, CAPTURE_BATCH)

    def predict_files(self, paths: Sequence[Path | str], sample_rate_hz: float | None) -> Iterator[Predicted]:
        """One prediction for each .npy capture, (1, 2) each; of a capture of one window only that window is read.

        Raises:
            UsageError: as `predict_iq`; names the file.
        """
        for path in paths:
            capture = self._captures.windows(self._captures.open(Path(path))[None])
            try:
                yield self.predict_iq(capture, sample_rate_hz)
            except UsageError as error:
                raise UsageError(f"{path}: {error}") from error

    def _predict(self, values: npt.NDArray[np.float32], batch_size: int) -> Predicted:
        positions, uncertainties = run(self._session, values, batch_size)
        bad = np.flatnonzero(~(np.isfinite(positions) & np.isfinite(uncertainties)).all(axis=1))
        if len(bad):
            raise DataQualityError(
                f"{self.name} returned NaN or infinity for {len(bad)} of {len(values)} inputs, the first at {bad[0]}; use the "
                "fp32 graph, or look at these inputs"
            )
        return Predicted(positions, uncertainties)

    def _require_input(self, wanted: str) -> None:
        if self.info.input != wanted:
            other = {"iq": "model-iq.onnx", "features": "model.onnx"}[wanted]
            raise UsageError(f"{self.name} takes {self.info.input}, not {wanted}; use the {other} of the same release")


def _complex(iq: npt.NDArray[Any]) -> Samples:
    """(n, samples) complex."""
    if iq.dtype.newbyteorder("=") in DTYPES and iq.ndim in (1, 2):
        return np.atleast_2d(iq)
    if iq.dtype == np.float32 and iq.ndim == 3 and iq.shape[1] == 2:
        return np.asarray(iq[:, 0] + 1j * iq[:, 1], np.complex64)
    raise UsageError(
        f"iq is {iq.dtype} of shape {iq.shape}; expected complex64 or complex128 of shape (samples,) or (n, "
        "samples), or float32 "
        "of shape (n, 2, samples)"
    )
