"""When a set that a build leaves becomes `latest` and gets its tag, and when it gives `latest` back."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from featurestore.errors import ServiceUnavailableError
from featurestore.objects.objects import Objects
from featurestore.progress import Progress
from featurestore.store.presence import require_kept
from featurestore.store.sets import LATEST, has_set, point, read_manifest, read_pointer


def read_latest(objects: Objects) -> str | None:
    """The version that `latest` stands for; `None` where nothing was published yet."""
    return read_pointer(objects, f"{LATEST}.json")


@dataclass(frozen=True)
class Names:
    """What a build found when it began, and wants at its end.

    Attributes:
        latest: version that `latest` stood for when the build began; `None` where there was none.
        tag: name to give the set; `None` for none.
    """

    latest: str | None
    tag: str | None


def name_set(objects: Objects, version: str, names: Names, seconds: float, progress: Progress) -> None:
    """Let `latest`, and a tag if one is wanted, stand for a set that a build leaves.

    Args:
        objects: the store of the set.
        version: of the set, which is published.
        names: of the build.
        seconds: since it began.
        progress: is told where `latest` stays.

    Raises:
        ServiceUnavailableError: when `features gc` removes the set meanwhile; `latest` is then what it was before.
    """
    _point_latest(objects, version, names.latest, datetime.now(UTC) - timedelta(seconds=seconds), progress)
    if names.tag is not None:
        point(objects, version, names.tag)
    try:
        require_kept(objects, version)
    except ServiceUnavailableError:
        _take_latest_back(objects, version, names.latest)
        raise


def follow(objects: Objects, old: str, new: str) -> None:
    """Let `latest` move from a set to the one that takes its place, if it stands for the old one.

    Raises:
        ServiceUnavailableError: when `features gc` removes the new set meanwhile; `latest` is then the old one again.
    """
    if read_latest(objects) == old != new:
        point(objects, new)
        try:
            require_kept(objects, new)
        except ServiceUnavailableError:
            _take_latest_back(objects, new, old)
            raise


def _point_latest(objects: Objects, version: str, before: str | None, began_at: datetime, progress: Progress) -> None:
    """Let `latest` stand for the set, unless a build that began later has published its own meanwhile."""
    pointed = read_latest(objects)
    if pointed == version:
        return
    if pointed is not None and pointed != before:
        other = read_manifest(objects, pointed)
        if datetime.fromisoformat(other.created) - timedelta(seconds=other.seconds) > began_at:
            progress.say(f"latest stays {pointed}: its build began after this one")
            return
    point(objects, version)


def _take_latest_back(objects: Objects, version: str, before: str | None) -> None:
    """Let `latest` stand for what it stood for before: the set that it was moved to was removed meanwhile."""
    if before is None or before == version or not has_set(objects, before):
        return
    if read_latest(objects) == version:
        point(objects, before)
