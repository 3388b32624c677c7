"""How a feature set came to be: the builds of its chain of parents, and how fast each was."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from featurestore.errors import StoreError, UsageError
from featurestore.objects.objects import Objects
from featurestore.page.charts import to_svg
from featurestore.page.page import Html
from featurestore.store.manifest import Manifest
from featurestore.store.sets import read_manifest

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_BUILDS = 20


@dataclass(frozen=True)
class History:
    """Builds, the set's own first.

    Attributes:
        builds: their manifests.
        ends: why there are no earlier ones.
    """

    builds: tuple[Manifest, ...]
    ends: str


def rows_per_s(manifest: Manifest) -> float | None:
    """Rows computed per second of a build; `None` when it computed none."""
    computed = manifest.counts["computed"]
    return float(computed / manifest.seconds) if computed and manifest.seconds else None


def read_history(objects: Objects, manifest: Manifest) -> History:
    """A set's build and those before it, as far as their manifests are still there."""
    builds = [manifest]
    while len(builds) < MAX_BUILDS:
        parent = builds[-1].parent
        if parent is None:
            return History(tuple(builds), "the last of them is the store's first")
        try:
            builds.append(read_manifest(objects, parent))
        except (UsageError, StoreError):
            return History(tuple(builds), f"the one before, {parent}, is not in the store any more")
    return History(tuple(builds), f"earlier ones are left out: these are {MAX_BUILDS}")


def draw_builds(history: History) -> Html:
    """Rows computed, and how many a second, from the oldest build to this one."""
    builds = history.builds[::-1]
    rates = [rows_per_s(manifest) for manifest in builds]

    def draw(figure: Figure) -> None:
        axes: Any = figure.subplots(2, 1, sharex=True)
        places = np.arange(len(builds))
        reused = np.array([manifest.counts["reused"] for manifest in builds])
        computed = np.array([manifest.counts["computed"] for manifest in builds])
        axes[0].bar(places, reused, color="tab:gray", width=0.7)
        axes[0].bar(places, computed, bottom=reused, color="tab:blue", width=0.7)
        axes[0].set_ylabel("rows")
        axes[1].bar(places, [rate or 0 for rate in rates], color="tab:blue", width=0.7)
        axes[1].set_ylabel("rows/s")
        axes[1].set_xticks(places, [manifest.created[5:16].replace("T", "\n") for manifest in builds])
        if len(builds) > 6:
            axes[1].set_xticks(places[:: len(builds) // 5 + 1], minor=False)
        for axis in axes:
            axis.grid(axis="y", alpha=0.5, linewidth=0.6)

    latest = f"{rates[-1]:,.1f} rows/s in the latest" if rates[-1] is not None else "the latest computed none"
    return to_svg(draw, f"Rows and throughput of {len(builds)} builds: {latest}", 290)
