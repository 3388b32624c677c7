"""What may be wrong with the data of a feature set: equal captures, lopsided or tiny splits, bands that say nothing. Pure.

Nothing here stops a build: these are faults of a corpus that no single capture shows. docs/audit.md says what to do about each.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from featurestore.look.audit.equality import EqualRows, near_any
from featurestore.look.audit.findings import EXAMPLES, Finding, ServedRows, note, some, some_pairs, warning
from featurestore.source.snapshot import NO_TIMESTAMP, format_session
from featurestore.store.split import Split, unique_sessions
from featurestore.tensor.mel import band_edges_hz
from featurestore.tensor.moments import MIN_STD
from featurestore.tensor.spec import CHANNELS, FeatureSpec, SplitSpec

MIN_SESSIONS = 25
"""Errors of location vary about as much as their mean, and a session has one position: a mean error over n sessions is
uncertain by about 1/√n of itself, 20% for these."""

MIN_TRAIN_ROWS = 256
"""One batch of the trainer, by default: with fewer, an epoch has no whole batch."""

DOMINANCE_RATIO = 5.0
"""Times the mean of the others: what sessions of one to five windows or receivers differ by anyway."""

DOMINANCE_SHARE = 0.10
"""Below a tenth, however much more than the others it is, neither statistics nor a mean error follow it."""

MAX_COPIES = 0.01
"""Rows that repeat another of their split count double in loss and mean error: less than 1% of them moves neither visibly."""

MAX_KNOWN_SITES = 0.10
"""Share of val and test sessions at a train session's site: if those had no error at all, the mean would be 10% too low."""

KNOWN_SITE_M = 100.0
"""One site: labels come from maps and phones and err by tens of metres, and what a network can tell is coarser by far."""

MAX_UNKNOWN_LABELS = 0.10
"""Errors by SNR leave out rows without one: up to a tenth, they still speak for the set."""

MIN_STD_DB = 0.5
"""Noise of a constant level alone moves the widest band of the defaults by 0.8 dB (I and Q; docs/audit.md)."""

PARTS = (Split.TRAIN, Split.VAL, Split.TEST)

Index = npt.NDArray[np.int64]


def audit(rows: ServedRows, spec: FeatureSpec, split: SplitSpec, std: npt.NDArray[np.float32]) -> list[Finding]:
    """Everything to look at in a set, the gravest first within warnings and within notes; empty for a good one.

    Args:
        rows: what it serves.
        spec: of its tensors.
        split: how it was split.
        std: (3, band) of its basis.
    """
    first, session = unique_sessions(rows.session_id)  # row that each session begins with; session of each row
    findings = [
        *_equal_content(rows),
        *_splits(rows, split, rows.split[first]),
        *_receivers(rows),
        *_sessions(rows, first, session),
        *_bands(spec, std),
        *_known_sites(split, rows.split[first], rows.position[first]),
        *_labels(rows),
    ]
    return sorted(findings, key=lambda finding: finding.level != "warning")  # stable


def _equal_content(rows: ServedRows) -> Iterator[Finding]:
    equal = EqualRows.find(rows.content, rows.has_content, rows.split, rows.capture_id)
    if leaks := len(equal.across):
        yield warning(
            "leak",
            f"{leaks:,} tensors are in more than one split, expected 0 (such as captures {some_pairs(equal.across)}): val and "
            "test errors are too low; withdraw one of each pair, or give both the same session_id",
            {"tensors": leaks, "rows": equal.rows_across, "captures": equal.across[:EXAMPLES].tolist()},
        )
    if copies := len(equal.within):
        share = copies / len(rows)
        yield Finding(
            "duplicates",
            "warning" if share > MAX_COPIES else "note",
            f"{copies:,} rows ({share:.2%}) repeat another of their split, expected at most {MAX_COPIES:.0%} (such as captures "
            f"{some_pairs(equal.within)}): they count twice; withdraw the copies",
            {"rows": copies, "share": share, "captures": equal.within[:EXAMPLES].tolist()},
        )
    if unknown := int((~rows.has_content).sum()):
        yield note(
            "content_unknown",
            f"the content of {unknown:,} of {len(rows):,} rows is not known, as their segments were written before it was "
            "noted: equal ones among them are not found; to find them, build into an empty --store",
            {"rows": unknown},
        )


def _splits(rows: ServedRows, split: SplitSpec, session_split: npt.NDArray[np.uint8]) -> Iterator[Finding]:
    n_rows = {part: int((rows.split == part).sum()) for part in PARTS}
    shares = {Split.TRAIN: 1.0, Split.VAL: split.val_fraction, Split.TEST: split.test_fraction}
    more = "approve more sessions, raise --val-fraction and --test-fraction, or cross-validate with --fold"
    for part in PARTS:
        name, n_sessions = part.name.lower(), int((session_split == part).sum())
        figures = {"split": name, "rows": n_rows[part], "sessions": n_sessions}
        if not n_sessions and shares[part]:
            yield warning("empty_split", f"{name} is empty, expected a share of {shares[part]:g}; {more}", figures)
        elif 0 < n_sessions < MIN_SESSIONS:
            yield warning(
                "few_sessions",
                f"{name} has {n_sessions:,} sessions ({n_rows[part]:,} rows), expected at least {MIN_SESSIONS}: a "
                "mean over them "
                f"is uncertain by about ±{n_sessions**-0.5:.0%} (±{MIN_SESSIONS**-0.5:.0%} wanted); {more}",
                figures | {"wanted": MIN_SESSIONS},
            )
    others = n_rows[Split.VAL] + n_rows[Split.TEST]
    if n_rows[Split.TRAIN] < MIN_TRAIN_ROWS:
        yield warning(
            "few_train_rows",
            f"train has {n_rows[Split.TRAIN]:,} rows, expected at least {MIN_TRAIN_ROWS}, one batch of the "
            "trainer; approve more "
            "captures, take more --windows-per-capture, or train with a smaller --batch-size",
            {"rows": n_rows[Split.TRAIN], "wanted": MIN_TRAIN_ROWS},
        )
    if n_rows[Split.TRAIN] < others:
        yield warning(
            "train_smaller",
            f"train has {n_rows[Split.TRAIN]:,} rows, val and test together {others:,}, expected fewer; lower "
            "--val-fraction and "
            "--test-fraction, or with --split-by region choose smaller --region-degrees or another --split-seed",
            {"train": n_rows[Split.TRAIN], "val_and_test": others},
        )


def _receivers(rows: ServedRows) -> Iterator[Finding]:
    train = rows.split == Split.TRAIN
    known, counts = np.unique(rows.websdr_id[train], return_counts=True)
    yield from _dominant("receiver", "train", counts, lambda index: str(known[index]))
    unseen, unseen_rows = np.unique(rows.websdr_id[~train & ~np.isin(rows.websdr_id, known)], return_counts=True)
    if len(unseen) and len(known):  # an empty train split has its own warning
        names = some([str(receiver) for receiver in unseen])
        yield warning(
            "unseen_receivers",
            f"{len(unseen):,} receivers are in val or test only, expected 0 ({names}; {unseen_rows.sum():,} rows): a network "
            "never learns what they sound like; approve train sessions that they heard, or withdraw them",
            {"receivers": unseen.tolist(), "rows": int(unseen_rows.sum())},
        )


def _sessions(rows: ServedRows, first: Index, session: Index) -> Iterator[Finding]:
    for part in PARTS:
        counts = np.bincount(session[rows.split == part], minlength=len(first))
        held = np.flatnonzero(counts)
        if len(held) >= MIN_SESSIONS:  # else each has a large share anyway, and that there are few is said
            ids = rows.session_id[first[held]]
            yield from _dominant(
                "session", part.name.lower(), counts[held], lambda i, ids=ids: format_session(ids[i].tobytes())
            )


def _dominant(what: str, split: str, counts: Index, name: Any) -> Iterator[Finding]:
    """Whether the largest of several counts dominates: far above the mean of the others, and a share that matters."""
    if len(counts) < 2:
        return
    largest, total = int(counts.argmax()), int(counts.sum())
    share = float(counts[largest]) / total
    ratio = float(counts[largest]) * (len(counts) - 1) / (total - float(counts[largest]))
    if ratio > DOMINANCE_RATIO and share > DOMINANCE_SHARE:
        yield warning(
            f"dominant_{what}",
            f"{what} {name(largest)} has {share:.0%} of the {split} rows, {ratio:.1f} times the mean of the other "
            f"{len(counts) - 1:,}, expected at most {DOMINANCE_RATIO:g} times or {DOMINANCE_SHARE:.0%}; approve more of the "
            "others, or withdraw some of its captures",
            {what: name(largest), "split": split, "rows": int(counts[largest]), "share": share, "ratio": ratio},
        )


def _bands(spec: FeatureSpec, std: npt.NDArray[np.float32]) -> Iterator[Finding]:
    least = MIN_STD if spec.n_mfcc else MIN_STD_DB  # coefficients have no common scale: only the floor says something
    flat = std <= np.float32(least)  # (channel, band)
    if not flat.any():
        return
    floor = int((std <= np.float32(MIN_STD)).sum())
    places = [
        f"{CHANNELS[channel]} {_runs(spec, np.flatnonzero(flat[channel]))}" for channel in np.flatnonzero(flat.any(axis=1))
    ]
    unit = "" if spec.n_mfcc else " dB"
    todo = "look at them with features report" + (
        "" if spec.n_mfcc else ", and leave out what holds nothing: --f-min-hz, --f-max-hz"
    )
    yield warning(
        "flat_bands",
        f"{int(flat.sum()):,} of {flat.size:,} bands hardly vary ({floor:,} not at all), expected a std above {least:g}{unit}: "
        f"{'; '.join(places)}; {todo}",
        {
            "bands": {CHANNELS[channel]: np.flatnonzero(flat[channel]).tolist() for channel in range(len(CHANNELS))},
            "at_floor": floor,
            "wanted": least,
        },
    )


def _runs(spec: FeatureSpec, bands: Index) -> str:
    """Bands for people, in runs: `0-3 (0.02-0.08 kHz)`, by the centres of the first and last."""
    runs = np.split(bands, np.flatnonzero(np.diff(bands) > 1) + 1)
    centre_khz = band_edges_hz(spec)[1:-1] / 1e3
    texts = []
    for run in runs:
        low, high = int(run[0]), int(run[-1])
        numbers = f"{low}" if low == high else f"{low}-{high}"
        khz = f"{centre_khz[low]:.3g}" if low == high else f"{centre_khz[low]:.3g}-{centre_khz[high]:.3g}"
        texts.append(numbers if spec.n_mfcc else f"{numbers} ({khz} kHz)")
    return some(texts)


def _known_sites(
    split: SplitSpec, session_split: npt.NDArray[np.uint8], position: npt.NDArray[np.float64]
) -> Iterator[Finding]:
    """Places (session, 2) that both sides of a split by session share; by region, they do so at the edges of cells only."""
    train = session_split == Split.TRAIN
    others = int((~train).sum())
    if split.by != "session" or not train.any() or not others:
        return
    known = int(near_any(position[~train], position[train], KNOWN_SITE_M).sum())
    if known > MAX_KNOWN_SITES * others:
        yield note(
            "known_sites",
            f"{known:,} of {others:,} val and test sessions ({known / others:.0%}) are within {KNOWN_SITE_M:g} m of a train "
            "session, as of a repeater: their errors measure recall of known sites; for unknown ones, use --split-by region",
            {"sessions": known, "of": others, "within_m": KNOWN_SITE_M},
        )


def _labels(rows: ServedRows) -> Iterator[Finding]:
    if not len(rows):
        return
    snr = float(np.isnan(rows.snr_db).mean())
    if snr > MAX_UNKNOWN_LABELS:
        yield warning(
            "unknown_snr",
            f"snr_db is unknown for {snr:.0%} of the rows, expected at most {MAX_UNKNOWN_LABELS:.0%}: errors by SNR leave them "
            "out; fill in snr_db in the catalog and build again, which computes no tensor",
            {"share": snr},
        )
    unknown = {"frequency_mhz": np.isnan(rows.frequency_mhz), "timestamp": rows.timestamp == NO_TIMESTAMP}
    for name, mask in unknown.items():
        share = float(mask.mean())
        if MAX_UNKNOWN_LABELS < share < 1:  # a catalog may do without, but then without any
            yield note(
                f"unknown_{name}",
                f"{name} is unknown for {share:.0%} of the rows, known for the others: was a part imported without? Fill it "
                "in and build again, which computes no tensor",
                {"share": share},
            )
