"""One capture's bytes → the samples of its windows, or the reason why there are none.

Nothing of an object is believed: its header is parsed from a bounded number of bytes, and what it promises is compared with
the object's size before anything is allocated.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from featurestore.errors import ShortObjectError
from featurestore.objects.objects import Objects, ReadBytes
from featurestore.source.npy_header import HEADER_LIMIT_BYTES, HeaderError, brief, header_bytes, parse_npy_header
from featurestore.tensor.rejection import Reason, Rejection
from featurestore.tensor.spec import FeatureSpec

HEADER_GUESS_BYTES = 128
"""What numpy writes for a 1-D array; a longer header costs one more request."""

LAYOUT = "layout"
DESCRIPTION = re.compile(r"([<>]c(?:8|16)) (\d{1,15}) (\d{1,5}) (\d{1,18})")
"""Metadata of an object: dtype, samples, byte of the first one, and bytes of the whole object."""

DTYPES = (np.dtype(np.complex64), np.dtype(np.complex128))

Samples = npt.NDArray[np.complexfloating]
Within = tuple[int, int] | None


@dataclass(frozen=True)
class Layout:
    """What an .npy header says of a capture: type of its samples, how many there are, and at which byte they begin."""

    dtype: np.dtype[np.complexfloating]
    n_samples: int
    offset: int

    def byte_range(self, start: int, span: int) -> tuple[int, int]:
        """Where the samples `[start, start + span)` are in the object."""
        begin = self.offset + start * self.dtype.itemsize
        return begin, begin + span * self.dtype.itemsize


def layout_metadata(npy: bytes | memoryview) -> dict[str, str]:
    """The metadata of a capture's object: its layout and size, so that whoever asks for a window needs no header.

    A server keeps it as long as it keeps the very object: another one put in its place brings its own metadata, or none. What
    has no usable layout has no metadata.
    """
    head = bytes(npy[:HEADER_LIMIT_BYTES])
    layout = parse_header(head[: header_bytes(head)], len(npy), 1)
    if isinstance(layout, Rejection):
        return {}
    return {LAYOUT: f"{layout.dtype.str} {layout.n_samples} {layout.offset} {len(npy)}"}


def described(metadata: Mapping[str, str], size_bytes: int) -> Layout | None:
    """The layout that an object's metadata tells; `None` when it has none, or one that does not fit its size."""
    match = DESCRIPTION.fullmatch(metadata.get(LAYOUT, ""))
    if match is None or int(match[4]) != size_bytes:
        return None
    layout = Layout(np.dtype(match[1]), int(match[2]), int(match[3]))
    return layout if layout.byte_range(layout.n_samples, 0)[1] <= size_bytes else None


@dataclass(frozen=True)
class CaptureRead:
    """What reading some windows of a capture gave: samples or a rejection for each, and the bytes it took."""

    windows: list[Samples | Rejection]
    n_bytes: int


class CaptureReader:
    """Reads just the samples that the windows of a spec need. May be used by several threads."""

    def __init__(self, objects: Objects, spec: FeatureSpec) -> None:
        self._objects = objects
        self._spec = spec
        # Captures of one size mostly have one layout. Asking for header and windows at once saves a round trip; the header
        # is compared nevertheless, and a wrong guess only costs the request.
        self._likely: dict[int, tuple[bytes, Layout]] = {}
        self._described = False  # whether the last object that was looked at brought its layout as metadata

    def read(self, key: str, size_bytes: int, windows: Sequence[int], within: Within = None) -> CaptureRead:
        """The samples of some windows of one capture.

        Args:
            key: its object key.
            size_bytes: its size, as listed.
            windows: numbers of windows, from 0 to `windows_per_capture` - 1.
            within: first and last sample, exclusive, that windows may have; `None`, or too few for one window: any.

        Returns:
            For each window `span` samples with full scale 1, or why the capture or the window is rejected. Samples may
            be NaN or infinite: every one of them shows in the tensor, where it is cheaper to find (see `not_finite`).

        Raises:
            StoreError: when the object store refuses.
            ServiceUnavailableError: when it stays away.
        """
        try:
            guess = self._read_likely(key, size_bytes, windows, within)
            if guess is not None:
                return guess
            return self._read_header_first(key, size_bytes, windows, within)
        except FileNotFoundError:
            gone = Rejection(Reason.MISSING_OBJECT, "was listed, and was gone when it was to be read")
            return CaptureRead([gone] * len(windows), 0)
        except ShortObjectError:
            shorter = Rejection(Reason.UNREADABLE, f"became shorter than the {size_bytes} bytes that were listed")
            return CaptureRead([shorter] * len(windows), 0)

    def _read_likely(self, key: str, size_bytes: int, windows: Sequence[int], within: Within) -> CaptureRead | None:
        likely = self._likely.get(size_bytes)
        if likely is None:
            return None
        header, layout = likely
        if self._described and len(windows) == 1 and within is None:
            return self._read_described(key, size_bytes, windows[0], header, layout)
        buffers, n_bytes = self._get(key, [(0, len(header)), *self._ranges(layout, windows, within)])
        if memoryview(buffers[0]) != header:
            del self._likely[size_bytes]
            return None
        return CaptureRead([_window(buffer, layout) for buffer in buffers[1:]], n_bytes)

    def _read_described(self, key: str, size_bytes: int, window: int, header: bytes, layout: Layout) -> CaptureRead | None:
        """One request, whose answer says that the guess was right; a second one, for the header, where it says nothing."""
        [(begin, end)] = self._ranges(layout, [window], None)
        buffer, metadata = self._objects.get_range(key, begin, end)
        if len(buffer) != end - begin:
            raise ShortObjectError(key)
        if described(metadata, size_bytes) == layout:
            return CaptureRead([_window(buffer, layout)], end - begin)
        self._described = False
        [head], n_bytes = self._get(key, [(0, len(header))])
        if memoryview(head) != header:
            del self._likely[size_bytes]
            return None
        return CaptureRead([_window(buffer, layout)], end - begin + n_bytes)

    def _read_header_first(self, key: str, size_bytes: int, windows: Sequence[int], within: Within) -> CaptureRead:
        n_bytes = min(HEADER_GUESS_BYTES, size_bytes)
        head, metadata = self._head(key, n_bytes)
        wanted = header_bytes(head)
        if n_bytes < wanted <= min(size_bytes, HEADER_LIMIT_BYTES):
            rest, more = self._get(key, [(n_bytes, wanted)])
            head += memoryview(rest[0])
            n_bytes += more
        header = head[:wanted]
        layout = parse_header(header, size_bytes, self._spec.span)
        if isinstance(layout, Rejection):
            return CaptureRead([layout] * len(windows), n_bytes)
        self._likely[size_bytes] = header, layout
        self._described = described(metadata, size_bytes) == layout
        buffers, more = self._get(key, self._ranges(layout, windows, within))
        return CaptureRead([_window(buffer, layout) for buffer in buffers], n_bytes + more)

    def _head(self, key: str, n_bytes: int) -> tuple[bytes, Mapping[str, str]]:
        if not n_bytes:
            return b"", {}
        data, metadata = self._objects.get_range(key, 0, n_bytes)
        if len(data) != n_bytes:
            raise ShortObjectError(key)
        return bytes(memoryview(data)), metadata

    def _ranges(self, layout: Layout, windows: Sequence[int], within: Within) -> list[tuple[int, int]]:
        first, stop = within or (0, layout.n_samples)
        if stop > layout.n_samples or stop - first < self._spec.span:
            first, stop = 0, layout.n_samples
        starts = self._spec.starts(stop - first)
        return [layout.byte_range(first + starts[window], self._spec.span) for window in windows]

    def _get(self, key: str, ranges: Sequence[tuple[int, int]]) -> tuple[Sequence[ReadBytes], int]:
        buffers = self._objects.get_ranges(key, [begin for begin, _ in ranges], [end for _, end in ranges])
        n_bytes = sum(end - begin for begin, end in ranges)
        if sum(map(len, buffers)) != n_bytes:  # a range that only begins in the object is cut off at its end
            raise ShortObjectError(key)
        return buffers, n_bytes


def _window(buffer: ReadBytes, layout: Layout) -> Samples | Rejection:
    return check_samples(np.frombuffer(memoryview(buffer), layout.dtype))


def parse_header(header: bytes, size_bytes: int, span: int) -> Layout | Rejection:
    """The layout that an .npy header describes.

    Args:
        header: the object's first bytes, all of the header.
        size_bytes: size of the whole object.
        span: samples that one window needs.

    Returns:
        The layout, or why a capture with this header is rejected.
    """
    try:
        header_fields = parse_npy_header(header)
    except HeaderError as error:
        return Rejection(Reason.UNREADABLE, str(error))
    dtype, shape = header_fields.dtype, header_fields.shape
    if dtype.hasobject:
        return Rejection(Reason.UNREADABLE, "holds pickled Python objects; expected complex64 or complex128")
    if dtype.newbyteorder("=") not in DTYPES:
        return Rejection(Reason.WRONG_DTYPE, f"holds {brief(dtype)}; expected complex64 or complex128")
    if len(shape) != 1:
        return Rejection(Reason.WRONG_SHAPE, f"has shape {brief(shape)}; expected one dimension")
    n_samples, there = shape[0], (size_bytes - header_fields.n_bytes) // dtype.itemsize
    if not 0 <= n_samples <= there:
        return Rejection(
            Reason.UNREADABLE, f"is truncated: {size_bytes} bytes, for {there} samples; its header promises {brief(n_samples)}"
        )
    if n_samples < span:
        return Rejection(Reason.TOO_SHORT, f"has {n_samples} samples; one window needs {span}")
    return Layout(dtype, n_samples, header_fields.n_bytes)


def check_samples(z: Samples) -> Samples | Rejection:
    """The samples of one window, unless they are all the same."""
    if z[0] == z[-1] and z[0] == z[len(z) // 2] and (z == z[0]).all():
        if not np.isfinite(z[0]):
            return not_finite(z)
        return Rejection(Reason.SILENT, f"every sample of the window is {complex(z[0]):.6g}")
    return z


def not_finite(z: Samples) -> Rejection:
    """Why a tensor of these samples is not finite: the samples are not, or their levels do not fit float32."""
    bad = np.flatnonzero(~np.isfinite(z))
    if len(bad):
        return Rejection(Reason.NON_FINITE, f"{len(bad)} of {len(z)} samples of the window are NaN or infinite")
    peak = float(np.abs(z.view(z.real.dtype)).max())
    return Rejection(Reason.NON_FINITE, f"peak {peak:.3g} overflows float32; full scale is 1")
