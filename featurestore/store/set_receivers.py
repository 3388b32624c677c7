"""Where a set's receivers stand: its `receivers.json`, which the manifest names by a digest; sets from before have none."""

from __future__ import annotations

from featurestore.errors import StoreError
from featurestore.objects.objects import Objects
from featurestore.source.receivers import Receivers, parse_receivers_json, receivers_json
from featurestore.store.manifest import Manifest
from featurestore.tensor.spec import digest

RECEIVERS = "receivers"
"""Of the file in a set, and of its digest in the manifest's snapshot and in what the set's version is made of."""


def receivers_key(version: str) -> str:
    """Where a set says where its receivers stand."""
    return f"sets/{version}/{RECEIVERS}.json"


def receivers_id(receivers: Receivers | None) -> str | None:
    """The name of a table of receivers: a digest of its `receivers.json`; `None` where there is none to write."""
    return digest(receivers_json(receivers)) if receivers is not None and len(receivers) else None


def named_receivers(receivers: str | None) -> dict[str, str]:
    """What a version and a manifest say of receivers: nothing where the set does not know them, as before there were any."""
    return {} if receivers is None else {RECEIVERS: receivers}


def read_set_receivers(objects: Objects, manifest: Manifest) -> Receivers:
    """Where the receivers of a set stand; none where its manifest names no table of them.

    Raises:
        StoreError: when the table is missing, or is not the one that the manifest names.
    """
    named = manifest.snapshot.get(RECEIVERS)
    if named is None:
        return Receivers.of([])
    key = receivers_key(manifest.version)
    name = f"{objects.location}/{key}"
    try:
        content = objects.get(key)
    except FileNotFoundError as error:
        raise StoreError(f"{name} is missing; restore it with 'features repair'") from error
    receivers = parse_receivers_json(name, content)
    if receivers_id(receivers) != named:
        raise StoreError(f"{name} is table {receivers_id(receivers)}, expected {named}; restore it with 'features repair'")
    return receivers
