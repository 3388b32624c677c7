"""What a feature set is made of, as prefixes and as objects; and whether all of that is there, and will stay."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from featurestore.objects.concurrently import at_once, get_all
from featurestore.objects.objects import Objects
from featurestore.store.bases import bases_path
from featurestore.store.gc_notices import gone, require_unannounced
from featurestore.store.manifest import Manifest
from featurestore.store.segments import features_name, segments_path


def paths(manifest: Manifest) -> Iterator[str]:
    """Prefixes of all that a set is made of."""
    yield f"sets/{manifest.version}"
    yield f"specs/{manifest.spec}"
    if manifest.basis:
        yield f"{bases_path(manifest.spec)}/{manifest.basis}"
    for ref in manifest.segments:
        yield f"{segments_path(manifest.spec)}/{ref.segment}"
        if manifest.basis:
            yield f"{segments_path(manifest.spec)}/{ref.segment}/{features_name(manifest.basis)}"


def require_whole(objects: Objects, manifest: Manifest) -> None:
    """Check that all of a published set is there, and is not being removed.

    The notices come first: what begins to be removed after they were read finds the set published. gc that spares nothing for
    its age takes even label arrays that are being written.

    Raises:
        ServiceUnavailableError: when something was removed, or is about to be.
        StoreError: when something was never written.
    """
    require_unannounced(objects, paths(manifest))
    at_once(objects, lambda: _require_markers(objects, manifest), lambda: _require_labels(objects, manifest))


def require_parts(objects: Objects, manifest: Manifest) -> None:
    """Check, before a set is published, that what it is a view of is there, and is not being removed.

    Raises:
        ServiceUnavailableError: when something was removed, or is about to be.
        StoreError: when something was never written.
    """
    at_once(objects, lambda: require_unannounced(objects, paths(manifest)), lambda: _require_markers(objects, manifest))


def _require_markers(objects: Objects, manifest: Manifest) -> None:
    keys = list(_markers(manifest))
    for key, marker in zip(keys, get_all(objects, keys), strict=True):
        if marker is None:
            raise gone(objects, key)


def _require_labels(objects: Objects, manifest: Manifest) -> None:
    path = f"sets/{manifest.version}"
    there = [info.key.removeprefix(f"{path}/") for info in objects.walk(path)]
    for name, crcs in manifest.labels.items():
        chunks = sum(key.startswith(f"{name}/c/") for key in there)
        if chunks < len(crcs) or f"{name}/zarr.json" not in there:
            raise gone(objects, f"{path}/{name}")
    if "receivers" in manifest.snapshot and "receivers.json" not in there:
        raise gone(objects, f"{path}/receivers.json")


def _markers(manifest: Manifest) -> Iterator[str]:
    """The keys without which a set is not whole."""
    root, features = segments_path(manifest.spec), features_name(manifest.basis)
    yield f"specs/{manifest.spec}/spec.json"
    if manifest.basis:
        yield f"{bases_path(manifest.spec)}/{manifest.basis}/zarr.json"
    for ref in manifest.segments:
        yield f"{root}/{ref.segment}/segment.json"
        if manifest.basis:
            yield f"{root}/{ref.segment}/{features}/zarr.json"


def _missing(objects: Objects, key: str) -> str | None:
    try:
        objects.get(key)
    except FileNotFoundError:
        return key
    return None


def require_segments(objects: Objects, spec_id: str, segments: Iterable[str]) -> None:
    """Check that segments are still there, complete or begun: to be asked when something of them is not.

    Raises:
        ServiceUnavailableError: when one was removed.
    """
    for segment in segments:
        key = f"{segments_path(spec_id)}/{segment}/session_id/zarr.json"
        if _missing(objects, key):
            raise gone(objects, key)


def require_kept(objects: Objects, version: str) -> None:
    """Check that a set to which a name was just given is there, and is not being removed.

    Raises:
        ServiceUnavailableError: when it is not, or is.
    """
    path = f"sets/{version}"
    require_unannounced(objects, [path])
    if _missing(objects, f"{path}/zarr.json"):
        raise gone(objects, path)
