"""What an evaluation found, as JSON for machines and as tables for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featurestore.source.receivers import Receivers
from featurestore.text_table import text_table
from trainer.evaluate.baselines import Baseline
from trainer.evaluate.metrics import Int64, Predictions, threshold_name, thresholds_m
from trainer.evaluate.plots import Picture
from trainer.network.checkpoints import Checkpoint


@dataclass(frozen=True)
class Evaluation:
    """How good a network is on a split.

    Attributes:
        checkpoint: the network.
        version: of the feature set.
        split: of the feature set.
        row: (n,) index in the set, ascending.
        predictions: of these rows.
        metrics: see `metrics.measure`.
        baselines: `k_nearest` and `predict_the_mean`, as far as the set and the split have them.
        notes: what a reader should know before comparing numbers.
        device: on which the network ran.
        seconds: that all of it took.
        receivers: where receivers stand; `None` when nobody said.
        files: that were written.
    """

    checkpoint: Checkpoint
    version: str
    split: str
    row: Int64
    predictions: Predictions
    metrics: dict[str, Any]
    baselines: dict[str, Baseline]
    notes: tuple[str, ...]
    device: str
    seconds: float
    receivers: Receivers | None = None
    files: tuple[Path, ...] = ()

    @property
    def thresholds_m(self) -> tuple[int, ...]:
        """Those of `within_…`."""
        return thresholds_m(self.checkpoint.region.half_extent_m)

    def picture(self) -> Picture:
        """What plots and pages draw."""
        errors = {baseline.label: baseline.error_m for baseline in self.baselines.values()}
        title = f"{self.split} split of {self.version}"
        return Picture(self.predictions, self.checkpoint.region, errors, title, self.receivers)

    def to_json(self) -> dict[str, Any]:
        """Everything but the single predictions, as plain values."""
        return {
            "checkpoint": self.checkpoint.describe(),
            "version": self.version,
            "split": self.split,
            "rows": len(self.row),
            "metrics": self.metrics,
            "baselines": {name: baseline.to_json(self.thresholds_m) for name, baseline in self.baselines.items()},
            "notes": list(self.notes),
            "device": self.device,
            "seconds": self.seconds,
            "files": [str(path) for path in self.files],
        }

    def lines(self) -> Iterator[str]:
        """Network and baselines side by side, then the network by receiver and by SNR."""
        network = f"{self.checkpoint.training.title}, epoch {self.checkpoint.epoch}"
        yield f"{self.checkpoint.source} ({network})"
        yield f"on the {self.split} split of feature set {self.version}: {len(self.row):,} rows"
        yield ""
        yield from format_table(self.comparison())
        for title, name in (("receiver", "by_receiver"), ("SNR", "by_snr")):
            yield ""
            yield from format_table(by_group(title, self.metrics[name]))
        for part in ([f"note: {note}" for note in self.notes], [f"wrote {path}" for path in self.files]):
            yield from ["", *part] if part else []

    def comparison(self) -> Iterator[Sequence[str]]:
        """Network and baselines, row by row; the first one names the columns."""
        metrics = self.metrics
        yield from compared_errors(metrics, self.baselines, self.thresholds_m)
        yield ["mean error expected from σ, km", km(metrics["expected_error_m"])]
        yield ["calibration error, km", km(metrics["calibration_error_m"])]
        yield ["in the 1 σ ellipse (39.3% when right)", percent(metrics["coverage_1_sigma"])]
        yield ["in the 2 σ ellipse (86.5% when right)", percent(metrics["coverage_2_sigma"])]
        yield ["negative log-likelihood, nats", f"{metrics['nll']:.2f}"]


def compared_errors(
    metrics: Mapping[str, Any], baselines: Mapping[str, Baseline], limits_m: tuple[int, ...]
) -> Iterator[Sequence[str]]:
    """Errors of a network and of its baselines, row by row; the first one names the columns."""
    errors = [metrics, *(baseline.to_json(limits_m) for baseline in baselines.values())]
    yield ["", "network", *(baseline.label for baseline in baselines.values())]
    for name in ("mean", "median", "p68", "p90", "p95"):
        yield [f"{name} error, km", *(km(each[f"error_{name}_m"]) for each in errors)]
    for limit in limits_m:
        name = threshold_name(limit)
        yield [f"within {name.replace('_', ' ')}", *(percent(each[f"within_{name}"]) for each in errors)]


def by_group(title: str, groups: Mapping[str, Mapping[str, float]]) -> Iterator[Sequence[str]]:
    """Metrics of groups of rows, row by row; the first one names the columns."""
    yield [title, "rows", "mean, km", "median", "p68", "p90", "p95", "expected", "in 1 σ", "in 2 σ", "NLL"]
    for name, metrics in groups.items():
        errors = [km(metrics[f"error_{key}_m"]) for key in ("mean", "median", "p68", "p90", "p95")]
        coverage = [percent(metrics["coverage_1_sigma"]), percent(metrics["coverage_2_sigma"])]
        yield [name, f"{metrics['rows']:,}", *errors, km(metrics["expected_error_m"]), *coverage, f"{metrics['nll']:.2f}"]


def format_table(rows: Iterator[Sequence[str]]) -> Iterator[str]:
    """The first column to the left, numbers to the right; a row may end early."""
    cells = list(rows)
    columns = max(map(len, cells))
    yield from text_table([[*row, *[""] * (columns - len(row))] for row in cells], right=range(1, columns))


def km(metres: float) -> str:
    """Metres as kilometres, to ten metres."""
    return f"{metres / 1000:,.2f}"


def km2(square_km: float) -> str:
    """An area, small ones to two digits."""
    return f"{square_km:,.0f}" if square_km >= 10 else f"{square_km:.2g}"


def percent(share: float) -> str:
    """A share in percent, to a tenth."""
    return f"{share:.1%}"
