"""What a feature set is made of, as prefixes and as objects; and whether all of that is there, and will stay."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

from featurestore.errors import ServiceUnavailableError
from featurestore.objects.objects import Objects
from featurestore.store.bases import bases_path
from featurestore.store.gc_notices import require_unannounced
from featurestore.store.manifest import Manifest
from featurestore.store.segments import READERS, features_name, segments_path


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
    """Check that what a set is made of is there, and is not being removed.

    Raises:
        ServiceUnavailableError: when something is not, or is.
    """
    require_unannounced(objects, paths(manifest))
    with ThreadPoolExecutor(READERS) as pool:
        missing = [key for key in pool.map(lambda key: _missing(objects, key), _markers(manifest)) if key is not None]
    if missing:
        raise removed(objects, missing[0])


def require_labels(objects: Objects, manifest: Manifest) -> None:
    """Check that the label arrays of a set are there: gc that spares nothing for its age takes even what is being written.

    Raises:
        ServiceUnavailableError: when something of them is not.
    """
    path = f"sets/{manifest.version}"
    there = [info.key.removeprefix(f"{path}/") for info in objects.walk(path)]
    for name, crcs in manifest.labels.items():
        chunks = sum(key.startswith(f"{name}/c/") for key in there)
        if chunks < len(crcs) or f"{name}/zarr.json" not in there:
            raise removed(objects, f"{path}/{name}")
    if "receivers" in manifest.snapshot and "receivers.json" not in there:
        raise removed(objects, f"{path}/receivers.json")


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
            raise removed(objects, key)


def require_kept(objects: Objects, version: str) -> None:
    """Check that a set to which a name was just given is there, and is not being removed.

    Raises:
        ServiceUnavailableError: when it is not, or is.
    """
    path = f"sets/{version}"
    require_unannounced(objects, [path])
    if _missing(objects, f"{path}/zarr.json"):
        raise removed(objects, path)


def removed(objects: Objects, key: str) -> ServiceUnavailableError:
    """The error of a command that needed what is not there any more."""
    return ServiceUnavailableError(
        f"features gc removed {objects.location}/{key} while this command used it, or it is lost; "
        "run the same command again, or 'features repair' if that does not help"
    )
