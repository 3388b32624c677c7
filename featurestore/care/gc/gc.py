"""`features gc`: remove the feature sets that nobody keeps, and all that only they used.

The order makes an interruption harmless: manifests go before what they need, and markers before what they mark. Builds
that go on meanwhile are told by a notice, see `removals`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from featurestore.care.gc.garbage import SET, SPEC, Garbage, Item, Policy
from featurestore.care.gc.inventory import ID, Inventory, ObjectGroup, sort_in
from featurestore.care.gc.retention import find_garbage, names_of, read_manifests
from featurestore.objects.objects import Location, Objects, open_objects
from featurestore.progress import Progress, Silent
from featurestore.store.gc_notices import announce, sweep_stale
from featurestore.store.presence import paths

PAIRS = "pairs"
SHOWN = 20


@dataclass(frozen=True)
class GcReport:
    """What `gc` removed, or would remove; the JSON that `features gc --json` prints.

    Attributes:
        store: its URL.
        dry_run: nothing was removed.
        removed: `kind`, `path`, `rows`, `objects` and `bytes` of each thing.
        spared: paths of what would have been removed, but was used or written again meanwhile.
        kept: version → why it stays.
        young: things that stay only because they are younger than `--min-age`.
        unknown: keys below `sets/` and `specs/` that are none of ours; they stay.
    """

    store: str
    dry_run: bool
    removed: tuple[Item, ...]
    spared: tuple[str, ...]
    kept: dict[str, list[str]]
    young: int
    unknown: tuple[str, ...]

    @property
    def n_bytes(self) -> int:
        """What was freed."""
        return sum(item.group.n_bytes for item in self.removed)

    def to_json(self) -> dict[str, Any]:
        """All fields, and `bytes`."""
        removed = [
            {
                "kind": item.kind,
                "path": item.path,
                "rows": item.rows,
                "objects": len(item.group.objects),
                "bytes": item.group.n_bytes,
            }
            for item in self.removed
        ]
        return {
            "store": self.store,
            "dry_run": self.dry_run,
            "removed": removed,
            "bytes": self.n_bytes,
            "spared": list(self.spared),
            "kept": self.kept,
            "young": self.young,
            "unknown": list(self.unknown),
        }

    def lines(self) -> Iterator[str]:
        """For people."""
        for version, reasons in self.kept.items():
            yield f"keep    {version}  {', '.join(reasons)}"
        verb = "would remove" if self.dry_run else "removed"
        for item in self.removed:
            rows = f"{item.rows:,} rows, " if item.rows else ""
            yield f"{verb} {item.kind} {item.path}: {rows}{item.group.n_bytes / 1e6:,.1f} MB"
        for path in self.spared:
            yield f"spared {path}: it was used or written again meanwhile"
        if self.young:
            yield f"{self.young:,} things are not needed, but younger than --min-age, and stay"
        for key in self.unknown[:SHOWN]:
            yield f"left alone, none of ours: {key}"
        if len(self.unknown) > SHOWN:
            yield f"left alone, none of ours: {len(self.unknown) - SHOWN:,} more"
        counts = Counter(item.kind for item in self.removed)
        what = ", ".join(f"{kind} {count:,}" for kind, count in counts.items()) or "nothing"
        yield f"{verb}: {what}; {self.n_bytes / 1e6:,.1f} MB in {self.store}"


def survey(store: str, policy: Policy) -> tuple[Objects, Garbage]:
    """Find out what `sweep` would remove; writes nothing.

    Args:
        store: `s3://bucket/prefix`, `file:///dir` or a directory.
        policy: what to keep.

    Raises:
        UsageError: when there is no such store.
        StoreError: when something is damaged so that nobody knows what is needed, or the store refuses.
        ServiceUnavailableError: when the store does not answer.
    """
    objects = open_objects(Location.parse(store).url)
    objects.check()
    return objects, find_garbage(objects, policy)


def survey_with_pairs(store: str, policy: Policy) -> list[tuple[Objects, Garbage]]:
    """`survey` of a store and, where it has one, of its pair store: a store of its own below it. Raises as that does."""
    surveys = [survey(store, policy)]
    if surveys[0][0].names(PAIRS):
        surveys.append(survey(f"{store}/{PAIRS}", policy))
    return surveys


def preview(objects: Objects, garbage: Garbage) -> GcReport:
    """What `sweep` would do."""
    url = objects.location.url
    return GcReport(url, True, garbage.items, (), garbage.kept, garbage.young, garbage.unknown)


def sweep(objects: Objects, garbage: Garbage, progress: Progress | None = None) -> GcReport:
    """Remove what `survey` found, but for what is used or was written again since.

    Interrupted, it leaves every published set whole, and the next one goes on from there.

    Raises:
        StoreError: as `survey`.
        ServiceUnavailableError: likewise.
    """
    progress = progress or Silent()
    sweep_stale(objects)
    removed: list[Item] = []
    if garbage.items:
        with announce(objects, [item.path for item in garbage.items]) as notice:
            progress.start("look at the sets again", 1, "times")
            used = _used_since(objects, garbage)
            progress.start("remove", sum(len(item.group.objects) for item in garbage.items), "objects")
            for item in garbage.items:
                notice.renew()
                if item.path not in used and _is_unchanged(objects, item):
                    notice.removing(item.path)
                    removed.append(item)
                    first = [key for key in item.first if key in item.group.objects]
                    for keys in (first, list(item.group.objects.keys() - {*first})):
                        objects.delete(keys)
                        progress.advance(len(keys))
                    continue
                if item.kind == SET:  # it stays, and with it all that it needs
                    used |= set(paths(garbage.manifests[item.path.removeprefix("sets/")]))
                progress.advance(len(item.group.objects))
    gone = {item.path for item in removed}
    spared = tuple(item.path for item in garbage.items if item.path not in gone)
    return GcReport(objects.location.url, False, tuple(removed), spared, garbage.kept, garbage.young, garbage.unknown)


def _used_since(objects: Objects, garbage: Garbage) -> set[str]:
    """What is needed by sets that were published, or given a name, after `survey`: to be asked once all is announced."""
    doomed = {item.path.removeprefix("sets/") for item in garbage.items if item.kind == SET}
    names = set(names_of(objects))
    there = [version for version in objects.names("sets") if version not in garbage.manifests or version in doomed & names]
    there = [version for version in there if re.fullmatch(ID, version)]
    return {path for manifest in read_manifests(objects, there).values() for path in paths(manifest)}


def _is_unchanged(objects: Objects, item: Item) -> bool:
    """Whether nobody has written to it since it was listed."""
    inventory = Inventory()
    sort_in(inventory, objects.walk(item.around))
    if item.kind == SPEC:
        return not (inventory.segments or inventory.bases or inventory.unknown)
    kinds = (inventory.sets, inventory.features, inventory.parts, inventory.bases, inventory.segments)
    stored = next((kind[item.path] for kind in kinds if item.path in kind), ObjectGroup(item.path))
    known = item.group.objects
    return all(known.get(key) == info for key, info in stored.objects.items())
