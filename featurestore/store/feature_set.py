"""An open feature set: its tensors, labels and parameters, read from the store and nothing else, and checked."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from featurestore.errors import StoreError, UsageError
from featurestore.objects.objects import Location, Objects, open_objects
from featurestore.source.receivers import Receivers
from featurestore.source.snapshot import format_sessions
from featurestore.store.bases import Basis, read_basis
from featurestore.store.chunks import REPAIR, read_array, read_chunk
from featurestore.store.manifest import Manifest
from featurestore.store.read_segments import read_features_crcs, read_marker
from featurestore.store.segments import DIGEST_BYTES, FACTS, Segment, complete_segment, features_name
from featurestore.store.sessions import Sessions
from featurestore.store.set_receivers import read_set_receivers
from featurestore.store.sets import LABEL_ATTRIBUTES, LATEST, Labels, read_manifest, read_spec, resolve, set_path
from featurestore.store.split import Split
from featurestore.tensor.rejection import RejectedCapture
from featurestore.tensor.spec import CHANNELS, FeatureSpec

if TYPE_CHECKING:
    import xarray


class FeatureSet:
    """An open feature set; what it holds is read when it is asked for, and checked.

    Attributes:
        version: its name.
        manifest: see `Manifest`.
    """

    def __init__(self, objects: Objects, manifest: Manifest) -> None:
        self.objects = objects
        self.manifest = manifest
        self.version = manifest.version

    def __repr__(self) -> str:
        return f"FeatureSet({self.url!r}, rows={self.manifest.counts['rows']})"

    @property
    def url(self) -> str:
        """Where its manifest and labels are."""
        return f"{self.objects.location}/{set_path(self.version)}"

    @cached_property
    def spec(self) -> FeatureSpec:
        """The parameters of its tensors."""
        return read_spec(self.objects, self.manifest.spec)

    @cached_property
    def basis(self) -> Basis:
        """What its tensors are normalized by."""
        return read_basis(self.objects, self.manifest.spec, self.manifest.basis)

    @cached_property
    def segments(self) -> list[Segment]:
        """Its segments, in the order of its rows.

        Raises:
            StoreError: when one is not there.
        """
        return [complete_segment(self.spec, marker) for marker in self._markers.values()]

    @cached_property
    def _markers(self) -> dict[str, dict[str, Any]]:
        markers = {}
        for ref in self.manifest.segments:
            try:
                markers[ref.segment] = read_marker(self.objects, self.manifest.spec, ref.segment)
            except FileNotFoundError as error:
                raise StoreError(f"segment {ref.segment} of {self.url} has no marker; {REPAIR}") from error
        return markers

    @cached_property
    def labels(self) -> Labels:
        """Labels of all rows of its segments."""
        path = set_path(self.version)
        return Labels.of({name: read_array(self.objects, f"{path}/{name}") for name in self.manifest.labels})

    @cached_property
    def rejected(self) -> list[RejectedCapture]:
        """The captures that could not become features, in order of their id."""
        return [RejectedCapture(**entry) for entry in self.objects.get_json(f"{set_path(self.version)}/rejected.json")]

    @cached_property
    def receivers(self) -> Receivers:
        """Where its receivers stand; of a set that does not know, there are none.

        Raises:
            StoreError: when it should know, and what says so is missing or damaged.
        """
        return read_set_receivers(self.objects, self.manifest)

    def sessions(self, split: Split) -> Sessions:
        """The sessions of a split, each whole, in whatever segments its rows lie."""
        rows = np.flatnonzero(self.labels.split == split)
        return Sessions.of(rows, self.fact("session_id"), self.fact("websdr_id"), self.labels)

    def fact(self, name: str) -> npt.NDArray[Any]:
        """One column of row facts (`capture_id`, `window`, `session_id`, `websdr_id`, …) of all rows of its segments."""
        return np.concatenate([read_array(self.objects, f"{segment.path}/{name}") for segment in self.segments])

    def content(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
        """What tells rows of equal content, of all rows of its segments.

        Returns:
            (N, 16) digests, zeros where unknown; (N,) whether it is known: not in segments written before it was noted, nor
            of rejected rows.
        """
        digests = np.zeros((self.manifest.n_rows, DIGEST_BYTES), np.uint8)
        start = 0
        for segment in self.segments:
            rows = slice(start, start + segment.n_rows)
            start = rows.stop
            if "content" in self._markers[segment.segment]["chunks"]:
                digests[rows] = read_array(self.objects, f"{segment.path}/content")
        return digests, np.asarray(digests.any(axis=1))

    def checksums(self, segment: Segment) -> list[int]:
        """CRC-32C of each chunk of a segment's features.

        Raises:
            StoreError: when the segment's features are not there.
        """
        crcs = read_features_crcs(self.objects, segment, self.manifest.basis, self._markers[segment.segment])
        if crcs is None:
            raise StoreError(f"segment {segment.segment} has no features of basis {self.manifest.basis}; {REPAIR}")
        return crcs

    def read_features(self, segment: Segment, chunk: int, crc: int | None = None) -> npt.NDArray[np.float16]:
        """The tensors of one chunk, (row, 3, band, frame), checked; rejected rows hold NaN."""
        path = f"{segment.path}/{features_name(self.manifest.basis)}"
        return read_chunk(self.objects, path, segment.features(self.manifest.basis), chunk, crc)

    @cached_property
    def chunks(self) -> list[tuple[int, int]]:
        """(segment, chunk) of all its chunks, in the order of their rows."""
        return [(number, chunk) for number, segment in enumerate(self.segments) for chunk in range(segment.n_chunks)]

    def chunk_rows(self, chunk: tuple[int, int]) -> range:
        """The rows of the set that a chunk holds."""
        first = sum(segment.n_rows for segment in self.segments[: chunk[0]])
        rows = self.segments[chunk[0]].features(self.manifest.basis).rows(chunk[1])
        return range(first + rows.start, first + rows.stop)

    def read_chunk(self, chunk: tuple[int, int]) -> npt.NDArray[np.float16]:
        """The tensors of a chunk, (row, 3, band, frame), checked; NaN where a row was rejected."""
        segment = self.segments[chunk[0]]
        return self.read_features(segment, chunk[1], self.checksums(segment)[chunk[1]])

    def read_rows(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float16]:
        """The tensors of a few rows, (row, 3, band, frame): only the chunks that hold them are read, each once.

        Raises:
            StoreError: when a chunk is missing or damaged.
        """
        tensors = np.empty((len(rows), *self.spec.tensor_shape), np.float16)
        for chunk in self.chunks:
            held = self.chunk_rows(chunk)
            places = np.flatnonzero((rows >= held.start) & (rows < held.stop))
            if len(places):
                tensors[places] = self.read_chunk(chunk)[rows[places] - held.start]
        return tensors

    def to_xarray(self) -> xarray.Dataset:
        """All rows of its segments as one Dataset, with `features` as a lazy Dask array and labels and facts beside it.

        Rows that are not in the set have `split` 255: `ds.isel(row=(ds.split != 255).values)` leaves them out. Rows of one
        transmission share `session_id`; where receivers stand is NaN unless the set knows.

        Raises:
            UsageError: when xarray is not installed.
        """
        try:
            import xarray
        except ImportError as error:
            raise UsageError("to_xarray needs xarray; install it: pip install xarray") from error
        labels, stands = self.labels, self.receivers.positions_of(self.fact("websdr_id"))
        spec_json = self.spec.to_json()
        band, units = ("coefficient", ("1", "1")) if self.spec.n_mfcc else ("mel", ("dBFS", "dB"))
        coordinates: dict[str, Any] = {
            "split": ("row", labels.split, LABEL_ATTRIBUTES["split"]),
            "latitude": ("row", labels.position[:, 0], {"units": "degrees_north"}),
            "longitude": ("row", labels.position[:, 1], {"units": "degrees_east"}),
            "snr_db": ("row", labels.snr_db, LABEL_ATTRIBUTES["snr_db"]),
            "frequency_mhz": ("row", labels.frequency_mhz, LABEL_ATTRIBUTES["frequency_mhz"]),
            "timestamp": ("row", labels.timestamp.astype("datetime64[ns]")),
            "start_time": ("row", labels.start_time_ns.astype("datetime64[ns]")),
            "time_sigma_s": ("row", labels.time_sigma_s, LABEL_ATTRIBUTES["time_sigma_s"]),
            **{name: ("row", self.fact(name)) for name in FACTS if FACTS[name][0] != "u1"},
            "session_id": ("row", np.array(format_sessions(self.fact("session_id")), "U36")),
            "receiver_latitude": ("row", stands[:, 0], {"units": "degrees_north"}),
            "receiver_longitude": ("row", stands[:, 1], {"units": "degrees_east"}),
            "channel": ("channel", list(CHANNELS)),
        }
        dimensions = ("row", "channel", band, "frame")
        return xarray.Dataset(
            {
                "features": (dimensions, self._lazy_features(), {"units": "1"}),
                "mean": (dimensions[1:3], self.basis.mean, {"units": units[0]}),
                "std": (dimensions[1:3], self.basis.std, {"units": units[1]}),
            },
            coords=coordinates,
            attrs={"version": self.version, "spec": self.manifest.spec, "basis": self.manifest.basis, **spec_json},
        )

    def _lazy_features(self) -> Any:
        import dask.array
        from dask.delayed import delayed

        read = delayed(self.read_features, pure=True)
        blocks = []
        for segment in self.segments:
            layout = segment.features(self.manifest.basis)
            for chunk, crc in enumerate(self.checksums(segment)):
                shape = (len(layout.rows(chunk)), *layout.shape[1:])
                blocks.append(dask.array.from_delayed(read(segment, chunk, crc), shape, np.float16))
        return dask.array.concatenate(blocks)

    def __reduce__(self) -> tuple[Any, ...]:
        return FeatureSet, (self.objects, self.manifest)


def open_set(store: str, version: str = LATEST) -> FeatureSet:
    """Open a feature set.

    Args:
        store: `s3://bucket/prefix`, `file:///dir` or a directory.
        version: a version, a tag, or `latest`.

    Raises:
        UsageError: when there is no such set.
        StoreError: when it is damaged, or of another schema.
        ServiceUnavailableError: when the store does not answer.
    """
    objects = open_objects(Location.parse(store).url)
    return FeatureSet(objects, read_manifest(objects, resolve(objects, version)))
