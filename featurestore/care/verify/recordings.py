"""Where the recordings of rows are: a set keeps no object keys, but each row the digest of the object that it came from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from featurestore.build.align import align_sessions
from featurestore.build.plan import prefilter
from featurestore.build.rows_from_iq import Aligned, RawWindows
from featurestore.objects.objects import Location, open_objects
from featurestore.progress import Progress
from featurestore.source.listing import read_listing, source_digest
from featurestore.source.snapshot import Snapshot
from featurestore.tensor.rejection import Reason
from featurestore.tensor.spec import FeatureSpec


@dataclass(frozen=True)
class Source:
    """An object that rows were computed from.

    Attributes:
        key: in the raw location.
        size_bytes: of it.
        aligned: its place among the recordings that its windows begin together with, and those; `None`: it stands alone.
    """

    key: str
    size_bytes: int
    aligned: Aligned | None = None


@dataclass(frozen=True)
class Sources:
    """The objects that were looked for and found.

    Attributes:
        raw: the raw location.
        by_digest: source digest → object. One that is not there is gone, or was replaced or written anew since.
    """

    raw: Location
    by_digest: dict[bytes, Source]

    def windows(self, digests: npt.NDArray[np.uint8], windows: Sequence[int], wanted: npt.NDArray[np.bool_]) -> RawWindows:
        """What to compute for rows, given by the digest of their object, (n, 16), and their window; those wanted are here."""
        sources = [
            self.by_digest[digest.tobytes()] if want else Source("", 0)
            for digest, want in zip(digests, wanted.tolist(), strict=True)
        ]
        aligned = [one.aligned for one in sources]
        return RawWindows([one.key for one in sources], [one.size_bytes for one in sources], windows, wanted, aligned)

    def has(self, digests: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
        """(n,) which of these objects were found."""
        return np.fromiter((digest.tobytes() in self.by_digest for digest in digests), bool, len(digests))


def find_sources(raw: Location, digests: Iterable[bytes], progress: Progress) -> Sources:
    """List the raw location, until all objects of these digests are found.

    Keys are not asked for: whatever the catalog called an object, its digest tells that it is the one.

    Raises:
        UsageError: when the location is no directory.
        StoreError: when the store refuses.
        ServiceUnavailableError: when it does not answer.
    """
    wanted, sources = set(digests), dict[bytes, Source]()
    progress.start("find recordings", len(wanted), "recordings")
    if wanted:
        objects = open_objects(raw.url)
        objects.check()
        for info in objects.walk():
            digest = source_digest(info, by_etag=not raw.is_local)
            if digest in wanted and digest not in sources:
                sources[digest] = Source(info.key, info.size_bytes)
                progress.advance(1)
                if len(sources) == len(wanted):
                    break
    return Sources(raw, sources)


def find_aligned_sources(
    raw: Location, spec: FeatureSpec, snapshot: Snapshot, digests: Iterable[bytes], progress: Progress
) -> Sources:
    """The same for windows that are aligned by session: a digest is made of all recordings of one then, and of their times.

    Those are known to the catalog alone, which is therefore asked for all captures.

    Raises:
        UsageError: when the location is no directory.
        StoreError: when the store refuses.
        ServiceUnavailableError: when it does not answer.
    """
    listing = read_listing(open_objects(raw.url), snapshot, progress)
    usable = prefilter(spec, snapshot, listing) == Reason.VALID
    alignment, wanted, sources = align_sessions(snapshot, listing, usable), set(digests), dict[bytes, Source]()
    for index in np.flatnonzero(usable).tolist():
        digest = alignment.source_digest[index].tobytes()
        if digest in wanted:
            aligned = alignment.recordings(index, snapshot, listing)
            sources[digest] = Source(snapshot.key(index), int(listing.size_bytes[index]), aligned)
    return Sources(raw, sources)
