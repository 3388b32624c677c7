"""Is a pair set whole? Every object that a reader of it needs is read and checked against what was promised of it."""

from __future__ import annotations

from dataclasses import fields

import numpy as np

from featurestore.care.verify.deep import DeepCheck
from featurestore.care.verify.inspection import DAMAGED, Inspector
from featurestore.care.verify.verify import Verification
from featurestore.errors import StoreError, UsageError
from featurestore.objects.objects import Location
from featurestore.pairs.care.deep import check_pairs_deep
from featurestore.pairs.pair_set import PairSet
from featurestore.pairs.publish import LABELS
from featurestore.pairs.rows import FACTS, PairRows
from featurestore.pairs.segments import COMPUTED, REASON, Details, PairSegment, notes_from_json, open_pair_store, reasons_of
from featurestore.progress import Progress, Silent
from featurestore.store.segments import segments_path
from featurestore.store.sets import LATEST, read_manifest, resolve, set_path
from featurestore.store.split import SPLITS, count_splits


def verify_pairs(
    store: str, version: str = LATEST, progress: Progress | None = None, deep: DeepCheck | None = None
) -> Verification:
    """Check everything that a pair set is made of; nothing is changed, and damage is returned, not raised.

    Args:
        store: `s3://bucket/prefix`, `file:///dir` or a directory.
        version: a version, a tag, or `latest`.
        progress: where to report.
        deep: compute the pairs of a sample of sessions from IQ again.

    Raises:
        UsageError: when there is no such set.
        StoreError: when the store refuses, or the set's manifest is damaged.
        ServiceUnavailableError: when the store does not answer.
    """
    progress = progress or Silent()
    objects = open_pair_store(Location.parse(store).url)
    objects.check()
    name = resolve(objects, version)
    opened = PairSet(objects, read_manifest(objects, name))
    inspector = Inspector(objects)
    _check_labels(inspector, opened)
    progress.start("check segments", len(opened.manifest.segments), "segments")
    for ref in opened.manifest.segments:
        _check_segment(inspector, opened, ref.segment, ref.rows)
        progress.advance(1)
    can_compare = all(any(f"/{array}/c/" in problem.url for array in COMPUTED) for problem in inspector.problems)
    report = check_pairs_deep(inspector, opened, deep, progress) if deep is not None and can_compare else None
    problems = tuple(sorted(inspector.problems, key=lambda problem: (problem.url, problem.captures)))
    url = f"{objects.location}/{set_path(name)}"
    return Verification(name, url, inspector.n_objects, inspector.n_bytes, problems, report)


def _check_labels(inspector: Inspector, opened: PairSet) -> None:
    path, manifest = set_path(opened.version), opened.manifest
    copies = inspector.group(path)
    columns = {name: inspector.array(f"{path}/{name}", copies, manifest.n_rows, manifest.labels.get(name)) for name in LABELS}
    split = columns["split"]
    if split is not None and count_splits(split) != {name: manifest.counts[name] for name in SPLITS}:
        inspector.note(DAMAGED, f"{path}/zarr.json", "states other splits than the array split holds")
    inspector.document(f"{path}/rejected.json")
    if inspector.document(f"specs/{manifest.spec}/spec.json") is not None:
        try:
            _ = opened.spec
        except (StoreError, UsageError, TypeError) as error:
            inspector.note(DAMAGED, f"specs/{manifest.spec}/spec.json", str(error))


def _check_segment(inspector: Inspector, opened: PairSet, name: str, n_rows: int) -> None:
    path = f"{segments_path(opened.manifest.spec)}/{name}"
    copies = inspector.group(path)
    promised = _promises(inspector, opened, name, n_rows)
    if promised is None:
        return
    segment, details, crcs = promised
    for array in COMPUTED:
        if inspector.layout(f"{path}/{array}", copies) is not None:
            for chunk, crc in enumerate(crcs[array]):
                inspector.chunk(f"{path}/{array}", segment.layout(array), chunk, crc)
    facts = {fact: inspector.array(f"{path}/{fact}", copies, n_rows) for fact in FACTS}
    reason = inspector.array(f"{path}/{REASON}", copies, n_rows)
    lags = inspector.array(f"{path}/lag_s", copies, opened.spec.n_lags)
    if lags is not None and not np.array_equal(lags, opened.spec.lag_s):
        inspector.note(DAMAGED, f"{path}/lag_s/c/0", "are other lags than those of the spec")
    known = {fact: column for fact, column in facts.items() if column is not None}
    if len(known) == len(FACTS):
        rows = PairRows(*(known[field.name] for field in fields(PairRows)))
        if rows.segment_id(opened.manifest.spec, segment.chunk_rows) != name:
            inspector.note(DAMAGED, f"{path}/zarr.json", "the facts of its rows are those of another segment")
        elif reason is not None and not np.array_equal(reason, reasons_of(rows, details)):
            inspector.note(DAMAGED, f"{path}/{REASON}/c/0", "holds other reasons than the marker")


def _promises(
    inspector: Inspector, opened: PairSet, name: str, n_rows: int
) -> tuple[PairSegment, Details, dict[str, list[int]]] | None:
    """What the marker says of a segment: its cut, its rows without a delay, and its checksums."""
    key = f"{segments_path(opened.manifest.spec)}/{name}/segment.json"
    marker = inspector.document(key)
    if marker is None:
        return None
    try:
        segment = PairSegment(opened.spec, name, n_rows, int(marker["chunk_rows"]))
        details, _ = notes_from_json(marker)
        crcs = {array: [int(crc) for crc in marker["chunks"][array]] for array in COMPUTED}
        if marker["rows"] != n_rows or any(len(each) != segment.n_chunks for each in crcs.values()):
            raise ValueError(f"is of {marker['rows']} rows; expected {n_rows}")
    except (StoreError, UsageError, KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        inspector.note(DAMAGED, key, f"is no marker of this segment ({error})")
        return None
    return segment, details, crcs
