"""Reading the objects of a set with suspicion: what is not as it should be is noted, with the captures that it held."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from featurestore.errors import StoreError
from featurestore.objects.objects import Objects, ReadBytes
from featurestore.store.chunks import CRC_BYTES, ArrayLayout, decode_chunk

MISSING, TRUNCATED, DAMAGED = "missing", "truncated", "damaged"


@dataclass(frozen=True)
class Problem:
    """One object that is not what it should be.

    Attributes:
        kind: `missing`, `truncated` or `damaged`; `differs` where a row is not what its recording says (deep).
        url: of the object.
        detail: what was found, and what was wanted.
        captures: ids of the captures whose tensors it holds, sorted; empty where it holds none, or they are unknown.
    """

    kind: str
    url: str
    detail: str
    captures: tuple[int, ...] = ()


class Inspector:
    """Reads objects, counts them, and keeps what is wrong with them; used by several threads."""

    def __init__(self, objects: Objects) -> None:
        self.objects = objects
        self.problems: list[Problem] = []
        self.n_objects = self.n_bytes = 0
        self._lock = Lock()

    def note(self, kind: str, key: str, detail: str, captures: tuple[int, ...] = ()) -> None:
        with self._lock:
            self.problems.append(Problem(kind, f"{self.objects.location}/{key}", detail, captures))

    def read(self, key: str, captures: tuple[int, ...] = (), by: Callable[[str], ReadBytes] | None = None) -> ReadBytes | None:
        """The object, if it is there. A server that refuses or stays away is no damage, and raised."""
        data: ReadBytes | None = None
        try:
            data = (by or self.objects.read)(key)
        except FileNotFoundError:
            self.note(MISSING, key, "there is no such object", captures)
        except StoreError as error:
            if not self.objects.location.is_local:
                raise
            self.note(DAMAGED, key, str(error), captures)  # a failing disk, one file of which cannot be read
        with self._lock:
            self.n_objects += 1
            self.n_bytes += 0 if data is None else len(data)
        return data

    def document(self, key: str) -> Any:
        """The object as JSON; `None` when it is not there or not JSON."""
        data = self.read(key, by=self.objects.get)
        if data is None:
            return None
        try:
            return json.loads(bytes(memoryview(data)))
        except ValueError as error:
            self.note(DAMAGED if len(data) else TRUNCATED, key, f"is not valid JSON ({error})")
            return None

    def chunk(
        self, path: str, layout: ArrayLayout, chunk: int, crc: int | None, captures: tuple[int, ...] = ()
    ) -> npt.NDArray[Any] | None:
        """The rows of a chunk, if they are what they should be."""
        key = f"{path}/{layout.key(chunk)}"
        data = self.read(key, captures)
        if data is None:
            return None
        wanted = layout.chunk_bytes + CRC_BYTES
        if len(data) < wanted:
            self.note(TRUNCATED, key, f"has {len(data):,} bytes, expected {wanted:,}", captures)
            return None
        try:
            try:
                return decode_chunk(data, layout, "it", crc)[: len(layout.rows(chunk))]
            except StoreError:
                if self.objects.location.is_local:
                    raise
                again = self.objects.read(key)  # the network may have damaged what came
                return decode_chunk(again, layout, "it", crc)[: len(layout.rows(chunk))]
        except StoreError as error:
            self.note(DAMAGED, key, str(error).partition("; ")[0].removeprefix("it is damaged: "), captures)
            return None

    def group(self, path: str) -> dict[str, Any]:
        """The metadata of the arrays of a group, by name, as its `zarr.json` repeats it."""
        content = self.document(f"{path}/zarr.json")
        try:
            return {} if content is None else dict(content["consolidated_metadata"]["metadata"])
        except (KeyError, TypeError, ValueError) as error:
            self.note(DAMAGED, f"{path}/zarr.json", f"is no group of arrays ({error!r})")
            return {}

    def layout(self, path: str, copies: dict[str, Any]) -> ArrayLayout | None:
        """The layout of an array, if its metadata is whole and agrees with the copy in its group."""
        key = f"{path}/zarr.json"
        content = self.document(key)
        if content is None:
            return None
        if content != copies.get(PurePosixPath(path).name, content):
            self.note(DAMAGED, key, "differs from the copy of it in the zarr.json one level up")
            return None
        try:
            return ArrayLayout.from_metadata(content, path)
        except StoreError as error:
            self.note(DAMAGED, key, str(error))
            return None

    def array(
        self, path: str, copies: dict[str, Any], n_rows: int | None = None, crcs: list[int] | None = None
    ) -> npt.NDArray[Any] | None:
        """A whole small array, if it is what it should be."""
        layout = self.layout(path, copies)
        if layout is None:
            return None
        for what, found, wanted in (
            ("rows", layout.shape[0], n_rows),
            ("chunks", layout.n_chunks, None if crcs is None else len(crcs)),
        ):
            if wanted is not None and found != wanted:
                self.note(DAMAGED, f"{path}/zarr.json", f"describes {found:,} {what}, expected {wanted:,}")
                return None
        parts = [self.chunk(path, layout, chunk, crcs[chunk] if crcs else None) for chunk in range(layout.n_chunks)]
        whole = [part for part in parts if part is not None]
        return np.concatenate(whole) if whole and len(whole) == len(parts) else None
