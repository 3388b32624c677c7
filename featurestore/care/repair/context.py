"""What repairs share: the set and what is known to be damaged of it, its facts and markers, recordings, and the catalog."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from threading import RLock
from typing import Any

import numpy as np
import numpy.typing as npt

from featurestore.build.align import SESSION
from featurestore.care.verify.recordings import Sources, find_aligned_sources, find_sources
from featurestore.errors import HeimdallError, ServiceUnavailableError, StoreError
from featurestore.objects.objects import Location, Objects, ReadBytes, WritableBytes, open_objects
from featurestore.progress import Progress
from featurestore.source import catalog
from featurestore.source.listing import read_listing
from featurestore.source.snapshot import Listing, Snapshot
from featurestore.store import rows
from featurestore.store.chunks import ArrayLayout, ChunkBuffer, decode_chunk, read_array, read_layout
from featurestore.store.manifest import Manifest
from featurestore.store.read_segments import read_features_crcs, read_marker
from featurestore.store.rows import RowFacts
from featurestore.store.segments import FACTS, REASON, Segment, features_name, segments_path
from featurestore.store.sets import set_path
from featurestore.tensor.spec import FeatureSpec


class UnrepairableError(HeimdallError):
    """Why an object can't be repaired, and what to do instead."""


class RepairContext:
    """A feature set under repair. Used by several threads.

    Attributes:
        objects: the store.
        manifest: of the set.
        spec: of its tensors.
        damaged: keys of the objects that are known to be damaged; whoever repairs keeps it up to date.
        written: keys of chunks and markers that were written.
        sources: recordings that were looked for; `None` without a raw location.
    """

    def __init__(
        self,
        objects: Objects,
        manifest: Manifest,
        spec: FeatureSpec,
        inputs: tuple[Location | None, str],
        progress: Progress,
    ) -> None:
        self.objects = objects
        self.manifest = manifest
        self.spec = spec
        self.damaged: set[str] = set()
        self.written: set[str] = set()
        self.raw, self._catalog = inputs
        self.sources = None if self.raw is None else Sources(self.raw, {})
        self._progress = progress
        self._facts: dict[str, RowFacts] = {}
        self._lock = RLock()

    def segment(self, name: str) -> Segment:
        """A segment of the set, cut into chunks as its marker says, or else its arrays, or else as is usual."""
        n_rows = next(ref.rows for ref in self.manifest.segments if ref.segment == name)
        path = f"{segments_path(self.spec.id)}/{name}"
        if f"{path}/segment.json" not in self.damaged:
            return Segment(self.spec, name, n_rows, self.marker(name)["chunk_rows"])
        for array in ("logmel", "content", features_name(self.manifest.basis)):
            if f"{path}/{array}/zarr.json" not in self.damaged:
                return Segment(self.spec, name, n_rows, read_layout(self.objects, f"{path}/{array}").chunk_rows)
        return Segment(self.spec, name, n_rows, rows.chunk_rows(n_rows))

    def marker(self, segment: str) -> dict[str, Any]:
        """`segment.json` of a segment.

        Raises:
            UnrepairableError: when it is damaged.
        """
        key = f"{segments_path(self.spec.id)}/{segment}/segment.json"
        if key in self.damaged:
            raise UnrepairableError(f"{self.objects.location}/{key} is needed for it, and damaged; restore that")
        return read_marker(self.objects, self.spec.id, segment)

    def promised(self, segment: Segment, array: str, chunk: int) -> int | None:
        """The checksum that a marker promises of a chunk; `None` when that marker is damaged, too."""
        if f"{segment.path}/segment.json" in self.damaged:
            return None
        marker = self.marker(segment.segment)
        crcs = marker["chunks"].get(array)
        if crcs is None and f"{segment.path}/{array}.json" not in self.damaged:
            crcs = read_features_crcs(self.objects, segment, array.removeprefix("features-"), marker)
        return None if crcs is None else int(crcs[chunk])

    def promise(self, segment: Segment, crcs: dict[str, int], chunk: int) -> None:
        """Write other checksums (by array) of a chunk into the markers that hold them."""
        with self._lock:
            marker = self.marker(segment.segment)
            for array, crc in crcs.items():
                if array in marker["chunks"]:
                    marker["chunks"][array][chunk] = crc
                else:
                    later = self.objects.get_json(f"{segment.path}/{array}.json")
                    later["chunks"][chunk] = crc
                    self.objects.put_json(f"{segment.path}/{array}.json", later)
            if crcs.keys() & marker["chunks"].keys():
                self.objects.put_json(f"{segment.path}/segment.json", marker)
            self.written.add(f"{segment.path}/segment.json")  # or the other one: other checksums are promised

    def facts(self, segment: str) -> RowFacts:
        """The facts of a segment's rows.

        Raises:
            StoreError: when one of them is damaged.
        """
        with self._lock:
            if segment not in self._facts:
                path = f"{segments_path(self.spec.id)}/{segment}"
                found = RowFacts(*(read_array(self.objects, f"{path}/{name}") for name in FACTS))
                if found.segment_id(self.spec.id) != segment:
                    raise StoreError(f"{self.objects.location}/{path} holds rows of another segment; restore its facts")
                self._facts[segment] = found
            return self._facts[segment]

    def reason(self, segment: str) -> npt.NDArray[np.uint8]:
        """(n,) why each row of a segment is rejected, 0 where it is valid."""
        return read_array(self.objects, f"{segments_path(self.spec.id)}/{segment}/{REASON}")

    def together(self, name: str) -> npt.NDArray[Any]:
        """A fact of all rows of the set, in its order."""
        return np.concatenate([getattr(self.facts(ref.segment), name) for ref in self.manifest.segments])

    def is_intact(self, array: str) -> bool:
        """Whether nothing is damaged of a label array."""
        path = f"{set_path(self.manifest.version)}/{array}/"
        return not any(key.startswith(path) for key in self.damaged)

    def find_recordings(self, digests: Iterable[bytes]) -> None:
        """Look for the objects of these digests; they are in `sources` afterwards."""
        if self.raw is not None and self.spec.align == SESSION:
            self.sources = find_aligned_sources(self.raw, self.spec, self.approved, digests, self._progress)
        elif self.raw is not None:
            self.sources = find_sources(self.raw, digests, self._progress)

    @cached_property
    def approved(self) -> Snapshot:
        """What the query of the set yields now.

        Raises:
            UsageError: when the catalog can't be used.
            UnrepairableError: when it does not answer.
        """
        return self._read_catalog(self._query)

    @cached_property
    def captures(self) -> Snapshot:
        """The same; of the usual table with the captures whose approval was withdrawn since."""
        if self._query is None:
            return self._read_catalog(catalog.EVERY_CAPTURE_QUERY)
        return self.approved

    def _read_catalog(self, query: str | None) -> Snapshot:
        try:
            return catalog.read_snapshot(self._catalog, query)
        except ServiceUnavailableError as error:  # much can be repaired without it
            raise UnrepairableError(f"it takes the catalog: {error}") from error

    @property
    def _query(self) -> str | None:
        return catalog.asked_again(str(self.manifest.snapshot["query"]))

    def listing(self, snapshot: Snapshot) -> Listing:
        """The raw location, joined to the catalog.

        Raises:
            UnrepairableError: when it is not known where it is.
        """
        if self.raw is None:
            raise UnrepairableError("it takes a listing of the recordings; say where they are with --raw")
        return read_listing(open_objects(self.raw.url), snapshot, self._progress)

    def write_chunk(self, path: str, layout: ArrayLayout, chunk: int, part: npt.NDArray[Any], crc: int | None = None) -> bool:
        """Write a chunk of an array, given its rows; if a checksum is promised, only if it is that. Returns whether it was."""
        buffer = ChunkBuffer(layout)
        buffer.rows[: len(part)] = part
        if buffer.seal(len(part)) != crc and crc is not None:
            return False
        self.put(f"{path}/{layout.key(chunk)}", buffer.data)
        return True

    def put(self, key: str, data: memoryview) -> None:
        """Write a chunk, and note that it was written."""
        self.objects.put(key, data)
        self.written.add(key)

    def checksum(self, path: str, layout: ArrayLayout, chunk: int) -> int:
        """The checksum that a chunk carries itself.

        Raises:
            FileNotFoundError: when it is missing.
            StoreError: when it is damaged.
        """
        key = f"{path}/{layout.key(chunk)}"
        data = self.objects.get(key)
        decode_chunk(data, layout, f"{self.objects.location}/{key}")
        return int.from_bytes(data[-4:], "little")


class DryRunObjects(Objects):
    """A store as it would be after a repair, for `--dry-run`: what is put goes to a local directory, and is read from there.

    Only what repairs use of `Objects`: `read`, `get`, `get_json`, `put`, `put_json`, `names` (which lists the store alone).
    """

    def __init__(self, location: Location, directory: Path) -> None:
        super().__init__(location)
        self._written = Objects(Location.parse(str(directory)))

    def read(self, key: str) -> ReadBytes:
        """What was put, or else what is in the store."""
        try:
            return self._written.read(key)
        except FileNotFoundError:
            return super().read(key)

    def get(self, key: str) -> bytes:
        """Likewise; in S3 documents are read in another way."""
        try:
            return self._written.get(key)
        except FileNotFoundError:
            return super().get(key)

    def put(self, key: str, data: WritableBytes, *, create: bool = False, metadata: Mapping[str, str] | None = None) -> bool:
        """Write to the directory, which keeps no metadata."""
        del metadata
        return self._written.put(key, data, create=create)
