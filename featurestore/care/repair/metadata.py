"""`zarr.json` of arrays and segments: written again from the layouts, which the spec and the number of rows decide."""

from __future__ import annotations

from typing import Any

from featurestore.care.repair.context import RepairContext, UnrepairableError
from featurestore.care.repair.places import Place
from featurestore.errors import StoreError
from featurestore.store.bases import statistics_layout
from featurestore.store.chunks import ArrayLayout
from featurestore.store.segments import FACTS, REASON, column_layout
from featurestore.store.sets import LABEL_ATTRIBUTES
from featurestore.store.write_segments import write_group


def repair_metadata(context: RepairContext, place: Place) -> str:
    """`zarr.json` of an array, and the copy of it in its group where that is what is wrong."""
    group = f"{place.path.rpartition('/')[0]}/zarr.json"
    copies = _copies(context, group)
    copy = copies["consolidated_metadata"]["metadata"].get(place.array) if copies else None
    layout = _label_layout(copy, place.array) if place.array in LABEL_ATTRIBUTES else _layout(context, place)
    wanted = layout.metadata()
    if copy is not None and _same(copy, wanted):
        context.objects.put_json(place.key, copy)
        return "written again as its group repeats it"
    context.objects.put_json(place.key, wanted)
    if copies is None or copy is None:
        return "written again from the spec and the number of rows"
    copies["consolidated_metadata"]["metadata"][place.array] = wanted
    context.objects.put_json(group, copies)
    return "written again from the spec and the number of rows, and so is its copy in the zarr.json one level up"


def repair_group(context: RepairContext, place: Place) -> str:
    """`zarr.json` of a segment."""
    context.facts(place.segment)  # if its rows are others than its name says, its metadata is not what is wrong
    marker = context.marker(place.segment)
    write_group(context.objects, context.segment(place.segment), sorted(marker["chunks"]))
    return "written again from the metadata of its arrays"


def _layout(context: RepairContext, place: Place) -> ArrayLayout:
    if place.array in ("mean", "std"):
        return statistics_layout(context.spec, place.array)
    segment = context.segment(place.segment)
    if place.array in FACTS or place.array == REASON:
        return column_layout(place.array, segment.n_rows)
    return segment.layout(place.array)


def _label_layout(copy: Any, name: str) -> ArrayLayout:
    try:
        return ArrayLayout.from_metadata(copy, name)
    except StoreError as error:
        raise UnrepairableError(f"the copy of it in the manifest is damaged as well; {MANIFEST_STEP}") from error


MANIFEST_STEP = (
    "build-features with the same parameters publishes this version again, as long as captures and labels are what they "
    "were; or restore it from a copy of the store"
)


def _copies(context: RepairContext, group: str) -> dict[str, Any] | None:
    if group in context.damaged:
        return None
    content: dict[str, Any] = context.objects.get_json(group)
    return content


def _same(copy: Any, wanted: dict[str, Any]) -> bool:
    try:
        return ArrayLayout.from_metadata(copy, "").metadata() == wanted
    except StoreError:
        return False
