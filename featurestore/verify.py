"""Is a feature set whole? Every object that a reader of it needs is read and checked against what was promised of it.

Nothing is changed. Damage is collected, not raised, so that one run names all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from featurestore.bases import bases_path, read_basis
from featurestore.chunks import ArrayLayout
from featurestore.errors import HeimdallError, StoreError
from featurestore.inspection import DAMAGED, Inspector, Problem
from featurestore.manifest import Manifest, SegmentRef
from featurestore.objects import Location, open_objects
from featurestore.progress import Progress, Silent
from featurestore.rows import RowFacts
from featurestore.segments import FACTS, complete_segment, features_name, read_marker, read_rejected, segments_path
from featurestore.sets import LATEST, Labels, Rejected, read_manifest, read_spec, resolve, set_path
from featurestore.spec import FeatureSpec
from featurestore.split import count_splits

READERS = 8
"""Threads that read; CRC-32C and decoding let the others go on."""


@dataclass(frozen=True)
class Verification:
    """What `verify` found: the JSON that `features verify --json` prints."""

    version: str
    url: str
    objects: int
    bytes: int
    problems: tuple[Problem, ...]

    def to_json(self) -> dict[str, Any]:
        """All fields, and `sound`."""
        return {**asdict(self), "sound": not self.problems}

    def lines(self) -> Iterator[str]:
        """For people: a table of what is wrong."""
        yield f"feature set {self.version}: {self.objects:,} objects checked, {self.bytes / 1e6:,.1f} MB"
        yield f"  {self.url}"
        if not self.problems:
            yield "  every object is there and intact"
            return
        yield f"{'problem':9}  {'captures':>8}  object"
        for problem in self.problems:
            yield f"{problem.kind:9}  {len(problem.captures) or '-':>8}  {problem.url}"
            yield f"{'':21}{problem.detail}"
            if problem.captures:
                ids = ", ".join(map(str, problem.captures[:10])) + (", …" if len(problem.captures) > 10 else "")
                yield f"{'':21}holds captures {ids}"

    def require_sound(self) -> None:
        """Raise when something is wrong.

        Raises:
            StoreError: says how much, and what to do next.
        """
        if self.problems:
            raise StoreError(
                f"{len(self.problems):,} of {self.objects:,} objects of {self.url} are not intact; restore those listed "
                "from a copy of the store, or build again into an empty --store"
            )


@dataclass(frozen=True)
class _Chunk:
    """A chunk of a tensor array, still to be checked."""

    path: str
    layout: ArrayLayout
    chunk: int
    crc: int | None
    captures: tuple[int, ...]


def verify(store: str, version: str = LATEST, progress: Progress | None = None) -> Verification:
    """Check everything that a feature set is made of: manifest, labels, spec, basis, and all of its segments.

    Args:
        store: `s3://bucket/prefix`, `file:///dir` or a directory.
        version: a version, a tag, or `latest`.
        progress: where to report.

    Raises:
        UsageError: when there is no such set.
        StoreError: when the store refuses, or `latest` or the tag is damaged. Damage to the set itself is returned.
        ServiceUnavailableError: when the store does not answer.
    """
    objects = open_objects(Location.parse(store).url)
    objects.check()
    name = resolve(objects, version)
    inspector = Inspector(objects)
    copies = inspector.group(set_path(name))
    manifest = _manifest(inspector, name, copies)
    if manifest is not None:
        _check_set(inspector, manifest, copies, progress or Silent())
    problems = tuple(sorted(inspector.problems, key=lambda problem: problem.url))
    return Verification(name, f"{objects.location}/{set_path(name)}", inspector.n_objects, inspector.n_bytes, problems)


def _manifest(inspector: Inspector, version: str, copies: dict[str, Any]) -> Manifest | None:
    """The manifest, if it is one and speaks of this set."""
    if inspector.problems:  # its zarr.json is no JSON, or not even there
        return None
    try:
        manifest = read_manifest(inspector.objects, version)
        if manifest.version != version:
            raise ValueError(f"is the manifest of {manifest.version}, wanted {version}")
        for field in fields(Labels):
            if copies[field.name]["shape"][0] != manifest.n_rows:
                raise ValueError(f"its segments have {manifest.n_rows} rows, {field.name} {copies[field.name]['shape'][0]}")
            if not all(isinstance(crc, int) for crc in manifest.labels[field.name]):
                raise ValueError(f"its checksums of {field.name} are no numbers")
        sums = [sum(manifest.counts[name] for name in ("train", "val", "test")), sum(manifest.counts["rejected"].values())]
        if sums[0] != manifest.counts["rows"] or not all(isinstance(count, int) for count in (manifest.n_rows, *sums)):
            raise ValueError(f"its counts {manifest.counts} do not add up")
    except (StoreError, AttributeError, KeyError, TypeError, ValueError) as error:
        inspector.note(DAMAGED, f"{set_path(version)}/zarr.json", str(error))
        return None
    return manifest


def _check_set(inspector: Inspector, manifest: Manifest, copies: dict[str, Any], progress: Progress) -> None:
    with ThreadPoolExecutor(READERS) as pool:
        progress.start("check labels, facts and markers", 3 + len(manifest.segments), "parts")
        parts: list[Callable[[], Any]] = [
            lambda: _check_labels(inspector, manifest, copies),
            lambda: _check_basis(inspector, manifest),
        ]
        spec = _check_spec(inspector, manifest.spec)
        progress.advance(1)
        found = [pool.submit(part) for part in parts]
        segments = [pool.submit(_check_segment, inspector, manifest, spec, ref) for ref in manifest.segments]
        try:
            for done in as_completed([*found, *segments]):
                done.result()
                progress.advance(1)
        except BaseException:  # a server that stays away is not asked for the rest
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        chunks = [chunk for segment in segments for chunk in segment.result()]
        progress.start("check tensors", len(chunks), "chunks")
        for n_bytes in pool.map(lambda chunk: _check_chunk(inspector, chunk), chunks):
            progress.advance(1, n_bytes)


def _check_chunk(inspector: Inspector, chunk: _Chunk) -> int:
    rows = inspector.chunk(chunk.path, chunk.layout, chunk.chunk, chunk.crc, chunk.captures)
    return 0 if rows is None else rows.nbytes


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
        field.name: inspector.array(f"{path}/{field.name}", copies, manifest.n_rows, manifest.labels.get(field.name))
        for field in fields(Labels)
    }
    split = columns["split"]
    if split is not None:
        counts = count_splits(split)
        stated = {name: manifest.counts[name] for name in counts}
        if counts != stated:
            inspector.note(DAMAGED, f"{path}/zarr.json", f"states splits of {stated} rows, the array split holds {counts}")
    rejected = inspector.document(f"{path}/rejected.json")
    if rejected is not None:
        try:
            n_rejected = len([Rejected(**entry) for entry in rejected])
        except TypeError as error:
            inspector.note(DAMAGED, f"{path}/rejected.json", f"is no list of rejected captures ({error})")
        else:
            stated_rejected = sum(manifest.counts["rejected"].values())
            if n_rejected != stated_rejected:
                detail = f"holds {n_rejected:,} captures, the manifest states {stated_rejected:,}"
                inspector.note(DAMAGED, f"{path}/rejected.json", detail)


def _check_segment(inspector: Inspector, manifest: Manifest, spec: FeatureSpec | None, ref: SegmentRef) -> list[_Chunk]:
    """Check everything of a segment but its tensors; returns the chunks of those."""
    path = f"{segments_path(manifest.spec)}/{ref.segment}"
    copies = inspector.group(path)
    columns = {name: inspector.array(f"{path}/{name}", copies, ref.rows) for name in (*FACTS, "reason")}
    facts = {name: column for name, column in columns.items() if name in FACTS and column is not None}
    if len(facts) == len(FACTS):
        found = RowFacts(**facts).segment_id(manifest.spec)
        if found != ref.segment:
            inspector.note(DAMAGED, f"{path}/zarr.json", f"its rows are those of segment {found}, wanted {ref.segment}")
    marker = _check_marker(inspector, manifest.spec, ref, columns["reason"])
    tensors = [("logmel", None if marker is None else marker["chunks"]["logmel"])]
    tensors.append((features_name(manifest.basis), _features_crcs(inspector, path, manifest.basis, marker)))
    chunks = []
    for name, crcs in tensors:
        layout = inspector.layout(f"{path}/{name}", copies)
        if spec is not None and marker is not None:
            segment = complete_segment(spec, marker)
            wanted = segment.logmel() if name == "logmel" else segment.features(manifest.basis)
            if layout is not None and _form(layout) != _form(wanted):
                inspector.note(DAMAGED, f"{path}/{name}/zarr.json", f"describes {_form(layout)}, wanted {_form(wanted)}")
            layout = wanted  # the chunks can be checked without their metadata, too
        if layout is None:
            continue
        for chunk in range(layout.n_chunks):
            captures = _captures(facts.get("capture_id"), layout.rows(chunk))
            chunks.append(
                _Chunk(
                    f"{path}/{name}", layout, chunk, crcs[chunk] if crcs and len(crcs) == layout.n_chunks else None, captures
                )
            )
    return chunks


def _form(layout: ArrayLayout) -> str:
    return f"shape {layout.shape} in chunks of {layout.chunk_rows} rows of {layout.dtype}"


def _captures(capture_id: npt.NDArray[Any] | None, rows: range) -> tuple[int, ...]:
    return () if capture_id is None else tuple(np.unique(capture_id[rows.start : rows.stop]).tolist())


def _check_marker(
    inspector: Inspector, spec_id: str, ref: SegmentRef, reason: npt.NDArray[Any] | None
) -> dict[str, Any] | None:
    """`segment.json`, if it is the marker of this segment."""
    key = f"{segments_path(spec_id)}/{ref.segment}/segment.json"
    if inspector.document(key) is None:
        return None
    try:
        marker = read_marker(inspector.objects, spec_id, ref.segment)
        for name, wanted in (("spec", spec_id), ("segment", ref.segment), ("rows", ref.rows)):
            if marker[name] != wanted:
                raise ValueError(f"{name} is {marker[name]!r}, wanted {wanted!r}")
        n_chunks = -(-ref.rows // marker["chunk_rows"])
        for name, crcs in marker["chunks"].items():
            if len(crcs) != n_chunks or not all(isinstance(crc, int) for crc in crcs):
                raise ValueError(f"it has no {n_chunks} checksums of {name}")
        marker["chunks"]["logmel"]
        rejected = read_rejected(marker)
        if reason is not None and set(rejected) != set(np.flatnonzero(reason).tolist()):
            raise ValueError(f"it rejects {len(rejected)} rows, the array reason {np.count_nonzero(reason)}")
    except (StoreError, KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        inspector.note(DAMAGED, key, f"is no marker of this segment ({error})")
        return None
    return marker


def _features_crcs(inspector: Inspector, path: str, basis: str, marker: dict[str, Any] | None) -> list[int] | None:
    """The checksums of the features of a basis: in the segment's marker, or, of a later basis, beside it."""
    name = features_name(basis)
    if marker is None or name in marker["chunks"]:
        return None if marker is None else list(marker["chunks"][name])
    content = inspector.document(f"{path}/{name}.json")
    if content is None:
        return None
    try:
        crcs = [int(crc) for crc in content["chunks"]]
        if len(crcs) != len(marker["chunks"]["logmel"]):
            raise ValueError(f"{len(crcs)} for {len(marker['chunks']['logmel'])} chunks")
        return crcs
    except (KeyError, TypeError, ValueError) as error:
        inspector.note(DAMAGED, f"{path}/{name}.json", f"does not hold the checksums of the chunks ({error!r})")
        return None
