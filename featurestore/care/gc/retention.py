"""What `features gc` keeps, and why; the rest is garbage. Decides, and reads what it needs for that; removes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from featurestore.care.gc.garbage import (
    ABANDONED,
    BASIS,
    FEATURES,
    NOTES,
    SEGMENT,
    SET,
    SPEC,
    UNFINISHED_SET,
    Garbage,
    Item,
    Policy,
)
from featurestore.care.gc.inventory import Inventory, ObjectGroup, take_inventory
from featurestore.errors import StoreError, UsageError
from featurestore.objects.objects import Objects
from featurestore.store.bases import bases_path, current_basis
from featurestore.store.chunks import read_layout
from featurestore.store.manifest import Manifest
from featurestore.store.presence import paths
from featurestore.store.read_segments import read_marker
from featurestore.store.sets import LATEST, read_manifest, read_pointer, read_tags, set_path


def find_garbage(objects: Objects, policy: Policy) -> Garbage:
    """Decide what can be removed.

    Raises:
        StoreError: when a manifest, `latest`, a tag or a basis cannot be read: what it needs is not known then.
    """
    return _Survey(objects, policy).garbage()


def names_of(objects: Objects) -> dict[str, list[str]]:
    """Version → `latest` and `tag NAME`, as they stand for it."""
    names: dict[str, list[str]] = {}
    latest = read_pointer(objects, f"{LATEST}.json")
    if latest is not None:
        names[latest] = [LATEST]
    for tag, version in read_tags(objects).items():
        names.setdefault(version, []).append(f"tag {tag}")
    return names


def read_manifests(objects: Objects, versions: list[str]) -> dict[str, Manifest]:
    """The manifests of some versions.

    Raises:
        StoreError: when one cannot be read, or is of another version.
    """
    manifests = {}
    for version in versions:
        name = f"{objects.location}/{set_path(version)}"
        try:
            manifest = read_manifest(objects, version)
        except UsageError:  # it was removed meanwhile
            continue
        except StoreError as error:
            raise StoreError(
                f"{error}. Nothing is removed, as nobody knows what that set needs: "
                f"run build-features with its parameters, which writes it again, or, to give it up, delete {name}/zarr.json"
            ) from error
        if manifest.version != version:
            raise StoreError(
                f"{name}/zarr.json is the manifest of {manifest.version}, expected {version}; nothing is removed: "
                "run build-features with its parameters, which writes it again, or, to give it up, delete it"
            )
        manifests[version] = manifest
    return manifests


class _Survey:
    """Goes through a store from the sets down; what is not used by what stays, and is old enough, goes."""

    def __init__(self, objects: Objects, policy: Policy) -> None:
        self._objects = objects
        self._inventory: Inventory = take_inventory(objects)
        self._since = datetime.now(UTC) - policy.min_age
        self._young = 0
        published = [path.removeprefix("sets/") for path, group in self._inventory.sets.items() if group.has("zarr.json")]
        self._manifests = read_manifests(objects, published)
        self._kept = self._keep_sets(policy)
        self._used = {path for version in self._kept for path in paths(self._manifests[version])}

    def garbage(self) -> Garbage:
        items = [*self._sets(), *self._segments()]
        gone = {item.path for item in items}
        self._keep_current_bases(gone)
        bases = list(self._bases())
        gone |= {item.path for item in bases}
        items += [*self._features(gone), *self._notes(gone), *bases]
        gone |= {item.path for item in items}
        items += self._specs(gone)
        return Garbage(tuple(items), self._manifests, self._kept, self._young, tuple(self._inventory.unknown))

    def _keep_sets(self, policy: Policy) -> dict[str, list[str]]:
        newest = sorted(self._manifests.values(), key=lambda manifest: manifest.created, reverse=True)[: policy.keep]
        kept = {manifest.version: ["newest"] for manifest in newest}
        for version, names in names_of(self._objects).items():
            if version in self._manifests:
                kept.setdefault(version, []).extend(names)
        for version in self._manifests:
            if version not in kept and not self._is_old(self._inventory.sets[set_path(version)]):
                kept[version] = ["young"]
        return kept

    def _is_old(self, group: ObjectGroup) -> bool:
        old = group.newest <= self._since
        self._young += not old
        return old

    def _sets(self) -> Iterator[Item]:
        for version, manifest in sorted(self._manifests.items(), key=lambda pair: pair[1].created):
            if version not in self._kept:
                path = set_path(version)
                yield Item(SET, self._inventory.sets[path], (f"{path}/zarr.json",), manifest.counts["rows"])
        for group in self._inventory.sets.values():
            if not group.has("zarr.json") and self._is_old(group):
                yield Item(UNFINISHED_SET, group, ())

    def _segments(self) -> Iterator[Item]:
        for path, group in self._inventory.segments.items():
            if path not in self._used and self._is_old(group):
                kind = SEGMENT if group.has("segment.json") else ABANDONED
                # A note promises a chunk to a build that goes on with the segment, so notes go before chunks.
                notes = self._inventory.parts[path + "/parts"].objects if path + "/parts" in self._inventory.parts else ()
                yield Item(kind, group, (f"{path}/segment.json", *notes), self._count_rows(path))

    def _count_rows(self, path: str) -> int:
        try:
            return int(read_layout(self._objects, f"{path}/session_id").shape[0])
        except StoreError:
            return 0

    def _keep_current_bases(self, gone: set[str]) -> None:
        """Builds of a spec that still has segments go on with its newest basis."""
        for path, segments in self._inventory.by_spec(self._inventory.segments).items():
            if any(group.path not in gone for group in segments):
                spec_id = path.removeprefix("specs/")
                current = current_basis(self._objects, spec_id)
                if current is not None:
                    self._used.add(f"{bases_path(spec_id)}/{current.id}")

    def _bases(self) -> Iterator[Item]:
        for path, group in self._inventory.bases.items():
            if path not in self._used and self._is_old(group):
                yield Item(BASIS, group, (f"{path}/zarr.json",))

    def _features(self, gone: set[str]) -> Iterator[Item]:
        """Features of bases that are gone, in segments that stay; but for those that a segment was completed with."""
        for path, group in self._inventory.features.items():
            segment, _, name = path.rpartition("/")
            spec_id = path.split("/")[1]
            basis = f"{bases_path(spec_id)}/{name.removeprefix('features-')}"
            if segment in gone or path in self._used or (basis in self._inventory.bases and basis not in gone):
                continue
            if self._is_old(group) and not self._is_inseparable(segment, name):
                yield Item(FEATURES, group, (f"{path}.json", f"{path}/zarr.json"))

    def _is_inseparable(self, segment: str, name: str) -> bool:
        """Whether the marker and the group of a segment list these features, too; both are immutable."""
        _, spec_id, _, segment_id = segment.split("/")
        try:
            return name in read_marker(self._objects, spec_id, segment_id)["chunks"]
        except FileNotFoundError:  # still to be finished
            return True

    def _notes(self, gone: set[str]) -> Iterator[Item]:
        """Notes that were left in segments that are complete."""
        for path, group in self._inventory.parts.items():
            segment = self._inventory.segments[path.removesuffix("/parts")]
            if segment.path not in gone and segment.has("segment.json") and self._is_old(group):
                yield Item(NOTES, group, ())

    def _specs(self, gone: set[str]) -> Iterator[Item]:
        """Specs of which nothing is left."""
        held = {
            "/".join(path.split("/")[:2])
            for path in (*self._inventory.segments, *self._inventory.bases, *self._inventory.unknown)
            if path not in gone
        }
        for path, group in self._inventory.specs.items():
            if path not in held and path not in self._used and self._is_old(group):
                yield Item(SPEC, group, (f"{path}/spec.json",))
