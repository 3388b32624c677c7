"""One tensor as six small spectrograms: I, Q and magnitude, in dB above and normalized below."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from featurestore.page.charts import to_svg
from featurestore.page.page import Html
from featurestore.store.bases import Basis
from featurestore.tensor.mel import band_edges_hz
from featurestore.tensor.spec import CHANNELS, FeatureSpec

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TICKS_HZ = (0, 1000, 2000, 5000, 10_000, 20_000, 50_000, 96_000)
SMALL_TICKS_HZ = (0, 1000, 2000, 5000, 10_000, 20_000, 50_000)
LIMIT_SIGMA = 3.0
HEIGHT = 290

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Scale:
    """What colours of the dB pictures mean: the same on a whole page, so that pictures can be compared.

    Attributes:
        low: in dBFS (or units of a cepstral coefficient), darkest.
        high: brightest.
    """

    low: float
    high: float

    @classmethod
    def of(cls, levels: Float32) -> Scale:
        """Nearly all of some values."""
        low, high = np.quantile(levels, [0.01, 0.995]).tolist()
        return cls(low, max(high, low + 1))


def to_decibels(basis: Basis, normalized: npt.NDArray[np.floating]) -> Float32:
    """What was normalized, (…, 3, band, frame): dBFS, or cepstral coefficients. Good to 0.02 dB, as float16 keeps it."""
    return np.asarray(normalized.astype(np.float32) * basis.std[..., None] + basis.mean[..., None])


def band_ticks(spec: FeatureSpec, ticks_hz: tuple[int, ...] = TICKS_HZ) -> tuple[npt.NDArray[np.float64], list[str]]:
    """Where frequencies lie among the mel bands, and their names in kHz."""
    centres = band_edges_hz(spec)[1:-1]
    ticks = [hz for hz in ticks_hz if spec.f_min_hz <= hz <= spec.f_max]
    return np.interp(ticks, centres, np.arange(len(centres))), [f"{hz / 1000:g}" for hz in ticks]


def draw_tensor(spec: FeatureSpec, basis: Basis, tensor: npt.NDArray[np.float16], scale: Scale, label: str) -> Html:
    """The six pictures of a tensor, (3, band, frame), with axes in kHz and ms."""

    def draw(figure: Figure) -> None:
        levels = to_decibels(basis, tensor)
        places = {"left": 0.1, "right": 0.875, "bottom": 0.105, "top": 0.935, "wspace": 0.08, "hspace": 0.17}
        axes: Any = figure.subplots(2, 3, sharex=True, sharey=True, gridspec_kw=places)
        for line, values, limits, colours, unit in (
            (axes[0], levels, (scale.low, scale.high), "viridis", "" if spec.n_mfcc else "dBFS"),
            (axes[1], tensor.astype(np.float32), (-LIMIT_SIGMA, LIMIT_SIGMA), "RdBu_r", "σ"),
        ):
            for axis, picture in zip(line, values, strict=True):
                image = _draw_channel(axis, spec, picture, limits, colours)
            box = line[0].get_position()
            bar = figure.colorbar(image, cax=figure.add_axes((0.892, box.y0, 0.022, box.height)))
            bar.outline.set_visible(False)
            bar.ax.tick_params(labelsize=9, length=2)
            bar.ax.set_title(unit, fontsize=9)
            line[0].set_ylabel("coefficient" if spec.n_mfcc else "kHz", fontsize=9)
        for axis, name in zip(axes[0], CHANNELS, strict=True):
            axis.set_title(name, fontsize=9.5)
        axes[1][1].set_xlabel("ms", fontsize=9)

    return to_svg(draw, label, HEIGHT, placed=True)


def _draw_channel(axis: Any, spec: FeatureSpec, picture: Float32, limits: tuple[float, float], colours: str) -> Any:
    duration_ms = spec.span / spec.sample_rate_hz * 1e3
    image = axis.imshow(
        picture,
        origin="lower",
        aspect="auto",
        interpolation="none",
        extent=(0, duration_ms, -0.5, spec.n_bands - 0.5),
        vmin=limits[0],
        vmax=limits[1],
        cmap=colours,
    )
    if not spec.n_mfcc:
        axis.set_yticks(*band_ticks(spec, SMALL_TICKS_HZ))
    axis.tick_params(labelsize=9, length=2)
    return image
