"""What feature sets there are, and what is in one: `features list` and `features show`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

from featurestore.feature_set import FeatureSet, open_set
from featurestore.manifest import Manifest
from featurestore.objects import Location, open_objects
from featurestore.sets import LATEST, list_sets, read_pointer, read_tags

CHANNELS = ("I", "Q", "magnitude")
SPLITS = ("train", "val", "test")


def summarize(store: str) -> list[dict[str, Any]]:
    """One entry per feature set of a store, newest first: version, time, names, counts, spec and basis.

    A set that cannot be read has `version` and `damaged`, which says why.
    """
    objects = open_objects(Location.parse(store).url)
    objects.check()
    names = _names(read_tags(objects), read_pointer(objects, f"{LATEST}.json"))
    manifests, damaged = list_sets(objects)
    return [
        *(_summary(manifest, names.get(manifest.version, [])) for manifest in manifests),
        *({"version": version, "damaged": str(error)} for version, error in damaged.items()),
    ]


def _names(tags: dict[str, str], latest: str | None) -> dict[str, list[str]]:
    names: dict[str, list[str]] = {}
    if latest is not None:
        names[latest] = [LATEST]
    for tag, version in tags.items():
        names.setdefault(version, []).append(tag)
    return names


def _summary(manifest: Manifest, names: list[str]) -> dict[str, Any]:
    return {
        "version": manifest.version,
        "names": names,
        "created": manifest.created,
        **{key: manifest.counts[key] for key in ("captures", "rows", *SPLITS, "rejected")},
        "spec": manifest.spec,
        "basis": manifest.basis,
        "segments": len(manifest.segments),
    }


def list_lines(found: list[dict[str, Any]]) -> Iterator[str]:
    """The entries as a table."""
    if not found:
        yield "no feature set yet; build-features makes one"
        return
    header = ("version", "created (UTC)", "captures", "rows", *SPLITS, "rejected", "spec", "names")
    table = [header, *(_cells(entry) for entry in found if "damaged" not in entry)]
    widths = [max(len(row[column]) for row in table) for column in range(len(header))]
    numbers = range(2, 8)
    for row in table:
        padded = zip(range(len(header)), row, widths, strict=True)
        yield "  ".join(cell.rjust(width) if i in numbers else cell.ljust(width) for i, cell, width in padded).rstrip()
    for entry in found:
        if "damaged" in entry:
            yield f"{entry['version']}  {entry['damaged']}"


def _cells(entry: dict[str, Any]) -> tuple[str, ...]:
    counts = [f"{entry[key]:,}" for key in ("captures", "rows", *SPLITS)]
    created = entry["created"][:19].replace("T", " ")
    rejected = f"{sum(entry['rejected'].values()):,}"
    return entry["version"], created, *counts, rejected, entry["spec"], " ".join(entry["names"])


def show(store: str, version: str) -> dict[str, Any]:
    """Everything about one feature set but its rows.

    Returns:
        The manifest's entries; `url`, `names`, `spec` in full, `sessions` and `captures` by split, `receivers`,
        `rejected_captures` and `statistics` (mean and std per channel and band).
    """
    opened = open_set(store, version)
    objects = opened.objects
    names = _names(read_tags(objects), read_pointer(objects, f"{LATEST}.json"))
    return {
        **opened.manifest.to_json(),
        "url": opened.url,
        "names": names.get(opened.version, []),
        "spec_id": opened.manifest.spec,
        "spec": opened.spec.to_json(),
        "sessions": _sessions(opened),
        "receivers": _receivers(opened),
        "rejected_captures": [entry.__dict__ for entry in opened.rejected],
        "statistics": {
            "channels": list(CHANNELS),
            "train_rows": opened.basis.rows,
            "fitted": opened.basis.created,
            "mean": opened.basis.mean.tolist(),
            "std": opened.basis.std.tolist(),
        },
    }


def _sessions(opened: FeatureSet) -> dict[str, int]:
    sessions, split = opened.fact("session_id"), opened.labels.split
    return {name: len(np.unique(sessions[split == code], axis=0)) for code, name in enumerate(SPLITS)}


def _receivers(opened: FeatureSet) -> dict[str, int]:
    served = opened.labels.split < len(SPLITS)
    return {str(receiver): rows for receiver, rows in sorted(Counter(opened.fact("websdr_id")[served].tolist()).items())}


def show_lines(shown: dict[str, Any]) -> Iterator[str]:
    """The same, for people."""
    counts, spec = shown["counts"], shown["spec"]
    yield f"feature set {shown['version']}" + (f" ({', '.join(shown['names'])})" if shown["names"] else "")
    yield f"  {shown['url']}"
    created = shown["created"][:19].replace("T", " ")
    yield f"  built {created} UTC in {shown['seconds']:.1f} s, parent {shown['parent'] or 'none'}"
    origin = f"{counts['reused']:,} reused, {counts['computed']:,} computed"
    yield f"rows: {counts['rows']:,} of {counts['captures']:,} captures ({origin})"
    for name in SPLITS:
        yield f"  {name:5} {counts[name]:>9,} rows of {shown['sessions'][name]:,} sessions"
    yield "  split: " + ", ".join(f"{name} {value}" for name, value in shown["split"].items() if value is not None)
    yield "  receivers: " + ", ".join(f"{receiver}: {rows:,}" for receiver, rows in shown["receivers"].items())
    yield f"spec {shown['spec_id']}: " + ", ".join(
        f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}" for name, value in spec.items()
    )
    yield f"segments: {len(shown['segments'])}; rows in each: " + ", ".join(f"{ref['rows']:,}" for ref in shown["segments"])
    yield from _statistics_lines(shown["basis"], shown["statistics"])
    yield from _rejected_lines(counts["rejected"], shown["rejected_captures"])


def _statistics_lines(basis: str, statistics: dict[str, Any]) -> Iterator[str]:
    yield f"basis {basis}, from {statistics['train_rows']:,} train rows (over bands: lowest, mean, highest):"
    for channel, mean, std in zip(statistics["channels"], statistics["mean"], statistics["std"], strict=True):
        yield (
            f"  {channel:9} mean {min(mean):7.1f} {np.mean(mean):7.1f} {max(mean):7.1f}   "
            f"std {min(std):5.1f} {np.mean(std):5.1f} {max(std):5.1f}"
        )


def _rejected_lines(by_reason: dict[str, int], captures: list[dict[str, Any]]) -> Iterator[str]:
    if not by_reason:
        yield "rejected: none"
        return
    yield f"rejected: {sum(by_reason.values()):,} captures"
    for reason, count in by_reason.items():
        example = next(entry for entry in captures if entry["reason"] == reason)
        yield f"  {reason:20} {count:>6,}  as capture {example['capture_id']}, {example['iq_key']}: {example['detail']}"
