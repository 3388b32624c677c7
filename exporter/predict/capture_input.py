"""Captures as graphs take them: the windows that a build would look at, of files or arrays that it would not reject."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from featurestore.errors import UsageError
from featurestore.source.captures import Samples, check_samples, parse_header
from featurestore.source.npy_header import HEADER_LIMIT_BYTES, header_bytes
from featurestore.tensor.rejection import Rejection
from featurestore.tensor.spec import FeatureSpec


@dataclass(frozen=True)
class CaptureInput:
    """What a graph takes of captures.

    Attributes:
        spec: of the graph.
        name: what the graph is called in messages.
    """

    spec: FeatureSpec
    name: str

    def open(self, path: Path) -> Samples:
        """The samples of a file, still on disk.

        Raises:
            UsageError: when it cannot be read, or holds no capture.
        """
        try:
            with path.open("rb") as file:
                head = file.read(HEADER_LIMIT_BYTES)
            layout = parse_header(head[: header_bytes(head)], path.stat().st_size, self.spec.span)
        except OSError as error:
            raise UsageError(f"capture {path} cannot be read ({error.strerror}); give an .npy file that exists") from error
        if isinstance(layout, Rejection):
            raise UsageError(f"capture {path} {layout.detail}; give a whole .npy of 1-D complex samples")
        samples: Samples = np.memmap(path, layout.dtype, "r", layout.offset, (layout.n_samples,))
        return samples

    def windows(self, captures: Samples) -> Samples:
        """(n, samples) → (n, samples that the graph looks at): the middle of them when it takes one window."""
        spec, n_samples = self.spec, captures.shape[1]
        if n_samples < spec.span:
            raise UsageError(f"captures have {n_samples} samples; one window needs {spec.span}: give longer ones")
        if spec.windows_per_capture > 1:
            return captures
        start = spec.starts(n_samples)[0]
        return captures[:, start : start + spec.span]

    def read_windows(self, path: Path) -> npt.NDArray[np.float32]:
        """(2, W · span) float32 I and Q of the windows of a file, one after the other.

        The windows of these samples are those of the file: so captures of different lengths fit into one array.

        Raises:
            UsageError: when a build would reject the file.
        """
        samples, span = self.open(path), self.spec.span
        if len(samples) < span:
            raise UsageError(f"{path} has {len(samples)} samples; one window needs {span}: give longer ones")
        with np.errstate(over="ignore"):  # infinite then, and found
            windows = [samples[start : start + span].astype(np.complex64) for start in self.spec.starts(len(samples))]
        joined = np.concatenate(windows)
        self.require_usable(joined, str(path))
        return np.stack([joined.real, joined.imag])

    def require_usable(self, capture: Samples, name: str) -> None:
        """Refuse what a build would reject.

        Raises:
            UsageError: when a window is not finite, or silent.
        """
        spec = self.spec
        for start in spec.starts(len(capture)):
            window = capture[start : start + spec.span]
            if not np.isfinite(window).all():
                raise UsageError(f"{name} has samples that are NaN, infinite or beyond float32; leave it out, as a build does")
            checked = check_samples(window)
            if isinstance(checked, Rejection):
                raise UsageError(f"{name} is silent: {checked.detail}; leave it out, as a build does")

    def require_rate(self, sample_rate_hz: float | None) -> None:
        """Refuse captures of another sample rate.

        Raises:
            UsageError: when the rate is unknown, or not the graph's.
        """
        wanted = self.spec.sample_rate_hz
        if sample_rate_hz is None:
            raise UsageError(f"the captures' sample rate is unknown; {self.name} takes {wanted:g} Hz: say that they have it")
        if sample_rate_hz != wanted:
            raise UsageError(
                f"the captures are sampled at {sample_rate_hz:g} Hz; {self.name} takes {wanted:g} Hz: resample them"
            )


def find_captures(given: tuple[Path, ...]) -> list[Path]:
    """Files as they are, and the .npy files below directories, in order of their names.

    Raises:
        UsageError: when one is not there, or a directory holds none.
    """
    paths = []
    for path in given:
        if not path.exists():
            raise UsageError(f"capture {path} does not exist; give .npy files, or directories of them")
        files = sorted(path.rglob("*.npy")) if path.is_dir() else [path]
        if not files:
            raise UsageError(f"directory {path} holds no .npy file; give one that does")
        paths += files
    return paths
