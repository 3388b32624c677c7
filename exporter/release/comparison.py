"""What a comparison of two releases found: both sides, the paired difference, and the verdict in words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from featurestore.text_table import text_table
from trainer.evaluate.metrics import Int64, Predictions

BATCHES = (1, 32)


MIN_SESSIONS = 10
"""With fewer, an interval from resampling is too narrow to be trusted."""


COLUMNS = (
    ("error_mean_m", "mean error, km", 1000.0, ".2f"),
    ("error_median_m", "median error, km", 1000.0, ".2f"),
    ("error_p90_m", "90% within, km", 1000.0, ".2f"),
    ("expected_error_m", "mean error expected from σ, km", 1000.0, ".2f"),
    ("calibration_error_m", "calibration error, km", 1000.0, ".2f"),
    ("coverage_1_sigma", "in the 1 σ ellipse, % (39.3 when right)", 0.01, ".1f"),
    ("coverage_2_sigma", "in the 2 σ ellipse, % (86.5 when right)", 0.01, ".1f"),
    ("nll", "negative log-likelihood, nats", 1.0, ".2f"),
)


@dataclass(frozen=True)
class Interval:
    """The mean difference of paired errors, B less A, in metres: below 0, B errs less.

    Attributes:
        mean_m: over all rows.
        low_m: lower end of the confidence interval.
        high_m: upper end.
        confidence: of the interval.
        sessions: that were drawn from.
    """

    mean_m: float
    low_m: float
    high_m: float
    confidence: float
    sessions: int

    @property
    def verdict(self) -> str:
        """`a`, `b`, or `unknown`."""
        if self.sessions < MIN_SESSIONS or self.low_m <= 0 <= self.high_m:
            return "unknown"
        return "b" if self.high_m < 0 else "a"


@dataclass(frozen=True)
class Side:
    """One release, measured.

    Attributes:
        release: its number.
        precision: of its graph.
        feature_set: that it was trained on.
        size_bytes: of `model.onnx`.
        latency_ms: batch size → median of one call; both releases in turns.
        metrics: see `trainer.evaluate.metrics.summary`.
    """

    release: str
    precision: str
    feature_set: str
    size_bytes: int
    latency_ms: dict[int, float]
    metrics: dict[str, float]


@dataclass(frozen=True, eq=False)
class Paired:
    """What both releases make of the same n rows.

    Attributes:
        row: (n,) index in the feature set.
        capture_id: (n,) in the catalog.
        session_id: (n, 16).
        a: predictions of one.
        b: of the other.
    """

    row: Int64
    capture_id: Int64
    session_id: npt.NDArray[np.uint8]
    a: Predictions
    b: Predictions


@dataclass(frozen=True)
class Comparison:
    """What was found; `paired` is for reports, and no part of its JSON; `unit` is what `rows` counts."""

    a: Side
    b: Side
    feature_set: str
    split: str
    rows: int
    difference: Interval
    notes: tuple[str, ...]
    paired: Paired | None = None
    unit: str = "rows"

    def to_json(self) -> dict[str, Any]:
        """Plain values, and the `verdict`."""
        content = asdict(replace(self, paired=None))
        del content["paired"]
        for side in (content["a"], content["b"]):
            side["latency_ms"] = {str(size): value for size, value in side["latency_ms"].items()}
        return {**content, "notes": list(self.notes), "verdict": self.difference.verdict}

    def side_by_side(self) -> list[list[str]]:
        """What was measured, A beside B; the first line names them."""
        sides = (self.a, self.b)
        table = [["", *(side.release for side in sides)]]
        table += [[label, *(format(side.metrics[name] / unit, form) for side in sides)] for name, label, unit, form in COLUMNS]
        table += [[f"ms at batch {size}", *(f"{side.latency_ms[size]:.2f}" for side in sides)] for size in BATCHES]
        table.append(["model.onnx, MB", *(f"{side.size_bytes / 1e6:.1f}" for side in sides)])
        table.append(["precision", *(side.precision for side in sides)])
        return table

    def lines(self) -> Iterator[str]:
        """For people: both side by side, then the difference, then the verdict."""
        yield f"on {self.rows:,} {self.unit} of the {self.split} split of feature set {self.feature_set}"
        yield from text_table(self.side_by_side(), right=(1, 2))
        difference, one = self.difference, self.unit.removesuffix("s")
        yield (
            f"error of {self.b.release} less that of {self.a.release}, {one} by {one}: {difference.mean_m / 1000:+.3f} km on "
            f"average, {100 * difference.confidence:g}% interval {difference.low_m / 1000:+.3f} to "
            f"{difference.high_m / 1000:+.3f} km "
            f"({difference.sessions} sessions)"
        )
        yield from (f"note: {note}" for note in self.notes)
        yield self.verdict

    @property
    def verdict(self) -> str:
        """In a sentence."""
        difference = self.difference
        if difference.verdict != "unknown":
            better = self.b if difference.verdict == "b" else self.a
            return f"{better.release} is better: it errs less by {abs(difference.mean_m) / 1000:.3f} km on average"
        if difference.sessions < MIN_SESSIONS:
            return (
                f"cannot tell: {difference.sessions} sessions are too few, expected {MIN_SESSIONS}; use a larger "
                f"{self.split} split"
            )
        if difference.low_m == difference.high_m == 0:
            return f"cannot tell: both err alike in every {self.unit.removesuffix('s')}"
        return "cannot tell: the interval holds 0; more sessions would narrow it"
