"""What an export has published, for people and for machines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from exporter.draft import Draft
from exporter.release.release import Release
from featurestore.progress import format_seconds


@dataclass(frozen=True)
class ExportReport:
    """What was published.

    Attributes:
        draft: that became the release.
        release: as it is published.
        latest: number of the release that services use now.
        registered: name and version in the registry; `None` without one.
        seconds: that all of it took.
    """

    draft: Draft
    release: Release
    latest: str
    registered: str | None
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Plain values; `files` are sizes in bytes."""
        draft = self.draft
        return {
            "release": draft.release,
            "url": self.release.url,
            "latest": self.latest,
            "files": {name: facts["size_bytes"] for name, facts in self.release.files.items()},
            "precision": draft.info.precision,
            "located": draft.info.located,
            "feature_set": draft.feature_set.version,
            "validation": {name: found.in_short() for name, found in draft.validation.items()},
            "metrics": draft.headlines,
            "registered": self.registered,
            "notes": draft.notes,
            "seconds": self.seconds,
        }

    def lines(self) -> Iterator[str]:
        """For people."""
        draft, release = self.draft, self.draft.release
        made_of = f"feature set {draft.feature_set.version}, {draft.info.precision}"
        yield f"release {release} of {made_of}, in {format_seconds(self.seconds)}"
        for name, validation in draft.validation.items():
            found = validation.in_short()
            speed = f", {found['speedup']:.1f} times as fast at batch 1" if "speedup" in found else ""
            size = f"{self.release.files[name]['size_bytes'] / 1e6:.1f} MB"
            yield (
                f"  {name}: {size}; against PyTorch on {found['rows']} {found['unit']}: {100 * found['share']:.1f}% within "
                f"tolerance, at most {found['difference_m']:.2g} m apart{speed}"
            )
        of_session = draft.info.located == "session"
        unit, region = ("sessions", "39.3% region") if of_session else ("rows", "1 σ ellipse (39%)")
        for split, metrics in draft.headlines.items():
            yield (
                f"  {split}: {metrics['rows']:,.0f} {unit}, error {metrics['error_median_m'] / 1000:.2f} km in the median, "
                f"{metrics['error_mean_m'] / 1000:.2f} km on average; {metrics['coverage_1_sigma']:.0%} in the {region}"
            )
        yield from draft.table.splitlines()
        yield from (f"note: {note}" for note in draft.notes)
        if self.registered:
            yield f"registered as {self.registered}"
        if self.latest == release:
            yield "services use it now: latest.json names it"
        else:
            yield f"services still use {self.latest}; heimdall releases promote {release} makes them use this one"
        yield self.release.url
