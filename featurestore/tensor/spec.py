"""What decides a tensor's values (`FeatureSpec`) and which split a row falls in (`SplitSpec`): frozen and validated."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Self

from featurestore.errors import UsageError
from featurestore.option import SPLIT, TENSORS, option

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

ID_DIGITS = 12
ALIGNMENTS = ("none", "session")
SPLIT_BY = ("session", "region")


CHANNELS = ("I", "Q", "magnitude")


def canonical_json(value: Any) -> str:
    """One text for one value: keys sorted, no spaces, integral numbers without a fraction (as RFC 8785 has it)."""
    return json.dumps(_integral(value), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def digest(text: str | bytes) -> str:
    """The first 12 hex digits of SHA-256: the name of specs, bases, segments and feature sets."""
    return hashlib.sha256(text.encode() if isinstance(text, str) else text).hexdigest()[:ID_DIGITS]


def differing_fields(kind: type[DataclassInstance], values: Mapping[str, Any]) -> str:
    """The names that only a dataclass or only `values` have, for an error message; empty when they agree."""
    return ", ".join(sorted({field.name for field in fields(kind)}.symmetric_difference(values)))


@dataclass(frozen=True)
class NamedSpec:
    """Parameters that decide values, and a name that tells them: the digest of their canonical JSON."""

    def to_json(self) -> dict[str, Any]:
        """All fields."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any], source: str) -> Self:
        """The spec that `source` holds; `UsageError` names unknown or missing fields."""
        if odd := differing_fields(cls, values):
            raise UsageError(f"{source} is not a spec this version understands: fields {odd} differ; use a matching version")
        return cls(**values)

    @property
    def id(self) -> str:
        """The spec's name."""
        return digest(self.canonical())

    def canonical(self) -> str:
        """The text that names the spec, and the content of `spec.json`."""
        return canonical_json(self.to_json())


def _integral(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _integral(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_integral(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


@dataclass(frozen=True)
class FeatureSpec(NamedSpec):
    """Every parameter that changes a tensor's values. The window is periodic, as `scipy.signal.get_window` makes it.

    Raises:
        UsageError: when a value is impossible; the message names it.
    """

    sample_rate_hz: float = option(
        192_000, "Sample rate in Hz that captures must have. Captures of another rate are rejected.", TENSORS
    )
    n_fft: int = option(
        2048,
        "Length of an STFT frame in samples, at least 4. A longer frame resolves frequency better and time worse.",
        TENSORS,
    )
    hop_length: int = option(
        512, "Samples from one frame to the next. With a larger hop, as many frames cover a longer time.", TENSORS
    )
    window: str = option(
        "hann", "Taper of a frame, by its name in scipy.signal. It must be one that needs no parameters.", TENSORS
    )
    n_mels: int = option(128, "Number of mel bands, which is the height of a tensor.", TENSORS)
    f_min_hz: float = option(
        0, "Lower edge of the lowest band in Hz. An edge above 0 leaves out what is near the tuned frequency.", TENSORS
    )
    f_max_hz: float | None = option(None, "Upper edge of the highest band in Hz.", TENSORS, unset="half the sample rate")
    n_frames: int = option(32, "Number of STFT frames, which is the width of a tensor.", TENSORS)
    windows_per_capture: int = option(
        1, "Tensors from each capture, evenly spread over it, at most 32767. Each is a row with the same labels.", TENSORS
    )
    floor_db: float = option(-120, "Level in dBFS below which all values are alike, from -300 to below 0.", TENSORS)
    n_mfcc: int = option(
        0, "Store this many cepstral coefficients instead of mel bands, at most as many as bands. 0 stores the bands.", TENSORS
    )
    align: str = option(
        "none",
        "Take windows from the whole capture (none), or from the time that all captures of the session with a known start "
        "share (session), so that a window is the same moment at all receivers.",
        TENSORS,
        choices=ALIGNMENTS,
    )

    def __post_init__(self) -> None:
        for name in ("n_fft", "hop_length", "n_mels", "n_frames", "windows_per_capture"):
            _require(
                isinstance(getattr(self, name), int) and getattr(self, name) >= 1, self, name, "a whole number of at least 1"
            )
        _require(math.isfinite(self.sample_rate_hz) and self.sample_rate_hz > 0, self, "sample_rate_hz", "a rate above 0 Hz")
        if self.f_max_hz is None:
            object.__setattr__(self, "f_max_hz", self.sample_rate_hz / 2)
        _require(self.n_fft >= 4, self, "n_fft", "at least 4")
        _require(0 <= self.f_min_hz < self.f_max, self, "f_min_hz", f"at least 0 and below f_max_hz = {self.f_max}")
        _require(
            self.f_max <= self.sample_rate_hz / 2, self, "f_max_hz", f"at most half the sample rate, {self.sample_rate_hz / 2}"
        )
        _require(self.windows_per_capture <= 32_767, self, "windows_per_capture", "at most 32767")
        _require(-300 <= self.floor_db < 0, self, "floor_db", "between -300 and 0 dBFS")
        _require(0 <= self.n_mfcc <= self.n_mels, self, "n_mfcc", f"between 0 (off) and n_mels = {self.n_mels}")
        _require(self.align in ALIGNMENTS, self, "align", " or ".join(ALIGNMENTS))
        _require(re.fullmatch(r"[a-z0-9_]+", self.window) is not None, self, "window", "the name of a scipy.signal window")

    @property
    def f_max(self) -> float:
        """`f_max_hz`, resolved."""
        return self.sample_rate_hz / 2 if self.f_max_hz is None else self.f_max_hz

    @property
    def span(self) -> int:
        """Samples that one window covers."""
        return self.n_fft + (self.n_frames - 1) * self.hop_length

    @property
    def n_bands(self) -> int:
        """Length of the tensor's second axis: mel bands, or cepstral coefficients when `n_mfcc` is set."""
        return self.n_mfcc or self.n_mels

    @property
    def tensor_shape(self) -> tuple[int, int, int]:
        """(channel, mel, frame) of one stored tensor."""
        return (3, self.n_bands, self.n_frames)

    def starts(self, n_samples: int) -> list[int]:
        """First sample of each window in a capture of `n_samples`, which must be at least `span`."""
        spare = n_samples - self.span
        last = self.windows_per_capture - 1
        return [k * spare // last for k in range(last + 1)] if last else [spare // 2]

    def to_json(self) -> dict[str, Any]:
        """All fields, with `f_max_hz` resolved; without `align` where that is `none`, as in specs of before there was one."""
        values = super().to_json()
        return values if self.align != "none" else {name: value for name, value in values.items() if name != "align"}

    @classmethod
    def from_json(cls, values: dict[str, Any], source: str) -> Self:
        """The spec that `source` holds, also of before there was `align`; `UsageError` names unknown or missing fields."""
        return super().from_json({"align": "none", **values}, source)


def parse_fold(text: str) -> tuple[int, int]:
    """`"2/5"` as (2, 5)."""
    match = re.fullmatch(r"(\d+)/(\d+)", text.strip())
    if match is None:
        raise UsageError(f"fold is {text!r}; expected i/k, as 2/5")
    return int(match[1]), int(match[2])


@dataclass(frozen=True)
class SplitSpec:
    """Which part of the circle of sessions is train, validation and test.

    `fold` is (i, k): validation is the part [i/k, (i+1)/k) of the circle, all the rest is train, and there is no test set.
    """

    val_fraction: float = option(0.1, "Share of sessions for validation, from 0 to below 1.", SPLIT)
    test_fraction: float = option(0.1, "Share of sessions for testing, from 0 to below 1.", SPLIT)
    seed: int = option(42, "Number that decides which sessions go where.", SPLIT, name="split-seed", key="split_seed")
    by: str = option(
        "session",
        "What stays together in one split: the captures of a session, or all sessions of a cell of a geographic grid (region).",
        SPLIT,
        name="split-by",
        key="split_by",
        choices=SPLIT_BY,
    )
    fold: tuple[int, int] | None = option(
        None,
        "Cross-validation: validate on part I of K, counted from 0, train on the rest, and test on nothing.",
        SPLIT,
        metavar="I/K",
        parse=parse_fold,
    )
    region_degrees: float | None = option(None, "Side of a grid cell in degrees, with --split-by region.", SPLIT, unset="0.1")

    def __post_init__(self) -> None:
        _require(self.by in SPLIT_BY, self, "by", "session or region")
        if self.fold is not None:
            i, k = self.fold
            _require(k >= 2 and 0 <= i < k, self, "fold", "i/k with k of at least 2 and i from 0 to k-1, as 2/5")
            object.__setattr__(self, "fold", (i, k))
            object.__setattr__(self, "val_fraction", 1 / k)
            object.__setattr__(self, "test_fraction", 0.0)
        for name in ("val_fraction", "test_fraction"):
            _require(0 <= getattr(self, name) < 1, self, name, "a share from 0 to below 1")
        _require(self.val_fraction + self.test_fraction < 1, self, "val_fraction", "shares that leave something to train on")
        if self.by == "session":
            _require(self.region_degrees is None, self, "region_degrees", "nothing, unless split by region")
        else:
            object.__setattr__(self, "region_degrees", 0.1 if self.region_degrees is None else self.region_degrees)
            _require(0 < (self.region_degrees or 0) <= 90, self, "region_degrees", "a cell size in (0, 90] degrees")

    @property
    def bounds(self) -> tuple[float, float]:
        """(end of train, end of validation) on the circle, when there is no fold."""
        return round(1 - self.val_fraction - self.test_fraction, 12), round(1 - self.test_fraction, 12)

    def to_json(self) -> dict[str, Any]:
        """All fields; `fold` as `"i/k"`."""
        return {**asdict(self), "fold": None if self.fold is None else f"{self.fold[0]}/{self.fold[1]}"}


def _require(valid: bool, spec: FeatureSpec | SplitSpec, name: str, wanted: str) -> None:
    if not valid:
        raise UsageError(f"{name} is {getattr(spec, name)!r}; expected {wanted}")
