"""Features against librosa and a float64 computation of our own definition, by scipy alone."""

from __future__ import annotations

import warnings

import librosa
import numpy as np
import numpy.typing as npt
import pytest
import scipy.fft
from scipy.signal import get_window

from featurestore.errors import UsageError
from featurestore.tensor.mel import LogMel, cepstrum, mel_filters
from featurestore.tensor.spec import FeatureSpec

DEFAULT = FeatureSpec()
SPECS = [
    DEFAULT,
    FeatureSpec(hop_length=1024),
    FeatureSpec(n_fft=1000, hop_length=333, n_mels=40, n_frames=7, sample_rate_hz=48_000),
    FeatureSpec(n_fft=1023, hop_length=100, n_mels=33, n_frames=5, window="blackman", f_min_hz=1000, f_max_hz=20_000),
    FeatureSpec(n_fft=1023, hop_length=511, n_mels=33, n_frames=5),
    FeatureSpec(sample_rate_hz=12_000, n_fft=512, hop_length=128, n_mels=64),
    FeatureSpec(n_frames=1, n_mels=1, floor_db=-90),
]


def reference(z: npt.NDArray[np.complex128], spec: FeatureSpec) -> npt.NDArray[np.float64]:
    """DESIGN section 2 in float64, written with loops, and with librosa's filters."""
    w = get_window(spec.window, spec.n_fft)
    filters = librosa_filters(spec)
    bins = np.arange(spec.n_fft // 2 + 1) * spec.sample_rate_hz / spec.n_fft
    edges = librosa.mel_frequencies(spec.n_mels + 2, fmin=spec.f_min_hz, fmax=spec.f_max, htk=True)
    for band in range(spec.n_mels):
        if not filters[band].any():
            filters[band, np.argmin(np.abs(bins - edges[band + 1]))] = 1
    out = np.empty((3, spec.n_mels, spec.n_frames))
    for c, x in enumerate((z.real, z.imag, np.abs(z))):
        for t in range(spec.n_frames):
            frame = x[t * spec.hop_length : t * spec.hop_length + spec.n_fft]
            power = (2 * np.abs(scipy.fft.rfft(frame * w)) / w.sum()) ** 2
            out[c, :, t] = 10 * np.log10(np.maximum(filters @ power, 10 ** (spec.floor_db / 10)))
    return out


def librosa_filters(spec: FeatureSpec) -> npt.NDArray[np.float64]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of the empty filters that ours do not have
        return librosa.filters.mel(
            sr=spec.sample_rate_hz,
            n_fft=spec.n_fft,
            n_mels=spec.n_mels,
            fmin=spec.f_min_hz,
            fmax=spec.f_max,
            htk=True,
            norm=None,
            dtype=np.float64,
        )


def signals(spec: FeatureSpec) -> dict[str, npt.NDArray[np.complex128]]:
    rng = np.random.default_rng(5)
    n = np.arange(spec.span)
    noise = rng.standard_normal(spec.span) + 1j * rng.standard_normal(spec.span)
    tone = np.exp(2j * np.pi * 0.1234 * n)
    return {
        "noise": 0.1 * noise,
        "tone in weak noise": 0.9 * tone + 1e-5 * noise,
        "weak": 1e-4 * noise,
        "carrier at zero": 0.5 + 1e-3 * noise,
    }


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.id)
@pytest.mark.parametrize("name", list(signals(DEFAULT)))
def test_agrees_with_float64_within_a_hundredth_of_a_decibel(spec: FeatureSpec, name: str) -> None:
    z = signals(spec)[name]
    wanted = reference(z, spec)
    found = LogMel(spec)(z)
    assert found.shape == wanted.shape
    assert found.dtype == np.float32
    audible = wanted > wanted.max(axis=1, keepdims=True) - 80
    assert np.abs(found - wanted)[audible].max() < 0.01


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.id)
def test_filters_are_those_of_librosa_but_none_is_empty(spec: FeatureSpec) -> None:
    wanted = librosa_filters(spec)
    found = mel_filters(spec)
    dead = ~wanted.any(axis=1)
    np.testing.assert_allclose(found[~dead], wanted[~dead], atol=1e-9)
    assert (found[dead].sum(axis=1) == 1).all()
    assert found.any(axis=1).all()


def test_four_bands_are_too_narrow_at_the_defaults() -> None:
    assert (~librosa_filters(DEFAULT).any(axis=1)).sum() == 4


def test_a_full_scale_sine_reads_zero_dbfs() -> None:
    spec = FeatureSpec(n_mels=1, f_min_hz=0, f_max_hz=2 * 48_000 * 0.9999)
    peak_bin = int(np.argmax(mel_filters(spec)[0]))
    z = np.cos(2 * np.pi * peak_bin * np.arange(spec.span) / spec.n_fft) + 0j
    weight = mel_filters(spec)[0, peak_bin - 1 : peak_bin + 2]
    hann_main_lobe = np.array([0.25, 1.0, 0.25])  # power of a bin-centred tone in a Hann window
    assert LogMel(spec)(z)[0] == pytest.approx(10 * np.log10(weight @ hann_main_lobe), abs=1e-3)


def test_noise_leaves_no_row_constant() -> None:
    tensor = LogMel(DEFAULT)(signals(DEFAULT)["noise"])
    assert (np.ptp(tensor, axis=1) > 0).all()
    assert (np.ptp(tensor, axis=2) > 0).all()


def test_scratch_memory_carries_nothing_over() -> None:
    compute = LogMel(DEFAULT)
    quiet, loud = signals(DEFAULT)["weak"], signals(DEFAULT)["noise"]
    first = compute(quiet)
    compute(loud)
    np.testing.assert_array_equal(compute(quiet.astype(np.complex64)), LogMel(DEFAULT)(quiet.astype(np.complex64)))
    np.testing.assert_array_equal(compute(quiet), first)


def test_cepstrum_is_the_orthonormal_cosine_transform() -> None:
    logmel = np.random.default_rng(1).normal(-60, 20, (3, 16, 4)).astype(np.float32)
    n = np.arange(16)
    basis = np.cos(np.pi * np.arange(5)[:, None] * (2 * n + 1) / 32) * np.sqrt(2 / 16)
    basis[0] /= np.sqrt(2)
    np.testing.assert_allclose(cepstrum(logmel, 5), np.einsum("km,cmf->ckf", basis, logmel), rtol=1e-4, atol=1e-3)


def test_unknown_window_is_named() -> None:
    with pytest.raises(UsageError, match="window is 'hanning_typo'"):
        LogMel(FeatureSpec(window="hanning_typo"))
