"""Checks of a whole set: manifest, labels, spec, basis, and all of its segments. Damage is noted, not raised."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import fields
from typing import Any

from featurestore.care.verify.inspection import DAMAGED, Inspector
from featurestore.care.verify.segment_checks import TensorChunk, check_chunk, check_segment
from featurestore.errors import HeimdallError, StoreError
from featurestore.progress import Progress
from featurestore.store.bases import bases_path, read_basis
from featurestore.store.manifest import Manifest
from featurestore.store.set_receivers import RECEIVERS, read_set_receivers, receivers_key
from featurestore.store.sets import TIMES, Labels, read_manifest, read_spec, set_path
from featurestore.store.split import SPLITS, count_splits
from featurestore.tensor.rejection import RejectedCapture
from featurestore.tensor.spec import FeatureSpec

READERS = 8
"""Threads that read; CRC-32C and decoding let the others go on."""


def check_parts(inspector: Inspector, version: str, progress: Progress) -> list[TensorChunk]:
    """Check everything of a set but its tensors.

    Returns:
        The chunks of those, as far as what is whole says which there are.

    Raises:
        StoreError: when the store refuses.
        ServiceUnavailableError: when it stays away.
    """
    copies = inspector.group(set_path(version))
    manifest = _manifest(inspector, version, copies)
    if manifest is None:
        return []
    with ThreadPoolExecutor(READERS) as pool:
        progress.start("check labels, facts and markers", 3 + len(manifest.segments), "parts")
        parts: list[Callable[[], Any]] = [
            lambda: _check_labels(inspector, manifest, copies),
            lambda: _check_basis(inspector, manifest),
        ]
        spec = _check_spec(inspector, manifest.spec)
        progress.advance(1)
        futures = [pool.submit(part) for part in parts]
        segments = [pool.submit(check_segment, inspector, manifest, spec, ref) for ref in manifest.segments]
        try:
            for done in as_completed([*futures, *segments]):
                done.result()
                progress.advance(1)
        except BaseException:  # a server that stays away is not asked for the rest
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        return [chunk for segment in segments for chunk in segment.result()]


def check_tensors(inspector: Inspector, chunks: Sequence[TensorChunk], progress: Progress) -> None:
    """Check chunks of tensors."""
    progress.start("check tensors", len(chunks), "chunks")
    with ThreadPoolExecutor(READERS) as pool:
        for n_bytes in pool.map(lambda chunk: check_chunk(inspector, chunk), chunks):
            progress.advance(1, n_bytes)


def _manifest(inspector: Inspector, version: str, copies: dict[str, Any]) -> Manifest | None:
    """The manifest, if it is one and speaks of this set."""
    if inspector.problems:  # its zarr.json is no JSON, or not even there
        return None
    try:
        manifest = read_manifest(inspector.objects, version)
        if manifest.version != version:
            raise ValueError(f"is the manifest of {manifest.version}, expected {version}")
        for name in _label_names(manifest):
            if copies[name]["shape"][0] != manifest.n_rows:
                raise ValueError(f"its segments have {manifest.n_rows} rows, {name} {copies[name]['shape'][0]}")
            if not all(isinstance(crc, int) for crc in manifest.labels[name]):
                raise ValueError(f"its checksums of {name} are no numbers")
        sums = [sum(manifest.counts[name] for name in SPLITS), sum(manifest.counts["rejected"].values())]
        if sums[0] != manifest.counts["rows"] or not all(isinstance(count, int) for count in (manifest.n_rows, *sums)):
            raise ValueError(f"its counts {manifest.counts} do not add up")
    except (StoreError, AttributeError, KeyError, TypeError, ValueError) as error:
        inspector.note(DAMAGED, f"{set_path(version)}/zarr.json", str(error))
        return None
    return manifest


def _label_names(manifest: Manifest) -> list[str]:
    """The label arrays that a set must have: times only where its manifest has them."""
    return [field.name for field in fields(Labels) if field.name not in TIMES or field.name in manifest.labels]


def _check_spec(inspector: Inspector, spec_id: str) -> FeatureSpec | None:
    key = f"specs/{spec_id}/spec.json"
    if inspector.document(key) is None:
        return None
    try:
        return read_spec(inspector.objects, spec_id)
    except (HeimdallError, TypeError) as error:
        inspector.note(DAMAGED, key, str(error))
        return None


def _check_basis(inspector: Inspector, manifest: Manifest) -> None:
    path = f"{bases_path(manifest.spec)}/{manifest.basis}"
    copies = inspector.group(path)
    values = [inspector.array(f"{path}/{name}", copies) for name in ("mean", "std")]
    if copies and not any(value is None for value in values):
        try:
            read_basis(inspector.objects, manifest.spec, manifest.basis)
        except StoreError as error:  # each array fits its own checksum, but together they are another basis
            inspector.note(DAMAGED, f"{path}/zarr.json", str(error))


def _check_labels(inspector: Inspector, manifest: Manifest, copies: dict[str, Any]) -> None:
    path = set_path(manifest.version)
    columns = {
        name: inspector.array(f"{path}/{name}", copies, manifest.n_rows, manifest.labels.get(name))
        for name in _label_names(manifest)
    }
    split = columns["split"]
    if split is not None:
        counts = count_splits(split)
        stated = {name: manifest.counts[name] for name in counts}
        if counts != stated:
            inspector.note(DAMAGED, f"{path}/zarr.json", f"states splits of {stated} rows, the array split holds {counts}")
    if RECEIVERS in manifest.snapshot:
        _check_receivers(inspector, manifest)
    rejected = inspector.document(f"{path}/rejected.json")
    if rejected is not None:
        try:
            n_rejected = len([RejectedCapture(**entry) for entry in rejected])
        except TypeError as error:
            inspector.note(DAMAGED, f"{path}/rejected.json", f"is no list of rejected captures ({error})")
        else:
            stated_rejected = sum(manifest.counts["rejected"].values())
            if n_rejected != stated_rejected:
                detail = f"holds {n_rejected:,} captures, the manifest states {stated_rejected:,}"
                inspector.note(DAMAGED, f"{path}/rejected.json", detail)


def _check_receivers(inspector: Inspector, manifest: Manifest) -> None:
    key = receivers_key(manifest.version)
    if inspector.document(key) is None:
        return
    try:
        read_set_receivers(inspector.objects, manifest)
    except StoreError as error:
        inspector.note(DAMAGED, key, str(error).removeprefix(f"{inspector.objects.location}/{key} ").partition("; ")[0])
