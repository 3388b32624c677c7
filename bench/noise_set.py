"""A feature set of given tensors, for benchmarks: complete and checked like any other, but without captures behind it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from featurestore.objects.objects import Objects
from featurestore.store import segments, sets
from featurestore.store.chunks import ChunkBuffer
from featurestore.store.feature_set import FeatureSet, open_set
from featurestore.store.manifest import Manifest, SegmentRef
from featurestore.store.rows import RowFacts, chunk_rows
from featurestore.store.segments import Part, Segment, features_name
from featurestore.store.sets import Labels
from featurestore.tensor.spec import FeatureSpec, SplitSpec

SPEC = FeatureSpec()
BASIS = "0123456789ab"

Tensors = npt.NDArray[np.float16]


def noise(n_rows: int) -> Tensors:
    """(n_rows, 3, 128, 32) normal numbers."""
    block = np.random.default_rng(0).standard_normal((min(n_rows, 512), *SPEC.tensor_shape), np.float32).astype(np.float16)
    rows: Tensors = np.resize(block, (n_rows, *SPEC.tensor_shape))
    rows[:, 0, 0, :2] = np.arange(n_rows, dtype=np.uint32).view(np.float16).reshape(-1, 2)  # no two alike: the row's number
    return rows


def row_numbers(features: Tensors) -> npt.NDArray[np.uint32]:
    """(b,) which rows of `noise` these (b, 3, 128, 32) are."""
    return np.ascontiguousarray(features[:, 0, 0, :2]).view(np.uint32).ravel()


def write_set(objects: Objects, tensors: Tensors) -> FeatureSet:
    """A set, all train, of normalized tensors; without log-mel, which no trainer reads."""
    n_rows, rng = len(tensors), np.random.default_rng(0)
    facts = RowFacts(
        np.arange(n_rows),
        np.zeros(n_rows, np.int16),
        rng.integers(0, 256, (n_rows, 16), np.uint8),
        np.zeros(n_rows, np.int32),
        np.zeros((n_rows, 16), np.uint8),
    )
    sets.write_spec(objects, SPEC)
    segment = Segment(SPEC, facts.segment_id(SPEC.id), n_rows, chunk_rows(n_rows))
    segments.begin(objects, segment, facts)
    segments.declare_features(objects, segment, BASIS)
    layout, parts = segment.features(BASIS), {}
    buffer = ChunkBuffer(layout)
    for chunk in range(segment.n_chunks):
        part = tensors[layout.rows(chunk).start : layout.rows(chunk).stop]
        buffer.rows[: len(part)] = part
        crc = buffer.seal(len(part))
        objects.put(f"{segment.path}/{features_name(BASIS)}/{layout.key(chunk)}", buffer.data)
        parts[chunk] = Part({"logmel": 0, features_name(BASIS): crc}, {})
    segments.finish(objects, segment, parts)
    unknown = np.full(n_rows, math.nan, np.float32)
    position = rng.uniform([44.5, 7.0], [45.5, 9.0], (n_rows, 2))  # (row, latitude and longitude)
    columns: dict[str, Any] = {
        "split": np.zeros(n_rows, np.uint8),
        "position": position,
        "snr_db": unknown,
        "frequency_mhz": unknown,
    }
    labels = Labels.of({**columns, "timestamp": np.zeros(n_rows, np.int64)})
    crcs, metadata = sets.write_labels(objects, BASIS, labels)
    counts = {"captures": n_rows, "rows": n_rows, "train": n_rows, "val": 0, "test": 0, "rejected": {}, "reused": 0}
    manifest = Manifest(
        BASIS,
        SPEC.id,
        BASIS,
        (SegmentRef(segment.segment, n_rows),),
        SplitSpec().to_json(),
        {"captures": n_rows, "query": ""},
        {**counts, "computed": n_rows},
        crcs,
        None,
        {},
        "2026-01-01T00:00:00Z",
        0.0,
    )
    sets.publish(objects, manifest, metadata, [])
    return open_set(objects.location.url, BASIS)


def chunk_keys(feature_set: FeatureSet) -> list[str]:
    """The object keys of its chunks."""
    (segment,) = feature_set.segments
    layout = segment.features(BASIS)
    return [f"{segment.path}/{features_name(BASIS)}/{layout.key(chunk)}" for chunk in range(segment.n_chunks)]
