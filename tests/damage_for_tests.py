"""Damage to a store, done for real: to files, and by objects that fit all checksums but hold something else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from corpus_for_tests import Corpus

from featurestore import open_set
from featurestore.objects.objects import open_objects
from featurestore.store.chunks import ChunkBuffer


def flip(path: Path) -> None:
    """One bit, in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def truncate(path: Path) -> None:
    """By a few bytes: in JSON the last one is a line end, which nobody would miss."""
    path.write_bytes(path.read_bytes()[:-9])


def segment_path(corpus: Corpus, index: int = 0) -> str:
    return open_set(corpus.store.url).segments[index].path


def set_path(corpus: Corpus) -> str:
    return f"sets/{open_set(corpus.store.url).version}"


def forge(corpus: Corpus, array: str, chunk: int, change: float) -> str:
    """Add something to a chunk of the first segment, as if other code had computed it; its checksums are right.

    Returns its key.
    """
    objects, segment = open_objects(corpus.store.url), open_set(corpus.store.url).segments[0]
    layout = segment.layout(array)
    key = f"{segment.path}/{array}/{layout.key(chunk)}"
    buffer = ChunkBuffer(layout)
    buffer.rows[:] = np.frombuffer(objects.get(key)[:-4], layout.dtype).reshape(layout.chunk_shape)
    buffer.rows[:] += layout.dtype.type(change)
    crc = buffer.seal(len(layout.rows(chunk)))
    objects.put(key, buffer.data)
    marker = f"{segment.path}/segment.json"
    if array not in objects.get_json(marker)["chunks"]:
        marker = f"{segment.path}/{array}.json"
    content = objects.get_json(marker)
    (content["chunks"] if isinstance(content["chunks"], list) else content["chunks"][array])[chunk] = crc
    objects.put_json(marker, content)
    return key
