"""What `releases list` and `releases show` tell of releases."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from exporter.release.latest import read_latest, read_release
from exporter.release.release import Release, list_releases
from featurestore.errors import UsageError
from featurestore.objects.objects import Location, open_objects
from featurestore.text_table import text_table

SHOWN_SPLITS = ("test", "val")


def summarize(models: str) -> dict[str, Any]:
    """All releases, the highest number first, those that are not complete, and what services use.

    Raises:
        UsageError: when there is none.
    """
    objects = open_objects(Location.parse(models).url)
    objects.check()
    complete, incomplete = list_releases(objects)
    if not complete and not incomplete:
        raise UsageError(f"{objects.location} holds no release; make one with heimdall export, or correct --models")
    latest = read_latest(objects)
    number = str(latest.version) if latest else None
    return {
        "models": objects.location.url,
        "latest": number,
        "previous": [str(version) for version in latest.previous] if latest else [],
        "releases": [describe(release, number) for release in complete],
        "incomplete": [str(version) for version in incomplete],
    }


def describe(release: Release, latest: str | None) -> dict[str, Any]:
    """One release, as plain values."""
    content = release.to_json()
    del content["schema"]
    return {**content, "url": release.url, "latest": str(release.version) == latest}


def show(models: str, name: str) -> dict[str, Any]:
    """One release, by its number or as `latest`."""
    release = read_release(models, name)
    latest = read_latest(release.objects)
    return describe(release, str(latest.version) if latest else None)


def list_lines(overview: dict[str, Any]) -> Iterator[str]:
    """For people."""
    rows = [["release", "", "created", "precision", "MB", "backbone", "feature set", "median error, km"]]
    for release in overview["releases"]:
        about = release["about"]
        rows.append(
            [
                release["release"],
                "latest" if release["latest"] else "",
                release["created"][:16].replace("T", " "),
                str(about.get("precision")),
                f"{release['files']['model.onnx']['size_bytes'] / 1e6:.1f}",
                str(about.get("backbone")),
                str(about.get("feature_set")),
                _median(about),
            ]
        )
    yield from text_table(rows)
    if overview["incomplete"]:
        yield f"not complete, being written or left by an export that was killed: {', '.join(overview['incomplete'])}"


def show_lines(overview: dict[str, Any]) -> Iterator[str]:
    """For people."""
    about = overview["about"]
    yield f"release {overview['release']}{', the latest' if overview['latest'] else ''}, of {overview['created']}"
    for name in ("backbone", "precision", "feature_set", "spec", "basis", "checkpoint_sha256"):
        yield f"  {name.replace('_', ' ')}: {about.get(name)}"
    for split, metrics in about.get("metrics", {}).items():
        yield f"  {split}: " + ", ".join(f"{name} {value:,.6g}" for name, value in metrics.items())
    for name, facts in overview["files"].items():
        yield f"  {name}: {facts['size_bytes']:,} bytes, sha256 {facts['sha256']}"
    yield overview["url"]


def _median(about: dict[str, Any]) -> str:
    for split in SHOWN_SPLITS:
        if split in about.get("metrics", {}):
            return f"{about['metrics'][split]['error_median_m'] / 1000:.2f} ({split})"
    return ""
