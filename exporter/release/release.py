"""Releases on disk or in S3: claimed before anything is made, complete when their marker is there, and never changed.

    {models}/v1.2.3/claim.json      written first, and only if absent: of two exports of one number, one gets it
                    model.onnx, model-iq.onnx, config.yaml, metrics.json, README.md, MLmodel
                    release.json    the marker, written last: size and SHA-256 of every file; no marker, no release
    {models}/latest.json            see `exporter.release.latest`

A number that was claimed is used up. An export that fails gives it back; one that is killed cannot, and leaves a directory
without a marker: readers do not see it, the next number goes past it, and an export that asks for just this number is told
to delete the directory, because nobody can know from here whether the other one still writes.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self

from featurestore.errors import StoreError, UsageError
from featurestore.objects.objects import Objects

SCHEMA = 1
MODEL, IQ_MODEL = "model.onnx", "model-iq.onnx"
CONFIG, METRICS, CARD, MLMODEL = "config.yaml", "metrics.json", "README.md", "MLmodel"
CLAIM, MARKER = "claim.json", "release.json"
NUMBER = re.compile(r"v?(0|[1-9]\d{0,8})\.(0|[1-9]\d{0,8})\.(0|[1-9]\d{0,8})", re.ASCII)


@dataclass(frozen=True, order=True)
class Version:
    """`major.minor.patch`."""

    major: int
    minor: int
    patch: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Of `1.2.3` or `v1.2.3`; `UsageError` for anything else."""
        match = NUMBER.fullmatch(text)
        if not match:
            raise UsageError(f"release is {text!r}; expected three numbers, as 1.2.0")
        return cls(*map(int, match.groups()))

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}"

    @property
    def directory(self) -> str:
        """Where it is, below the models."""
        return f"v{self}"


@dataclass(frozen=True)
class Release:
    """A complete release.

    Attributes:
        objects: the models.
        version: its number.
        created: when it was published, ISO 8601.
        files: name → `size_bytes` and `sha256`.
        about: what it is, in short: the feature set, the network, the precision, the most important metrics.
    """

    objects: Objects
    version: Version
    created: str
    files: Mapping[str, Mapping[str, Any]]
    about: Mapping[str, Any]

    @property
    def url(self) -> str:
        """Its directory."""
        return f"{self.objects.location}/{self.version.directory}"

    @property
    def size_bytes(self) -> int:
        """Of `model.onnx`."""
        return int(self.files[MODEL]["size_bytes"])

    def read(self, name: str) -> bytes:
        """One file, checked.

        Raises:
            UsageError: when the release has no such file.
            StoreError: when its bytes are not those that were published.
        """
        if name not in self.files:
            hint = f"; export it with --input {'iq' if name == IQ_MODEL else 'features'}"
            raise UsageError(f"release {self.url} has no {name}, only {', '.join(self.files)}{hint}")
        try:
            data = self.objects.get(f"{self.version.directory}/{name}")
        except FileNotFoundError as error:
            raise StoreError(f"{self.url}/{name} is missing; restore it, or use another release") from error
        digest, wanted = hashlib.sha256(data).hexdigest(), self.files[name]["sha256"]
        if digest != wanted:
            raise StoreError(
                f"{self.url}/{name} has SHA-256 {digest[:12]}… ({len(data)} bytes), and {wanted[:12]}… was published "
                f"({self.files[name]['size_bytes']} bytes); it is damaged: restore it, or use another release"
            )
        return data

    def to_json(self) -> dict[str, Any]:
        """The content of the marker."""
        return {
            "schema": SCHEMA,
            "release": str(self.version),
            "created": self.created,
            "files": {name: dict(facts) for name, facts in self.files.items()},
            "about": dict(self.about),
        }


def claimed_versions(objects: Objects) -> list[Version]:
    """All numbers that are taken, complete or not, ascending."""
    return sorted(Version.parse(name) for name in objects.names() if name.startswith("v") and NUMBER.fullmatch(name))


def list_releases(objects: Objects) -> tuple[list[Release], list[Version]]:
    """Complete releases, the highest number first; and the numbers of those that are not (yet) complete."""
    complete, incomplete = [], []
    for version in reversed(claimed_versions(objects)):
        release = find_release(objects, version)
        if release is None:
            incomplete.append(version)
        else:
            complete.append(release)
    return complete, incomplete


def find_release(objects: Objects, version: Version) -> Release | None:
    """A release; `None` when there is none, or it is not complete.

    Raises:
        StoreError: when its marker is damaged, or of another schema.
    """
    name = f"{objects.location}/{version.directory}/{MARKER}"
    try:
        content = objects.get_json(f"{version.directory}/{MARKER}")
    except FileNotFoundError:
        return None
    schema = content.get("schema") if isinstance(content, dict) else None
    if schema != SCHEMA:
        raise StoreError(f"{name} has schema {schema!r}; this version reads {SCHEMA}: use a matching version")
    try:
        files = {
            str(file): {"size_bytes": int(at["size_bytes"]), "sha256": str(at["sha256"])}
            for file, at in content["files"].items()
        }
        return Release(objects, version, str(content["created"]), files, dict(content["about"]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StoreError(f"{name} is damaged ({error!r}); restore it, or use another release") from error


def require_release(objects: Objects, version: Version) -> Release:
    """A complete release.

    Raises:
        UsageError: when there is none of this number.
    """
    release = find_release(objects, version)
    if release is None:
        state = "is not complete" if version in claimed_versions(objects) else "does not exist"
        raise UsageError(f"release {version} in {objects.location} {state}; 'releases list' shows what there is")
    return release


def now() -> str:
    """The time, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")
