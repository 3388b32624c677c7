"""`latest.json`: the release that services use, and those that they used before; promote and rollback.

`{"version": "1.2.0", "path": "v1.2.0", "previous": ["1.1.0", …], "changed": …}`; one object, replaced whole. The registry's
alias `champion` follows it: it is moved first, so that whatever fails leaves services where they were, and the same command
again puts things right.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from exporter.release.release import Release, Version, now, require_release
from featurestore.errors import StoreError, UsageError
from featurestore.objects.objects import Location, Objects, open_objects

if TYPE_CHECKING:
    from exporter.release.registry import Registry

LATEST = "latest"
KEY = "latest.json"
REMEMBERED = 50


@dataclass(frozen=True)
class Latest:
    """What services use.

    Attributes:
        version: the release.
        previous: what it was before, the last one first.
    """

    version: Version
    previous: tuple[Version, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As stored."""
        previous = [str(version) for version in self.previous[:REMEMBERED]]
        return {"version": str(self.version), "path": self.version.directory, "previous": previous, "changed": now()}


@dataclass(frozen=True)
class Moved:
    """What promote or rollback did.

    Attributes:
        release: that services use now.
        before: that they used before; `None`: none.
        models: URL.
        registered: version in the registry that is champion now; `None` without a registry.
    """

    release: str
    before: str | None
    models: str
    registered: str | None

    def to_json(self) -> dict[str, Any]:
        """All fields."""
        return asdict(self)

    def lines(self) -> Iterator[str]:
        """For people."""
        before = "" if self.before == self.release else f" (before: {self.before or 'none'})"
        yield f"{self.models}/{KEY} names release {self.release}{before}"
        if self.registered:
            yield f"version {self.registered} of the registered model is champion"


def read_latest(objects: Objects) -> Latest | None:
    """What `latest.json` says; `None` when there is none.

    Raises:
        StoreError: when it is damaged.
    """
    try:
        content = objects.get_json(KEY)
        return Latest(Version.parse(content["version"]), tuple(map(Version.parse, content["previous"])))
    except FileNotFoundError:
        return None
    except (KeyError, TypeError, UsageError) as error:
        raise StoreError(f"{objects.location}/{KEY} names no release ({error}); restore it, or promote one") from error


def read_release(models: str | Objects, name: str = LATEST) -> Release:
    """A complete release.

    Args:
        models: where releases are.
        name: its number, or `latest`.

    Raises:
        UsageError: when there is none.
        StoreError: when it, or `latest.json`, is damaged.
    """
    objects = models if isinstance(models, Objects) else open_objects(Location.parse(models).url)
    if name != LATEST:
        return require_release(objects, Version.parse(name))
    latest = read_latest(objects)
    if latest is None:
        raise UsageError(f"{objects.location} has no {KEY}: no release was promoted yet; 'releases list' shows what there is")
    return require_release(objects, latest.version)


def promote(release: Release, registry: Registry | None) -> Moved:
    """Let services use a release.

    Raises:
        StoreError: when the store or the registry refuses.
        ServiceUnavailableError: when one of them does not answer.
    """
    try:
        before = read_latest(release.objects)
    except StoreError:  # damaged: promoting is what puts it right
        before = None
    if before is None or before.version == release.version:
        after = Latest(release.version, before.previous if before else ())
    else:
        after = Latest(release.version, (before.version, *before.previous))
    return _move(release, registry, before, after)


def rollback(models: str, registry: Registry | None) -> Moved:
    """Let services use the release again that they used before.

    Raises:
        UsageError: when there was none.
    """
    objects = open_objects(Location.parse(models).url)
    before = read_latest(objects)
    if before is None or not before.previous:
        current = "no release was promoted yet" if before is None else f"release {before.version} is the first"
        raise UsageError(f"{objects.location}: there is nothing to roll back to, {current}; promote another one")
    after = Latest(before.previous[0], before.previous[1:])
    return _move(require_release(objects, after.version), registry, before, after)


def _move(release: Release, registry: Registry | None, before: Latest | None, after: Latest) -> Moved:
    registered = None if registry is None else registry.make_champion(release)
    if before is None or before != after:
        release.objects.put_json(KEY, after.to_json())
    return Moved(str(release.version), str(before.version) if before else None, release.objects.location.url, registered)
