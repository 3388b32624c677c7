"""Where a capture went: in which feature sets, rows, windows and splits it is, or why it is in none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from featurestore.errors import StoreError
from featurestore.look.overview import names_of_sets
from featurestore.objects.objects import Location, Objects, open_objects
from featurestore.progress import Progress, Silent
from featurestore.source.snapshot import format_session
from featurestore.store.chunks import read_array
from featurestore.store.feature_set import FeatureSet
from featurestore.store.segments import segments_path
from featurestore.store.sets import list_sets, set_path
from featurestore.store.split import Split

SERVED, REJECTED, LEFT_OUT = "served", "rejected", "left out"


@dataclass(frozen=True)
class TracedRow:
    """A row that holds a window of the capture.

    Attributes:
        row: its number in the feature set.
        segment: the segment that holds it.
        segment_row: its number there.
        window: number of the window in the capture.
        split: `train`, `val` or `test`; `None` when this set does not serve the row.
        source_digest: of the recording that it was computed from.
    """

    row: int
    segment: str
    segment_row: int
    window: int
    split: str | None
    source_digest: str


@dataclass(frozen=True)
class SetTrace:
    """What one feature set has of the capture.

    Attributes:
        version: of the set.
        names: `latest` and the tags that stand for it.
        created: when, ISO 8601.
        state: `served`; `rejected`; or `left out`: its segments hold rows of it, but it was not approved when the set was
            built, or they are of an older recording.
        session_id: its session; `None` when the set has no row of it.
        websdr_id: its receiver, likewise.
        rows: in order.
        rejected: `iq_key`, `reason` and `detail`, when it was rejected.
    """

    version: str
    names: tuple[str, ...]
    created: str
    state: str
    session_id: str | None
    websdr_id: int | None
    rows: tuple[TracedRow, ...]
    rejected: dict[str, str] | None


@dataclass(frozen=True)
class Trace:
    """What `features trace --json` prints.

    Attributes:
        capture_id: which capture.
        sets: those that know of it, newest first.
        searched: feature sets that were searched.
        damaged: those that could not be, and why.
    """

    capture_id: int
    sets: tuple[SetTrace, ...]
    searched: int
    damaged: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """All fields."""
        return asdict(self)

    def lines(self) -> Iterator[str]:
        """For people."""
        yield f"capture {self.capture_id}: known to {len(self.sets):,} of {self.searched:,} feature sets"
        if not self.sets:
            yield "  it was not approved, or not in the catalog, when they were built; approve it, then run build-features"
        for each in self.sets:
            names = f" ({', '.join(each.names)})" if each.names else ""
            yield f"{each.version}{names}, built {each.created[:19].replace('T', ' ')} UTC: {each.state}"
            if each.session_id is not None:
                yield f"  session {each.session_id}, receiver {each.websdr_id}"
            if each.rejected is not None:
                yield f"  {each.rejected['reason']}: {each.rejected['iq_key']}: {each.rejected['detail']}"
            for row in each.rows:
                where = f"row {row.segment_row:,} of segment {row.segment}"
                yield f"  row {row.row:,}, window {row.window}: {row.split or 'not served'}; {where}"
        for version, reason in self.damaged.items():
            yield f"{version}: not searched: {reason}"


def trace(store: str, capture_id: int, progress: Progress | None = None) -> Trace:
    """Search all feature sets of a store for a capture.

    Args:
        store: `s3://bucket/prefix`, `file:///dir` or a directory.
        capture_id: its id in the catalog.
        progress: where to report.

    Raises:
        UsageError: when there is no such store.
        StoreError: when the store refuses. A set that is damaged is named in the result.
        ServiceUnavailableError: when the store does not answer.
    """
    objects = open_objects(Location.parse(store).url)
    objects.check()
    names = names_of_sets(objects)
    manifests, unreadable = list_sets(objects)
    damaged = {version: str(error) for version, error in unreadable.items()}
    held: dict[str, _Held] = {}
    traces = []
    progress = progress or Silent()
    progress.start("search", len(manifests), "feature sets")
    for manifest in manifests:
        progress.advance(1)
        try:
            opened = FeatureSet(objects, manifest)
            for ref in manifest.segments:
                path = f"{segments_path(manifest.spec)}/{ref.segment}"
                if path not in held:  # sets share segments
                    held[path] = _read_held(objects, path, capture_id)
            traced = _trace_set(opened, tuple(names.get(manifest.version, [])), capture_id, held)
        except (StoreError, FileNotFoundError) as error:
            damaged[manifest.version] = str(error)
            continue
        if traced is not None:
            traces.append(traced)
    return Trace(capture_id, tuple(traces), len(manifests) + len(unreadable) - len(damaged), damaged)


@dataclass(frozen=True)
class _Held:
    """The rows of the capture in one segment, as columns."""

    row: npt.NDArray[np.int64]
    facts: dict[str, npt.NDArray[Any]]


def _read_held(objects: Objects, path: str, capture_id: int) -> _Held:
    row = np.flatnonzero(read_array(objects, f"{path}/capture_id") == capture_id)
    names = ("window", "session_id", "websdr_id", "source_digest") if len(row) else ()
    return _Held(row, {name: read_array(objects, f"{path}/{name}")[row] for name in names})


def _trace_set(opened: FeatureSet, names: tuple[str, ...], capture_id: int, held: dict[str, _Held]) -> SetTrace | None:
    manifest = opened.manifest
    rejected = next((entry for entry in opened.rejected if entry.capture_id == capture_id), None)
    rows, session, receiver, start = [], None, None, 0
    split: npt.NDArray[np.uint8] | None = None
    for ref in manifest.segments:
        mine = held[f"{segments_path(manifest.spec)}/{ref.segment}"]
        if len(mine.row) and split is None:
            split = read_array(opened.objects, f"{set_path(manifest.version)}/split")
        for index, segment_row in enumerate(mine.row.tolist()):
            row = start + segment_row
            code = Split(int(split[row]) if split is not None else Split.ABSENT)
            name = None if code is Split.ABSENT else code.name.lower()
            digest = mine.facts["source_digest"][index].tobytes().hex()
            rows.append(TracedRow(row, ref.segment, segment_row, int(mine.facts["window"][index]), name, digest))
            if session is None or name is not None:  # of rows that the set does not serve, session and receiver may be old
                session = format_session(mine.facts["session_id"][index].tobytes())
                receiver = int(mine.facts["websdr_id"][index])
        start += ref.rows
    if not rows and rejected is None:
        return None
    state = SERVED if any(row.split for row in rows) else LEFT_OUT if rejected is None else REJECTED
    why = None if rejected is None else {name: getattr(rejected, name) for name in ("iq_key", "reason", "detail")}
    return SetTrace(manifest.version, names, manifest.created, state, session, receiver, tuple(rows), why)
