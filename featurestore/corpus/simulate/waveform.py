"""What a transmitter sends: narrowband FM of something like a voice, with a CTCSS tone, as complex baseband."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.fft

PEAK_DEVIATION_HZ = 2500.0
"""Largest deviation on channels 12.5 kHz apart (ETSI EN 300 086)."""

CTCSS_DEVIATION_HZ = 350.0
"""Share of the tone: 10 to 15% of the peak deviation (TIA-603)."""

VOICE_BAND_HZ = (300.0, 3000.0)
"""Audio band of a speech transmitter (ETSI EN 300 086, TIA-603)."""

CHANNEL_BANDWIDTH_HZ = 12_500.0
"""One channel; Carson's rule gives 2·(2.5 + 3) = 11 kHz for the signal. SNR is reckoned in this bandwidth."""

AUDIO_RATE_HZ = 8000.0
SYLLABLES_PER_S = 4.0
"""Peak of the modulation spectrum of speech (Houtgast and Steeneken, J. Acoust. Soc. Am. 77, 1985)."""

PITCH_HZ = (90.0, 220.0)
"""Mean pitch of speakers, from low male to female voices (Titze, Principles of Voice Production)."""

FORMANTS_HZ = ((300.0, 800.0), (900.0, 2200.0), (2300.0, 2900.0))
"""Ranges of the first three formants of vowels (Peterson and Barney, J. Acoust. Soc. Am. 24, 1952)."""

FORMANT_WIDTHS_HZ = (80.0, 110.0, 160.0)
VOICED_SHARE = 0.75
PAUSE_SHARE = 0.15
LIMITER_DRIVE = 0.7
"""Root mean square of the audio before the limiter, relative to its limit: loud, somewhat clipped speech, as on the air."""

CTCSS_TONES_HZ = (
    *(67.0, 71.9, 74.4, 77.0, 79.7, 82.5, 85.4, 88.5, 91.5, 94.8, 97.4, 100.0, 103.5, 107.2, 110.9, 114.8, 118.8, 123.0),
    *(127.3, 131.8, 136.5, 141.3, 146.2, 151.4, 156.7, 162.2, 167.9, 173.8, 179.9, 186.2, 192.8, 203.5, 210.7, 218.1),
    *(225.7, 233.6, 241.8, 250.3),
)
"""The standard tones of EIA/TIA-603."""


def fm_baseband(rng: np.random.Generator, n_samples: int, sample_rate_hz: float, ctcss_hz: float) -> npt.NDArray[np.complex64]:
    """One transmission around 0 Hz: (n_samples,) of modulus 1.

    The phase is made at about 8 kHz, where the audio fits, and interpolated exactly by its spectrum.
    """
    n_audio = max(64, round(n_samples * AUDIO_RATE_HZ / sample_rate_hz))
    rate_hz = n_audio * sample_rate_hz / n_samples  # exact, so that the spectra line up
    spectrum = phase_spectrum(rng, n_audio, rate_hz)
    phase = scipy.fft.irfft((spectrum * (n_samples / n_audio)).astype(np.complex64), n_samples)
    cycles = np.arange(n_samples) * (ctcss_hz / sample_rate_hz) + rng.uniform()
    tone = np.sin((2 * np.pi * (cycles - np.floor(cycles))).astype(np.float32))
    phase += np.float32(CTCSS_DEVIATION_HZ / ctcss_hz) * tone
    baseband = np.empty(n_samples, np.complex64)
    np.cos(phase, out=baseband.real)
    np.sin(phase, out=baseband.imag)
    return baseband


def phase_spectrum(rng: np.random.Generator, n_audio: int, rate_hz: float) -> npt.NDArray[np.complex128]:
    """What a voice does to the carrier's phase, in rad, as the spectrum of `n_audio` samples: (n_audio // 2 + 1,)."""
    spectrum = _limited(_voice(rng, n_audio, rate_hz), rate_hz)  # deviation in Hz
    frequencies = scipy.fft.rfftfreq(n_audio, 1 / rate_hz)
    spectrum[1:] /= 1j * frequencies[1:]  # 2π∫ of the deviation
    spectrum[0] = 0
    return spectrum


def _limited(audio: npt.NDArray[np.float64], rate_hz: float) -> npt.NDArray[np.complex128]:
    """Spectrum of the deviation in Hz: audio through pre-emphasis, limiter and the filter behind it."""
    frequencies = scipy.fft.rfftfreq(len(audio), 1 / rate_hz)
    low, high = VOICE_BAND_HZ
    band = 1 / np.sqrt(1 + (low / np.maximum(frequencies, 1)) ** 8) / np.sqrt(1 + (frequencies / high) ** 16)
    emphasized = scipy.fft.irfft(scipy.fft.rfft(audio) * band * frequencies, len(audio))  # 6 dB per octave
    limited = np.tanh(emphasized * (LIMITER_DRIVE / (np.sqrt(np.mean(emphasized**2)) + 1e-12)))
    spectrum = scipy.fft.rfft(limited) * (frequencies <= high)
    dense = 4 * scipy.fft.irfft(spectrum, 4 * len(audio))  # peaks lie between the samples
    peak = max(1.0, float(np.abs(dense).max()))  # the filter overshoots a little
    return np.asarray(spectrum * ((PEAK_DEVIATION_HZ - CTCSS_DEVIATION_HZ) / peak), np.complex128)


def _voice(rng: np.random.Generator, n_samples: int, rate_hz: float) -> npt.NDArray[np.float64]:
    """Something like speech: syllables, each a vowel (harmonics of a pitch under formants) or a hiss, with pauses."""
    position = np.arange(n_samples) * (SYLLABLES_PER_S / rate_hz) + rng.uniform()  # in syllables
    n_syllables = int(position[-1]) + 2
    knots = np.arange(n_syllables)
    loudness = rng.uniform(0.3, 1.0, n_syllables) * (rng.uniform(size=n_syllables) >= PAUSE_SHARE)
    voiced = (rng.uniform(size=n_syllables) < VOICED_SHARE).astype(np.float64)
    pitch_hz = rng.uniform(*PITCH_HZ) * (1 + 0.1 * rng.uniform(-1, 1, n_syllables))
    formants = [np.interp(position, knots, rng.uniform(*bounds, n_syllables)) for bounds in FORMANTS_HZ]
    syllable = position.astype(np.int64)
    envelope = loudness[syllable] * np.sqrt(np.sin(np.pi * (position - syllable)))
    pitch = np.interp(position, knots, pitch_hz)
    hiss = rng.standard_normal(n_samples)
    vowels = _vowels(pitch, formants, rate_hz)
    hiss *= np.sqrt(np.mean(vowels**2)) * 0.5  # consonants are weaker than vowels
    return np.asarray(envelope * np.where(voiced[syllable] > 0, vowels, hiss))


def _vowels(
    pitch_hz: npt.NDArray[np.float64], formants_hz: list[npt.NDArray[np.float64]], rate_hz: float
) -> npt.NDArray[np.float64]:
    """Harmonics of a gliding pitch; the voice source and the lips together fall by 6 dB per octave (Fant, 1960)."""
    theta = 2 * np.pi * np.cumsum(pitch_hz) / rate_hz
    rotation = np.exp(1j * theta)
    harmonic = np.ones_like(rotation)
    vowels = np.zeros(len(pitch_hz))
    for k in range(1, int(VOICE_BAND_HZ[1] / pitch_hz.max()) + 1):
        harmonic *= rotation
        gain = np.zeros(len(pitch_hz))
        for centre_hz, width_hz in zip(formants_hz, FORMANT_WIDTHS_HZ, strict=True):
            gain += 1 / (1 + ((k * pitch_hz - centre_hz) / width_hz) ** 2)
        vowels += gain * harmonic.imag / k
    return vowels
