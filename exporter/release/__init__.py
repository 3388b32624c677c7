"""Releases: claim, write, read, promote, compare and register them. Enter by `read_release`, or `latest` to promote."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from exporter.release.latest import read_release
    from exporter.release.release import Release

ROOMS = {"Release": "release", "read_release": "latest"}

__all__ = ["Release", "read_release"]


def __getattr__(name: str) -> Any:
    """Import on first use: what needs one room of this wing does not load the others."""
    if name not in ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{ROOMS[name]}"), name)
