"""What feature sets there are, and what is in one: `features list` and `features show`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from featurestore.look.audit.audit import audit
from featurestore.look.audit.findings import Finding, ServedRows
from featurestore.objects.objects import Location, Objects, open_objects
from featurestore.progress import Progress, Silent
from featurestore.source.receivers import RECEIVER_KEYS
from featurestore.store.feature_set import FeatureSet, open_set
from featurestore.store.manifest import Manifest
from featurestore.store.sets import LATEST, list_sets, read_pointer, read_tags
from featurestore.store.split import SPLITS, Split, unique_sessions
from featurestore.tensor.spec import CHANNELS, SplitSpec, parse_fold
from featurestore.text_table import text_table


def summarize(store: str) -> list[dict[str, Any]]:
    """One entry per feature set of a store, newest first: version, time, names, counts, spec and basis.

    A set that cannot be read has `version` and `damaged`, which says why.
    """
    objects = open_objects(Location.parse(store).url)
    objects.check()
    names = names_of_sets(objects)
    manifests, damaged = list_sets(objects)
    return [
        *(_summary(manifest, names.get(manifest.version, [])) for manifest in manifests),
        *({"version": version, "damaged": str(error)} for version, error in damaged.items()),
    ]


def names_of_sets(objects: Objects) -> dict[str, list[str]]:
    """Version → `latest` and the tags that stand for it."""
    names: dict[str, list[str]] = {}
    latest = read_pointer(objects, f"{LATEST}.json")
    if latest is not None:
        names[latest] = [LATEST]
    for tag, version in read_tags(objects).items():
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


def list_lines(sets: list[dict[str, Any]]) -> Iterator[str]:
    """The entries as a table."""
    if not sets:
        yield "no feature set yet; build-features makes one"
        return
    header = ("version", "created (UTC)", "captures", "rows", *SPLITS, "rejected", "spec", "names")
    table = [header, *(_cells(entry) for entry in sets if "damaged" not in entry)]
    yield from text_table(table, right=range(2, 8))
    for entry in sets:
        if "damaged" in entry:
            yield f"{entry['version']}  {entry['damaged']}"


def _cells(entry: dict[str, Any]) -> tuple[str, ...]:
    counts = [f"{entry[key]:,}" for key in ("captures", "rows", *SPLITS)]
    created = entry["created"][:19].replace("T", " ")
    rejected = f"{sum(entry['rejected'].values()):,}"
    return entry["version"], created, *counts, rejected, entry["spec"], " ".join(entry["names"])


def show(store: str, version: str, progress: Progress | None = None) -> dict[str, Any]:
    """Everything about one feature set but its rows.

    Args:
        store: `s3://bucket/prefix`, `file:///dir` or a directory.
        version: a version, a tag, or `latest`.
        progress: where to report.

    Returns:
        The manifest's entries; `url`, `names`, `spec` in full, `sessions` and `captures` by split, `receivers` (rows of each),
        `receiver_places`, `rejected_captures`, `statistics` (mean and std per channel and band) and `warnings`, what an audit
        finds.
    """
    opened = open_set(store, version)
    objects = opened.objects
    names = names_of_sets(objects)
    progress = progress or Silent()
    progress.start("read labels and facts", 3, "parts")
    sessions = _sessions(opened)
    progress.advance(1)
    receivers = _receivers(opened)
    progress.advance(1)
    warnings = [finding.to_json() for finding in findings(opened)]
    progress.advance(1)
    return {
        **opened.manifest.to_json(),
        "url": opened.url,
        "names": names.get(opened.version, []),
        "spec_id": opened.manifest.spec,
        "spec": opened.spec.to_json(),
        "sessions": sessions,
        "receivers": receivers,
        "receiver_places": [dict(zip(RECEIVER_KEYS, row, strict=True)) for row in opened.receivers.rows()],
        "rejected_captures": [entry.__dict__ for entry in opened.rejected],
        "statistics": {
            "channels": list(CHANNELS),
            "train_rows": opened.basis.rows,
            "fitted": opened.basis.created,
            "mean": opened.basis.mean.tolist(),
            "std": opened.basis.std.tolist(),
        },
        "warnings": warnings,
    }


def findings(opened: FeatureSet) -> list[Finding]:
    """What an audit of a set finds; reads its labels and the facts of its rows, but no tensors."""
    labels = opened.labels
    served = np.flatnonzero(labels.split != Split.ABSENT)
    content, has_content = opened.content()
    rows = ServedRows(
        opened.fact("capture_id")[served],
        opened.fact("session_id")[served],
        opened.fact("websdr_id")[served],
        content[served],
        has_content[served],
        labels.split[served],
        labels.position[served],
        labels.snr_db[served],
        labels.frequency_mhz[served],
        labels.timestamp[served],
    )
    fold = opened.manifest.split["fold"]
    split = SplitSpec(**{**opened.manifest.split, "fold": None if fold is None else parse_fold(fold)})
    return audit(rows, opened.spec, split, opened.basis.std)


def _sessions(opened: FeatureSet) -> dict[str, int]:
    sessions, split = opened.fact("session_id"), opened.labels.split
    return {name: len(unique_sessions(sessions[split == code])[0]) for code, name in enumerate(SPLITS)}


def _receivers(opened: FeatureSet) -> dict[str, int]:
    receivers, rows = np.unique(opened.fact("websdr_id")[opened.labels.split != Split.ABSENT], return_counts=True)
    return dict(zip(map(str, receivers.tolist()), rows.tolist(), strict=True))


def show_lines(shown: dict[str, Any]) -> Iterator[str]:
    """The same, for people."""
    counts = shown["counts"]
    yield from head_lines("feature set", shown)
    origin = f"{counts['reused']:,} reused, {counts['computed']:,} computed"
    yield f"rows: {counts['rows']:,} of {counts['captures']:,} captures ({origin})"
    for name in SPLITS:
        yield f"  {name:5} {counts[name]:>9,} rows of {shown['sessions'][name]:,} sessions"
    yield "  receivers: " + ", ".join(f"{receiver}: {rows:,}" for receiver, rows in shown["receivers"].items())
    if shown["receiver_places"]:
        yield "  of known place: " + ", ".join(str(place["websdr_id"]) for place in shown["receiver_places"])
    yield spec_line(shown)
    yield from _statistics_lines(shown["basis"], shown["statistics"])
    yield from rejected_lines(counts["rejected"], shown["rejected_captures"])
    yield "warnings:" + ("" if shown["warnings"] else " none")
    for warning in shown["warnings"]:
        yield f"  {warning['level']} ({warning['kind']}): {warning['message']}"


def _statistics_lines(basis: str, statistics: dict[str, Any]) -> Iterator[str]:
    yield f"basis {basis}, from {statistics['train_rows']:,} train rows (over bands: lowest, mean, highest):"
    for channel, mean, std in zip(statistics["channels"], statistics["mean"], statistics["std"], strict=True):
        yield (
            f"  {channel:9} mean {min(mean):7.1f} {np.mean(mean):7.1f} {max(mean):7.1f}   "
            f"std {min(std):5.1f} {np.mean(std):5.1f} {max(std):5.1f}"
        )


def head_lines(what: str, shown: dict[str, Any]) -> Iterator[str]:
    """What any set is called, where it is, and how it came to be."""
    yield f"{what} {shown['version']}" + (f" ({', '.join(shown['names'])})" if shown["names"] else "")
    yield f"  {shown['url']}"
    created = shown["created"][:19].replace("T", " ")
    yield f"  built {created} UTC in {shown['seconds']:.1f} s, parent {shown['parent'] or 'none'}"
    yield "  split: " + ", ".join(f"{name} {value}" for name, value in shown["split"].items() if value is not None)
    yield f"segments: {len(shown['segments'])}; rows in each: " + ", ".join(f"{ref['rows']:,}" for ref in shown["segments"])


def spec_line(shown: dict[str, Any]) -> str:
    """The parameters of any set."""
    return f"spec {shown['spec_id']}: " + ", ".join(
        f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}" for name, value in shown["spec"].items()
    )


def rejected_lines(by_reason: dict[str, int], captures: list[dict[str, Any]]) -> Iterator[str]:
    if not by_reason:
        yield "rejected: none"
        return
    yield f"rejected: {sum(by_reason.values()):,} captures"
    for reason, count in by_reason.items():
        example = next(entry for entry in captures if entry["reason"] == reason)
        yield f"  {reason:20} {count:>6,}  as capture {example['capture_id']}, {example['iq_key']}: {example['detail']}"
