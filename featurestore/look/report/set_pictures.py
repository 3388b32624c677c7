"""What a feature set's report shows of its data: places, tensors, values, statistics, labels, receivers."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np

from featurestore.look.report.by_receiver import MAX_DRAWN, Timeline, draw_timeline
from featurestore.look.report.distributions import (
    CHANNEL_COLOURS,
    Values,
    draw_by_split,
    draw_levels,
    draw_normalized,
    draw_statistic,
)
from featurestore.look.report.examples import MAX_RECEIVERS, draw_examples
from featurestore.look.report.labelled_rows import LabelledRows
from featurestore.look.report.maps import SPLIT_COLOURS, Places, draw_map, find_places
from featurestore.page.page import Chart, Key, Table, shorten
from featurestore.source.receivers import Receivers
from featurestore.store.feature_set import FeatureSet
from featurestore.store.split import SPLITS
from featurestore.tensor.spec import CHANNELS

SAMPLE_CHUNKS = 8
"""At most so many are read, for pictures and distributions: 100 MB at the default spec."""
SPLIT_LEGEND = tuple(Key(colour, name) for colour, name in zip(SPLIT_COLOURS, SPLITS, strict=True))
MAP_LEGEND = tuple(replace(key, mark=mark) for key, mark in zip(SPLIT_LEGEND, "●■▲", strict=True))
RECEIVER_KEY = Key("ink", "receiver", "✚")
CHANNEL_LEGEND = tuple(
    Key(colour, name, line) for colour, name, line in zip(CHANNEL_COLOURS, CHANNELS, ("━", "╍", "┅"), strict=True)
)


def positions(rows: LabelledRows, receivers: Receivers | None) -> dict[str, Any]:
    """The map, and how far splits share places.

    Args:
        rows: of the set.
        receivers: where receivers stand; `None` when nobody said.
    """
    places = find_places(rows)
    unknown = f" {places.unknown:,} rows have no position." if places.unknown else ""
    if not places.n_places:
        return {"chart": None, "unknown": unknown}
    counted = [
        (
            name,
            *(f"{int(of[places.split == code].sum()):,}" for of in (np.ones_like(places.rows), places.sessions, places.rows)),
        )
        for code, name in enumerate(SPLITS)
    ]
    title = f"{places.n_positions:,} positions of transmitters, at {places.n_places:,} places"
    caption = (
        f"Positions within {places.radius_km:.2g} km of each other are one place. Size: rows; number: sessions of a place; "
        f"point at a mark for more.{unknown} {_about_receivers(rows, receivers)}"
    )
    heard = None if receivers is None else receivers.select(rows.websdr_id)
    legend = MAP_LEGEND if heard is None else (*MAP_LEGEND, RECEIVER_KEY)
    return {
        "chart": Chart(title, draw_map(places, heard), caption, legend, large=True),
        "by_split": Table("By split", ("split", "places", "sessions", "rows"), counted),
        "shared": _shared(places),
    }


def _about_receivers(rows: LabelledRows, receivers: Receivers | None) -> str:
    if receivers is None:
        return "The set knows no places of receivers, only their numbers: --receivers puts them on the map."
    missing = np.setdiff1d(rows.websdr_id, receivers.websdr_id).tolist()
    where_not = f"; where {shorten(list(map(str, missing)))} stand is not known" if missing else ""
    return f"Bold: numbers of receivers{where_not}."


def _shared(places: Places) -> str:
    if not places.n_shared:
        return "No place is in more than one split."
    return (
        f"{places.n_shared:,} of {places.n_places:,} places are in more than one split: a network may know from training where "
        "transmitters of the other splits stand. Splitting by region keeps places together."
    )


def sampled(opened: FeatureSet, rows: LabelledRows) -> dict[str, Any] | None:
    """Tensors and the distribution of their values: of a sample of chunks, since a set may be of any size; `None` of none."""
    chunks = sample_chunks(opened, SAMPLE_CHUNKS)
    inside = np.zeros(opened.manifest.n_rows, bool)
    for chunk in chunks:
        held = opened.chunk_rows(chunk)
        inside[held.start : held.stop] = True
    sample = rows.select(inside[rows.row])
    values = Values.count(opened, chunks)
    if not values.rows:
        return None
    shown = f"{values.rows:,} of {len(rows):,} rows" + (
        "" if values.rows == len(rows) else ", in whole chunks drawn with seed 0"
    )
    cepstra = bool(opened.spec.n_mfcc)
    how = (
        f"Of {shown}: the {MAX_RECEIVERS} busiest receivers, and of each the rows with the lowest, the median and the highest "
        f"SNR. Above {'coefficients' if cepstra else 'levels in dBFS'}, on one scale for all; below as stored, in "
        "standard deviations from the band's mean."
    )
    counted = [
        (name, f"{mean:.3f}", f"{std:.3f}", f"{largest:.1f}", f"{far:.3%}")
        for name, mean, std, largest, far in zip(CHANNELS, values.mean, values.std, values.largest, values.far, strict=True)
    ]
    return {
        "rows": shown,
        "how": how,
        "by_receiver": draw_examples(opened, sample),
        "distributions": [
            Chart("Normalized values", draw_normalized(values), "Grey: the normal distribution.", CHANNEL_LEGEND),
            Chart(
                "Cepstral coefficients" if cepstra else "Levels",
                draw_levels(values, cepstra=cepstra),
                "" if cepstra else f"Floor: {opened.spec.floor_db:g} dBFS.",
                CHANNEL_LEGEND,
            ),
        ],
        "normalized": Table(
            f"Normalized values of {shown}", ("channel", "mean", "std", "largest |value|", "beyond 5 σ"), counted
        ),
    }


def sample_chunks(feature_set: FeatureSet, wanted: int, seed: int = 0) -> list[tuple[int, int]]:
    """(segment, chunk) of some of a set's chunks, drawn without replacement, in order: all of them when they are so few.

    Rows are in order of their sessions' hash, so that whole chunks are a fair sample of sessions.
    """
    drawn = np.random.default_rng(seed).permutation(len(feature_set.chunks))[:wanted]
    return [feature_set.chunks[index] for index in np.sort(drawn)]


def statistics(opened: FeatureSet) -> dict[str, Any]:
    """Mean and std of the basis."""
    titles = {"mean": "Mean", "std": "Standard deviation"}
    figures = [
        Chart(title, draw_statistic(opened.spec, opened.basis, name), "", CHANNEL_LEGEND) for name, title in titles.items()
    ]
    counted = [
        (f"{channel}, {name}", *(f"{value:.2f}" for value in (values.min(), values.mean(), values.max())))
        for name in titles
        for channel, values in zip(CHANNELS, getattr(opened.basis, name), strict=True)
    ]
    return {
        "id": opened.basis.id,
        "rows": f"{opened.basis.rows:,}",
        "charts": figures,
        "by_channel": Table("Over the bands", ("", "lowest", "mean", "highest"), counted),
    }


def labels(rows: LabelledRows) -> dict[str, Any]:
    """SNR and frequency."""
    figures, counted = [], []
    for values, name, unit, title in (
        (rows.snr_db, "SNR", "dB", "Signal-to-noise ratio"),
        (rows.frequency_mhz, "frequency", "MHz", "Frequency"),
    ):
        known = values[np.isfinite(values)]
        unknown = len(values) - len(known)
        if len(known):
            note = f"{unknown:,} rows of unknown {name} are not drawn." if unknown else "Known of all rows."
            figures.append(Chart(title, draw_by_split(values, rows.split, name, unit), note, SPLIT_LEGEND))
            counted.append((f"{name}, {unit}", *(f"{value:g}" for value in _spread(known)), f"{unknown:,}"))
        else:
            counted.append((f"{name}, {unit}", "", "", "", "", "", f"{unknown:,}"))
    header = ("", "lowest", "10%", "median", "90%", "highest", "rows unknown")
    return {"charts": figures, "spread": Table("Over all rows", header, counted)}


def _spread(known: Any) -> list[float]:
    return [round(value, 3) for value in np.quantile(known.astype(np.float64), [0, 0.1, 0.5, 0.9, 1]).tolist()]


def receivers(rows: LabelledRows) -> dict[str, Any]:
    """Captures of each receiver over time."""
    captures = rows.captures
    timeline = Timeline.of(captures)
    chart = None
    if len(timeline.starts):
        more = len(timeline.receivers) - MAX_DRAWN
        caption = f"{more} more receivers are in the table only. " if more > 0 else ""
        caption += f"{timeline.unknown:,} captures of unknown time are not drawn." if timeline.unknown else ""
        title = f"Captures per {timeline.unit} (UTC), by receiver"
        chart = Chart(title, draw_timeline(timeline), caption, large=True)
    header = ("receiver", "captures", "rows", "median SNR, dB", "first (UTC)", "last (UTC)")
    receivers = Table("Receivers", header, _receiver_rows(rows, captures))
    return {"chart": chart, "captures": f"{len(captures):,}", "table": receivers}


def _receiver_rows(rows: LabelledRows, captures: LabelledRows) -> list[tuple[str, ...]]:
    n_rows, table = Counter(rows.websdr_id.tolist()), []
    for receiver in np.unique(captures.websdr_id).tolist():
        own = captures.select(captures.websdr_id == receiver)
        when, snr = own.timestamp[~np.isnat(own.timestamp)], own.snr_db[np.isfinite(own.snr_db)]
        times = (
            [str(time.astype("datetime64[m]")).replace("T", " ") for time in (when.min(), when.max())]
            if len(when)
            else ["", ""]
        )
        median = f"{np.median(snr):.1f}" if len(snr) else ""
        table.append((str(receiver), f"{len(own):,}", f"{n_rows[receiver]:,}", median, *times))
    return table
