"""The only object store: one code path for S3 and files, with retries, and errors in words. Enter by `open_objects`."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from featurestore.objects.location import Location
    from featurestore.objects.objects import ObjectInfo, Objects, ReadBytes, WritableBytes, open_objects

ROOMS = {
    "Location": "location",
    "ObjectInfo": "objects",
    "Objects": "objects",
    "ReadBytes": "objects",
    "WritableBytes": "objects",
    "open_objects": "objects",
}

__all__ = ["Location", "ObjectInfo", "Objects", "ReadBytes", "WritableBytes", "open_objects"]


def __getattr__(name: str) -> Any:
    """Import on first use: what needs one room of this wing does not load the others."""
    if name not in ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{ROOMS[name]}"), name)
