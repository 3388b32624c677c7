"""A second opinion on a feature set: read with plain zarr and json, recomputed with librosa and scipy in float64.

Nothing here uses the project's own code; the numbers come from the words of docs/format.md.
"""

from __future__ import annotations

import hashlib
import json
import uuid
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import librosa
import numpy as np
import numpy.typing as npt
import scipy.fft
import scipy.signal
import zarr


@dataclass(frozen=True)
class Opened:
    """A set, opened without our code: labels and facts of all rows, tensors, parameters."""

    manifest: dict[str, Any]
    spec: dict[str, Any]
    columns: dict[str, npt.NDArray[Any]]
    logmel: npt.NDArray[np.float32]
    features: npt.NDArray[np.float16]
    mean: npt.NDArray[np.float32]
    std: npt.NDArray[np.float32]
    rejected: list[dict[str, Any]]

    @property
    def served(self) -> npt.NDArray[np.int64]:
        return np.flatnonzero(self.columns["split"] != 255)


def open_plainly(store: Path, version: str | None = None) -> Opened:
    """Open a local store."""
    version = version or json.loads((store / "latest.json").read_text())["version"]
    group = zarr.open_group(store / "sets" / version, mode="r")
    manifest: dict[str, Any] = dict(group.attrs)
    root = store / "specs" / str(manifest["spec"])
    basis = zarr.open_group(root / "bases" / str(manifest["basis"]), mode="r")
    features = f"features-{manifest['basis']}"

    def together(name: str) -> npt.NDArray[Any]:
        paths = (root / "segments" / ref["segment"] / name for ref in manifest["segments"])
        return np.concatenate([np.asarray(zarr.open_array(path, mode="r")) for path in paths])

    labels = {name: np.asarray(group[name]) for name in ("split", "position", "snr_db", "frequency_mhz", "timestamp")}
    facts = {name: together(name) for name in ("capture_id", "window", "session_id", "websdr_id", "source_digest", "reason")}
    return Opened(
        manifest,
        json.loads((root / "spec.json").read_text()),
        {**labels, **facts},
        together("logmel"),
        together(features),
        np.asarray(basis["mean"]),
        np.asarray(basis["std"]),
        json.loads((store / "sets" / version / "rejected.json").read_text()),
    )


def log_mel(z: npt.NDArray[Any], spec: dict[str, Any], window: int) -> npt.NDArray[np.float64]:
    """Section 2 of the design in float64: (3, n_mels, n_frames) in dBFS."""
    n_fft, hop, n_frames, n_windows = (spec[key] for key in ("n_fft", "hop_length", "n_frames", "windows_per_capture"))
    span = n_fft + (n_frames - 1) * hop
    start = (len(z) - span) // 2 if n_windows == 1 else window * (len(z) - span) // (n_windows - 1)
    z = z[start : start + span].astype(np.complex128)
    taper = scipy.signal.get_window(spec["window"], n_fft)
    filters = mel_filters(spec)
    tensor = []
    for channel in (z.real, z.imag, np.abs(z)):
        frames = np.stack([channel[k * hop : k * hop + n_fft] for k in range(n_frames)])
        power = (2 * np.abs(np.fft.rfft(frames * taper)) / taper.sum()) ** 2
        tensor.append(10 * np.log10(np.maximum(filters @ power.T, 10 ** (spec["floor_db"] / 10))))
    return np.stack(tensor)


def mel_filters(spec: dict[str, Any]) -> npt.NDArray[np.float64]:
    """librosa's, with weight 1 at the nearest bin for filters that hold none."""
    rate, n_fft, n_mels = spec["sample_rate_hz"], spec["n_fft"], spec["n_mels"]
    low, high = spec["f_min_hz"], spec["f_max_hz"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # librosa warns of the empty filters
        filters = librosa.filters.mel(
            sr=rate, n_fft=n_fft, n_mels=n_mels, fmin=low, fmax=high, htk=True, norm=None, dtype=np.float64
        )
    centres = librosa.mel_frequencies(n_mels + 2, fmin=low, fmax=high, htk=True)[1:-1]
    for band in np.flatnonzero(~filters.any(axis=1)):
        filters[band, np.abs(np.arange(n_fft // 2 + 1) * rate / n_fft - centres[band]).argmin()] = 1
    return np.asarray(filters)


def place(text: str) -> float:
    """A text's place on the circle, in [0, 1)."""
    return int(hashlib.sha256(text.encode()).hexdigest()[:16], 16) / 2**64


def split_of(session: uuid.UUID, split: dict[str, Any]) -> int:
    """Section 4 of the design, split by session."""
    u = (place(str(session)) + place(str(split["seed"]))) % 1
    val, test = split["val_fraction"], split["test_fraction"]
    return 0 if u < round(1 - val - test, 12) else 1 if u < round(1 - test, 12) else 2


def check(opened: Opened, captures: dict[int, tuple[Path, uuid.UUID, int, tuple[float, float]]]) -> None:
    """Check every served row of a set against the raw captures.

    Args:
        opened: the set.
        captures: id → file, session, receiver, position of every approved capture.
    """
    columns, served = opened.columns, opened.served
    ids = columns["capture_id"][served]
    rejected = {entry["capture_id"] for entry in opened.rejected}
    n_windows = opened.spec["windows_per_capture"]
    held = list(zip(ids.tolist(), columns["window"][served].tolist(), strict=True))
    assert set(held) >= {(capture, window) for capture in set(captures) - rejected for window in range(n_windows)}
    assert len(set(held)) == len(held)
    assert not np.isnan(opened.features[served].astype(np.float32)).any()
    by_session = opened.manifest["split"]["by"] == "session" and opened.manifest["split"]["fold"] is None
    for row in served:
        path, session, receiver, position = captures[int(columns["capture_id"][row])]
        assert columns["session_id"][row].tobytes() == session.bytes
        assert columns["websdr_id"][row] == receiver
        assert tuple(columns["position"][row]) == position
        if by_session:
            assert columns["split"][row] == split_of(session, opened.manifest["split"])
        exact = log_mel(np.load(path), opened.spec, int(columns["window"][row]))
        near_peak = exact > exact.max(axis=1, keepdims=True) - 80
        assert np.abs(opened.logmel[row] - exact)[near_peak].max() < 0.01
    check_statistics(opened)
    check_order(opened)


def check_statistics(opened: Opened) -> None:
    """Features are log-mel normalized by mean and std; these are float32, and std has its floor."""
    assert opened.mean.dtype == opened.std.dtype == np.float32
    assert (opened.std >= np.float32(0.1)).all()
    rows = opened.logmel[opened.served].astype(np.float64)
    if opened.spec["n_mfcc"]:
        rows = scipy.fft.dct(rows, type=2, norm="ortho", axis=2)[:, :, : opened.spec["n_mfcc"]]
    exact = (rows - opened.mean[..., None]) / opened.std[..., None]
    found = opened.features[opened.served].astype(np.float64)
    ulp = np.spacing(np.abs(exact).astype(np.float16)).astype(np.float64)
    assert (np.abs(found - exact) <= 0.51 * ulp + 1e-5).all()


def check_fitted(opened: Opened) -> None:
    """Mean and std are those of the valid train rows of this set, and of nothing else."""
    train = opened.logmel[opened.columns["split"] == 0].astype(np.float64)
    if opened.spec["n_mfcc"]:
        train = scipy.fft.dct(train, type=2, norm="ortho", axis=2)[:, :, : opened.spec["n_mfcc"]]
    np.testing.assert_allclose(opened.mean, train.mean(axis=(0, 3)), rtol=1e-6, atol=1e-5)
    np.testing.assert_allclose(opened.std, np.maximum(train.std(axis=(0, 3)), 0.1), rtol=1e-5)


def check_order(opened: Opened) -> None:
    """Rows of each segment are in order of (h of session, session, receiver, capture, window)."""
    start = 0
    for ref in opened.manifest["segments"]:
        part = slice(start, start + ref["rows"])
        facts = (opened.columns[name][part] for name in ("session_id", "websdr_id", "capture_id", "window"))
        sessions, *numbers = (column.tolist() for column in facts)
        ids = [uuid.UUID(bytes=bytes(session)) for session in sessions]
        h = [int(hashlib.sha256(str(session).encode()).hexdigest()[:16], 16) for session in ids]
        keys = list(zip(h, ids, *numbers, strict=True))
        assert keys == sorted(keys)
        start += ref["rows"]
    assert start == len(opened.columns["split"])
