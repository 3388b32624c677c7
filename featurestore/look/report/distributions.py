"""How values, SNR, frequencies and statistics are distributed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from featurestore.look.report.maps import SPLIT_COLOURS
from featurestore.look.report.spectrograms import band_ticks, to_decibels
from featurestore.page.charts import to_svg
from featurestore.page.page import Html
from featurestore.store.bases import Basis
from featurestore.store.feature_set import FeatureSet
from featurestore.store.split import SPLITS
from featurestore.tensor.spec import CHANNELS, FeatureSpec

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LIMIT_SIGMA = 6.0
FAR_SIGMA = 5.0
CHANNEL_COLOURS = ("blue", "orange", "green")
LINES = ("-", "--", ":")
FEW = 12
"""So many different frequencies are told one by one."""


@dataclass(frozen=True)
class Values:
    """What the tensors of some rows hold, counted.

    Attributes:
        rows: that were read.
        normalized: (3, bin) counts by channel, over `edges`; what lies beyond is in the outermost bins.
        levels: (3, bin) likewise of dBFS (or cepstral coefficients), over `level_edges`.
        edges: (bin + 1,) of normalized values.
        level_edges: (bin + 1,).
        mean: (3,) of normalized values: 0 over the rows that the basis came from.
        std: (3,) likewise: 1.
        largest: (3,) absolute normalized value.
        far: (3,) share of values beyond 5 σ.
    """

    rows: int
    normalized: npt.NDArray[np.int64]
    levels: npt.NDArray[np.int64]
    edges: npt.NDArray[np.float64]
    level_edges: npt.NDArray[np.float64]
    mean: npt.NDArray[np.float64]
    std: npt.NDArray[np.float64]
    largest: npt.NDArray[np.float64]
    far: npt.NDArray[np.float64]

    @classmethod
    def count(cls, feature_set: FeatureSet, chunks: Iterable[tuple[int, int]]) -> Self:
        """Those of the served rows of some chunks, of which one at a time is in memory."""
        spec, basis = feature_set.spec, feature_set.basis
        edges = np.linspace(-LIMIT_SIGMA, LIMIT_SIGMA, 97)
        level_edges = _level_edges(spec, basis)
        normalized = np.zeros((3, len(edges) - 1), np.int64)
        levels = np.zeros((3, len(level_edges) - 1), np.int64)
        sums, squares, largest, far, n_rows, n_values = np.zeros(3), np.zeros(3), np.zeros(3), np.zeros(3), 0, 0
        for chunk in chunks:
            held = feature_set.chunk_rows(chunk)
            served = feature_set.labels.split[held.start : held.stop] < len(SPLITS)
            if not served.any():
                continue
            tensors = feature_set.read_chunk(chunk)[served].astype(np.float32)  # (row, channel, band, frame)
            decibels = to_decibels(basis, tensors)
            for channel in range(3):
                values = tensors[:, channel]
                normalized[channel] += np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0]
                levels[channel] += np.histogram(np.clip(decibels[:, channel], level_edges[0], level_edges[-1]), level_edges)[0]
            sums += tensors.sum(axis=(0, 2, 3), dtype=np.float64)
            squares += np.square(tensors).sum(axis=(0, 2, 3), dtype=np.float64)
            largest = np.maximum(largest, np.abs(tensors).max(axis=(0, 2, 3)))
            far += (np.abs(tensors) > FAR_SIGMA).sum(axis=(0, 2, 3))
            n_rows += len(tensors)
            n_values += tensors[:, 0].size
        mean = sums / max(n_values, 1)
        std = np.sqrt(np.maximum(squares / max(n_values, 1) - mean**2, 0))
        return cls(n_rows, normalized, levels, edges, level_edges, mean, std, largest, far / max(n_values, 1))


def _level_edges(spec: FeatureSpec, basis: Basis) -> npt.NDArray[np.float64]:
    """From the floor to full scale in steps of 2 dB; or what a basis of cepstral coefficients spans."""
    if spec.n_mfcc:
        reach = 4 * basis.std
        return np.linspace(float((basis.mean - reach).min()), float((basis.mean + reach).max()), 81)
    return np.arange(np.floor(spec.floor_db / 2) * 2, 2.1, 2.0)


def draw_normalized(values: Values) -> Html:
    """Density of normalized values by channel, beside the normal distribution."""

    def draw(figure: Figure) -> None:
        axis: Any = figure.subplots()
        _draw_densities(axis, values.normalized, values.edges)
        x = np.linspace(-LIMIT_SIGMA, LIMIT_SIGMA, 200)
        axis.plot(x, np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi), color="gray", linewidth=1)
        axis.set_xlabel("normalized value, σ")

    description = ", ".join(
        f"{name} mean {m:.2f} std {s:.2f}" for name, m, s in zip(CHANNELS, values.mean, values.std, strict=True)
    )
    return to_svg(draw, f"Distribution of normalized values of {values.rows:,} rows: {description}", 240)


def draw_levels(values: Values, *, cepstra: bool) -> Html:
    """Density of levels by channel."""

    def draw(figure: Figure) -> None:
        axis: Any = figure.subplots()
        _draw_densities(axis, values.levels, values.level_edges)
        axis.set_xlabel("coefficient" if cepstra else "level, dBFS")

    return to_svg(draw, f"Distribution of {'cepstral coefficients' if cepstra else 'levels'} of {values.rows:,} rows", 240)


def _draw_densities(axis: Any, counts: npt.NDArray[np.int64], edges: npt.NDArray[np.float64]) -> None:
    density = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1) / np.diff(edges)
    for channel, colour, line in zip(density, CHANNEL_COLOURS, LINES, strict=True):
        axis.stairs(channel, edges, color=f"tab:{colour}", linewidth=1.6, linestyle=line)
    axis.set_ylabel("density")
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.5, linewidth=0.6)


def draw_statistic(spec: FeatureSpec, basis: Basis, name: str) -> Html:
    """`mean` or `std` of a basis, by channel over the bands."""
    values = getattr(basis, name)
    unit = "" if spec.n_mfcc else ", dBFS" if name == "mean" else ", dB"

    def draw(figure: Figure) -> None:
        axis: Any = figure.subplots()
        for channel, colour, line in zip(values, CHANNEL_COLOURS, LINES, strict=True):
            axis.plot(channel, line, color=f"tab:{colour}", linewidth=1.6)
        axis.set_ylabel(name + unit)
        if not spec.n_mfcc:
            axis.set_xticks(*band_ticks(spec))
        axis.set_xlabel("coefficient" if spec.n_mfcc else "centre of the mel band, kHz")
        axis.grid(alpha=0.5, linewidth=0.6)

    description = ", ".join(f"{channel} {low:.1f} to {high:.1f}" for channel, low, high in _ranges(values))
    return to_svg(draw, f"{name} by band{unit}: {description}", 240)


def _ranges(values: npt.NDArray[np.float32]) -> Iterable[tuple[str, float, float]]:
    return zip(CHANNELS, values.min(axis=1).tolist(), values.max(axis=1).tolist(), strict=True)


def draw_by_split(values: npt.NDArray[np.floating], split: npt.NDArray[np.uint8], name: str, unit: str) -> Html:
    """Rows by value, the splits on top of each other; unknown values are left out."""
    known = np.isfinite(values)
    numbers, split = values[known].astype(np.float64), split[known]
    different = np.unique(numbers)

    def draw(figure: Figure) -> None:
        axis: Any = figure.subplots()
        few = name == "frequency" and len(different) <= FEW
        if few:
            places = np.searchsorted(different, numbers).astype(np.float64)
            edges = np.arange(len(different) + 1) - 0.5
            axis.set_xticks(np.arange(len(different)), [f"{value:g}" for value in different])
            axis.tick_params(axis="x", rotation=90 if len(different) > 5 else 0)
        else:
            places, edges = numbers, np.histogram_bin_edges(numbers, 30)
        bottom = np.zeros(len(edges) - 1)
        for code, colour in enumerate(SPLIT_COLOURS):
            count = np.histogram(places[split == code], edges)[0]
            axis.bar(edges[:-1], count, np.diff(edges) * (0.8 if few else 0.92), bottom, align="edge", color=f"tab:{colour}")
            bottom = bottom + count
        if few:
            axis.set_xlim(-0.6, len(different) - 0.2)
        axis.set_xlabel(f"{name}, {unit}")
        axis.set_ylabel("rows")
        axis.grid(axis="y", alpha=0.5, linewidth=0.6)

    label = f"Rows by {name}: {int(known.sum()):,} known, {int((~known).sum()):,} unknown"
    if len(numbers):
        label += f"; median {np.median(numbers):g} {unit}, from {numbers.min():g} to {numbers.max():g}"
    return to_svg(draw, label, 240)
