"""Where receivers stand, as labels of recordings say it, or a table that is given: what `ingest` writes into the catalog."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from featurestore.corpus.ingest.labels import Label, Remark
from featurestore.source.receivers import Receivers


def gather_receivers(labels: Iterable[Label], given: Receivers | None) -> tuple[Receivers, list[Remark]]:
    """The receivers of a table that was given, and of labels those that it lacks; and what labels contradict each other in.

    Of a receiver whose labels disagree, the first one counts.

    Args:
        labels: of recordings, in their order.
        given: a table; `None` where there is none.
    """
    first_label: dict[int, Label] = {}
    remarks = []
    for label in labels:
        if label.receiver_latitude is None or label.receiver_longitude is None:
            continue
        first = first_label.setdefault(label.websdr_id, label)
        if _place(first) != _place(label):
            remarks.append(
                Remark(
                    label.file,
                    f"its label has receiver {label.websdr_id} at {_told(label)}, that of {first.file} at {_told(first)}: "
                    "the first counts; correct the wrong one",
                )
            )
    receivers = Receivers.of(_rows(first_label.values()))
    return (receivers if given is None else given.or_else(receivers)), remarks


def _rows(labels: Iterable[Label]) -> Iterator[tuple[int, float, float, str | None, float | None]]:
    for label in labels:
        if label.receiver_latitude is not None and label.receiver_longitude is not None:
            place = label.receiver_latitude, label.receiver_longitude
            yield label.websdr_id, *place, label.receiver_name, label.receiver_altitude_m


def _place(label: Label) -> tuple[float | None, ...]:
    return label.receiver_latitude, label.receiver_longitude, label.receiver_altitude_m


def _told(label: Label) -> str:
    return ", ".join(f"{value:g}" for value in _place(label) if value is not None)
