"""What `ingest` did, for people and for machines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from featurestore.corpus.ingest.labels import Remark
from featurestore.errors import DataQualityError
from featurestore.source.catalog_writing import Recorded


@dataclass
class Ingested:
    """What `ingest` did.

    Attributes:
        recordings: files that became captures.
        captures: captures that they became.
        written: objects that were new or had changed.
        unchanged: objects that were there already.
        snr_estimated: captures without a labelled SNR for which one was estimated.
        snr_unknown: captures for which neither was possible.
        catalog: what happened to the rows.
        receivers: whose place was new to the catalog, or had changed.
        skipped: the files that did not go in, with the reasons.
        notes: what else to know of a file.
        unlabelled: recordings in the directory that no label names.
        bytes_written: size of the objects written.
        seconds: time it took.
    """

    recordings: int = 0
    captures: int = 0
    written: int = 0
    unchanged: int = 0
    snr_estimated: int = 0
    snr_unknown: int = 0
    catalog: Recorded = field(default_factory=lambda: Recorded(0, 0, 0))
    receivers: int = 0
    skipped: list[Remark] = field(default_factory=list)
    notes: list[Remark] = field(default_factory=list)
    unlabelled: int = 0
    bytes_written: int = 0
    seconds: float = 0.0

    def add_rows(self, rows: Recorded) -> None:
        """Count rows of one more transaction."""
        known = self.catalog
        self.catalog = Recorded(
            inserted=known.inserted + rows.inserted,
            updated=known.updated + rows.updated,
            unchanged=known.unchanged + rows.unchanged,
        )

    def to_json(self) -> dict[str, Any]:
        """The result as one JSON object."""
        return vars(self) | {
            "catalog": vars(self.catalog),
            "skipped": [{"file": remark.file, "reason": remark.text} for remark in self.skipped],
            "notes": [{"file": remark.file, "note": remark.text} for remark in self.notes],
            "seconds": round(self.seconds, 3),
        }

    def lines(self) -> Iterator[str]:
        """The result for people."""
        yield (
            f"{self.recordings:,} recordings → {self.captures:,} captures: {self.written:,} written "
            f"({self.bytes_written / 1e6:,.1f} MB), {self.unchanged:,} unchanged, in {self.seconds:.1f} s"
        )
        rows = self.catalog
        yield f"catalog: {rows.inserted:,} rows inserted, {rows.updated:,} updated, {rows.unchanged:,} unchanged"
        if self.snr_estimated or self.snr_unknown:
            yield f"SNR without a label: estimated for {self.snr_estimated:,} captures, unknown for {self.snr_unknown:,}"
        if self.receivers:
            yield f"receivers: {self.receivers:,} whose place was new or has changed"
        if self.unlabelled:
            yield f"{self.unlabelled:,} recordings in the directory have no label"
        yield from (f"note: {remark.file}: {remark.text}" for remark in self.notes)
        yield from (f"skipped: {remark.file}: {remark.text}" for remark in self.skipped)


def require_quality(result: Ingested, strict: bool) -> None:
    """Fail when nothing went in, or, if `strict`, when anything was skipped.

    Raises:
        DataQualityError: saying so.
    """
    skipped = len(result.skipped)
    if result.recordings == 0:
        raise DataQualityError(
            f"no recording could be ingested ({skipped} skipped); correct the labels or the files named above"
        )
    if strict and skipped:
        raise DataQualityError(f"{skipped} recordings were skipped (--strict); the others are in")
