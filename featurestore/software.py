"""Which software wrote something: names and versions, for manifests and markers."""

from __future__ import annotations

import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("heimdall-featurestore", "numpy", "scipy", "zarr")


def versions(packages: tuple[str, ...] = PACKAGES) -> dict[str, str]:
    """The version of Python and of each package that is installed."""
    found = {"python": platform.python_version()}
    for package in packages:
        if number := _version(package):
            found[package] = number
    return found


@cache  # it reads and parses a file
def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
