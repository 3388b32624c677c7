"""Which software is here: versions for manifests and markers, and what this package and its extras ask for."""

from __future__ import annotations

import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, metadata, requires, version

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PACKAGE = "heimdall-featurestore"
FOR_DEVELOPERS = ("bench", "dev")
PACKAGES = ("heimdall-featurestore", "numpy", "scipy", "zarr")


def versions(packages: tuple[str, ...] = PACKAGES) -> dict[str, str]:
    """The version of Python and of each package that is installed."""
    installed = {"python": platform.python_version()}
    for package in packages:
        if number := _version(package):
            installed[package] = number
    return installed


@cache  # it reads and parses a file
def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def extras() -> list[str]:
    """Names of the extras that users install."""
    return [extra for extra in metadata(PACKAGE).get_all("Provides-Extra") or () if extra not in FOR_DEVELOPERS]


def requirements(extra: str) -> list[Requirement]:
    """What the package asks for: without an extra (empty), or only with it; as far as it applies on this machine."""
    required = [Requirement(text) for text in requires(PACKAGE) or ()]

    def applies(requirement: Requirement, extra: str) -> bool:
        return requirement.marker is None or requirement.marker.evaluate({"extra": extra})

    return [each for each in required if applies(each, extra) and (not extra or not applies(each, ""))]


def install_command(extra: str) -> str:
    """What brings an extra, or with "" the package without any, up to date."""
    return f"pip install --upgrade '{PACKAGE}{f'[{extra}]' if extra else ''}'"


def extra_that_brings(module: str) -> str | None:
    """The extra whose packages have a module; `None` when none has one of that name."""
    name = canonicalize_name(module.partition(".")[0])
    return next((extra for extra in extras() if name in {canonicalize_name(each.name) for each in requirements(extra)}), None)
