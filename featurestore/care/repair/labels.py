"""Label arrays and the list of rejected captures: made again from the catalog; the manifest's checksums prove labels."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import numpy.typing as npt

from featurestore.build.plan import make_plan
from featurestore.build.publish import version_with
from featurestore.build.quality import Quality
from featurestore.care.repair.context import RepairContext, UnrepairableError
from featurestore.care.repair.facts import look_up
from featurestore.care.repair.places import Place
from featurestore.errors import StoreError
from featurestore.source.receivers import receivers_json
from featurestore.source.snapshot import NO_TIMESTAMP
from featurestore.store.chunks import Array, ArrayLayout, read_array
from featurestore.store.read_segments import read_rejected
from featurestore.store.rows import StoredSegment
from featurestore.store.set_receivers import RECEIVERS, read_set_receivers, receivers_id
from featurestore.store.sets import list_sets, set_path
from featurestore.store.split import Split, assign
from featurestore.tensor.rejection import Reason
from featurestore.tensor.spec import SplitSpec, parse_fold

CHANGED = "restore it from a copy of the store, or build-features makes a new set with the labels of now"


def repair_label(context: RepairContext, place: Place) -> str:
    """A chunk of a label array."""
    group = context.objects.get_json(f"{set_path(context.manifest.version)}/zarr.json")
    layout = ArrayLayout.from_metadata(group["consolidated_metadata"]["metadata"][place.array], place.path)
    column = _split(context) if place.array == "split" else _column(context, place.array)
    rows = layout.rows(place.chunk)
    promised = context.manifest.labels[place.array][place.chunk]
    if not context.write_chunk(place.path, layout, place.chunk, column[rows.start : rows.stop], promised):
        source = "sessions and positions give" if place.array == "split" else "the catalog holds"
        raise UnrepairableError(
            f"what {source} now is not what it held, by the manifest's checksum, and which rows differ can't be known; "
            f"{CHANGED}"
        )
    source = "sessions and the split's parameters" if place.array == "split" else "the catalog"
    return f"made again from {source}; its CRC-32C is the one in the manifest"


def repair_rejected(context: RepairContext, place: Place) -> str:
    """`rejected.json`: what catalog and listing reject, and what the segments' markers do."""
    snapshot = context.approved
    listing = context.listing(snapshot)
    names = [ref.segment for ref in context.manifest.segments]
    stored = [StoredSegment(name, context.facts(name), context.reason(name)) for name in names]
    plan = make_plan(context.spec, _split_spec(context), snapshot, listing, stored)
    quality = Quality(plan, 1.0)
    for use in plan.segments:
        if use.reason is not None:
            quality.add(use, read_rejected(context.marker(use.segment)))
    if quality.counts() != context.manifest.counts["rejected"]:
        raise UnrepairableError(
            f"catalog and recordings have changed since: {quality.counts()} would be rejected now, "
            f"{context.manifest.counts['rejected']} were; {CHANGED}"
        )
    context.objects.put_json(place.key, [asdict(entry) for entry in quality.entries()])
    if version_with(plan, context.manifest.basis, context.manifest.snapshot.get(RECEIVERS)) == context.manifest.version:
        return "made again from catalog and recordings; they are as they were, by the set's version"
    return "made again from catalog and recordings; they have changed since, but as many are rejected as the manifest states"


def repair_receivers(context: RepairContext, place: Place) -> str:
    """`receivers.json`: that of another set with the same table, or made again from the catalog; the manifest proves it."""
    named = context.manifest.snapshot[RECEIVERS]
    for other in list_sets(context.objects)[0]:
        if other.snapshot.get(RECEIVERS) == named and other.version != context.manifest.version:
            try:
                context.objects.put(place.key, receivers_json(read_set_receivers(context.objects, other)))
            except StoreError:  # it is damaged there, too
                continue
            return f"copied from feature set {other.version}, which has the same table"
    for snapshot in (context.approved, context.captures):
        receivers = snapshot.receivers
        if receivers is not None and receivers_id(receivers) == named:
            context.objects.put(place.key, receivers_json(receivers))
            return "made again from the catalog's table of receivers; its digest is the one in the manifest"
    raise UnrepairableError(
        "the catalog's table of receivers is not what the set was built with, by the manifest's digest, and no other set has "
        "that; put the receivers back into the table as they were, or restore it from a copy of the store, or build-features "
        "makes a new set with the receivers of now"
    )


def _column(context: RepairContext, name: str) -> Array:
    """A label of all rows of the set, as the catalog has it now; unknown where a row is not served."""
    served = _served(context, name)
    capture = look_up(context.captures.capture_id, context.together("capture_id")[served])
    if (capture < 0).any():
        n_lost = int((capture < 0).sum())
        raise UnrepairableError(
            f"the catalog no longer holds the captures of {n_lost:,} of its {len(capture):,} rows; {CHANGED}"
        )
    values: Array = getattr(context.captures, name)[capture]
    unknown = NO_TIMESTAMP if name in ("timestamp", "start_time_ns") else np.nan
    column = np.full((len(served), *values.shape[1:]), unknown, values.dtype)
    column[served] = values
    return column


def _split(context: RepairContext) -> npt.NDArray[np.uint8]:
    """The split of all rows of the set."""
    served = np.flatnonzero(_served(context, "split"))
    ids = context.together("capture_id")
    rows = served[np.argsort(ids[served], kind="stable")]  # the first capture of a session decides its region
    spec = _split_spec(context)
    position = _positions(context) if spec.by == "region" else np.zeros((len(ids), 2))
    column = np.full(len(ids), Split.ABSENT, np.uint8)
    column[rows] = assign(spec, context.together("session_id")[rows], position[rows])
    return column


def _positions(context: RepairContext) -> npt.NDArray[np.float64]:
    if context.is_intact("position"):
        return read_array(context.objects, f"{set_path(context.manifest.version)}/position")
    return _column(context, "position")


def _served(context: RepairContext, lost: str) -> npt.NDArray[np.bool_]:
    """(N,) which rows the set serves: by its split, or by its positions, or else all that are valid, each once."""
    path = set_path(context.manifest.version)
    if lost != "split" and context.is_intact("split"):
        return np.asarray(read_array(context.objects, f"{path}/split") != Split.ABSENT)
    if lost != "position" and context.is_intact("position"):
        return np.asarray(np.isfinite(read_array(context.objects, f"{path}/position")).all(axis=1))
    rows = np.rec.fromarrays([context.together("capture_id"), context.together("window")])
    first = np.zeros(len(rows), bool)
    first[np.unique(rows, return_index=True)[1]] = True
    reason = np.concatenate([context.reason(ref.segment) for ref in context.manifest.segments])
    return np.asarray(first & (reason == Reason.VALID))


def _split_spec(context: RepairContext) -> SplitSpec:
    fields = dict(context.manifest.split)
    fold = fields.pop("fold")
    return SplitSpec(**fields, fold=None if fold is None else parse_fold(fold))
