"""Which recordings a session's pairs come from: rows keep a digest of them and of their times; the catalog knows both."""

from __future__ import annotations

from collections.abc import Mapping

from featurestore.objects.objects import Location, open_objects
from featurestore.pairs.pair_set import PairSet
from featurestore.pairs.plan import make_pair_plan
from featurestore.progress import Progress
from featurestore.source.catalog import asked_again, read_snapshot
from featurestore.source.listing import read_listing
from featurestore.source.recording import Recording
from featurestore.tensor.spec import SplitSpec

Recordings = Mapping[bytes, tuple[Recording, ...]]


def find_recordings(opened: PairSet, raw: Location, catalog: str, progress: Progress) -> Recordings:
    """Session digest → its captures as they are now; a session that has changed since it was computed has another digest.

    Raises:
        StoreError: when the raw location refuses.
        ServiceUnavailableError: when it does not answer, or the catalog.
    """
    snapshot = read_snapshot(catalog, asked_again(str(opened.manifest.snapshot["query"])))
    listing = read_listing(open_objects(raw.url), snapshot, progress)
    plan = make_pair_plan(opened.spec, SplitSpec(), snapshot, listing, [])
    return {session.digest: tuple(plan.recordings(place)) for place, session in enumerate(plan.sessions)}
