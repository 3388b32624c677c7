"""Mean and std: fitted again from log-mel, over the train rows of the set that they came from; the basis's name proves it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from featurestore.build.chunk_tasks import chunk_moments
from featurestore.care.repair.context import RepairContext, UnrepairableError
from featurestore.care.repair.places import Place
from featurestore.errors import StoreError
from featurestore.store.bases import Basis, bases_path, statistics_layout, write_basis_group
from featurestore.store.chunks import read_array, read_chunk
from featurestore.store.manifest import Manifest
from featurestore.store.read_segments import read_marker
from featurestore.store.segments import complete_segment
from featurestore.store.sets import list_sets, set_path
from featurestore.store.split import Split
from featurestore.tensor.moments import Moments, merge_all


@dataclass(frozen=True)
class _Origin:
    """Which rows a basis may have come from."""

    version: str
    created: str
    split: dict[str, Any]
    segments: list[str]


def repair_basis(context: RepairContext, place: Place) -> str:
    """An object of a basis: a chunk of `mean` or `std`, or its group's `zarr.json`."""
    name = context.manifest.basis
    path = f"{bases_path(context.spec.id)}/{name}"
    attributes = (
        None if f"{path}/zarr.json" in context.damaged else dict(context.objects.get_json(f"{path}/zarr.json")["attributes"])
    )
    tried = []
    for origin in _origins(context, attributes):
        tried.append(origin.version)
        try:
            fitted = _fit(context, origin)
        except (StoreError, FileNotFoundError):  # something of that set is damaged, too
            continue
        if fitted.id == name:
            break
    else:
        raise UnrepairableError(
            f"no set is left, and whole, whose train rows give this basis (tried {', '.join(tried) or 'none'}); "
            "restore it from a copy of the store, or build-features --refit always makes a set with a new one"
        )
    source = f"from the train rows of set {origin.version}"
    if place.array:
        values = getattr(fitted, place.array)
        context.write_chunk(f"{path}/{place.array}", statistics_layout(context.spec, place.array), place.chunk, values)
        return f"fitted again {source}; the basis's name proves it"
    write_basis_group(context.objects, context.spec, replace(fitted, created=origin.created))
    return f"written again; where the basis comes from was found by fitting it again {source}, and its time is that set's"


def _origins(context: RepairContext, attributes: dict[str, Any] | None) -> Iterator[_Origin]:
    """Sets that may be the one, the likeliest first: those of the basis's own segments and split, or else of the basis."""
    manifests, _ = list_sets(context.objects)
    for manifest in sorted(manifests, key=lambda manifest: manifest.created):
        if manifest.spec == context.spec.id and _fits(manifest, context.manifest.basis, attributes):
            segments = [ref.segment for ref in manifest.segments]
            yield _Origin(manifest.version, manifest.created, dict(manifest.split), segments)


def _fits(manifest: Manifest, basis: str, attributes: dict[str, Any] | None) -> bool:
    if attributes is None or "segments" not in attributes:
        return manifest.basis == basis
    segments = [ref.segment for ref in manifest.segments]
    return segments == list(attributes["segments"]) and dict(manifest.split) == attributes["split"]


def _fit(context: RepairContext, origin: _Origin) -> Basis:
    """The basis of the train rows of a set: the same arithmetic in the same order as the build's."""
    train = read_array(context.objects, f"{set_path(origin.version)}/split") == Split.TRAIN
    return Basis.fit(
        merge_all(_moments(context, origin, train), context.spec.tensor_shape[:2]),
        int(train.sum()),
        {"split": origin.split, "segments": origin.segments},
    )


def _moments(context: RepairContext, origin: _Origin, train: np.ndarray[Any, np.dtype[np.bool_]]) -> Iterator[Moments]:
    start = 0
    for name in origin.segments:
        marker = read_marker(context.objects, context.spec.id, name)
        segment = complete_segment(context.spec, marker)
        layout = segment.logmel
        for chunk, crc in enumerate(marker["chunks"]["logmel"]):
            rows = layout.rows(chunk)
            mask = train[start + rows.start : start + rows.stop]
            if mask.any():
                logmel = read_chunk(context.objects, f"{segment.path}/logmel", layout, chunk, crc)
                yield chunk_moments(context.spec, logmel, mask)
        start += segment.n_rows
