"""The feature set of a merged segment: the labels of the set it comes from, in the new order, under a name of its own."""

from __future__ import annotations

import time
from dataclasses import fields, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from featurestore.build.publish import version_of
from featurestore.care.compact.row_order import Index, Mask
from featurestore.software import versions
from featurestore.store import sets
from featurestore.store.feature_set import FeatureSet
from featurestore.store.manifest import SegmentRef
from featurestore.store.rows import RowFacts
from featurestore.store.segments import Segment
from featurestore.store.set_receivers import RECEIVERS
from featurestore.store.sets import Labels
from featurestore.tensor.spec import canonical_json, digest


def version_after(opened: FeatureSet, facts: RowFacts, served: Mask, segment: str) -> str:
    """The name of the set that is a view of one merged segment.

    It is the name that the next build from the same catalog gives, wherever the store knows all that is in a name: when no
    capture is rejected, and every rate is just that of the spec. Whether that is so shows in the name of the set itself.
    Otherwise the name is made of the old one and the segment's.

    Args:
        opened: the set whose segments are merged.
        facts: of all rows of its segments.
        served: (N,) which of them it serves.
        segment: name of the merged one.
    """
    manifest = opened.manifest
    if len(manifest.segments) == 1 and manifest.segments[0].segment == segment:
        return opened.version
    rows = np.flatnonzero(served)
    rows = rows[np.unique(facts.capture_id[rows], return_index=True)[1]]  # one row per capture, in order of id
    labels, known = opened.labels, facts.take(rows)
    columns: tuple[npt.NDArray[Any], ...] = (
        known.capture_id,
        known.source_digest,
        known.session_id,
        known.websdr_id,
        labels.position[rows],
        labels.frequency_mhz[rows],
        np.full(len(rows), opened.spec.sample_rate_hz, np.float64),
        labels.snr_db[rows],
        labels.timestamp[rows],
        *sets.with_times(labels.start_time_ns[rows], labels.time_sigma_s[rows]),
    )
    head = {"spec": manifest.spec, "basis": manifest.basis, "split": dict(manifest.split)}
    if RECEIVERS in manifest.snapshot:
        head[RECEIVERS] = manifest.snapshot[RECEIVERS]
    old = sorted(ref.segment for ref in manifest.segments)
    if version_of({**head, "segments": old}, columns) == opened.version:
        return version_of({**head, "segments": [segment]}, columns)
    return digest(canonical_json({"compacted": opened.version, "segment": segment}))


def publish_compacted(opened: FeatureSet, version: str, segment: Segment, index: Index, began: float) -> None:
    """Publish the set of a merged segment.

    Args:
        opened: the set that it comes from.
        version: its own name.
        segment: the merged one.
        index: (n,) which row of the old set each of its rows is.
        began: `time.monotonic` when the work began.

    Raises:
        ServiceUnavailableError: when `features gc` removes the segment meanwhile.
    """
    labels = Labels(*(getattr(opened.labels, field.name)[index] for field in fields(Labels)))
    manifest = replace(
        opened.manifest,
        version=version,
        segments=(SegmentRef(segment.segment, segment.n_rows),),
        counts={**opened.manifest.counts, "reused": opened.manifest.counts["rows"], "computed": 0},
        parent=opened.version,
        software=versions(),
        created=datetime.now(UTC).isoformat(timespec="microseconds"),
        seconds=round(time.monotonic() - began, 3),
    )
    sets.publish(opened.objects, manifest, labels, opened.rejected, opened.receivers)
