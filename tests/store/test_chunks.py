"""Chunks: write → read is identity, zarr reads the same, and every damage is found and named."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from featurestore.errors import ServiceUnavailableError, StoreError
from featurestore.objects.objects import Location, Objects, open_objects
from featurestore.store.chunks import ArrayLayout, ChunkBuffer, decode_chunk, read_array, read_chunk, read_layout, write_array
from featurestore.store.gc_notices import announce, gone, require_stored

DTYPES = ["<f4", "<f2", "<f8", "<i8", "<i4", "<i2", "u1"]


def layout_of(rows: np.ndarray[Any, Any], chunk_rows: int) -> ArrayLayout:
    names = ("row", "channel", "mel")[: rows.ndim]
    fill = math.nan if rows.dtype.kind == "f" else 0
    return ArrayLayout(rows.shape, chunk_rows, rows.dtype, fill, names, {"units": "dB", "long_name": "a test"})


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "chunk_rows"), [((10,), 4), ((1,), 1), ((7, 3), 7), ((9, 3, 5), 2)])
def test_what_is_written_is_read_by_us_and_by_zarr(tmp_path: Path, dtype: str, shape: tuple[int, ...], chunk_rows: int) -> None:
    rows = np.random.default_rng(0).integers(0, 100, shape).astype(dtype)
    objects = Objects(Location.parse(str(tmp_path)))
    layout = layout_of(rows, chunk_rows)
    crcs = write_array(objects, "deep/array", rows, layout)
    assert len(crcs) == layout.n_chunks
    np.testing.assert_array_equal(read_array(objects, "deep/array"), rows)
    array = zarr.open_array(tmp_path / "deep" / "array", mode="r")
    np.testing.assert_array_equal(np.asarray(array), rows)
    assert array.dtype == rows.dtype
    assert array.chunks == layout.chunk_shape
    assert dict(array.attrs) == {"units": "dB", "long_name": "a test"}
    found = read_layout(objects, "deep/array")
    assert (found.shape, found.chunk_rows, found.dtype, found.dimension_names) == (
        layout.shape,
        layout.chunk_rows,
        layout.dtype,
        layout.dimension_names,
    )


@given(hnp.arrays(np.float32, st.tuples(st.integers(1, 9), st.just(2), st.just(3))), st.integers(0, 3))
def test_a_buffer_is_reused_without_a_trace(rows: np.ndarray[Any, np.dtype[np.float32]], spare: int) -> None:
    layout = ArrayLayout((len(rows), 2, 3), len(rows) + spare, np.dtype("<f4"), math.nan, ("row", "a", "b"))
    fresh, used = ChunkBuffer(layout), ChunkBuffer(layout)
    used.rows[:] = 123
    used.seal(len(rows))
    for buffer in (fresh, used):
        buffer.rows[: len(rows)] = rows
    assert fresh.seal(len(rows)) == used.seal(len(rows))
    assert bytes(fresh.data) == bytes(used.data)
    found = decode_chunk(bytes(fresh.data), layout, "x")
    np.testing.assert_array_equal(found[: len(rows)], rows)
    assert np.isnan(found[len(rows) :]).all()


@pytest.mark.parametrize("damage", ["flip", "truncate", "extend", "empty", "delete", "other"])
def test_every_damage_is_found_and_named(tmp_path: Path, damage: str) -> None:
    rows = np.arange(24, dtype=np.float32).reshape(8, 3)
    objects = Objects(Location.parse(str(tmp_path)))
    layout = layout_of(rows, 4)
    crcs = write_array(objects, "a", rows, layout)
    path = tmp_path / "a" / "c" / "1" / "0"
    data = path.read_bytes()
    changed = {
        "flip": data[:5] + bytes([data[5] ^ 1]) + data[6:],
        "truncate": data[:-1],
        "extend": data + b"x",
        "empty": b"",
        "other": (tmp_path / "a" / "c" / "0" / "0").read_bytes(),  # whole, but not what the manifest promises
    }
    if damage == "delete":
        path.unlink()
    else:
        path.write_bytes(changed[damage])
    with pytest.raises(StoreError, match=r"a/c/1/0 (is|has)"):
        read_chunk(objects, "a", layout, 1, crcs[1])
    np.testing.assert_array_equal(read_chunk(objects, "a", layout, 0, crcs[0]), rows[:4])


@pytest.mark.parametrize("content", [b"{}", b"[]", b'{"shape": 3}', b"no json"])
def test_damaged_metadata_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "zarr.json").write_bytes(content)
    with pytest.raises(StoreError, match=r"x?/?zarr\.json"):
        read_layout(Objects(Location.parse(str(tmp_path.parent))), tmp_path.name)


def test_what_was_never_written_is_not_said_to_have_been_removed(tmp_path: Path) -> None:
    """A marker that promises more than was written is its writer's fault; gc's record tells the other case."""
    objects = open_objects(tmp_path.as_uri())
    objects.put("a/there", b"1")
    objects.put("a/marker.json", b"{}")
    wanted = {"a/there", "a/absent"}
    with pytest.raises(StoreError, match="a/absent is not there, and features gc did not remove it: it was never written"):
        require_stored(objects, ["a"], wanted, "a/marker.json")
    assert objects.names("a") == ["there"]
    with announce(objects, ["a/absent", "b"]) as notice:
        notice.removing("a/absent")
        assert isinstance(gone(objects, "b/x"), ServiceUnavailableError)
    with pytest.raises(ServiceUnavailableError, match=r"features gc removed .*a/absent .*run the same command again"):
        require_stored(objects, ["a"], wanted, "a/marker.json")
    assert isinstance(gone(objects, "b/x"), StoreError)  # spared
