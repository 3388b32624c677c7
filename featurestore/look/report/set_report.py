"""The report of a feature set: `features report`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from featurestore.look.overview import show
from featurestore.look.report import set_pictures
from featurestore.look.report.history import draw_builds, read_history, rows_per_s
from featurestore.look.report.labelled_rows import LabelledRows
from featurestore.objects.objects import Objects
from featurestore.page.charts import require_matplotlib
from featurestore.page.page import Card, Chart, Key, Page, Table, require_place, shorten
from featurestore.page.pictures import save_pictures
from featurestore.progress import Progress, Silent
from featurestore.source.receivers import Receivers, read_receivers
from featurestore.store.feature_set import FeatureSet, open_set
from featurestore.store.manifest import Manifest
from featurestore.store.split import SPLITS

EXAMPLES_PER_REASON = 3
SPEC_MEANING = {
    "sample_rate_hz": "Hz, that captures must have",
    "n_fft": "samples of an STFT frame",
    "hop_length": "samples from frame to frame",
    "window": "taper of a frame",
    "n_mels": "mel bands",
    "f_min_hz": "Hz, lower edge of the lowest band",
    "f_max_hz": "Hz, upper edge of the highest band",
    "n_frames": "frames of a tensor",
    "windows_per_capture": "tensors from each capture",
    "floor_db": "dBFS, lowest level told apart",
    "n_mfcc": "cepstral coefficients; 0: log-mel bands are stored",
    "align": "session: windows of a session's captures begin together",
}


@dataclass(frozen=True)
class ReportRequest:
    """What to describe, and where to write it.

    Attributes:
        store: where sets are.
        version: of the set, or a tag, or `latest`.
        path: of the page; its directory is made when absent.
        receivers: CSV of where receivers stand, before what the set says: a file or `s3://…`.
        pictures: directory for the page's pictures, as SVG; `None` for none.
    """

    store: str
    version: str
    path: Path
    receivers: str | None = None
    pictures: Path | None = None


def write_set_report(request: ReportRequest, progress: Progress | None = None) -> list[Path]:
    """Write the report of a feature set as one HTML file, and its pictures as files of their own if they are wanted.

    Returns:
        The files written: the page first.

    Raises:
        UsageError: when there is no such set, a file cannot be read or written, or Matplotlib is not installed.
        StoreError: when the set is damaged.
    """
    require_place(request.path)
    require_matplotlib()
    given = None if request.receivers is None else read_receivers(request.receivers)
    opened = open_set(request.store, request.version)
    where = opened.receivers if given is None else given.or_else(opened.receivers)
    progress = progress or Silent()
    page = describe_set(opened, show(request.store, opened.version, progress), progress, where if len(where) else None)
    document = page.save(request.path)
    return [request.path, *(() if request.pictures is None else save_pictures(document, request.pictures))]


def describe_set(opened: FeatureSet, shown: dict[str, Any], progress: Progress, receivers: Receivers | None = None) -> Page:
    """The report.

    Args:
        opened: the set.
        shown: `overview.show` of it.
        progress: where to report.
        receivers: where they stand; `None` when nobody said.
    """
    rows = LabelledRows.read(opened)
    parts: dict[str, Callable[[], Any]] = {
        "what": lambda: _identity(opened, shown),
        "map": lambda: set_pictures.positions(rows, receivers),
        "sample": lambda: set_pictures.sampled(opened, rows),
        "basis": lambda: set_pictures.statistics(opened),
        "labels": lambda: set_pictures.labels(rows),
        "receivers": lambda: set_pictures.receivers(rows),
        "rejected": lambda: rejections(shown),
        "builds": lambda: builds(opened.objects, opened.manifest),
    }
    progress.start("draw", len(parts), "sections")
    data: dict[str, Any] = {"warnings": shown["warnings"]}
    for name, part in parts.items():
        data[name] = part()
        progress.advance(1)
    return Page(
        "featurestore.look.report/features.html",
        title=title("Feature set", shown),
        lead=lead(shown),
        cards=_cards(opened, shown),
        data=data,
    )


def title(what: str, shown: dict[str, Any]) -> str:
    """What any set is called."""
    return f"{what} {shown['version']}" + (f" ({', '.join(shown['names'])})" if shown["names"] else "")


def lead(shown: dict[str, Any]) -> tuple[str, str]:
    """Where any set is, and how it came to be."""
    created = shown["created"][:19].replace("T", " ")
    return shown["url"], f"Built {created} UTC in {shown['seconds']:.1f} s, parent {shown['parent'] or 'none'}."


def _cards(opened: FeatureSet, shown: dict[str, Any]) -> list[Card]:
    counts, sessions, rejected = shown["counts"], shown["sessions"], sum(shown["counts"]["rejected"].values())
    share = f"{rejected / counts['captures']:.1%} of captures" if counts["captures"] else ""
    n_bytes = 2 * int(np.prod(opened.spec.tensor_shape)) * counts["rows"]
    return [
        Card("rows", f"{counts['rows']:,}", f"of {counts['captures']:,} captures"),
        Card("sessions", f"{sum(sessions.values()):,}", f"{len(shown['receivers']):,} receivers"),
        *(Card(name, f"{counts[name]:,}", f"rows of {sessions[name]:,} sessions") for name in SPLITS),
        Card("rejected", f"{rejected:,}", share),
        Card("a tensor", "×".join(map(str, opened.spec.tensor_shape)), f"float16, {n_bytes / 1e6:,.1f} MB in all"),
    ]


def _identity(opened: FeatureSet, shown: dict[str, Any]) -> dict[str, Any]:
    spec, basis = opened.spec, opened.basis
    step_ms, span_ms = (1e3 * samples / spec.sample_rate_hz for samples in (spec.hop_length, spec.span))
    kind = f"{spec.n_mfcc} cepstral coefficients" if spec.n_mfcc else f"{spec.n_mels} mel bands"
    fitted = f"{shown['basis']}, from {basis.rows:,} train rows, fitted {basis.created[:19].replace('T', ' ')} UTC"
    return {
        "tensors": (
            f"Each row is a tensor of the channels I, Q and magnitude, {kind} and {spec.n_frames} frames: {span_ms:.1f} ms, "
            f"a frame every {step_ms:.2f} ms, up to {spec.f_max / 1e3:g} kHz from the centre frequency."
        ),
        **tables("Parameters of the tensors (spec)", SPEC_MEANING, shown, [("basis", fitted)]),
    }


def tables(
    caption: str, meaning: Mapping[str, str], shown: dict[str, Any], more: Sequence[tuple[str, str]] = ()
) -> dict[str, Any]:
    """The parameters of any set, and where it comes from."""
    parameters = [(name, _plain(value), meaning.get(name, "")) for name, value in shown["spec"].items()]
    split = [(name, _plain(value)) for name, value in shown["split"].items() if value is not None]
    sizes = [f"{ref['rows']:,}" for ref in shown["segments"]]
    parts = [
        ("spec", shown["spec_id"]),
        *more,
        ("segments", f"{len(sizes):,}, of {shorten(sizes)} rows"),
        ("catalog query", str(shown["snapshot"].get("query"))),
        ("built by", ", ".join(f"{name} {version}" for name, version in shown["software"].items())),
    ]
    return {
        "spec": Table(caption, ("parameter", "value", "meaning"), parameters, text=(0,), long=(2,)),
        "split": Table("Split", ("parameter", "value"), split),
        "origin": Table("Where it comes from", ("what", "value"), parts, text=(0,), long=(1,)),
    }


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def rejections(shown: dict[str, Any]) -> dict[str, Any]:
    """The rejected captures of any set: reasons, and some examples."""
    counts, entries = shown["counts"], shown["rejected_captures"]
    if not counts["rejected"]:
        return {"captures": f"{counts['captures']:,}", "by_reason": None}
    by_reason = [(reason, f"{n:,}", f"{n / counts['captures']:.2%}") for reason, n in counts["rejected"].items()]
    examples = [
        (reason, str(entry["capture_id"]), entry["detail"], entry["iq_key"])
        for reason in counts["rejected"]
        for entry in [entry for entry in entries if entry["reason"] == reason][:EXAMPLES_PER_REASON]
    ]
    caption = f"Examples, at most {EXAMPLES_PER_REASON} of each reason"
    return {
        "by_reason": Table("Captures by reason", ("reason", "captures", "of all"), by_reason),
        "examples": Table(caption, ("reason", "capture", "detail", "object"), examples, text=(0,), long=(2, 3)),
    }


def builds(objects: Objects, manifest: Manifest) -> dict[str, Any]:
    """The build of any set, and those before it."""
    history = read_history(objects, manifest)
    rows = []
    for each in history.builds:
        counts, rate = each.counts, rows_per_s(each)
        numbers = [f"{counts[name]:,}" for name in ("captures", "rows", "computed", "reused")]
        speed = "" if rate is None else f"{rate:,.1f}"
        rows.append((each.version, each.created[:19].replace("T", " "), *numbers, f"{each.seconds:,.1f}", speed))
    header = ("set", "built (UTC)", "captures", "rows", "computed", "reused", "seconds", "rows/s")
    legend = (Key("blue", "computed"), Key("muted", "reused"))
    caption = "Rows, and how many a second were computed"
    return {
        "ends": history.ends,
        "chart": Chart(caption, draw_builds(history), "Oldest first.", legend) if len(rows) > 1 else None,
        "table": Table("Builds, newest first", header, rows, text=(0, 1)),
    }
