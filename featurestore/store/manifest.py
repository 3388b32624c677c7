"""The manifest of a feature set: which segments it is a view of, under which basis and split, and what is in it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from featurestore.errors import StoreError
from featurestore.store.split import SPLITS
from featurestore.tensor.spec import ID_DIGITS

SCHEMA = 1


@dataclass(frozen=True)
class SegmentRef:
    """A segment that a set is a view of, and how many rows it has."""

    segment: str
    rows: int


@dataclass(frozen=True)
class Manifest:
    """Attributes of a feature set's group.

    Attributes:
        version: the set's name.
        spec: name of the FeatureSpec.
        basis: name of the basis; "" where none is needed (pairs).
        segments: in the order of the set's rows.
        split: parameters of the split.
        snapshot: `captures` (approved, at the time), the catalog `query` and, where the set knows where its receivers stand,
            the digest of its `receivers`.
        counts: `captures`, `rows`, `train`, `val`, `test`, `rejected` {reason: captures}, `reused`, `computed`.
        labels: checksums of the chunks of each label array.
        parent: version that was the latest before.
        software: versions of what built it.
        created: when, ISO 8601.
        seconds: how long the build took.
    """

    version: str
    spec: str
    basis: str
    segments: tuple[SegmentRef, ...]
    split: Mapping[str, Any]
    snapshot: Mapping[str, Any]
    counts: Mapping[str, Any]
    labels: Mapping[str, list[int]]
    parent: str | None
    software: Mapping[str, str]
    created: str
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """As stored; `schema` first."""
        return {"schema": SCHEMA, **asdict(self), "segments": [asdict(ref) for ref in self.segments]}

    @classmethod
    def from_json(cls, content: Any, name: str) -> Self:
        """A manifest that was read, validated.

        Args:
            content: attributes of the group.
            name: the set's URL, for errors.

        Raises:
            StoreError: when it has another schema, or is not a manifest.
        """
        schema = content.get("schema") if isinstance(content, dict) else None
        if schema != SCHEMA:
            raise StoreError(f"{name} has manifest schema {schema!r}; this version reads {SCHEMA}: use a matching version")
        fields = dict(content)
        del fields["schema"]
        try:
            fields["segments"] = tuple(SegmentRef(**ref) for ref in fields["segments"])
            manifest = cls(**fields)
            ids = [manifest.version, manifest.spec, *(ref.segment for ref in manifest.segments)]
            ids += [manifest.basis] if manifest.basis else []
            for given in ids:
                if not re.fullmatch(rf"[0-9a-f]{{{ID_DIGITS}}}", given):
                    raise ValueError(f"{given!r} is no id")
            for key in ("captures", "rows", *SPLITS, "rejected", "reused", "computed"):
                _ = manifest.counts[key]
        except (KeyError, TypeError, ValueError) as error:
            raise StoreError(
                f"{name} has a damaged manifest ({error}); build again from the same captures and labels, or restore it"
            ) from error
        return manifest

    @property
    def n_rows(self) -> int:
        """Rows of its segments together: the length of its label arrays."""
        return sum(ref.rows for ref in self.segments)
