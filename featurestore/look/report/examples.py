"""Tensors to look at: of the busiest receivers, from a weak, a middling and a strong signal each."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from featurestore.look.report.labelled_rows import LabelledRows
from featurestore.look.report.spectrograms import Scale, draw_tensor, to_decibels
from featurestore.page.page import Chart
from featurestore.store.feature_set import FeatureSet
from featurestore.store.split import SPLITS

MAX_RECEIVERS = 6
STRENGTHS = ("weak", "middling", "strong")


def choose_examples(rows: LabelledRows, max_receivers: int = MAX_RECEIVERS) -> dict[int, npt.NDArray[np.int64]]:
    """Receiver → places of its rows with the lowest, the median and the highest SNR, as far as it has different rows."""
    receivers, counts = np.unique(rows.websdr_id, return_counts=True)
    chosen = {}
    for receiver in np.sort(receivers[np.argsort(-counts, kind="stable")[:max_receivers]]).tolist():
        places = np.flatnonzero(rows.websdr_id == receiver)
        known = places[np.isfinite(rows.snr_db[places])]
        if len(known):  # a row of unknown SNR says nothing of weak and strong
            places = known[np.argsort(rows.snr_db[known], kind="stable")]
        chosen[receiver] = places[np.unique(np.linspace(0, len(places) - 1, len(STRENGTHS)).round().astype(int))]
    return chosen


def draw_examples(feature_set: FeatureSet, rows: LabelledRows) -> dict[int, list[Chart]]:
    """Pictures, receiver by receiver.

    Args:
        feature_set: whose tensors they are.
        rows: to choose from: only chunks that hold chosen rows are read.
    """
    chosen = choose_examples(rows)
    places = np.concatenate([*chosen.values(), np.empty(0, np.int64)])
    tensors = feature_set.read_rows(rows.row[places])
    scale = Scale.of(to_decibels(feature_set.basis, tensors))
    by_place = dict(zip(places.tolist(), tensors, strict=True))
    drawn: dict[int, list[Chart]] = {}
    for receiver, own in chosen.items():
        drawn[receiver] = []
        for place in own.tolist():
            title, about = f"{_snr(rows, place)}, capture {rows.capture_id[place]}", _about(rows, place)
            label = f"Receiver {receiver}, {title}: spectrograms of I, Q and magnitude in dB and normalized"
            picture = draw_tensor(feature_set.spec, feature_set.basis, by_place[place], scale, label)
            drawn[receiver].append(Chart(title, picture, about))
    return drawn


def _snr(rows: LabelledRows, place: int) -> str:
    snr = float(rows.snr_db[place])
    return f"SNR {snr:.1f} dB" if np.isfinite(snr) else "SNR unknown"


def _about(rows: LabelledRows, place: int) -> str:
    frequency, when = float(rows.frequency_mhz[place]), rows.timestamp[place]
    parts = [SPLITS[rows.split[place]], f"row {rows.row[place]}"]
    parts += [f"{frequency:g} MHz"] if np.isfinite(frequency) else []
    return ", ".join(parts + ([] if np.isnat(when) else [str(when.astype("datetime64[s]")).replace("T", " ")]))
