"""How long a build will take, by how long earlier ones took."""

from __future__ import annotations

from dataclasses import dataclass

from featurestore.errors import StoreError, UsageError
from featurestore.manifest import Manifest
from featurestore.objects import Objects
from featurestore.sets import read_manifest

BUILDS = 20
"""Builds looked at, from the latest back: enough to find one that computed something, few enough to read at once."""

COMPARABLE = 10
"""Of a build with less than a tenth of the rows to compute, start and planning would count as if they were work on rows."""

NORMALIZE_SHARE = 0.25
"""What fitting and normalizing a row from log-mel costs of computing it, at most: `bench/rebuild.py` holds a refit to it."""

LEAST_S = 0.1
"""No command of this package takes less."""


@dataclass(frozen=True)
class Rate:
    """What a build that computed `rows` took, per row, all else included."""

    version: str
    rows: int
    seconds_per_row: float


def known_rates(objects: Objects, latest: Manifest | None) -> list[Rate]:
    """The rates of the latest set and those it descends from, newest first; sets that computed nothing have none."""
    rates = []
    manifest = latest
    for _ in range(BUILDS):
        if manifest is None:
            break
        if computed := manifest.counts["computed"]:
            rates.append(Rate(manifest.version, computed, manifest.seconds / computed))
        try:
            manifest = None if manifest.parent is None else read_manifest(objects, manifest.parent)
        except (UsageError, StoreError):  # swept, or damaged: an estimate does without
            break
    return rates


def estimate_seconds(
    rates: list[Rate], to_compute: int, to_normalize: int, planning_s: float
) -> tuple[float | None, str | None]:
    """About how long a build will take, and the version it is judged by.

    Args:
        rates: of earlier builds, newest first.
        to_compute: rows to compute.
        to_normalize: rows to normalize from log-mel that exists.
        planning_s: what planning it took just now: the build plans again.

    Returns:
        Seconds, at least `LEAST_S`, by the newest build large enough to compare, or else the largest; `None` when there is
        work and no rate. The version is `None` when there is no work.
    """
    if not to_compute and not to_normalize:
        return max(LEAST_S, round(planning_s, 1)), None
    if not rates:
        return None, None
    rows = to_compute + NORMALIZE_SHARE * to_normalize
    largest = max(rates, key=lambda rate: rate.rows)
    chosen = next((rate for rate in rates if COMPARABLE * rate.rows >= rows), largest)
    return max(LEAST_S, round(planning_s + rows * chosen.seconds_per_row, 1)), chosen.version
