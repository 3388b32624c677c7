"""What lies below `sets/` and `specs/` of a store, by one listing: sets, segments, bases, and what is none of ours."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from featurestore.objects.objects import ObjectInfo, Objects
from featurestore.tensor.spec import ID_DIGITS

ID = rf"[0-9a-f]{{{ID_DIGITS}}}"
_ARRAY = r"(?:zarr\.json|c(?:/\d+)+)"
_LABELS = "split|position|snr_db|frequency_mhz|timestamp|start_time_ns|time_sigma_s|clock_sigma_s"
_FACTS = "capture_id|window|session_id|websdr_id|source_digest|reason|logmel|content"
_PAIRS = "session_digest|capture_a|capture_b|websdr_a|websdr_b|lag_s|correlation|measured"

SET = re.compile(rf"(sets/{ID})/(?:(?:zarr|rejected|receivers)\.json|(?:{_LABELS})/{_ARRAY})")
SPEC = re.compile(rf"(specs/{ID})/spec\.json")
BASIS = re.compile(rf"(specs/{ID}/bases/{ID})/(?:zarr\.json|(?:mean|std)/{_ARRAY})")
SEGMENT = re.compile(rf"(specs/{ID}/segments/{ID})/(?:zarr\.json|segment\.json|(?:{_FACTS}|{_PAIRS})/{_ARRAY})")
FEATURES = re.compile(rf"((specs/{ID}/segments/{ID})/features-{ID})(?:\.json|/{_ARRAY})")
PARTS = re.compile(rf"((specs/{ID}/segments/{ID})/parts)/\d+\.json")


@dataclass
class ObjectGroup:
    """The objects of one thing: a set, a spec, a basis, a segment, one segment's features, or its notes.

    Attributes:
        path: their common prefix.
        objects: key → what the listing says.
    """

    path: str
    objects: dict[str, ObjectInfo] = field(default_factory=dict)

    @property
    def newest(self) -> datetime:
        """When the last one was written."""
        return max(info.modified for info in self.objects.values())

    @property
    def n_bytes(self) -> int:
        """Their size."""
        return sum(info.size_bytes for info in self.objects.values())

    def has(self, name: str) -> bool:
        """Whether there is an object of this name directly below the path."""
        return f"{self.path}/{name}" in self.objects


@dataclass
class Inventory:
    """Everything, by path.

    Attributes:
        sets: with or without manifest.
        specs: just their `spec.json`.
        bases: likewise.
        segments: all of each, features and notes included, with or without marker.
        features: those of each basis in each segment.
        parts: the notes of each segment.
        unknown: keys that are none of ours.
    """

    sets: dict[str, ObjectGroup] = field(default_factory=dict)
    specs: dict[str, ObjectGroup] = field(default_factory=dict)
    bases: dict[str, ObjectGroup] = field(default_factory=dict)
    segments: dict[str, ObjectGroup] = field(default_factory=dict)
    features: dict[str, ObjectGroup] = field(default_factory=dict)
    parts: dict[str, ObjectGroup] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)

    def add(self, info: ObjectInfo) -> None:
        """Put an object where it belongs."""
        for pattern, kind in ((SET, self.sets), (SPEC, self.specs), (BASIS, self.bases), (SEGMENT, self.segments)):
            if match := pattern.fullmatch(info.key):
                _put(kind, match[1], info)
                return
        for pattern, kind in ((FEATURES, self.features), (PARTS, self.parts)):
            if match := pattern.fullmatch(info.key):
                _put(kind, match[1], info)
                _put(self.segments, match[2], info)
                return
        self.unknown.append(info.key)

    def by_spec(self, kind: dict[str, ObjectGroup]) -> dict[str, list[ObjectGroup]]:
        """Bases or segments of each spec, by the spec's path."""
        found: dict[str, list[ObjectGroup]] = defaultdict(list)
        for path, group in kind.items():
            found["/".join(path.split("/")[:2])].append(group)
        return found


def take_inventory(objects: Objects) -> Inventory:
    """List a store."""
    inventory = Inventory()
    for prefix in ("sets", "specs"):
        sort_in(inventory, objects.walk(prefix))
    return inventory


def sort_in(inventory: Inventory, infos: Iterable[ObjectInfo]) -> None:
    """Add objects to an inventory."""
    for info in sorted(infos, key=lambda info: info.key):  # directories are listed in no order
        inventory.add(info)


def _put(kind: dict[str, ObjectGroup], path: str, info: ObjectInfo) -> None:
    kind.setdefault(path, ObjectGroup(path)).objects[info.key] = info
