"""What an evaluation of sessions found, as JSON for machines and as tables for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from featurestore.place.posterior import Posterior
from featurestore.source.receivers import Receivers
from trainer.evaluate.baselines import Baseline
from trainer.evaluate.evaluation import compared_errors, format_table, km, km2, percent
from trainer.evaluate.fusion import SessionFusion, SideBySide
from trainer.evaluate.metrics import thresholds_m
from trainer.evaluate.session_metrics import SessionPredictions
from trainer.evaluate.sessions import EncodedSessions
from trainer.network.checkpoints import Checkpoint

GROUPS = (
    ("receivers present", "by_receivers_present"),
    ("receiver", "by_receiver"),
    ("strongest SNR", "by_snr"),
    ("time", "by_time"),
)


@dataclass(frozen=True, eq=False)
class SessionEvaluation:
    """How good a network for sessions is on a split.

    Attributes:
        checkpoint: the network.
        version: of the feature set.
        split: of the feature set.
        split_by: what the set's split never tears apart: `session` or `region`.
        encoded: the sessions.
        predictions: of them, from all of their captures.
        metrics: see `session_metrics.measure_sessions`; and `by_receivers_present`.
        baselines: as far as the set and the split have them.
        notes: what a reader should know before comparing numbers.
        receivers: where receivers stand.
        fusion: with the pairs of the sessions, if a pair set was asked for.
        beside: what the sessions with pairs are located by, side by side, likewise.
        device: on which the network ran.
        seconds: that all of it took.
        files: that were written.
    """

    checkpoint: Checkpoint
    version: str
    split: str
    split_by: str
    encoded: EncodedSessions
    predictions: SessionPredictions
    metrics: dict[str, Any]
    baselines: dict[str, Baseline]
    notes: tuple[str, ...]
    receivers: Receivers
    device: str
    seconds: float
    files: tuple[Path, ...] = ()
    fusion: SessionFusion | None = None
    beside: SideBySide | None = None

    def posterior(self, session: int) -> Posterior:
        """Of one session, from all of its captures, by what the predictions are by."""
        if self.fusion is not None and self.beside is not None:
            return self.fusion.posterior(self.beside.used, session)
        located = self.encoded.located(np.array([session]), self.encoded.table.present[[session]])
        grid = self.encoded.place.grid
        return Posterior(grid, located.log_density[0].double().cpu().numpy().reshape(grid.shape))

    @property
    def thresholds_m(self) -> tuple[int, ...]:
        """Those of `within_…`."""
        return thresholds_m(self.checkpoint.region.half_extent_m)

    @property
    def n_rows(self) -> int:
        """Rows behind the sessions."""
        return int(self.encoded.table.present.sum())

    def to_json(self) -> dict[str, Any]:
        """Everything but the single predictions, as plain values."""
        return {
            "checkpoint": self.checkpoint.describe(),
            "version": self.version,
            "split": self.split,
            "split_by": self.split_by,
            "located": "session",
            "fusion": None if self.beside is None else self.beside.to_json(),
            "sessions": len(self.predictions),
            "rows": self.n_rows,
            "metrics": self.metrics,
            "baselines": {name: baseline.to_json(self.thresholds_m) for name, baseline in self.baselines.items()},
            "notes": list(self.notes),
            "device": self.device,
            "seconds": self.seconds,
            "files": [str(path) for path in self.files],
        }

    def lines(self) -> Iterator[str]:
        """Network and baselines side by side, then the network by groups."""
        yield f"{self.checkpoint.source} ({self.checkpoint.training.title}, epoch {self.checkpoint.epoch})"
        yield (
            f"on the {self.split} split (by {self.split_by}) of feature set {self.version}: "
            f"{len(self.predictions):,} sessions, {self.n_rows:,} rows"
        )
        yield ""
        yield from format_table(self.comparison())
        if self.beside is not None and self.beside.metrics:
            yield ""
            yield from format_table(self.beside.table())
        for title, name in GROUPS:
            if self.metrics[name]:
                yield ""
                yield from format_table(by_session_group(title, self.metrics[name]))
        for part in ([f"note: {note}" for note in self.notes], [f"wrote {path}" for path in self.files]):
            yield from ["", *part] if part else []

    def comparison(self) -> Iterator[Sequence[str]]:
        """Network and baselines, row by row; the first one names the columns."""
        metrics = self.metrics
        yield from compared_errors(metrics, self.baselines, self.thresholds_m)
        yield ["mean error that posteriors expect, km", km(metrics["expected_error_m"])]
        yield ["in the 39.3% region", percent(metrics["coverage_1_sigma"])]
        yield ["in the 86.5% region", percent(metrics["coverage_2_sigma"])]
        yield ["area of the 86.5% region, km² (median)", km2(metrics["area_86_median_km2"])]
        yield ["negative log-likelihood, nats", f"{metrics['nll']:.2f}"]


def by_session_group(title: str, groups: Mapping[str, Mapping[str, float]]) -> Iterator[Sequence[str]]:
    """Metrics of groups of sessions, row by row; the first one names the columns."""
    yield [title, "sessions", "mean, km", "median", "p90", "expected", "in 39.3%", "in 86.5%", "86.5%, km²", "NLL"]
    for name, metrics in groups.items():
        errors = [km(metrics[f"error_{key}_m"]) for key in ("mean", "median", "p90")]
        coverage = [percent(metrics[f"coverage_{k}_sigma"]) for k in (1, 2)]
        rest = [*coverage, km2(metrics["area_86_median_km2"]), f"{metrics['nll']:.2f}"]
        yield [name, f"{metrics['rows']:,}", *errors, km(metrics["expected_error_m"]), *rest]
