"""One Zarr v3 array on disk, chunked along its rows: every chunk is one object, its bytes followed by their CRC-32C.

Written here rather than by zarr, so that a tensor goes from the buffer it was computed in to the store without a copy, with
one request, under a checksum that the manifest can repeat. What comes out is plain Zarr v3 (codecs `bytes` and `crc32c`),
and zarr itself writes the metadata.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Self

import crc32c
import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import BytesCodec, Crc32cCodec

from featurestore.errors import StoreError
from featurestore.objects.concurrently import map_concurrently, put_all
from featurestore.objects.objects import Objects, ReadBytes, WritableBytes, as_json

CRC_BYTES = 4

REPAIR = "run 'features repair', or restore it from a copy of the store"
"""What to do about an object that is missing or damaged."""

Array = npt.NDArray[Any]
KeyAndBytes = tuple[str, WritableBytes]


@dataclass(frozen=True)
class ArrayLayout:
    """Everything that Zarr metadata says of an array.

    Attributes:
        shape: rows first.
        chunk_rows: rows per chunk; all other axes are whole. The last chunk is padded with `fill_value`.
        dtype: of its elements, little-endian.
        fill_value: what padding holds; a missing chunk is an error, whatever zarr makes of it.
        dimension_names: one per axis.
        attributes: `units`, `long_name` and the like.
    """

    shape: tuple[int, ...]
    chunk_rows: int
    dtype: np.dtype[Any]
    fill_value: float = 0
    dimension_names: tuple[str, ...] = ("row",)
    attributes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def n_chunks(self) -> int:
        """Chunks, hence objects."""
        return math.ceil(self.shape[0] / self.chunk_rows)

    @property
    def chunk_shape(self) -> tuple[int, ...]:
        """Shape of every chunk, padding included."""
        return (self.chunk_rows, *self.shape[1:])

    @property
    def chunk_bytes(self) -> int:
        """Size of every chunk's elements, without the checksum."""
        return math.prod(self.chunk_shape) * self.dtype.itemsize

    def rows(self, chunk: int) -> range:
        """The rows that chunk number `chunk` holds."""
        return range(chunk * self.chunk_rows, min((chunk + 1) * self.chunk_rows, self.shape[0]))

    def key(self, chunk: int) -> str:
        """The chunk's object key, relative to the array."""
        return "/".join(["c", str(chunk), *("0" for _ in self.shape[1:])])

    def metadata(self) -> dict[str, Any]:
        """The content of `zarr.json`."""
        content: dict[str, Any] = json.loads(self._metadata)
        return content

    @cached_property  # zarr takes a millisecond
    def _metadata(self) -> bytes:
        memory: dict[str, Any] = {}
        zarr.create_array(
            memory,
            shape=self.shape,
            chunks=self.chunk_shape,
            dtype=self.dtype,
            fill_value=self.fill_value,
            serializer=BytesCodec(),
            compressors=[Crc32cCodec()],
            filters=None,
            dimension_names=self.dimension_names,
            attributes=dict(self.attributes),
            zarr_format=3,
        )
        written: bytes = memory["zarr.json"].to_bytes()
        return written

    @classmethod
    def from_metadata(cls, content: dict[str, Any], name: str) -> Self:
        """The layout that a `zarr.json` describes; `name` is for the error.

        Raises:
            StoreError: when it is not an array of this kind.
        """
        try:
            shape, chunk_shape = tuple(content["shape"]), tuple(content["chunk_grid"]["configuration"]["chunk_shape"])
            codecs = [codec["name"] for codec in content["codecs"]]
            if codecs != ["bytes", "crc32c"] or chunk_shape[1:] != shape[1:]:
                raise ValueError(f"codecs {codecs}, chunks {chunk_shape} of {shape}")
            fill_value = content["fill_value"]
            return cls(
                shape,
                chunk_shape[0],
                np.dtype(content["data_type"]).newbyteorder("<"),
                math.nan if fill_value == "NaN" else fill_value,
                tuple(content["dimension_names"]),
                content.get("attributes", {}),
            )
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise StoreError(
                f"{name}/zarr.json does not describe one of our arrays ({error!r}); it is damaged: {REPAIR}"
            ) from error


class ChunkBuffer:
    """Memory for one chunk and its checksum, to be filled in place and written from there; made to be used again."""

    def __init__(self, layout: ArrayLayout) -> None:
        self._bytes = np.empty(layout.chunk_bytes + CRC_BYTES, np.uint8)
        self.rows: Array = self._bytes[: layout.chunk_bytes].view(layout.dtype).reshape(layout.chunk_shape)
        self._fill_value = layout.fill_value

    def seal(self, n_rows: int) -> int:
        """Pad what follows the first `n_rows` rows, append the checksum, and return it."""
        self.rows[n_rows:] = self._fill_value
        crc = checksum(self._bytes[:-CRC_BYTES])
        self._bytes[-CRC_BYTES:] = np.frombuffer(crc.to_bytes(CRC_BYTES, "little"), np.uint8)
        return crc

    @property
    def data(self) -> memoryview:
        """The object's bytes, as they are to be written."""
        return self._bytes.data


def checksum(data: npt.NDArray[np.uint8] | bytes) -> int:
    """CRC-32C (Castagnoli), as Zarr's `crc32c` codec computes it."""
    # Other threads go on meanwhile; google_crc32c, which zarr's codec uses, lets them wait.
    return crc32c.crc32c(data.data if isinstance(data, np.ndarray) else data)


def decode_chunk(data: ReadBytes | memoryview, layout: ArrayLayout, name: str, crc: int | None = None) -> Array:
    """The rows of a chunk, padding included, as a view of `data`.

    Args:
        data: the object.
        layout: of its array.
        name: the object's URL, for the error.
        crc: the checksum that a manifest promises, if it is known.

    Raises:
        StoreError: when its length or its checksum is wrong.
    """
    if len(data) != layout.chunk_bytes + CRC_BYTES:
        raise StoreError(
            f"{name} has {len(data)} bytes; expected {layout.chunk_bytes + CRC_BYTES}: it is truncated or not ours; {REPAIR}"
        )
    view = memoryview(data)
    payload = np.frombuffer(view, np.uint8)[:-CRC_BYTES]
    written, computed = int.from_bytes(view[-CRC_BYTES:], "little"), checksum(payload)
    if computed != written or (crc is not None and computed != crc):
        raise StoreError(
            f"{name} is damaged: its CRC-32C is {computed:08x}, expected {written if crc is None else crc:08x}; {REPAIR}"
        )
    return payload.view(layout.dtype).reshape(layout.chunk_shape)


def array_objects(path: str, rows: Array, layout: ArrayLayout, crcs: list[int] | None = None) -> Iterator[KeyAndBytes]:
    """A whole array as objects to be written, its metadata last; each is made when it is asked for.

    Args:
        path: of the array.
        rows: all of them.
        layout: of the array.
        crcs: the checksum of each chunk is appended here.
    """
    for chunk in range(layout.n_chunks):
        part = rows[layout.rows(chunk).start : layout.rows(chunk).stop]
        buffer = ChunkBuffer(layout)
        buffer.rows[: len(part)] = part
        crc = buffer.seal(len(part))
        if crcs is not None:
            crcs.append(crc)
        yield f"{path}/{layout.key(chunk)}", buffer.data
    yield f"{path}/zarr.json", as_json(layout.metadata())


def write_array(objects: Objects, path: str, rows: Array, layout: ArrayLayout) -> list[int]:
    """Write a whole array, and return the checksum of each chunk."""
    crcs: list[int] = []
    put_all(objects, array_objects(path, rows, layout, crcs))
    return crcs


def read_layout(objects: Objects, path: str) -> ArrayLayout:
    """The layout of the array at `path`.

    Raises:
        StoreError: when there is no such array, or not one of ours.
    """
    name = f"{objects.location}/{path}"
    try:
        return ArrayLayout.from_metadata(objects.get_json(f"{path}/zarr.json"), name)
    except FileNotFoundError as error:
        raise StoreError(f"{name}/zarr.json is missing; {REPAIR}") from error


def read_chunk(objects: Objects, path: str, layout: ArrayLayout, chunk: int, crc: int | None = None) -> Array:
    """The rows of one chunk, without padding, checked; from a server it is read once more before it counts as damaged.

    Raises:
        StoreError: when the chunk is missing or damaged.
    """
    key = f"{path}/{layout.key(chunk)}"
    name = f"{objects.location}/{key}"
    try:
        try:
            rows = decode_chunk(objects.read(key), layout, name, crc)
        except StoreError:
            if objects.location.is_local:
                raise
            rows = decode_chunk(objects.read(key), layout, name, crc)  # the network may have damaged what came
    except FileNotFoundError as error:
        raise StoreError(f"{name} is missing; {REPAIR}") from error
    return rows[: len(layout.rows(chunk))]


def read_array(objects: Objects, path: str) -> Array:
    """A whole array, every chunk checked.

    Raises:
        StoreError: when something of it is missing or damaged.
    """
    return read_arrays(objects, [path])[0]


def read_arrays(objects: Objects, paths: Sequence[str]) -> list[Array]:
    """Whole arrays, every chunk checked: first the metadata of all, then the chunks of all.

    Raises:
        StoreError: when something of them is missing or damaged.
    """
    layouts = map_concurrently(objects, lambda path: read_layout(objects, path), paths)
    arrays = [np.empty(layout.shape, layout.dtype.newbyteorder("=")) for layout in layouts]

    def read(place: tuple[int, int]) -> None:
        which, chunk = place
        part = layouts[which].rows(chunk)
        arrays[which][part.start : part.stop] = read_chunk(objects, paths[which], layouts[which], chunk)

    map_concurrently(
        objects, read, ((which, chunk) for which, layout in enumerate(layouts) for chunk in range(layout.n_chunks))
    )
    return arrays
