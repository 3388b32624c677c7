"""What is damaged of a set while it is repaired: checked in full once, then only as far as it was written again."""

from __future__ import annotations

from collections.abc import Iterable

from featurestore.care.repair.places import Place
from featurestore.care.verify.inspection import Inspector, Problem
from featurestore.care.verify.segment_checks import TensorChunk
from featurestore.care.verify.set_checks import check_parts, check_tensors
from featurestore.objects.objects import Objects
from featurestore.progress import Progress

REVEALING = {"metadata", "marker", "features marker"}
"""Kinds of objects whose repair can bring more damage to light: the metadata of an array, its chunks."""


class Survey:
    """Damage by key, kept up to date."""

    def __init__(self, objects: Objects, version: str, progress: Progress) -> None:
        self._objects = objects
        self._version = version
        self._progress = progress
        self._parts: tuple[dict[str, Problem], list[TensorChunk]] | None = None  # of everything but tensors
        self._sound: set[str] = set()  # chunks of tensors that were found whole
        self._unsound: dict[str, Problem] = {}  # those that were not

    def problems(self, *, tensors: bool) -> dict[str, Problem]:
        """Key → what is wrong; of tensors if they are asked for, or have been before."""
        if self._parts is None:
            inspector = Inspector(self._objects)
            chunks = check_parts(inspector, self._version, self._progress)
            self._parts = self._by_key(inspector), chunks
        found, chunks = self._parts
        if tensors or self._sound or self._unsound:
            unread = [chunk for chunk in chunks if chunk.key not in self._sound and chunk.key not in self._unsound]
            if unread:
                inspector = Inspector(self._objects)
                check_tensors(inspector, unread, self._progress)
                self._unsound |= self._by_key(inspector)
                self._sound.update({chunk.key for chunk in unread} - self._unsound.keys())
        return {**found, **self._unsound}

    def note(self, repaired: Iterable[Place], written: set[str]) -> None:
        """Take note of what was repaired, and of all keys that were written for it; chunks of tensors are read again."""
        places = list(repaired)
        for key in {*(place.key for place in places), *written}:
            self._sound.discard(key)
            self._unsound.pop(key, None)
            if self._parts is not None:
                self._parts[0].pop(key, None)
        if any(place.kind in REVEALING for place in places) or any(key.endswith(".json") for key in written):
            self._parts = None

    def renew(self) -> None:
        """Check everything but sound tensors again."""
        self._parts = None
        self._unsound.clear()

    def _by_key(self, inspector: Inspector) -> dict[str, Problem]:
        root = f"{self._objects.location}/"
        return {problem.url.removeprefix(root): problem for problem in inspector.problems}
