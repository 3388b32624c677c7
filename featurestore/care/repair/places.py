"""What an object is, by its key: which kind, of which array, segment and chunk."""

from __future__ import annotations

import re
from dataclasses import dataclass

ID = r"[0-9a-f]{12}"
CHUNK = r"/c/(?P<chunk>\d+)(/0)*"

KINDS = {
    "manifest": rf"(?P<path>sets/{ID})/zarr\.json",
    "rejected": rf"(?P<path>sets/{ID})/rejected\.json",
    "receivers": rf"(?P<path>sets/{ID})/receivers\.json",
    "label": rf"(?P<path>sets/{ID}/(?P<array>\w+)){CHUNK}",
    "spec": rf"(?P<path>specs/{ID})/spec\.json",
    "basis": rf"(?P<path>specs/{ID}/bases/{ID})((/(?P<array>mean|std)){CHUNK}|/zarr\.json)",
    "marker": rf"(?P<path>specs/{ID}/segments/(?P<segment>{ID}))/segment\.json",
    "features marker": rf"(?P<path>specs/{ID}/segments/(?P<segment>{ID}))/(?P<array>features-{ID})\.json",
    "group": rf"(?P<path>specs/{ID}/segments/(?P<segment>{ID}))/zarr\.json",
    "logmel": rf"(?P<path>specs/{ID}/segments/(?P<segment>{ID})/(?P<array>logmel)){CHUNK}",
    "content": rf"(?P<path>specs/{ID}/segments/(?P<segment>{ID})/(?P<array>content)){CHUNK}",
    "features": rf"(?P<path>specs/{ID}/segments/(?P<segment>{ID})/(?P<array>features-{ID})){CHUNK}",
    "reason": rf"(?P<path>specs/{ID}/segments/(?P<segment>{ID})/(?P<array>reason)){CHUNK}",
    "fact": rf"(?P<path>specs/{ID}/segments/(?P<segment>{ID})/(?P<array>\w+)){CHUNK}",
    "metadata": rf"(?P<path>(sets|specs/{ID}/bases|specs/{ID}/segments)/(?P<segment>{ID})/(?P<array>[\w-]+))/zarr\.json",
}
"""Kind → its keys, the first that fits. `metadata` is the `zarr.json` of an array, `group` that of a segment, `manifest` that
of a set."""


@dataclass(frozen=True)
class Place:
    """An object of a feature set.

    Attributes:
        kind: one of `KINDS`.
        key: of the object.
        path: of its array, or of what it is the metadata or marker of.
        array: name of its array, if it has one.
        segment: name of its segment, if it has one.
        chunk: number of the chunk, if it is one.
    """

    kind: str
    key: str
    path: str
    array: str = ""
    segment: str = ""
    chunk: int = 0


def find_place(key: str) -> Place:
    """The place of an object of a feature set."""
    for kind, pattern in KINDS.items():
        match = re.fullmatch(pattern, key)
        if match is not None:
            names = {name: value for name, value in match.groupdict().items() if value is not None}
            chunk = int(names.pop("chunk", 0))
            return Place(kind, key, **names, chunk=chunk)
    raise ValueError(f"{key!r} is no object of a feature set")
