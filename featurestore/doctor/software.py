"""Checks of Python and of packages: what is installed, against what this package's metadata asks for."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from functools import partial
from importlib.metadata import PackageNotFoundError, metadata, requires, version

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from featurestore.doctor.checks import Check, Skipped
from featurestore.errors import HeimdallError

PACKAGE = "heimdall-featurestore"
FOR_DEVELOPERS = ("bench", "dev")


def software_checks() -> list[Check]:
    """Python, what every command needs, and each extra."""
    upgrade = f"pip install --upgrade {PACKAGE}"
    extras = [extra for extra in metadata(PACKAGE).get_all("Provides-Extra") or () if extra not in FOR_DEVELOPERS]
    return [
        Check("Python", _python, "install a newer Python"),
        Check("packages", lambda: _packages(""), upgrade),
        *(Check(f"packages [{extra}]", partial(_packages, extra), upgrade) for extra in extras),
    ]


def requirements(extra: str) -> list[Requirement]:
    """What the package asks for: without an extra (empty), or only with it; as far as it applies on this machine."""
    found = [Requirement(text) for text in requires(PACKAGE) or ()]

    def applies(requirement: Requirement, extra: str) -> bool:
        return requirement.marker is None or requirement.marker.evaluate({"extra": extra})

    return [each for each in found if applies(each, extra) and (not extra or not applies(each, ""))]


def compare(wanted: Iterable[Requirement]) -> tuple[list[str], list[str]]:
    """What is missing, and what is too old, as people would say it."""
    missing, outdated = [], []
    for requirement in wanted:
        try:
            installed = version(requirement.name)
        except PackageNotFoundError:
            missing.append(f"{requirement.name}{requirement.specifier}")
            continue
        if not requirement.specifier.contains(installed, prereleases=True):
            outdated.append(f"{requirement.name} {installed} (wanted {requirement.specifier})")
    return missing, outdated


def _python() -> str:
    wanted, found = metadata(PACKAGE)["Requires-Python"], platform.python_version()
    if not SpecifierSet(wanted).contains(found, prereleases=True):
        raise HeimdallError(f"Python {found}, and {wanted} is wanted; install a newer one, and this package into it")
    return f"{found} on {platform.system()} {platform.machine()}"


def _packages(extra: str) -> str:
    wanted = requirements(extra)
    missing, outdated = compare(wanted)
    install = f"pip install --upgrade '{PACKAGE}{f'[{extra}]' if extra else ''}'"
    if outdated or (missing and not extra):
        raise HeimdallError(f"{', '.join([*outdated, *(f'no {name}' for name in missing)])}; {install}")
    if missing:
        raise Skipped(f"without {', '.join(missing)}; if you need it: {install}")
    return f"{len(wanted)} as wanted" + (f": {PACKAGE} {version(PACKAGE)}" if not extra else "")
