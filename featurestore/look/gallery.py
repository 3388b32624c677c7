"""Pictures of a feature set: some tensors with axes in kHz and ms, and the mean and std that normalize them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from featurestore.errors import DataQualityError, UsageError
from featurestore.look.report.spectrograms import band_ticks
from featurestore.progress import Progress, Silent
from featurestore.store.feature_set import FeatureSet
from featurestore.store.split import SPLITS
from featurestore.tensor.spec import CHANNELS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TICKS_HZ = (0, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 96_000)
LIMIT_SIGMA = 3.0


def draw(opened: FeatureSet, directory: Path, n_rows: int = 6, progress: Progress | None = None) -> list[Path]:
    """Write `tensors.png` and `statistics.png`.

    Args:
        opened: the feature set.
        directory: where; created when absent.
        n_rows: tensors to draw, spread over the train split.
        progress: where to report.

    Returns:
        The files written.

    Raises:
        UsageError: when matplotlib is not installed, or the directory cannot be written to.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError("pictures need matplotlib; install it: pip install matplotlib") from error
    tensors, statistics = directory / "tensors.png", directory / "statistics.png"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        progress = progress or Silent()
        progress.start("draw", 2, "pictures")
        _draw_tensors(opened, Figure, n_rows).savefig(tensors, dpi=110)
        progress.advance(1)
        _draw_statistics(opened, Figure).savefig(statistics, dpi=110)
        progress.advance(1)
    except OSError as error:
        raise UsageError(f"--out {directory} cannot be written to ({error.strerror}); choose another directory") from error
    return [tensors, statistics]


def _choose(opened: FeatureSet, n_rows: int) -> npt.NDArray[np.int64]:
    """Rows spread over the captures of the set, from the strongest signal to the weakest."""
    served = np.flatnonzero(opened.labels.split < len(SPLITS))
    if not len(served):
        raise DataQualityError(f"feature set {opened.version} serves no row; there is nothing to draw")
    by_snr = served[np.argsort(-np.nan_to_num(opened.labels.snr_db[served], nan=-np.inf), kind="stable")]
    chosen: npt.NDArray[np.int64] = by_snr[np.unique(np.linspace(0, len(by_snr) - 1, n_rows).round().astype(int))]
    return chosen


def _read_row(opened: FeatureSet, row: int) -> npt.NDArray[np.float32]:
    for segment in opened.segments:
        if row < segment.n_rows:
            chunk_rows = segment.features(opened.manifest.basis).chunk_rows
            return np.asarray(opened.read_features(segment, row // chunk_rows)[row % chunk_rows], np.float32)
        row -= segment.n_rows
    raise IndexError(row)


def _draw_tensors(opened: FeatureSet, figure_class: type[Figure], n_rows: int) -> Figure:
    rows = _choose(opened, n_rows)
    receivers, captures = opened.fact("websdr_id"), opened.fact("capture_id")
    labels = opened.labels
    figure = figure_class(figsize=(11, 1.2 + 2.2 * len(rows)), layout="constrained")
    axes: Any = figure.subplots(len(rows), 3, sharex=True, sharey=True, squeeze=False)
    image = None
    for line, row in zip(axes, rows.tolist(), strict=True):
        tensor = _read_row(opened, row)
        for axis, channel, picture in zip(line, CHANNELS, tensor, strict=True):
            image = _draw_tensor(axis, opened, picture)
            axis.set_title(channel if row == rows[0] else "", fontsize=10)
        snr = labels.snr_db[row]
        known = "SNR unknown" if np.isnan(snr) else f"SNR {snr:.0f} dB"
        split = SPLITS[labels.split[row]]
        line[0].set_ylabel(f"capture {captures[row]}\nreceiver {receivers[row]}, {known}\n{split}\n\nkHz", fontsize=8)
    for axis in axes[-1]:
        axis.set_xlabel("ms")
    if image is not None:
        figure.colorbar(image, ax=axes, label="standard deviations from the mean of the band", shrink=0.5)
    figure.suptitle(f"Feature set {opened.version}: {'cepstra' if opened.spec.n_mfcc else 'log-mel'}, normalized")
    return figure


def _draw_tensor(axis: Axes, opened: FeatureSet, picture: npt.NDArray[np.float32]) -> Any:
    spec = opened.spec
    duration_ms = spec.span / spec.sample_rate_hz * 1e3
    image = axis.imshow(
        picture,
        origin="lower",
        aspect="auto",
        interpolation="nearest",
        extent=(0, duration_ms, -0.5, spec.n_bands - 0.5),
        vmin=-LIMIT_SIGMA,
        vmax=LIMIT_SIGMA,
        cmap="viridis",
    )
    _mark_frequencies(opened, axis.set_yticks)
    return image


def _draw_statistics(opened: FeatureSet, figure_class: type[Figure]) -> Figure:
    figure = figure_class(figsize=(11, 6), layout="constrained")
    axes: Any = figure.subplots(2, 1, sharex=True)
    names = ("mean", "std") if opened.spec.n_mfcc else ("mean, dBFS", "std, dB")
    for axis, values, label in zip(axes, (opened.basis.mean, opened.basis.std), names, strict=True):
        for channel, line, style in zip(CHANNELS, values, ("-", "--", "-"), strict=True):
            axis.plot(line, style, label=channel, linewidth=1.2)
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
        axis.legend()
    _mark_frequencies(opened, axes[-1].set_xticks)
    axes[-1].set_xlabel("coefficient" if opened.spec.n_mfcc else "centre of the mel band, kHz")
    figure.suptitle(f"Basis {opened.basis.id}: mean and std of {opened.basis.rows:,} train rows")
    return figure


def _mark_frequencies(opened: FeatureSet, set_ticks: Any) -> None:
    """Name mel bands by their centre frequency."""
    if not opened.spec.n_mfcc:
        set_ticks(*band_ticks(opened.spec, TICKS_HZ))
