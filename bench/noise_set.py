"""Feature sets of given tensors, for benches and tests: planned, written and published as every build does, from no captures.

Only the reading and the log-mel of captures are left out: a runner stands in for them. So a set that is made here cannot drift
from those of `build-features`.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from featurestore.build.chunk_tasks import ChunkDone, ComputeChunk, compute_chunk, write_rows
from featurestore.build.plan import Plan, make_plan
from featurestore.build.publish import Outcome, publish, version_id
from featurestore.build.quality import Quality
from featurestore.build.stages import TensorBuild
from featurestore.objects.objects import Objects
from featurestore.progress import Silent
from featurestore.source.snapshot import NO_TIMESTAMP, Listing, Snapshot
from featurestore.store import sets
from featurestore.store.bases import Basis, write_basis
from featurestore.store.feature_set import FeatureSet, open_set
from featurestore.store.segments import features_name
from featurestore.tensor.rejection import Rejection
from featurestore.tensor.spec import FeatureSpec, SplitSpec

SPEC = FeatureSpec()
ALL_TRAIN = SplitSpec(val_fraction=0, test_fraction=0)
CREATED = "2026-01-01T00:00:00.000000+00:00"
EXACT = 1024
"""Whole numbers below it are float16, and so is their sum with a basis of mean 0."""

Tensors = npt.NDArray[np.float16]


def noise(n_rows: int, spec: FeatureSpec = SPEC) -> Tensors:
    """(n_rows, 3, band, frame) normal numbers, no two rows alike: the first two values are the row's number."""
    block = np.random.default_rng(0).standard_normal((min(n_rows, 512), *spec.tensor_shape), np.float32).astype(np.float16)
    rows: Tensors = np.resize(block, (n_rows, *spec.tensor_shape))
    rows[:, 0, 0, 1], rows[:, 0, 0, 0] = np.divmod(np.arange(n_rows), EXACT)
    return rows


def row_numbers(features: Tensors) -> npt.NDArray[np.int64]:
    """(b,) which rows of `noise` these (b, 3, band, frame) are."""
    low, high = features[:, 0, 0, :2].T.astype(np.int64)
    return np.asarray(high * EXACT + low)


def write_set(
    objects: Objects, tensors: Tensors, spec: FeatureSpec = SPEC, split: SplitSpec = ALL_TRAIN, receivers: int = 1
) -> FeatureSet:
    """A set of normalized tensors, under a basis of mean 0 and standard deviation 1: its log-mel are the same numbers.

    Args:
        objects: the store.
        tensors: (row, 3, band, frame), in the order of the set's rows; none is NaN.
        spec: whose tensors they are; of one window per capture.
        split: of the set.
        receivers: captures of each session, which are neighbours.
    """
    began = time.monotonic()
    snapshot = _snapshot(len(tensors), spec, receivers)
    listing = Listing(np.ones(len(tensors), np.int64), np.zeros((len(tensors), 16), np.uint8))
    return _write(objects, make_plan(spec, split, snapshot, listing, []), tensors, began)


def _write(objects: Objects, plan: Plan, tensors: Tensors, began: float) -> FeatureSet:
    spec, quality = plan.spec, Quality(plan, 0.0)
    mean, std = (np.full(spec.tensor_shape[:2], value, np.float32) for value in (0, 1))
    basis = Basis(mean, std, len(tensors), CREATED)
    write_basis(objects, spec, basis)
    work = TensorBuild(plan, "file:///no/captures", objects, Silent())
    work.compute(_Given(tensors), basis, quality.add)
    work.normalize(_Given(tensors), basis)
    work.complete(basis)
    outcome = Outcome(plan, work, quality, basis, version_id(plan, basis.id), None, began)
    publish(objects, outcome)
    sets.point(objects, outcome.version)
    return open_set(objects.location.url, outcome.version)


def _snapshot(n_rows: int, spec: FeatureSpec, receivers: int) -> Snapshot:
    """A catalog of so many captures, whose sessions are anywhere in a region, at random."""
    session = np.arange(n_rows) // receivers
    ids = [uuid.uuid5(uuid.NAMESPACE_URL, str(number)).bytes for number in range(int(session[-1]) + 1)]
    rng = np.random.default_rng(0)
    position = rng.uniform([44.5, 7.0], [45.5, 9.0], (len(ids), 2))  # (session, latitude and longitude)
    return Snapshot(
        capture_id=np.arange(1, n_rows + 1),
        session_id=np.frombuffer(b"".join(ids), np.uint8).reshape(-1, 16)[session],
        websdr_id=(np.arange(n_rows) % receivers).astype(np.int32),
        position=position[session],
        frequency_mhz=np.full(n_rows, 145.5, np.float32),
        sample_rate_hz=np.full(n_rows, spec.sample_rate_hz, np.float64),
        snr_db=rng.uniform(0, 30, n_rows).astype(np.float32),
        timestamp=np.arange(n_rows) * 1_000_000_000,
        start_time_ns=np.full(n_rows, NO_TIMESTAMP),
        time_sigma_s=np.full(n_rows, np.nan),
        custom_keys={},
        query="",
    )


class _Given:
    """Runs the tasks of a build in this process; those that would read captures write given tensors instead."""

    def __init__(self, tensors: Tensors) -> None:
        self._tensors = tensors

    def run(self, function: Callable[[Any], Any], tasks: Iterable[Any]) -> Iterator[Any]:
        """What the tasks return, in their order."""
        return map(self._write if function is compute_chunk else function, tasks)

    def _write(self, task: ComputeChunk) -> ChunkDone:
        rows = task.segment.logmel.rows(task.chunk)

        def fill(logmel: npt.NDArray[np.float32]) -> tuple[int, dict[int, Rejection]]:
            logmel[: len(rows)] = self._tensors[rows.start : rows.stop]
            return 0, {}

        return write_rows(task, fill)


def chunk_keys(feature_set: FeatureSet) -> list[str]:
    """The object keys of the chunks of its features."""
    basis = feature_set.manifest.basis
    return [
        f"{segment.path}/{features_name(basis)}/{segment.features(basis).key(chunk)}"
        for segment in feature_set.segments
        for chunk in range(segment.n_chunks)
    ]
