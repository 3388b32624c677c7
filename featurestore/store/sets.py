"""Feature sets in a store: publish them, find them, and give them names.

A set is labels, aligned with the rows of its segments one after the other, and a manifest that is written last: no
manifest, no set.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from itertools import chain
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from featurestore.errors import HeimdallError, StoreError, UsageError
from featurestore.objects.concurrently import at_once, map_concurrently, put_all
from featurestore.objects.objects import Objects, as_json
from featurestore.source.receivers import Receivers, receivers_json
from featurestore.source.snapshot import NO_TIMESTAMP
from featurestore.store.chunks import ArrayLayout, array_objects
from featurestore.store.manifest import SCHEMA, Manifest
from featurestore.store.presence import require_parts, require_whole
from featurestore.store.set_receivers import receivers_key
from featurestore.store.write_segments import group_metadata
from featurestore.tensor.rejection import RejectedCapture
from featurestore.tensor.spec import ID_DIGITS, FeatureSpec

LATEST = "latest"
LABEL_CHUNK_ROWS = 131_072
TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

LABEL_ATTRIBUTES = {
    "split": {"long_name": "0 train, 1 val, 2 test, 255 not in this set"},
    "position": {"units": "degrees", "long_name": "latitude and longitude of the transmitter, WGS84"},
    "snr_db": {"units": "dB", "long_name": "signal-to-noise ratio"},
    "frequency_mhz": {"units": "MHz", "long_name": "frequency"},
    "timestamp": {"units": "ns", "long_name": "nanoseconds since 1970-01-01 UTC; the smallest int64 where unknown"},
    "start_time_ns": {
        "units": "ns",
        "long_name": "of the first sample, since 1970-01-01 UTC; the smallest int64 where unknown",
    },
    "clock_sigma_s": {"units": "s", "long_name": "standard deviation of the start of both captures of a pair"},
    "time_sigma_s": {"units": "s", "long_name": "standard deviation of start_time_ns"},
}

TIMES = ("start_time_ns", "time_sigma_s")
"""Labels that a set holds only where the start of some capture is known: any other is written as before there were times."""


@dataclass(frozen=True)
class Labels:
    """The labels of N rows, as columns; stored in a set under these names.

    Attributes:
        split: (N,) uint8, see `split.Split`; of a row that is not in the set `Split.ABSENT`, and all else is unknown.
        position: (N, 2) float64, latitude and longitude in degrees; NaN where unknown.
        snr_db: (N,) float32, NaN where unknown.
        frequency_mhz: (N,) float32, NaN where unknown.
        timestamp: (N,) int64, ns since 1970; `NO_TIMESTAMP` where unknown.
        start_time_ns: (N,) int64, of the capture's first sample, ns since 1970; `NO_TIMESTAMP` where unknown.
        time_sigma_s: (N,) float64, one standard deviation of it; NaN where unknown.
    """

    split: npt.NDArray[np.uint8]
    position: npt.NDArray[np.float64]
    snr_db: npt.NDArray[np.float32]
    frequency_mhz: npt.NDArray[np.float32]
    timestamp: npt.NDArray[np.int64]
    start_time_ns: npt.NDArray[np.int64]
    time_sigma_s: npt.NDArray[np.float64]

    @classmethod
    def of(cls, columns: Mapping[str, npt.NDArray[Any]]) -> Self:
        """Labels by name; without times in a set that holds none."""
        n_rows = len(columns["split"])
        unknown = {"start_time_ns": np.full(n_rows, NO_TIMESTAMP), "time_sigma_s": np.full(n_rows, np.nan)}
        return cls(**{**unknown, **columns})

    def stored(self) -> dict[str, npt.NDArray[Any]]:
        """The columns that a set holds, by name."""
        columns = {field.name: getattr(self, field.name) for field in fields(self)}
        times = with_times(*(columns.pop(name) for name in TIMES))
        return {**columns, **dict(zip(TIMES, times, strict=False))}


def with_times(start_time_ns: npt.NDArray[np.int64], time_sigma_s: npt.NDArray[np.float64]) -> list[npt.NDArray[Any]]:
    """Both where any start is known, else nothing: what a set, and its name, is made of beside its other labels."""
    return [start_time_ns, time_sigma_s] if (start_time_ns != NO_TIMESTAMP).any() else []


def set_path(version: str) -> str:
    """Where a set is."""
    return f"sets/{version}"


def resolve(objects: Objects, name: str) -> str:
    """The version that a name stands for: `latest`, a tag, or a version itself.

    Raises:
        UsageError: when there is none.
    """
    for key in [f"{LATEST}.json"] if name == LATEST else [f"tags/{name}.json"] if TAG.fullmatch(name) else []:
        pointed = read_pointer(objects, key)
        if pointed is not None:
            return pointed
    if TAG.fullmatch(name) and name in objects.names("sets"):
        return name
    if name == LATEST:
        raise UsageError(f"{objects.location} holds no feature set yet; make one with build-features, or correct --store")
    raise UsageError(f"{objects.location} holds no feature set or tag {name!r}; 'features list' shows what there is")


def read_pointer(objects: Objects, key: str) -> str | None:
    """The version in `latest.json` or a tag's file; `None` when there is no such file."""
    try:
        return str(json.loads(objects.get(key))["version"])
    except FileNotFoundError:
        return None
    except (KeyError, TypeError, ValueError) as error:
        next_step = "build again" if key == f"{LATEST}.json" else "name the version again with 'features tag'"
        raise StoreError(f"{objects.location}/{key} names no version ({error!r}); delete it, then {next_step}") from error


def read_manifest(objects: Objects, version: str) -> Manifest:
    """The manifest of a version.

    Raises:
        UsageError: when there is no such version, or its build was never finished.
        StoreError: when it is damaged, or of another schema.
    """
    name = f"{objects.location}/{set_path(version)}"
    try:
        content = objects.get_json(f"{set_path(version)}/zarr.json")
    except FileNotFoundError as error:
        raise UsageError(
            f"there is no feature set {version} in {objects.location}; 'features list' shows what there is"
        ) from error
    return Manifest.from_json(content.get("attributes") if isinstance(content, dict) else None, name)


def has_set(objects: Objects, version: str) -> bool:
    """Whether a version is published. One whose manifest is damaged is not: building it again writes another.

    Raises:
        StoreError: when its manifest has another schema.
    """
    key = f"{set_path(version)}/zarr.json"
    try:
        content = json.loads(objects.get(key))
        attributes, arrays = content["attributes"], content["consolidated_metadata"]["metadata"]
        needed = {field.name for field in fields(Labels)} - {*TIMES} if attributes["basis"] else set(attributes["labels"])
        schema, known = attributes["schema"], needed <= set(arrays)
    except (FileNotFoundError, KeyError, TypeError, ValueError):
        return False
    try:
        manifest = Manifest.from_json(attributes, f"{objects.location}/{key}")
    except StoreError:
        if schema != SCHEMA:
            raise
        return False
    return known and manifest.version == version


def list_sets(objects: Objects) -> tuple[list[Manifest], dict[str, StoreError]]:
    """The manifests of all feature sets, newest first; and of those that cannot be read, by version, why."""
    manifests, damaged = [], {}

    def read(version: str) -> Manifest | HeimdallError:
        try:
            return read_manifest(objects, version)
        except (UsageError, StoreError) as error:
            return error

    versions = objects.names("sets")
    for version, found in zip(versions, map_concurrently(objects, read, versions), strict=True):
        if isinstance(found, Manifest):
            manifests.append(found)
        elif isinstance(found, StoreError):  # else its build was never finished
            damaged[version] = found
    return sorted(manifests, key=lambda manifest: manifest.created, reverse=True), damaged


def read_tags(objects: Objects) -> dict[str, str]:
    """Tag → version."""
    tags = {}
    for name in objects.names("tags"):
        version = read_pointer(objects, f"tags/{name}")
        if version is not None:
            tags[name.removesuffix(".json")] = version
    return tags


def check_tag(name: str) -> str:
    """The name, if a tag may have it.

    Raises:
        UsageError: when not.
    """
    if not TAG.fullmatch(name) or name == LATEST or re.fullmatch(rf"[0-9a-f]{{{ID_DIGITS}}}", name):
        raise UsageError(
            f"tag is {name!r}; expected up to 64 of A-Z a-z 0-9 . _ -, beginning with a letter or digit, "
            "neither 'latest' nor what could be a version"
        )
    return name


def point(objects: Objects, version: str, tag: str | None = None) -> None:
    """Make `latest`, or a tag, stand for a version."""
    objects.put_json(f"tags/{check_tag(tag)}.json" if tag else f"{LATEST}.json", {"version": version})


def label_layout(name: str, column: npt.NDArray[Any]) -> ArrayLayout:
    """The array of a label."""
    return ArrayLayout(
        column.shape,
        max(1, min(LABEL_CHUNK_ROWS, len(column))),
        column.dtype.newbyteorder("<"),
        np.nan if column.dtype.kind == "f" else 0,
        ("row", "coordinate")[: column.ndim],
        LABEL_ATTRIBUTES[name],
    )


def publish(
    objects: Objects,
    manifest: Manifest,
    labels: Labels | Mapping[str, npt.NDArray[Any]],
    rejected: list[RejectedCapture],
    receivers: Receivers | None = None,
) -> None:
    """Write labels, rejected captures, receivers and, last, the manifest; one that exists and is whole stays as it is.

    Args:
        objects: the store.
        manifest: of the set; the checksums of its labels are filled in.
        labels: of all rows; of pairs, by name.
        rejected: captures that are not in it.
        receivers: where they stand; `None` when nobody said.

    Raises:
        ServiceUnavailableError: when `features gc` removes what the set is made of meanwhile; it is not published then.
    """
    path = set_path(manifest.version)
    columns = labels.stored() if isinstance(labels, Labels) else dict(labels)
    layouts = {name: label_layout(name, column) for name, column in columns.items()}
    crcs: dict[str, list[int]] = {name: [] for name in columns}
    arrays = (array_objects(f"{path}/{name}", columns[name], layouts[name], crcs[name]) for name in columns)
    documents = [(f"{path}/rejected.json", as_json([asdict(entry) for entry in rejected]))]
    if receivers is not None and len(receivers):
        documents.append((receivers_key(manifest.version), receivers_json(receivers)))
    at_once(
        objects,
        lambda: require_parts(objects, manifest),
        lambda: put_all(objects, chain(*arrays, documents)),
    )
    manifest = replace(manifest, labels=crcs)
    content = group_metadata(manifest.to_json(), {name: layout.metadata() for name, layout in layouts.items()})
    created = objects.put_json(f"{path}/zarr.json", content, create=True)
    if not created and not has_set(objects, manifest.version):
        created = objects.put_json(f"{path}/zarr.json", content)
    try:
        require_whole(objects, manifest)  # see gc_notices.py: gc may have begun meanwhile
    except HeimdallError:
        if created:
            objects.delete([f"{path}/zarr.json"])
        raise


def write_spec(objects: Objects, spec: FeatureSpec) -> None:
    """Write `spec.json`, unless it is there: the canonical JSON itself, so that its SHA-256 begins with the spec's name."""
    objects.put_if_changed(f"specs/{spec.id}/spec.json", spec.canonical().encode())


def read_spec(objects: Objects, spec_id: str) -> FeatureSpec:
    """The spec of a name.

    Raises:
        StoreError: when it is missing, or not what its name says.
    """
    key = f"specs/{spec_id}/spec.json"
    name = f"{objects.location}/{key}"
    try:
        spec = FeatureSpec.from_json(objects.get_json(key), name)
    except FileNotFoundError as error:
        raise StoreError(f"{name} is missing; build again with the same parameters, or restore it") from error
    if spec.id != spec_id:
        raise StoreError(f"{name} holds spec {spec.id}; it is damaged: build again with the same parameters, or restore it")
    return spec
