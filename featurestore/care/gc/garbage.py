"""What `features gc` is asked to keep, and what it finds to remove."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta

from featurestore.care.gc.inventory import ObjectGroup
from featurestore.errors import UsageError
from featurestore.store.manifest import Manifest

SET, SEGMENT, FEATURES, NOTES, BASIS, SPEC = "set", "segment", "features", "notes", "basis", "spec"
UNFINISHED_SET, ABANDONED = "unfinished set", "abandoned segment"

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


@dataclass(frozen=True)
class Policy:
    """What to keep.

    Attributes:
        keep: so many of the newest feature sets.
        min_age: and everything that was written since.
    """

    keep: int = 5
    min_age: timedelta = timedelta(days=1)


@dataclass(frozen=True)
class Item:
    """Something to be removed.

    Attributes:
        kind: `set`, `unfinished set`, `segment`, `abandoned segment`, `features`, `notes`, `basis` or `spec`.
        group: its objects.
        first: those without which it counts for nothing; they go before the others, in this order.
        rows: that it holds; 0 where it holds none, or nobody knows.
    """

    kind: str
    group: ObjectGroup
    first: tuple[str, ...]
    rows: int = 0

    @property
    def path(self) -> str:
        """Its prefix in the store."""
        return self.group.path

    @property
    def around(self) -> str:
        """What to list to find all of its objects: features have some beside their prefix."""
        return self.path.rpartition("/")[0] if self.kind == FEATURES else self.path


@dataclass(frozen=True)
class Garbage:
    """What can be removed.

    Attributes:
        items: in the order in which they go.
        manifests: of all sets there were, by version.
        kept: why each set that stays does: version → `newest`, `latest`, `tag NAME`, `young`.
        young: things that would go if they were older.
        unknown: keys that are none of ours, and stay.
    """

    items: tuple[Item, ...]
    manifests: dict[str, Manifest]
    kept: dict[str, list[str]]
    young: int
    unknown: tuple[str, ...]


def parse_age(text: str) -> timedelta:
    """`0`, `90s`, `30m`, `12h` or `2d`.

    Raises:
        UsageError: when it is none of these.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])|0", text.strip())
    if match is None:
        raise UsageError(f"--min-age is {text!r}; expected a number with its unit, as 90s, 30m, 12h or 2d, or 0")
    return timedelta(**{_UNITS[match[2]]: float(match[1])}) if match[2] else timedelta(0)
