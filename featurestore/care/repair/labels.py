"""Label arrays and the list of rejected captures: made again from the catalog; the manifest's checksums prove labels."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import numpy.typing as npt

from featurestore.build.plan import make_plan
from featurestore.build.publish import version_with
from featurestore.build.quality import Quality
from featurestore.care.repair.facts import look_up
from featurestore.care.repair.places import Place
from featurestore.care.repair.workshop import UnrepairableError, Workshop
from featurestore.errors import StoreError
from featurestore.source.receivers import receivers_json
from featurestore.source.snapshot import NO_TIMESTAMP
from featurestore.store.chunks import Array, ArrayLayout, read_array
from featurestore.store.read_segments import read_rejected
from featurestore.store.rows import Holding
from featurestore.store.set_receivers import RECEIVERS, read_set_receivers, receivers_id
from featurestore.store.sets import list_sets, set_path
from featurestore.store.split import Split, assign
from featurestore.tensor.rejection import Reason
from featurestore.tensor.spec import SplitSpec, parse_fold

CHANGED = "restore it from a copy of the store, or build-features makes a new set with the labels of now"


def repair_label(shop: Workshop, place: Place) -> str:
    """A chunk of a label array."""
    group = shop.objects.get_json(f"{set_path(shop.manifest.version)}/zarr.json")
    layout = ArrayLayout.from_metadata(group["consolidated_metadata"]["metadata"][place.array], place.path)
    column = _split(shop) if place.array == "split" else _column(shop, place.array)
    rows = layout.rows(place.chunk)
    promised = shop.manifest.labels[place.array][place.chunk]
    if not shop.write_chunk(place.path, layout, place.chunk, column[rows.start : rows.stop], promised):
        source = "sessions and positions give" if place.array == "split" else "the catalog holds"
        raise UnrepairableError(
            f"what {source} now is not what it held, by the manifest's checksum, and which rows differ can't be known; "
            f"{CHANGED}"
        )
    source = "sessions and the split's parameters" if place.array == "split" else "the catalog"
    return f"made again from {source}; its CRC-32C is the one in the manifest"


def repair_rejected(shop: Workshop, place: Place) -> str:
    """`rejected.json`: what catalog and listing reject, and what the segments' markers do."""
    snapshot = shop.approved
    listing = shop.listing(snapshot)
    names = [ref.segment for ref in shop.manifest.segments]
    holdings = [Holding(name, shop.facts(name), shop.reason(name)) for name in names]
    plan = make_plan(shop.spec, _split_spec(shop), snapshot, listing, holdings)
    quality = Quality(plan, 1.0)
    for use in plan.segments:
        if use.reason is not None:
            quality.add(use, read_rejected(shop.marker(use.segment)))
    if quality.counts() != shop.manifest.counts["rejected"]:
        raise UnrepairableError(
            f"catalog and recordings have changed since: {quality.counts()} would be rejected now, "
            f"{shop.manifest.counts['rejected']} were; {CHANGED}"
        )
    shop.objects.put_json(place.key, [asdict(entry) for entry in quality.entries()])
    if version_with(plan, shop.manifest.basis, shop.manifest.snapshot.get(RECEIVERS)) == shop.manifest.version:
        return "made again from catalog and recordings; they are as they were, by the set's version"
    return "made again from catalog and recordings; they have changed since, but as many are rejected as the manifest states"


def repair_receivers(shop: Workshop, place: Place) -> str:
    """`receivers.json`: that of another set with the same table, or made again from the catalog; the manifest proves it."""
    named = shop.manifest.snapshot[RECEIVERS]
    for other in list_sets(shop.objects)[0]:
        if other.snapshot.get(RECEIVERS) == named and other.version != shop.manifest.version:
            try:
                shop.objects.put(place.key, receivers_json(read_set_receivers(shop.objects, other)))
            except StoreError:  # it is damaged there, too
                continue
            return f"copied from feature set {other.version}, which has the same table"
    for snapshot in (shop.approved, shop.captures):
        receivers = snapshot.receivers
        if receivers is not None and receivers_id(receivers) == named:
            shop.objects.put(place.key, receivers_json(receivers))
            return "made again from the catalog's table of receivers; its digest is the one in the manifest"
    raise UnrepairableError(
        "the catalog's table of receivers is not what the set was built with, by the manifest's digest, and no other set has "
        "that; put the receivers back into the table as they were, or restore it from a copy of the store, or build-features "
        "makes a new set with the receivers of now"
    )


def _column(shop: Workshop, name: str) -> Array:
    """A label of all rows of the set, as the catalog has it now; unknown where a row is not served."""
    served = _served(shop, name)
    capture = look_up(shop.captures.capture_id, shop.together("capture_id")[served])
    if (capture < 0).any():
        n_lost = int((capture < 0).sum())
        raise UnrepairableError(
            f"the catalog no longer holds the captures of {n_lost:,} of its {len(capture):,} rows; {CHANGED}"
        )
    values: Array = getattr(shop.captures, name)[capture]
    unknown = NO_TIMESTAMP if name in ("timestamp", "start_time_ns") else np.nan
    column = np.full((len(served), *values.shape[1:]), unknown, values.dtype)
    column[served] = values
    return column


def _split(shop: Workshop) -> npt.NDArray[np.uint8]:
    """The split of all rows of the set."""
    served = np.flatnonzero(_served(shop, "split"))
    ids = shop.together("capture_id")
    rows = served[np.argsort(ids[served], kind="stable")]  # the first capture of a session decides its region
    spec = _split_spec(shop)
    position = _positions(shop) if spec.by == "region" else np.zeros((len(ids), 2))
    column = np.full(len(ids), Split.ABSENT, np.uint8)
    column[rows] = assign(spec, shop.together("session_id")[rows], position[rows])
    return column


def _positions(shop: Workshop) -> npt.NDArray[np.float64]:
    if shop.is_intact("position"):
        return read_array(shop.objects, f"{set_path(shop.manifest.version)}/position")
    return _column(shop, "position")


def _served(shop: Workshop, lost: str) -> npt.NDArray[np.bool_]:
    """(N,) which rows the set serves: by its split, or by its positions, or else all that are valid, each once."""
    path = set_path(shop.manifest.version)
    if lost != "split" and shop.is_intact("split"):
        return np.asarray(read_array(shop.objects, f"{path}/split") != Split.ABSENT)
    if lost != "position" and shop.is_intact("position"):
        return np.asarray(np.isfinite(read_array(shop.objects, f"{path}/position")).all(axis=1))
    rows = np.rec.fromarrays([shop.together("capture_id"), shop.together("window")])
    first = np.zeros(len(rows), bool)
    first[np.unique(rows, return_index=True)[1]] = True
    reason = np.concatenate([shop.reason(ref.segment) for ref in shop.manifest.segments])
    return np.asarray(first & (reason == Reason.VALID))


def _split_spec(shop: Workshop) -> SplitSpec:
    fields = dict(shop.manifest.split)
    fold = fields.pop("fold")
    return SplitSpec(**fields, fold=None if fold is None else parse_fold(fold))
