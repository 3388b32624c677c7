"""What each precision costs in accuracy, and what it saves in size and time; and which one to publish."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from exporter.graph.onnx_file import ExportedGraph
from exporter.graph.precision import PRECISIONS
from exporter.graph.rows import read_rows
from exporter.graph.runtime import Outputs, median_latencies_ms, open_session, run
from featurestore.errors import DataQualityError, UsageError
from featurestore.store.feature_set import FeatureSet
from featurestore.store.split import Split
from trainer.network.geometry import geodesic_m

AUTO = "auto"
MAX_ROWS = 512
BATCH = 32


@dataclass(frozen=True)
class Measured:
    """One precision, measured.

    Attributes:
        precision: one of `PRECISIONS`.
        path: of the graph.
        size_bytes: of the file.
        rows: how many it was measured on.
        difference_mean_m: mean distance from where the fp32 graph puts the same row; `None` where an output is not a number.
        difference_max_m: the largest.
        sigma_difference: largest relative difference of σ.
        error_mean_m: mean distance from the true position.
        error_median_m: the median.
        latency_ms: batch size → median of one call, on this machine's CPU.
    """

    precision: str
    path: Path
    size_bytes: int
    rows: int
    difference_mean_m: float | None
    difference_max_m: float | None
    sigma_difference: float | None
    error_mean_m: float | None
    error_median_m: float | None
    latency_ms: dict[int, float]

    @property
    def size_mb(self) -> float:
        """Of the file, in units of 10⁶ bytes."""
        return self.size_bytes / 1e6

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "path": self.path.name, "latency_ms": {str(key): ms for key, ms in self.latency_ms.items()}}


def measure(
    graphs: Sequence[ExportedGraph],
    feature_set: FeatureSet,
    split: Split = Split.TEST,
    max_rows: int = MAX_ROWS,
    repeats: int = 15,
) -> list[Measured]:
    """Measure graphs of one model beside each other.

    Args:
        graphs: with input `features`; the first is what the others are compared with: fp32.
        feature_set: of the spec and basis that the network was trained on.
        split: which rows.
        max_rows: at most so many, spread evenly over the split.
        repeats: of each latency.

    Raises:
        UsageError: when a graph takes other features than the set has.
        DataQualityError: when the split has no rows.
    """
    for graph in graphs:
        graph.info.require_takes(feature_set, str(graph.path))
    rows = read_rows(feature_set, split, max_rows)
    sessions = [open_session(graph.path) for graph in graphs]
    outputs = [run(session, rows.features, BATCH) for session in sessions]
    latencies: list[dict[int, float]] = [{} for _ in graphs]
    for size in (1, BATCH):
        features = np.resize(rows.features, (size, *rows.features.shape[1:]))
        calls = {str(index): _call(session, features) for index, session in enumerate(sessions)}
        for index, milliseconds in median_latencies_ms(calls, repeats).items():
            latencies[int(index)][size] = milliseconds
    return [
        _measured(graph, output, outputs[0], rows.position, latency)
        for graph, output, latency in zip(graphs, outputs, latencies, strict=True)
    ]


def _call(session: Any, features: npt.NDArray[np.float32]) -> Any:
    return lambda: session.run(None, {"features": features})


def _measured(
    graph: ExportedGraph, output: Outputs, fp32: Outputs, true: npt.NDArray[np.float64], latency: dict[int, float]
) -> Measured:
    difference, error = geodesic_m(fp32[0], output[0]), geodesic_m(true, output[0])
    return Measured(
        precision=graph.info.precision,
        path=graph.path,
        size_bytes=graph.size_bytes,
        rows=len(true),
        difference_mean_m=_number(difference.mean()),
        difference_max_m=_number(difference.max()),
        sigma_difference=_number(np.abs(output[1] / fp32[1] - 1).max()),
        error_mean_m=_number(error.mean()),
        error_median_m=_number(np.median(error)),
        latency_ms=latency,
    )


def _number(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def choose(measured: Sequence[Measured], precision: str, max_size_mb: float | None = None) -> Measured:
    """The graph to publish.

    Args:
        measured: of each precision at hand.
        precision: one of `PRECISIONS`, or `auto`: the most accurate that fits.
        max_size_mb: limit of the file in units of 10⁶ bytes; none when absent.

    Raises:
        UsageError: when this precision is not at hand, or none that may be chosen fits.
        DataQualityError: when its outputs are not numbers.
    """
    eligible = [item for item in measured if precision in (item.precision, AUTO)]
    if not eligible:
        known = ", ".join(item.precision for item in measured)
        raise UsageError(f"precision is {precision!r}; expected {AUTO} or one of {known}")
    fitting = [item for item in eligible if max_size_mb is None or item.size_mb <= max_size_mb]
    if not fitting:
        sizes = ", ".join(f"{item.precision} {item.size_mb:.1f} MB" for item in measured)
        what = "no precision fits" if precision == AUTO else f"{precision} does not fit"
        raise UsageError(
            f"{what} {max_size_mb:g} MB ({sizes}); allow more with "
            "--max-size-mb, choose --precision auto, or train a smaller backbone"
        )
    usable = [item for item in fitting if item.difference_mean_m is not None]
    if not usable:
        names = ", ".join(item.precision for item in fitting)
        raise DataQualityError(
            f"in {names}, outputs overflow to NaN or infinity; choose --precision fp32, or a larger --max-size-mb"
        )
    return min(usable, key=lambda item: (item.difference_mean_m or 0.0, PRECISIONS.index(item.precision)))


def table(measured: Sequence[Measured]) -> str:
    """The measurements as Markdown, for a model card."""
    lines = [
        "| precision | file, MB | from fp32: mean, max m | σ: largest relative | error: mean, median km | ms at batch 1, 32 |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for item in measured:
        cells = (
            item.precision,
            f"{item.size_mb:.1f}",
            f"{_text(item.difference_mean_m, '.2f')}, {_text(item.difference_max_m, '.2f')}",
            _text(item.sigma_difference, ".1e"),
            f"{_text(item.error_mean_m, '.2f', 1000)}, {_text(item.error_median_m, '.2f', 1000)}",
            ", ".join(f"{item.latency_ms[size]:.1f}" for size in (1, BATCH)),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _text(value: float | None, form: str, unit: float = 1.0) -> str:
    return "overflows" if value is None else format(value / unit, form)
