"""From complex samples to log-mel tensors: pure arithmetic, with every large array reused."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.fft

from featurestore.errors import UsageError
from featurestore.tensor.spec import FeatureSpec

BANDS_PER_PRODUCT = 8
"""Mel bands per matrix product. A triangle is zero outside its own bins, so a few neighbouring bands at a time against
just their bins cost a fifth of the dense product (measured: 4, 16 and 32 are slower)."""

Float32 = npt.NDArray[np.float32]


def mel_from_hz(f_hz: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """HTK mel scale: 2595·log10(1 + f/700) (O'Shaughnessy 1987; HTK Book, section 5.4)."""
    return np.asarray(2595.0 * np.log10(1.0 + np.asarray(f_hz, np.float64) / 700.0))


def hz_from_mel(mel: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Inverse of `mel_from_hz`."""
    return np.asarray(700.0 * (10.0 ** (np.asarray(mel, np.float64) / 2595.0) - 1.0))


def band_edges_hz(spec: FeatureSpec) -> npt.NDArray[np.float64]:
    """The n_mels + 2 corner frequencies of the triangles: band i rises from [i], peaks at [i + 1], ends at [i + 2]."""
    low, high = mel_from_hz([spec.f_min_hz, spec.f_max])
    return hz_from_mel(np.linspace(low, high, spec.n_mels + 2))


def mel_filters(spec: FeatureSpec) -> npt.NDArray[np.float64]:
    """Triangular filters of peak 1, sampled at the bin frequencies.

    The same numbers as `librosa.filters.mel(htk=True, norm=None)`, except that a triangle too narrow to hold any bin takes
    weight 1 at the bin nearest its centre, so that no feature row is dead.

    Returns:
        Shape (n_mels, n_fft // 2 + 1).
    """
    edges = band_edges_hz(spec)
    bins_hz = np.arange(spec.n_fft // 2 + 1) * (spec.sample_rate_hz / spec.n_fft)
    widths = np.diff(edges)
    rising = (bins_hz - edges[:-2, None]) / widths[:-1, None]
    falling = (edges[2:, None] - bins_hz) / widths[1:, None]
    filters = np.maximum(0.0, np.minimum(rising, falling))  # (mel, bin)
    empty = np.flatnonzero(~filters.any(axis=1))
    nearest = np.abs(bins_hz - edges[1:-1][empty, None]).argmin(axis=1)
    filters[empty, nearest] = 1.0
    return filters


def taper(spec: FeatureSpec) -> npt.NDArray[np.float64]:
    """The periodic window w of one frame, shape (n_fft,).

    Raises:
        UsageError: when scipy knows no window of that name, or it needs parameters.
    """
    from scipy.signal import get_window  # most of a second to import, which commands that compute nothing would wait for

    try:
        return np.asarray(get_window(spec.window, spec.n_fft, fftbins=True), np.float64)
    except ValueError as error:
        raise UsageError(f"window is {spec.window!r}; expected a scipy.signal window without parameters ({error})") from error


def cepstrum(logmel: Float32, n_mfcc: int) -> Float32:
    """The first `n_mfcc` orthonormal DCT-II coefficients along mel of (…, n_mels, n_frames).

    Source: Davis & Mermelstein 1980 (MFCC).
    """
    return np.ascontiguousarray(scipy.fft.dct(logmel, type=2, norm="ortho", axis=-2)[..., :n_mfcc, :])


class LogMel:
    """Computes tensors of one spec. Holds scratch memory: one instance per thread.

    The channels are Re z, Im z and |z|; a full-scale sine reads 0 dBFS at its bin before the mel filters.
    """

    def __init__(self, spec: FeatureSpec) -> None:
        self.spec = spec
        window = taper(spec)
        n_rows = 3 * spec.n_frames
        n_bins = spec.n_fft // 2 + 1
        # Rounding noise follows the strongest signal in a frame. Where filters leave part of the spectrum out, that signal
        # may be one that no band shows, and float32 would be heard beside what the bands do show.
        real = np.float32 if spec.f_min_hz == 0 and spec.f_max == spec.sample_rate_hz / 2 else np.float64
        self._window = (2.0 * window / window.sum()).astype(real)  # so that |X|² is already P
        self._products = _banded(mel_filters(spec).astype(real))
        self._channels = np.empty((3, spec.span), real)
        frames = np.lib.stride_tricks.sliding_window_view(self._channels, spec.n_fft, axis=1)
        self._frames = frames[:, :: spec.hop_length]  # (channel, frame, sample), a view of _channels
        self._tapered = np.empty(self._frames.shape, real)
        self._squares = np.empty((n_rows, n_bins, 2), real)
        self._power = np.empty((n_rows, n_bins), real)
        self._mel = np.empty((n_rows, spec.n_mels), real)
        self._floor = real(10.0 ** (spec.floor_db / 10.0))

    def __call__(self, z: npt.NDArray[np.complexfloating], out: Float32 | None = None) -> Float32:
        """The log-mel tensor of one window.

        Args:
            z: `spec.span` samples, full scale |z| = 1.
            out: where to put it, shape (3, n_mels, n_frames); new memory when absent.

        Returns:
            L in dBFS, shape (3, n_mels, n_frames). Not finite where `z` is not, or overflows float32.
        """
        spec = self.spec
        if out is None:
            out = np.empty((3, spec.n_mels, spec.n_frames), np.float32)
        with np.errstate(over="ignore", invalid="ignore"):  # the caller checks the result
            self._split(z)
            np.multiply(self._frames, self._window, out=self._tapered)
            spectrum = scipy.fft.rfft(self._tapered, axis=-1)  # (channel, frame, bin)
            parts = spectrum.view(self._squares.dtype).reshape(self._squares.shape)  # (channel·frame, bin, re/im)
            np.multiply(parts, parts, out=self._squares)
            np.add(self._squares[..., 0], self._squares[..., 1], out=self._power)
            for bands, bins, weights in self._products:
                np.matmul(self._power[:, bins], weights, out=self._mel[:, bands])
            np.maximum(self._mel, self._floor, out=self._mel)
            np.log(self._mel, out=self._mel)  # numpy vectorizes log, but not log10
        decibels = self._mel.reshape(3, spec.n_frames, spec.n_mels).transpose(0, 2, 1)
        np.multiply(decibels, self._mel.dtype.type(10.0 / np.log(10.0)), out=out, casting="same_kind")
        return out

    def _split(self, z: npt.NDArray[np.complexfloating]) -> None:
        """Fill the channels Re z, Im z, |z|; hypot would take ten times as long as the root of squares."""
        re, im, magnitude = self._channels
        re[:] = z.real
        im[:] = z.imag
        np.multiply(re, re, out=magnitude)
        magnitude += im * im
        np.sqrt(magnitude, out=magnitude)


def _banded(filters: npt.NDArray[np.floating]) -> list[tuple[slice, slice, npt.NDArray[np.floating]]]:
    """The filter matrix as blocks: (bands, bins, weights of shape (bins, bands)); what lies outside them is zero."""
    blocks = []
    for start in range(0, len(filters), BANDS_PER_PRODUCT):
        bands = slice(start, min(start + BANDS_PER_PRODUCT, len(filters)))
        used = np.flatnonzero(filters[bands].any(axis=0))
        bins = slice(int(used[0]), int(used[-1]) + 1)
        blocks.append((bands, bins, np.ascontiguousarray(filters[bands, bins].T)))
    return blocks
