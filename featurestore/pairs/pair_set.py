"""An open pair set: what pairs of receivers say of each session, read from the store and nothing else, and checked."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from featurestore.errors import StoreError
from featurestore.objects.objects import Location, Objects
from featurestore.pairs.rows import PairRows
from featurestore.pairs.segments import MEASURED, PairSegment, open_pair_store
from featurestore.pairs.spec import PairSpec
from featurestore.store.chunks import REPAIR, read_array, read_chunk
from featurestore.store.manifest import Manifest
from featurestore.store.read_segments import read_marker
from featurestore.store.sets import LATEST, read_manifest, resolve, set_path
from featurestore.store.split import Split
from featurestore.tensor.rejection import RejectedCapture


@dataclass(frozen=True)
class SessionPairs:
    """The pairs of one session that have a delay, p of them.

    Attributes:
        session_id: 16 bytes.
        split: see `split.Split`.
        position: (2,) latitude, longitude of the transmitter in degrees.
        websdr: (p, 2) receivers of each pair.
        delay_s: (p,) how much later the first hears than the second.
        sigma_s: (p,) one standard deviation of that, without clocks.
        clock_sigma_s: (p, 2) of both clocks; NaN where unknown.
        wrong: (p,) probability that the peak is chance.
        peak: (p,) its power over that of unrelated noise.
    """

    session_id: bytes
    split: int
    position: npt.NDArray[np.float64]
    websdr: npt.NDArray[np.int32]
    delay_s: npt.NDArray[np.float64]
    sigma_s: npt.NDArray[np.float64]
    clock_sigma_s: npt.NDArray[np.float64]
    wrong: npt.NDArray[np.float64]
    peak: npt.NDArray[np.float64]


class PairSet:
    """An open pair set; what it holds is read when it is asked for, and checked."""

    def __init__(self, objects: Objects, manifest: Manifest) -> None:
        self.objects = objects
        self.manifest = manifest
        self.version = manifest.version

    def __repr__(self) -> str:
        return f"PairSet({self.url!r}, rows={self.manifest.counts['rows']})"

    @property
    def url(self) -> str:
        """Where its manifest and labels are."""
        return f"{self.objects.location}/{set_path(self.version)}"

    @cached_property
    def spec(self) -> PairSpec:
        """The parameters of its pairs.

        Raises:
            StoreError: when they are missing, or not what their name says.
        """
        key = f"specs/{self.manifest.spec}/spec.json"
        try:
            spec = PairSpec.from_json(self.objects.get_json(key), f"{self.objects.location}/{key}")
        except FileNotFoundError as error:
            raise StoreError(f"{self.objects.location}/{key} is missing; build-pairs with the same parameters") from error
        if spec.id != self.manifest.spec:
            raise StoreError(f"{self.objects.location}/{key} holds spec {spec.id}; it is damaged: build-pairs writes it again")
        return spec

    @cached_property
    def markers(self) -> list[dict[str, Any]]:
        """Of its segments, in the order of its rows."""
        found = []
        for ref in self.manifest.segments:
            try:
                found.append(read_marker(self.objects, self.manifest.spec, ref.segment))
            except FileNotFoundError as error:
                raise StoreError(f"segment {ref.segment} of {self.url} has no marker; {REPAIR}") from error
        return found

    @cached_property
    def segments(self) -> list[PairSegment]:
        """Its segments, in the order of its rows."""
        return [PairSegment(self.spec, marker["segment"], marker["rows"], marker["chunk_rows"]) for marker in self.markers]

    @cached_property
    def rejected(self) -> list[RejectedCapture]:
        """The captures that cannot be used, in order of their id."""
        return [RejectedCapture(**entry) for entry in self.objects.get_json(f"{set_path(self.version)}/rejected.json")]

    def label(self, name: str) -> npt.NDArray[Any]:
        """`split` (N,), `position` (N, 2) or `clock_sigma_s` (N, 2) of all rows of its segments."""
        return read_array(self.objects, f"{set_path(self.version)}/{name}")

    def fact(self, name: str) -> npt.NDArray[Any]:
        """One column of row facts (`session_id`, `websdr_a`, `capture_b`, …) of all rows of its segments."""
        return np.concatenate([read_array(self.objects, f"{segment.path}/{name}") for segment in self.segments])

    def rows(self) -> PairRows:
        """All facts."""
        return PairRows(*(self.fact(field.name) for field in fields(PairRows)))

    def read(self, name: str, segment: PairSegment, chunk: int) -> npt.NDArray[Any]:
        """A chunk of `correlation` (row, 2, lag) or `measured` (row, column), checked against the marker."""
        marker = next(each for each in self.markers if each["segment"] == segment.segment)
        return read_chunk(self.objects, f"{segment.path}/{name}", segment.layout(name), chunk, marker["chunks"][name][chunk])

    def read_all(self, name: str) -> npt.NDArray[Any]:
        """All rows of `correlation` or `measured`."""
        return np.concatenate([self.read(name, segment, c) for segment in self.segments for c in range(segment.n_chunks)])

    def sessions(self) -> list[SessionPairs]:
        """What its sessions say, one by one, in the order of its rows; sessions without any delay are not among them."""
        split, position, sigma = (self.label(name) for name in ("split", "position", "clock_sigma_s"))
        served = np.flatnonzero(split != Split.ABSENT)
        session = self.fact("session_id")[served]
        websdr = np.stack([self.fact("websdr_a"), self.fact("websdr_b")], axis=1)[served]
        measured = {name: column[served] for name, column in zip(MEASURED, self.read_all("measured").T, strict=True)}
        borders = np.flatnonzero((np.diff(session.astype(np.int16), axis=0) != 0).any(axis=1)) + 1
        return [
            SessionPairs(
                session[part[0]].tobytes(),
                int(split[served[part[0]]]),
                position[served[part[0]]],
                websdr[part],
                measured["delay_s"][part],
                measured["sigma_s"][part],
                sigma[served[part]],
                measured["wrong"][part],
                measured["peak"][part],
            )
            for part in np.split(np.arange(len(served)), borders)
            if len(part)
        ]


def open_pair_set(store: str, version: str = LATEST) -> PairSet:
    """Open a pair set.

    Args:
        store: `s3://bucket/prefix`, `file:///dir` or a directory: the same as for feature sets.
        version: a version, a tag, or `latest`.

    Raises:
        UsageError: when there is no such set.
        StoreError: when it is damaged, or of another schema.
        ServiceUnavailableError: when the store does not answer.
    """
    objects = open_pair_store(Location.parse(store).url)
    return PairSet(objects, read_manifest(objects, resolve(objects, version)))
