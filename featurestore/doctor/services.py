"""Checks of the services that features come from and go to: PostgreSQL, object stores, Dask, clocks, disk."""

from __future__ import annotations

import os
import shutil
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from itertools import islice
from pathlib import Path

from featurestore.doctor.checks import Check, Skipped
from featurestore.doctor.dask_cluster import look_at_dask
from featurestore.errors import HeimdallError, StoreError, first_line
from featurestore.objects.objects import Location, ObjectInfo, Objects
from featurestore.objects.retries import Patience
from featurestore.source.catalog_connection import describe
from featurestore.source.catalog_state import COUNTED, clock_ahead_s, count_approved, server_version
from featurestore.tensor.spec import FeatureSpec

PATIENCE = Patience(connect_s=3, silence_s=5, request_s=5, total_s=5)
MAX_SKEW_S = 300.0
"""Signed requests to S3 are refused from 15 minutes on; clocks that somebody looks after differ by less than a second."""
LEAST_FREE_BYTES = 10**9
BYTES_PER_VALUE = 6
"""A store keeps log-mel as float32 and normalized features as float16."""
RANGE = (3, 11)
"""Bytes that a ranged read asks for."""
LOOKED_AT = 1000
"""Objects of a listing."""


@dataclass
class Places:
    """Where things are; `None` is not given.

    Attributes:
        catalog: PostgreSQL connection string; empty takes everything from `PG*`.
        query: for a catalog with another schema.
        raw: URL of captures.
        store: URL of features.
        models: URL of checkpoints or releases.
        scheduler: address of Dask's.
        approved: captures, once they have been counted.
    """

    catalog: str | None = None
    query: str | None = None
    raw: str | None = None
    store: str | None = None
    models: str | None = None
    scheduler: str | None = None
    approved: int = field(default=0, init=False)

    @property
    def buckets(self) -> list[str]:
        """Those of the locations that are in S3."""
        return [place for place in (self.raw, self.store, self.models) if place and place.startswith("s3://")]


def service_checks(places: Places) -> list[Check]:
    """Everything but the disk, which depends on what these find."""
    reach = "check the address, firewalls and proxies"
    grant = "let this user list, read, write and delete there"
    return [
        Check("PostgreSQL", lambda: _postgresql(_given(places.catalog, "--catalog, or PGHOST, PGDATABASE, …")), reach),
        Check("catalog", lambda: _catalog(places), "look at the table: featurestore/schema.sql says how it is"),
        Check("raw captures", lambda: _raw(_given(places.raw, "--raw")), grant),
        Check("feature store", lambda: _store(_given(places.store, "--store")), grant),
        Check("model store", lambda: _store(_given(places.models, "--models")), grant),
        Check("Dask", lambda: look_at_dask(_given(places.scheduler, "--scheduler, or DASK_SCHEDULER_ADDRESS")), reach),
        Check("clock, PostgreSQL", lambda: _clock(clock_ahead_s(_that_answers(_given(places.catalog, "--catalog")))), reach),
        Check("clock, S3", lambda: _clock(_s3_ahead_s(places)), reach),
    ]


def disk_check(name: str, directory: Path, need_bytes: float, what: str) -> Check:
    """Whether there is room.

    Args:
        name: of the check.
        directory: that need not exist yet.
        need_bytes: that will be written.
        what: they are.
    """

    def look() -> str:
        existing = next(parent for parent in (directory.absolute(), *directory.absolute().parents) if parent.exists())
        free = shutil.disk_usage(existing).free
        if not os.access(existing, os.W_OK):
            raise HeimdallError(f"{existing} may not be written to; choose another directory, or change its permissions")
        if free < need_bytes:
            raise HeimdallError(
                f"{free / 1e9:,.1f} GB free for {directory}, and {need_bytes / 1e9:,.1f} GB are needed ({what}); "
                "make room, or choose another place"
            )
        return f"{free / 1e9:,.0f} GB free for {directory}; {need_bytes / 1e9:,.1f} GB are needed ({what})"

    return Check(f"disk, {name}", look, "choose another directory")


def disk_checks(places: Places) -> list[Check]:
    """Of a store in a local directory: room for the features of all approved captures that were counted."""
    if places.store is None or places.store.startswith("s3://"):
        return []
    row_bytes = BYTES_PER_VALUE * _size(FeatureSpec().tensor_shape)
    need = max(LEAST_FREE_BYTES, places.approved * row_bytes)
    what = f"features of {places.approved:,} captures at the usual parameters" if places.approved else "to begin with"
    return [disk_check("features", Location.parse(places.store).directory, need, what)]


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size


def _given(place: str | None, how: str) -> str:
    if place is None:
        raise Skipped(f"not given: {how}")
    return place


def _postgresql(catalog: str) -> str:
    return f"{describe(catalog)}: version {server_version(catalog)}"


def _that_answers(catalog: str) -> str:
    try:
        server_version(catalog)
    except HeimdallError as error:  # said once
        raise Skipped("PostgreSQL cannot be asked") from error
    return catalog


def _catalog(places: Places) -> str:
    catalog = _that_answers(_given(places.catalog, "--catalog"))
    places.approved = count_approved(catalog, places.query)
    if places.approved == 0:
        raise HeimdallError(
            f"{describe(catalog)} has no approved capture; bring some in (heimdall ingest), or set approved of those "
            "that are there"
        )
    if places.query is not None:
        return "the query yields captures"
    return f"{places.approved:,}{' or more' if places.approved == COUNTED else ''} approved captures"


def _open(url: str) -> Objects:
    return Objects(Location.parse(url), PATIENCE)


def _raw(url: str) -> str:
    objects = _open(url)
    objects.check()
    some = list(islice(objects.walk(), LOOKED_AT))
    if not some:
        raise HeimdallError(
            f"{objects.location} is empty; correct the prefix, or bring captures in (heimdall ingest, simulate)"
        )
    large = next((info for info in some if info.size_bytes >= RANGE[1]), None)
    count = f"{len(some):,}{' or more' if len(some) == LOOKED_AT else ''} objects"
    if large is None:
        raise HeimdallError(f"{objects.location} holds {count}, all nearly empty; correct the prefix")
    _read_range(objects, large)
    return f"{objects.location}: {count}; {_ranges(objects)}"


def _read_range(objects: Objects, info: ObjectInfo) -> None:
    """A ranged read, as a build does it; it is refused when the server sends the whole object with status 200."""
    (part,) = objects.get_ranges(info.key, [RANGE[0]], [RANGE[1]])
    if len(part) != RANGE[1] - RANGE[0]:
        raise StoreError(f"{objects.location}/{info.key}: {len(part)} bytes came for a range of 8; use another S3 server")


def _ranges(objects: Objects) -> str:
    return "reads of parts" if objects.location.is_local else "ranged reads are answered with 206"


def _store(url: str) -> str:
    location = Location.parse(url)
    if location.is_local and not location.directory.exists():
        return f"{location} will be created by the first command that writes there"  # the disk's check sees whether it may be
    objects = _open(url)
    objects.check()
    key = f".doctor-{uuid.uuid4().hex}"
    content, other = b"written by heimdall doctor", b"written by heimdall doctor, later"
    try:
        if not objects.put(key, content, create=True):
            raise StoreError(f"{location}/{key} exists, says the server, and nobody wrote it; use another S3 server")
        if objects.put(key, other, create=True) or objects.get(key) != content:
            raise StoreError(
                f"{location}: the server overwrites what is to be written only once (it ignores If-None-Match); two builders "
                "could overwrite each other. Use a server that knows conditional writes"
            )
        _read_range(objects, ObjectInfo(key, len(content), None, 0))
    finally:
        _delete(objects, key)
    if key in objects.names():
        raise StoreError(f"{location}/{key} is still there after it was deleted; let this user delete there")
    return f"{location}: list, write, write once, delete; {_ranges(objects)}"


def _delete(objects: Objects, key: str) -> None:
    with suppress(HeimdallError):  # the error that ended the check says more; and what stays there is noticed below
        objects.delete([key])


def _s3_ahead_s(places: Places) -> float:
    """How many seconds the clock of S3 is ahead, to its whole second: also a refusal tells the time."""
    if not places.buckets:
        raise Skipped("no location is in S3")
    import boto3
    from botocore import UNSIGNED
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    quick = Config(signature_version=UNSIGNED, connect_timeout=3, read_timeout=5, retries={"total_max_attempts": 1})
    bucket = places.buckets[0].removeprefix("s3://").partition("/")[0]
    asked = time.time()
    try:
        answer = boto3.client("s3", config=quick).head_bucket(Bucket=bucket)["ResponseMetadata"]
    except ClientError as error:
        answer = error.response["ResponseMetadata"]
    except (BotoCoreError, ValueError) as error:
        raise Skipped(f"S3 told no time ({first_line(error)})") from error
    date = answer["HTTPHeaders"].get("date")
    if date is None:
        raise Skipped("S3 told no time")
    return parsedate_to_datetime(date).timestamp() + 0.5 - (asked + time.time()) / 2


def _clock(ahead_s: float) -> str:
    if abs(ahead_s) > MAX_SKEW_S:
        raise HeimdallError(
            f"it is {abs(ahead_s) / 60:,.0f} minutes {'ahead of' if ahead_s > 0 else 'behind'} this machine's clock, and S3 "
            "refuses requests from 15 on; set the one that is wrong (timedatectl set-ntp true)"
        )
    return f"{abs(ahead_s):.1f} s {'ahead of' if ahead_s > 0 else 'behind'} this machine's"
