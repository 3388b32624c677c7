"""The only object store: one code path for `s3://bucket/prefix` and `file:///dir`, by way of obstore.

Throttling, 5xx, broken connections, silence and damage on the way that shows are met by trying again, with exponential
backoff and jitter (`retries`); what a server says for good is raised at once (`explain`).

Longer than 300 lines, because it is one class: every way to read or write an object, all of which share connections,
patience and the words of errors.
"""

from __future__ import annotations

import errno
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import cached_property, lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import obstore
from obstore.exceptions import AlreadyExistsError
from obstore.store import LocalStore

from featurestore.errors import ServiceUnavailableError, StoreError, UsageError
from featurestore.objects import local_files
from featurestore.objects.explain import explain
from featurestore.objects.location import Location as Location  # noqa: PLC0414 - part of this module's interface
from featurestore.objects.retries import Patience
from featurestore.objects.s3 import Connections, Store, connect

PATIENCE = Patience()

CHECK_PATIENCE = Patience(connect_s=3, silence_s=3, request_s=3, total_s=3)
"""Of `Objects.check`."""

PART_BYTES = 16 * 2**20
"""Of uploads of files: S3 takes up to 10,000 parts."""

RECEIVED_BYTES = 2**16
"""Of an object that is received into given memory, at least so many at a time."""

LIST_PAGE = 1000
"""Objects per request, of a listing and of a deletion: as many as S3 allows."""

_EPOCH, _MICROSECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)

READS_OF_A_DOCUMENT = 4
"""At most, until what came is what the server says it holds, or came twice."""

Result = TypeVar("Result")
ReadBytes = bytes | obstore.Bytes
WritableBytes = bytes | bytearray | memoryview


class ObjectInfo(NamedTuple):
    """What a listing says of one object; `key` is relative to the location that was listed. Local files have no ETag."""

    key: str
    size_bytes: int
    etag: str | None
    modified_us: int
    """Time of the last change, µs since 1970 UTC: a number, as there is one for each of millions of captures."""

    @property
    def modified(self) -> datetime:
        """Time of the last change."""
        return _EPOCH + timedelta(microseconds=self.modified_us)


class Objects:
    """The objects under one location. Keys are relative to it, with `/` between their parts.

    Every method raises `ServiceUnavailableError` when the server stays away, and `StoreError` when it refuses.
    Instances can be sent to other processes: they carry the URL and reconnect there with that process's credentials.
    """

    def __init__(self, location: Location, patience: Patience | None = None) -> None:
        self.location = location
        self._patience = patience or PATIENCE

    @property
    def store(self) -> Store:
        """The obstore store underneath, for libraries that take one (zarr). A local directory is created when there is none."""
        return self._connections.patient

    @cached_property
    def _connections(self) -> Connections:
        if not self.location.is_local:
            return connect(self.location, self._patience)
        try:
            local = LocalStore(self.location.directory, mkdir=True, automatic_cleanup=True)
        except Exception as error:
            raise self._explain(error, "") from error
        return Connections(local, local, local)

    @cached_property
    def _root(self) -> str:
        return str(self.location.directory)

    def __reduce__(self) -> tuple[Any, ...]:
        return open_objects, (self.location.url,)

    def __repr__(self) -> str:
        return f"Objects({self.location.url!r})"

    def walk(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Every object below `prefix` (whole path segments), with what the listing says of it."""
        if self._absent():
            return
        if self.location.is_local:
            yield from self._walk_files(prefix)
            return
        stream: Iterator[Sequence[Any]] | None = None
        last: str | None = None

        def next_page() -> Sequence[Any] | None:
            nonlocal stream
            if stream is None:
                stream = iter(obstore.list(self._connections.reading, prefix or None, offset=last, chunk_size=LIST_PAGE))
            try:
                return next(stream, None)
            except BaseException:
                stream = None  # begun anew behind what has come
                raise

        while page := self._insist(prefix, next_page):
            for meta in page:
                modified_us = (meta["last_modified"] - _EPOCH) // _MICROSECOND
                yield ObjectInfo(meta["path"], meta["size"], meta["e_tag"], modified_us)
            last = page[-1]["path"]

    def _walk_files(self, prefix: str) -> Iterator[ObjectInfo]:
        try:
            for key, size, modified_ns in local_files.walk(self._root, prefix):
                yield ObjectInfo(key, size, None, modified_ns // 1000)
        except OSError as error:
            raise self._explain(error, prefix) from error

    def names(self, prefix: str = "") -> list[str]:
        """The names directly below `prefix` ("folders" and objects), sorted: one listing with a delimiter."""
        if self._absent():
            return []
        result = self._insist(prefix, lambda: obstore.list_with_delimiter(self._connections.reading, prefix or None))
        paths = [*result["common_prefixes"], *(meta["path"] for meta in result["objects"])]
        return sorted(path.rsplit("/", 1)[-1] for path in paths)

    def get(self, key: str) -> bytes:
        """The whole object, compared with its ETag where that is its MD5: for documents, which carry no checksum themselves.

        Raises:
            FileNotFoundError: when there is no such object.
            ServiceUnavailableError: also when it arrives differently each time it is read.
        """
        if self.location.is_local:
            return bytes(memoryview(self.read(key)))
        seen: set[bytes] = set()
        for _ in range(READS_OF_A_DOCUMENT):
            data, etag = self._insist(key, lambda: self._get(key))
            # An ETag that looks like an MD5 may be none (encryption): then the same bytes come again.
            if not re.fullmatch(r"[0-9a-f]{32}", etag) or etag == _md5(data) or data in seen:
                return data
            seen.add(data)
        raise ServiceUnavailableError(
            f"{self._name(key)} arrived differently each of the {READS_OF_A_DOCUMENT} times that it was read, so something "
            "on the way damages it; check the network, or use an https:// endpoint"
        )

    def _get(self, key: str) -> tuple[bytes, str]:
        result = obstore.get(self._connections.reading, key)
        etag = (result.meta["e_tag"] or "").strip('"')
        return bytes(memoryview(result.bytes())), etag

    def read(self, key: str) -> ReadBytes:
        """The whole object as a buffer, not compared with anything: for what carries a checksum of its own.

        Raises:
            FileNotFoundError: when there is no such object.
        """
        if self.location.is_local:
            try:
                return local_files.read(local_files.path_of(self._root, key))
            except OSError:  # in its own words below
                pass
        if self._absent():
            raise FileNotFoundError(f"{self._name(key)} does not exist")
        return self._insist(key, lambda: obstore.get(self._connections.reading, key).bytes())

    def read_into(self, key: str, memory: memoryview) -> memoryview:
        """The whole object: in `memory`, which is returned, if it is just as long; else in memory of its own.

        Memory that is used again is what makes this worth while: fresh memory is faulted in page by page.

        Raises:
            FileNotFoundError: when there is no such object.
        """
        if self.location.is_local:
            try:
                if local_files.read_into(local_files.path_of(self._root, key), memory):
                    return memory
            except OSError:  # in its own words below
                pass
        if self.location.is_local:
            data = memoryview(self.read(key))
            if len(data) != len(memory):
                return data
            memory[:] = data
            return memory
        return self._insist(key, lambda: self._receive(key, memory))

    def _receive(self, key: str, memory: memoryview) -> memoryview:
        """`read_into` from a server: what arrives goes to its place at once, and never is a whole object of its own."""
        result = obstore.get(self._connections.reading, key)
        if result.meta["size"] != len(memory):
            return memoryview(result.bytes())
        end, place = 0, np.frombuffer(memory, np.uint8)
        for part in result.stream(min_chunk_size=RECEIVED_BYTES):
            begin, end = end, end + len(part)
            np.copyto(place[begin:end], np.frombuffer(part, np.uint8))  # lets other threads go on meanwhile
        return memory[:end]

    def get_json(self, key: str) -> Any:
        """The object, parsed as JSON. `FileNotFoundError` when absent, `StoreError` when it is not JSON."""
        try:
            return json.loads(self.get(key))
        except ValueError as error:
            raise StoreError(f"{self._name(key)} is not valid JSON ({error}); it is damaged") from error

    def get_ranges(self, key: str, starts: Sequence[int], ends: Sequence[int]) -> Sequence[ReadBytes]:
        """The bytes `[start, end)` of each range, each its own request; nothing in between is read.

        Raises:
            FileNotFoundError: when there is no such object.
            ShortObjectError: when it ends before.
        """
        if self.location.is_local:
            try:
                return local_files.read_ranges(local_files.path_of(self._root, key), starts, ends)
            except OSError as error:  # in its own words below
                if error.errno == errno.ESPIPE:  # a pipe, which obstore would wait for
                    raise FileNotFoundError(f"{self._name(key)} is no file") from error
        reading = self._connections.reading
        return self._insist(key, lambda: obstore.get_ranges(reading, key, starts=starts, ends=ends, coalesce=0))

    def get_range(self, key: str, start: int, end: int) -> tuple[ReadBytes, Mapping[str, str]]:
        """The bytes `[start, end)`, and the metadata that came with them, as `put` wrote it; of local files there is none.

        Raises:
            FileNotFoundError: when there is no such object.
            ShortObjectError: when it ends before `start`.
        """
        if self.location.is_local:
            return self.get_ranges(key, [start], [end])[0], {}

        def attempt() -> tuple[ReadBytes, Mapping[str, str]]:
            result = obstore.get(self._connections.reading, key, options={"range": (start, end)})
            return result.bytes(), {str(name): str(value) for name, value in result.attributes.items()}

        return self._insist(key, attempt)

    def put(self, key: str, data: WritableBytes, *, create: bool = False, metadata: Mapping[str, str] | None = None) -> bool:
        """Write the object whole: readers see all of it or nothing of it.

        Args:
            key: where.
            data: its bytes; a contiguous uint8 buffer.
            create: write only if there is no such object yet (atomic).
            metadata: is written with it, and comes with `get_range`; local files go without.

        Returns:
            False when `create` is set and the object was already there; else True.
        """
        mode: Any = "create" if create else "overwrite"
        attributes: Any = None if self.location.is_local or not metadata else dict(metadata)
        attempts = 0

        def attempt() -> None:
            nonlocal attempts
            attempts += 1
            obstore.put(self._connections.writing, key, data, attributes=attributes, mode=mode, use_multipart=False)

        try:
            self._insist(key, attempt)
        except AlreadyExistsError:
            # A repeated request may meet what it wrote itself, when the answer to the first one was lost.
            return attempts > 1 and self.get(key) == bytes(data)
        return True

    def put_file(self, key: str, path: Path) -> bool:
        """Write an object from a file of any size, in parts; unless an object of that key and size is there already.

        For keys that name their content. Returns whether it was written.
        """
        known = self._head(key)
        if known is not None and known["size"] == path.stat().st_size:
            return False
        self._insist(key, lambda: obstore.put(self._connections.patient, key, path, chunk_size=PART_BYTES))
        return True

    def put_if_changed(self, key: str, data: bytes | memoryview, metadata: Mapping[str, str] | None = None) -> bool:
        """Write an object unless the very same bytes are there already; returns whether it was written.

        A rewrite would change the ETag or time of an object, and with it the digest of what is made from it.
        """
        known = self._head(key)
        if known is None or known["size"] != len(data):
            return self.put(key, data, metadata=metadata)
        # An ETag of S3 is often the MD5; where it is not (encryption, multipart, local files) the bytes are compared.
        same = (known["e_tag"] or "").strip('"') == _md5(data) or memoryview(self.read(key)) == data
        return False if same else self.put(key, data, metadata=metadata)

    def put_json(self, key: str, value: Any, *, create: bool = False) -> bool:
        """Write `value` as indented JSON; see `put`."""
        return self.put(key, as_json(value), create=create)

    def delete(self, keys: Iterable[str]) -> None:
        """Remove objects, in requests of up to 1000 where the store can; one that is already gone is no error."""
        remaining = iter(keys)
        while batch := list(islice(remaining, 1 if self.location.is_local else LIST_PAGE)):
            with suppress(FileNotFoundError):
                self._insist(batch[0] if len(batch) == 1 else "", partial(obstore.delete, self._connections.reading, batch))

    def check(self) -> None:
        """Find out early, and without patience, whether the location can be listed: server, bucket and credentials."""
        if self._absent():
            raise UsageError(f"{self.location.directory} is no directory; create it or correct {self.location}")
        reading = self._connections.reading if self.location.is_local else connect(self.location, CHECK_PATIENCE).reading
        self._insist("", lambda: next(iter(obstore.list(reading, chunk_size=1)), None), CHECK_PATIENCE)

    def _head(self, key: str) -> Any:
        try:
            return self._insist(key, lambda: obstore.head(self._connections.reading, key))
        except FileNotFoundError:
            return None

    def _insist(self, key: str, attempt: Callable[[], Result], patience: Patience | None = None) -> Result:
        """What `attempt` returns, called again while the server is not available; its errors become ours."""

        def explained() -> Result:
            try:
                return attempt()
            except AlreadyExistsError:
                raise
            except Exception as error:
                raise self._explain(error, key) from error

        return (patience or self._patience).call(explained)

    def _absent(self) -> bool:
        try:
            return self.location.is_local and not self.location.directory.is_dir()
        except OSError as error:
            raise self._explain(error, "") from error

    def _name(self, key: str) -> str:
        return f"{self.location.url}/{key}" if key else self.location.url

    def _explain(self, error: Exception, key: str) -> Exception:
        return explain(error, self._name(key), self.location.url)


@lru_cache(maxsize=64)
def open_objects(url: str) -> Objects:
    """The objects under `url`, connected once per process."""
    return Objects(Location.parse(url))


def as_json(value: Any) -> bytes:
    """A document as it is stored: indented JSON."""
    return (json.dumps(value, indent=1, allow_nan=False) + "\n").encode()


def _md5(data: WritableBytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()
