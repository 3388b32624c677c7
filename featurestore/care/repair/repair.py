"""Bring a damaged feature set back: each damaged object is written again from what is left, and nothing else is written.

Every object is proved before it is written (by a checksum or a name that was given when it was first written, or by what
survives of its neighbours), is written whole, and is checked again afterwards. So an interrupted repair leaves nothing worse
than it was, and can be repeated.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from featurestore.care.repair.basis import repair_basis
from featurestore.care.repair.context import DryRunObjects, RepairContext, UnrepairableError
from featurestore.care.repair.facts import repair_fact, repair_reason
from featurestore.care.repair.labels import repair_label, repair_receivers, repair_rejected
from featurestore.care.repair.markers import repair_features_marker, repair_marker
from featurestore.care.repair.metadata import MANIFEST_STEP, repair_group, repair_metadata
from featurestore.care.repair.places import Place, find_place
from featurestore.care.repair.report import Outcome, RepairReport
from featurestore.care.repair.survey import Survey
from featurestore.care.repair.tensors import repair_content, repair_features, repair_logmel, sources_wanted
from featurestore.care.verify.inspection import Problem
from featurestore.errors import DataQualityError, StoreError, UsageError
from featurestore.objects.objects import Location, Objects, open_objects
from featurestore.progress import Progress
from featurestore.store.gc_notices import require_unannounced
from featurestore.store.presence import paths
from featurestore.store.sets import LATEST, read_manifest, read_spec, resolve, set_path

STAGES: tuple[dict[str, Callable[[RepairContext, Place], str]], ...] = (
    {"metadata": repair_metadata},
    {"reason": repair_reason, "fact": repair_fact},
    {"label": repair_label},
    {"logmel": repair_logmel},
    {"content": repair_content, "basis": repair_basis},
    {"features": repair_features},
    {"marker": repair_marker, "features marker": repair_features_marker},
    {"group": repair_group, "rejected": repair_rejected, "receivers": repair_receivers},
)
"""What is repaired one after the other: each stage needs those before it. Kind of object → how it is repaired."""

TENSORS = {"logmel", "content", "features"}

SPEC_STEP = "build-features with the same parameters writes it again; then run this again"

PASSES = 3
"""At most: where several things are damaged, what one pass repairs can be what another object is repaired from."""


@dataclass(frozen=True)
class RepairRequest:
    """What to repair from what.

    Attributes:
        store: where the set is.
        version: a version, a tag, or `latest`.
        raw: where the captures are; `None`: log-mel and source digests cannot be repaired.
        catalog: PostgreSQL connection string.
        dry_run: write nothing to the store.
    """

    store: Location
    version: str = LATEST
    raw: Location | None = None
    catalog: str = ""
    dry_run: bool = False


def repair(request: RepairRequest, progress: Progress) -> RepairReport:
    """Find what is damaged of a feature set, repair what can be, and check that again.

    Raises:
        UsageError: when there is no such set.
        StoreError: when the store refuses, or `latest` or the tag is damaged.
        ServiceUnavailableError: when the store or the raw location does not answer, or `features gc` is removing the set.
    """
    store = open_objects(request.store.url)
    store.check()
    version = resolve(store, request.version)
    with ExitStack() as stack:
        objects: Objects = store
        if request.dry_run:
            objects = DryRunObjects(request.store, Path(stack.enter_context(TemporaryDirectory(prefix="heimdall-repair-"))))
        job = _Job(objects, version, request, progress)
        job.run()
    outcomes = tuple(sorted(job.outcomes.values(), key=lambda outcome: outcome.url))
    return RepairReport(version, f"{request.store}/{set_path(version)}", request.dry_run, outcomes)


class _Job:
    """A repair: surveys what is damaged, and goes through the stages until nothing more can be done."""

    def __init__(self, objects: Objects, version: str, request: RepairRequest, progress: Progress) -> None:
        self._objects = objects
        self._version = version
        self._request = request
        self._progress = progress
        self._survey = Survey(objects, version, progress)
        self.outcomes: dict[str, Outcome] = {}

    def run(self) -> None:
        """Fill `outcomes`."""
        context = self._open(self._survey.problems(tensors=False))
        for _ in range(PASSES if context is not None else 0):
            if context is None or not self._pass(context):
                break
        if any(outcome.repaired for outcome in self.outcomes.values()):
            self._survey.renew()
        for key, problem in self._survey.problems(tensors=True).items():
            if key not in self.outcomes or self.outcomes[key].repaired:
                how = f"{problem.detail}; " + (SPEC_STEP if context is None else "run this again")
                self.outcomes[key] = Outcome(problem.url, problem.kind, repaired=False, how=how)

    def _open(self, problems: dict[str, Problem]) -> RepairContext | None:
        """Nothing can be done before manifest and spec are whole."""
        steps = {"manifest": MANIFEST_STEP, "spec": SPEC_STEP}
        lost = {key: steps[kind] for key in problems if (kind := find_place(key).kind) in steps}
        for key, step in lost.items():
            problem = problems[key]
            self.outcomes[key] = Outcome(problem.url, problem.kind, repaired=False, how=f"{problem.detail}; {step}")
        if lost:
            return None
        manifest = read_manifest(self._objects, self._version)
        require_unannounced(self._objects, paths(manifest))
        spec = read_spec(self._objects, manifest.spec)
        return RepairContext(self._objects, manifest, spec, (self._request.raw, self._request.catalog), self._progress)

    def _pass(self, context: RepairContext) -> bool:
        """Every stage once; returns whether another pass may do more."""
        tried: set[str] = set()
        n_repaired = 0
        for stage in STAGES:
            while True:  # what is repaired can bring more to light
                problems = self._survey.problems(tensors=bool(stage.keys() & TENSORS))
                context.damaged = set(problems)
                places = [find_place(key) for key in problems if key not in tried]
                places = [place for place in places if place.kind in stage]
                if not places:
                    break
                tried |= {place.key for place in places}
                n_repaired += self._repair(context, stage, places, problems)
        return bool(n_repaired and self._survey.problems(tensors=True))

    def _repair(
        self,
        context: RepairContext,
        stage: dict[str, Callable[[RepairContext, Place], str]],
        places: Sequence[Place],
        problems: dict[str, Problem],
    ) -> int:
        """Repair some objects; returns how many could be."""
        if "logmel" in stage:
            context.find_recordings(_digests(context, places))

        def attempt(place: Place) -> Outcome:
            problem = problems[place.key]
            try:
                how = stage[place.kind](context, place)
            except (UnrepairableError, StoreError, UsageError, DataQualityError, FileNotFoundError) as error:
                return Outcome(problem.url, problem.kind, repaired=False, how=str(error))
            return Outcome(problem.url, problem.kind, repaired=True, how=how)

        self._progress.start(f"repair {' and '.join(sorted({place.kind for place in places}))}", len(places), "objects")
        threads = len(os.sched_getaffinity(0)) if stage.keys() <= TENSORS else 1
        repaired = []
        with ThreadPoolExecutor(threads) as pool:
            for place, outcome in zip(places, pool.map(attempt, places), strict=True):
                self._progress.advance(1)
                self.outcomes[place.key] = outcome
                if outcome.repaired:
                    repaired.append(place)
        self._survey.note(repaired, context.written)
        context.written.clear()
        return len(repaired)


def _digests(context: RepairContext, places: Sequence[Place]) -> Iterator[bytes]:
    for place in places:
        try:
            yield from sources_wanted(context, place)
        except (StoreError, UnrepairableError):  # it is said when the chunk is to be repaired
            continue
