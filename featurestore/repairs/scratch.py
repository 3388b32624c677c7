"""A store as it would be after a repair: what is written stays beside it. For `--dry-run`, which so does all the work."""

from __future__ import annotations

from pathlib import Path

from featurestore.objects import Location, Objects, ReadBytes, WritableBytes


class Scratch(Objects):
    """Reads the objects under a location; what is put goes to a local directory, and is read from there.

    Only what repairs use of `Objects`: `read`, `get`, `get_json`, `put`, `put_json`, `names` (which lists the store alone).
    """

    def __init__(self, location: Location, directory: Path) -> None:
        super().__init__(location)
        self._written = Objects(Location.parse(str(directory)))

    def read(self, key: str) -> ReadBytes:
        """What was put, or else what is in the store."""
        try:
            return self._written.read(key)
        except FileNotFoundError:
            return super().read(key)

    def get(self, key: str) -> bytes:
        """Likewise; in S3 documents are read in another way."""
        try:
            return self._written.get(key)
        except FileNotFoundError:
            return super().get(key)

    def put(self, key: str, data: WritableBytes, *, create: bool = False) -> bool:
        """Write to the directory."""
        return self._written.put(key, data, create=create)
