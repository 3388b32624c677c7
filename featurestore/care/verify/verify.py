"""Is a feature set whole? Every object that a reader of it needs is read and checked against what was promised of it.

Nothing is changed. Damage is collected, not raised, so that one run names all of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from featurestore.care.verify.deep import DIFFERS, DeepCheck, SampleReport, check_deep
from featurestore.care.verify.inspection import Inspector, Problem
from featurestore.care.verify.set_checks import check_parts, check_tensors
from featurestore.errors import StoreError
from featurestore.objects.objects import Location, open_objects
from featurestore.progress import Progress, Silent
from featurestore.store.feature_set import FeatureSet
from featurestore.store.sets import LATEST, read_manifest, resolve, set_path


@dataclass(frozen=True)
class Verification:
    """What `verify` found: the JSON that `features verify --json` prints.

    Attributes:
        version: of the set.
        url: of the set.
        objects: that were read.
        bytes: of them.
        problems: what is wrong, by URL.
        deep: how a sample of its rows compares with the recordings; `None` where that was not asked for, or where it was
            no use, because more than tensors is damaged.
    """

    version: str
    url: str
    objects: int
    bytes: int
    problems: tuple[Problem, ...]
    deep: SampleReport | None = None

    def to_json(self) -> dict[str, Any]:
        """All fields, and `sound`."""
        return {**asdict(self), "sound": not self.problems}

    def lines(self) -> Iterator[str]:
        """For people: a table of what is wrong."""
        yield f"feature set {self.version}: {self.objects:,} objects checked, {self.bytes / 1e6:,.1f} MB"
        yield f"  {self.url}"
        if not any(problem.kind != DIFFERS for problem in self.problems):
            yield "  every object is there and intact"
        if self.deep is not None:
            yield from self.deep.lines()
        if self.problems:
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
        damaged = {problem.url for problem in self.problems if problem.kind != DIFFERS}
        if damaged:
            raise StoreError(
                f"{len(damaged):,} of {self.objects:,} objects of {self.url} are not intact; run 'features repair', "
                "or restore those listed from a copy of the store"
            )
        if self.problems:
            raise StoreError(
                f"{len(self.problems):,} rows of {self.url} are not what their recordings say, though their chunks are as "
                "they were written: they were computed by other code; build again into an empty --store"
            )


def verify(store: str, version: str = LATEST, progress: Progress | None = None, deep: DeepCheck | None = None) -> Verification:
    """Check everything that a feature set is made of: manifest, labels, spec, basis, and all of its segments.

    Args:
        store: `s3://bucket/prefix`, `file:///dir` or a directory.
        version: a version, a tag, or `latest`.
        progress: where to report.
        deep: compute a sample of its rows from IQ again.

    Raises:
        UsageError: when there is no such set, or no such raw location.
        StoreError: when the store refuses, or `latest` or the tag is damaged. Damage to the set itself is returned.
        ServiceUnavailableError: when the store does not answer.
    """
    progress = progress or Silent()
    objects = open_objects(Location.parse(store).url)
    objects.check()
    name = resolve(objects, version)
    inspector = Inspector(objects)
    chunks = check_parts(inspector, name, progress)
    can_compare = not inspector.problems
    check_tensors(inspector, chunks, progress)
    report = None
    if deep is not None and can_compare:
        report = check_deep(inspector, FeatureSet(objects, read_manifest(objects, name)), deep, progress)
    problems = tuple(sorted(inspector.problems, key=lambda problem: (problem.url, problem.captures)))
    url = f"{objects.location}/{set_path(name)}"
    return Verification(name, url, inspector.n_objects, inspector.n_bytes, problems, report)
