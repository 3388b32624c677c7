"""Whether a graph computes what the network does: PyTorch against ONNX Runtime, on real rows, before anybody relies on it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from exporter.graph.features_graph import Located, network_to_export
from exporter.graph.metadata import GraphInfo
from exporter.graph.rows import Rows, read_rows
from exporter.graph.runtime import Outputs, median_latencies_ms, open_session, run
from featurestore.errors import DataQualityError, UsageError
from featurestore.store.feature_set import FeatureSet
from featurestore.store.split import Split
from trainer.network.checkpoints import Checkpoint
from trainer.network.geometry import geodesic_m

BATCH_SIZES = (1, 2, 7, 32, 64)
LATENCY_BATCHES = (1, 32)
REFERENCE_BATCH = 32
MAX_ROWS = 256
WORST = 5


@dataclass(frozen=True)
class Tolerance:
    """How far ONNX Runtime may be from PyTorch.

    A row is within tolerance when its position is within `absolute_m` + `relative`·σ of PyTorch's (σ: the smaller of the two
    that PyTorch predicts), and each σ within `relative`·σ. What is relative is so to the predicted uncertainty, because degrees
    have no natural zero, and because float32 has an error in proportion to the region's extent, as σ has.

    Attributes:
        absolute_m: metres.
        relative: share of σ.
        min_share: the share of rows within tolerance must exceed this.

    Raises:
        UsageError: when a value is impossible.
    """

    absolute_m: float = 0.1
    relative: float = 1e-4
    min_share: float = 0.99

    def __post_init__(self) -> None:
        for name, high in (("absolute_m", math.inf), ("relative", math.inf), ("min_share", 1.0)):
            if not 0 <= getattr(self, name) < high:
                raise UsageError(f"the tolerance {name} is {getattr(self, name)!r}; expected a number from 0 to below {high}")


@dataclass(frozen=True)
class BatchResult:
    """What rows gave in batches of one size.

    Attributes:
        batch_size: rows of one call.
        difference_m: largest distance of positions (geodesic); NaN where an output is not a number.
        relative: largest difference of any output in units of PyTorch's σ, of positions as well as of σ themselves.
        share: of rows within tolerance.
        receivers: room for so many captures of each session; `None` where captures are located.
    """

    batch_size: int
    difference_m: float
    relative: float
    share: float
    receivers: int | None = None


@dataclass(frozen=True)
class Validation:
    """What was found.

    Attributes:
        graph: what was validated.
        rows: how many, of the split named below.
        split: of the feature set.
        feature_set: its version.
        tolerance: what was demanded.
        batches: for each batch size.
        worst: names and distances in metres of the worst rows, the worst first.
        latency_ms: batch size → `torch`, `onnx`, `speedup`; medians.
        unit: what `rows` counts: `rows`, `captures` or `sessions`.
    """

    graph: str
    rows: int
    split: str
    feature_set: str
    tolerance: Tolerance
    batches: tuple[BatchResult, ...]
    worst: tuple[tuple[str, float], ...]
    latency_ms: Mapping[int, Mapping[str, float]]
    unit: str = "rows"

    @property
    def share(self) -> float:
        """The smallest share of rows within tolerance, of all batch sizes."""
        return min(batch.share for batch in self.batches)

    @property
    def difference_m(self) -> float:
        """The largest distance of positions, of all batch sizes."""
        return float(np.max([batch.difference_m for batch in self.batches]))

    @property
    def relative(self) -> float:
        """The largest relative difference, of all batch sizes."""
        return float(np.max([batch.relative for batch in self.batches]))

    @property
    def passed(self) -> bool:
        """Whether the graph may be published."""
        return self.share > self.tolerance.min_share

    def require(self) -> None:
        """Refuse a graph that computes something else.

        Raises:
            DataQualityError: naming the worst rows.
        """
        if self.passed:
            return
        worst = "; ".join(f"{name}: {metres:.3g} m" for name, metres in self.worst)
        raise DataQualityError(
            f"{self.graph} differs from PyTorch: {100 * self.share:.1f}% of {self.rows} {self.split} {self.unit} of "
            f"{self.feature_set} are within {self.tolerance.absolute_m:g} m + {self.tolerance.relative:g} σ, "
            "expected more than "
            f"{100 * self.tolerance.min_share:g}%; worst: {worst}. It was not published; export it again, or look at these "
            f"{self.unit}"
        )

    def in_short(self) -> dict[str, Any]:
        """What a report says of it; `speedup` at batch 1 where it was measured."""
        speed = {"speedup": self.latency_ms[1]["speedup"]} if self.latency_ms else {}
        return {"rows": self.rows, "unit": self.unit, "share": self.share, "difference_m": self.difference_m, **speed}

    def to_json(self) -> dict[str, Any]:
        """Plain values, for `metrics.json`; what is not a number is null."""
        content = {**asdict(self), "share": self.share, "difference_m": self.difference_m, "relative": self.relative}
        plain: dict[str, Any] = _finite({**content, "passed": self.passed})
        return plain


def validate(  # noqa: PLR0913 - all but the first three have good defaults
    graph: str | bytes,
    checkpoint: Checkpoint,
    feature_set: FeatureSet,
    *,
    split: Split = Split.VAL,
    tolerance: Tolerance | None = None,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    max_rows: int = MAX_ROWS,
    repeats: int = 15,
) -> Validation:
    """Compare `model.onnx` with the checkpoint it came from.

    Args:
        graph: file, or its content; its input must be `features`.
        checkpoint: what PyTorch runs.
        feature_set: real rows, of the spec and basis that the network was trained on.
        split: which rows.
        tolerance: see `Tolerance`.
        batch_sizes: of ONNX Runtime; PyTorch runs batches of 32.
        max_rows: at most so many rows, spread evenly over the split.
        repeats: of each latency.

    Raises:
        UsageError: when the graph is not usable, or the set has other features than the network knows.
        DataQualityError: when the split has no rows. (A graph that fails only does so in `require`.)
    """
    name = "the graph" if isinstance(graph, bytes) else str(graph)
    session = open_session(graph)
    info = GraphInfo.from_props(session.get_modelmeta().custom_metadata_map, name)
    info.require_takes(feature_set, name)
    checkpoint.features.require_same(feature_set, checkpoint.source)
    rows = read_rows(feature_set, split, max_rows)
    reference = Located(network_to_export(checkpoint), checkpoint.region).eval()
    expected = run_torch(reference, rows.features)
    tolerance = tolerance or Tolerance()
    batches, distances = [], np.zeros(len(rows))
    for size in batch_sizes:
        result, distance = compare(expected, run(session, rows.features, size), tolerance, size)
        batches.append(result)
        distances = np.maximum(distances, distance)
    order = np.argsort(-distances, kind="stable")[:WORST]
    return Validation(
        graph=name,
        rows=len(rows),
        split=split.name.lower(),
        feature_set=feature_set.version,
        tolerance=tolerance,
        batches=tuple(batches),
        worst=tuple((rows.name(int(index)), float(distances[index])) for index in order),
        latency_ms={size: _latency(reference, session, rows, size, repeats) for size in LATENCY_BATCHES},
    )


def run_torch(module: Located, features: npt.NDArray[np.float32]) -> Outputs:
    """What PyTorch makes of these rows: (n, 2) float64 degrees, (n, 2) float32 metres."""
    with torch.inference_mode():
        parts = [module(batch) for batch in torch.split(torch.from_numpy(features), REFERENCE_BATCH)]
    positions, uncertainties = (torch.cat(values).numpy() for values in zip(*parts, strict=True))
    return positions, uncertainties


def compare(
    expected: Outputs, actual: Outputs, tolerance: Tolerance, batch_size: int
) -> tuple[BatchResult, npt.NDArray[np.float64]]:
    """How far outputs are from those expected, and (n,) the distance of each position in metres, infinite where it is none."""
    distance = geodesic_m(expected[0], actual[0])  # NaN where a position is none
    sigma = expected[1].astype(np.float64)
    least = sigma.min(axis=1)
    sigma_difference = np.abs(actual[1] - sigma)
    within = (distance <= tolerance.absolute_m + tolerance.relative * least) & (
        sigma_difference <= tolerance.relative * sigma
    ).all(axis=1)
    relative = np.maximum(distance / least, (sigma_difference / sigma).max(axis=1))
    return BatchResult(batch_size, float(distance.max()), float(relative.max()), float(within.mean())), np.where(
        np.isnan(distance), np.inf, distance
    )


def _latency(module: Located, session: Any, rows: Rows, batch_size: int, repeats: int) -> dict[str, float]:
    features = np.resize(rows.features, (batch_size, *rows.features.shape[1:]))  # repeats rows where there are too few
    tensor = torch.from_numpy(features)
    with torch.inference_mode():
        calls = {"torch": lambda: module(tensor), "onnx": lambda: session.run(None, {"features": features})}
        latency_ms = median_latencies_ms(calls, repeats)
    return {**latency_ms, "speedup": latency_ms["torch"] / latency_ms["onnx"]}


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
