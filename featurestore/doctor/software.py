"""Checks of Python and of packages: what is installed, against what this package's metadata asks for."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from functools import partial
from importlib.metadata import PackageNotFoundError, metadata, version

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from featurestore.doctor.checks import Check, Skipped
from featurestore.errors import HeimdallError
from featurestore.software import PACKAGE, extras, install_command, requirements


def software_checks() -> list[Check]:
    """Python, what every command needs, and each extra."""
    upgrade = install_command("")
    return [
        Check("Python", _python, "install a newer Python"),
        Check("packages", lambda: _packages(""), upgrade),
        *(Check(f"packages [{extra}]", partial(_packages, extra), upgrade) for extra in extras()),
    ]


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
            outdated.append(f"{requirement.name} {installed} (expected {requirement.specifier})")
    return missing, outdated


def _python() -> str:
    wanted, running = metadata(PACKAGE)["Requires-Python"], platform.python_version()
    if not SpecifierSet(wanted).contains(running, prereleases=True):
        raise HeimdallError(f"Python {running}, and {wanted} is wanted; install a newer one, and this package into it")
    return f"{running} on {platform.system()} {platform.machine()}"


def _packages(extra: str) -> str:
    wanted = requirements(extra)
    missing, outdated = compare(wanted)
    install = install_command(extra)
    if extra and len(missing) > len(wanted) / 2:  # nobody asked for it; one or another package is there for other reasons
        raise Skipped(f"without {', '.join(missing)}; if you need it: {install}")
    if outdated or missing:
        raise HeimdallError(f"{', '.join([*outdated, *(f'no {name}' for name in missing)])}; {install}")
    return f"{len(wanted)} as wanted" + (f": {PACKAGE} {version(PACKAGE)}" if not extra else "")
