"""The only object store: one code path for `s3://bucket/prefix` and `file:///dir`, by way of obstore.

Credentials, region and endpoint of S3 come from where its users already keep them (environment, profiles, instance
roles), found by boto3; requests are made by obstore, which retries throttling, 5xx and broken connections with
exponential backoff and jitter.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property, lru_cache
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import boto3
import obstore
from obstore.auth.boto3 import Boto3CredentialProvider
from obstore.exceptions import AlreadyExistsError
from obstore.store import LocalStore, S3Store

from featurestore.errors import StoreError, UsageError
from featurestore.object_errors import explain

CONNECT_TIMEOUT = timedelta(seconds=5)
REQUEST_TIMEOUT = timedelta(seconds=120)
RETRY_TIMEOUT = timedelta(seconds=60)
"""How long a request is tried again before its service counts as unavailable."""

CHECK_TIMEOUT = timedelta(seconds=3)
"""The patience of `Objects.check`, for an answer and for trying again."""

PART_BYTES = 16 * 2**20
"""Of uploads of files: S3 takes up to 10,000 parts."""

LIST_PAGE = 1000
"""Objects per request, of a listing and of a deletion: as many as S3 allows."""

ReadBytes = bytes | obstore.Bytes
WritableBytes = bytes | bytearray | memoryview


@dataclass(frozen=True)
class ObjectInfo:
    """What a listing says of one object; `key` is relative to the location that was listed."""

    key: str
    size_bytes: int
    etag: str | None
    modified: datetime


@dataclass(frozen=True)
class Location:
    """A URL under which objects live: `s3://bucket/prefix` or `file:///dir`.

    Raises:
        UsageError: when `url` has another scheme, no bucket, or carries credentials.
    """

    url: str

    @classmethod
    def parse(cls, text: str) -> Location:
        """Accept a URL or a local path, and return its normal form (absolute, no trailing slash)."""
        if re.match(r"[A-Za-z0-9]{2,}:/", text) and "://" not in text:
            raise UsageError(f"location {text!r} is not usable; is it meant to begin with {text.partition(':')[0]}://?")
        if "://" not in text:
            return cls(Path(text).expanduser().absolute().as_uri())
        return cls(text.rstrip("/") if text.rstrip("/") != "file:" else text)

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.username or parts.password:
            raise UsageError(
                f"{parts.scheme}://…@{parts.hostname} carries credentials in its URL; "
                "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or a profile) instead"
            )
        if parts.scheme == "s3" and parts.netloc:
            return
        if parts.scheme == "file" and parts.netloc in ("", "localhost") and parts.path.startswith("/"):
            return
        raise UsageError(f"location {self.url!r} is not usable; expected s3://BUCKET/PREFIX or file:///DIRECTORY")

    def __str__(self) -> str:
        return self.url

    @property
    def is_local(self) -> bool:
        """True for `file://`."""
        return self.url.startswith("file:")

    @property
    def directory(self) -> Path:
        """The directory of a `file://` location."""
        return Path(unquote(urlsplit(self.url).path))


class Objects:
    """The objects under one location. Keys are relative to it, with `/` between their parts.

    Every method raises `ServiceUnavailableError` when the server stays away, and `StoreError` when it refuses.
    Instances can be sent to other processes: they carry the URL and reconnect there with that process's credentials.
    """

    def __init__(self, location: Location) -> None:
        self.location = location

    @cached_property
    def store(self) -> LocalStore | S3Store:
        """The obstore store underneath, for libraries that take one (zarr). A local directory is created when there is none."""
        if self.location.is_local:
            try:
                return LocalStore(self.location.directory, mkdir=True)
            except Exception as error:
                raise self._explain(error, "") from error
        return _connect_s3(self.location)

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
        try:
            for page in obstore.list(self.store, prefix or None, chunk_size=LIST_PAGE):
                for meta in page:
                    yield ObjectInfo(meta["path"], meta["size"], meta["e_tag"], meta["last_modified"])
        except Exception as error:
            raise self._explain(error, prefix) from error

    def names(self, prefix: str = "") -> list[str]:
        """The names directly below `prefix` ("folders" and objects), sorted: one listing with a delimiter."""
        if self._absent():
            return []
        try:
            result = obstore.list_with_delimiter(self.store, prefix or None)
        except Exception as error:
            raise self._explain(error, prefix) from error
        paths = [*result["common_prefixes"], *(meta["path"] for meta in result["objects"])]
        return sorted(path.rsplit("/", 1)[-1] for path in paths)

    def get(self, key: str) -> bytes:
        """The whole object.

        Raises:
            FileNotFoundError: when there is no such object.
        """
        return bytes(memoryview(self.read(key)))

    def read(self, key: str) -> ReadBytes:
        """The whole object as a buffer; a large one is not copied as `get` would.

        Raises:
            FileNotFoundError: when there is no such object.
        """
        if self.location.is_local:
            try:
                return self._read_file(key)
            except OSError:  # in its own words below
                pass
        if self._absent():
            raise FileNotFoundError(f"{self._name(key)} does not exist")
        try:
            return obstore.get(self.store, key).bytes()
        except Exception as error:
            raise self._explain(error, key) from error

    def read_into(self, key: str, memory: memoryview) -> memoryview:
        """The whole object: in `memory`, which is returned, if it is just as long; else in memory of its own.

        Memory that is used again is what makes this worth while: fresh memory is faulted in page by page.

        Raises:
            FileNotFoundError: when there is no such object.
        """
        if self.location.is_local:
            try:
                with open(self._file(key), "rb", buffering=0) as file:  # noqa: PTH123 - as below
                    if os.fstat(file.fileno()).st_size == len(memory) == file.readinto(memory):
                        return memory
            except OSError:  # in its own words below
                pass
        data = memoryview(self.read(key))
        if len(data) != len(memory):
            return data
        memory[:] = data
        return memory

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
                return self._pread(key, starts, ends)
            except OSError:  # in its own words below
                pass
        try:
            return obstore.get_ranges(self.store, key, starts=starts, ends=ends, coalesce=0)
        except Exception as error:
            raise self._explain(error, key) from error

    # Local files are read directly: obstore goes through another thread, which takes four times as long (docs/log.md).

    def _pread(self, key: str, starts: Sequence[int], ends: Sequence[int]) -> Sequence[bytes]:
        file = os.open(self._file(key), os.O_RDONLY | os.O_CLOEXEC)
        try:
            parts = [os.pread(file, end - start, start) for start, end in zip(starts, ends, strict=True)]
        finally:
            os.close(file)
        if any(len(part) != end - start for part, start, end in zip(parts, starts, ends, strict=True)):
            raise OSError(f"{key} ends before the bytes that were asked for")
        return parts

    def _read_file(self, key: str) -> bytes:
        with open(self._file(key), "rb", buffering=0) as file:  # noqa: PTH123 - a Path would take longer than the read
            return file.readall()

    def _file(self, key: str) -> str:
        if ".." in key.split("/") or key.startswith("/"):
            raise OSError(f"{key} leaves {self.location}")
        return f"{self._root}/{key}"

    def put(self, key: str, data: WritableBytes, *, create: bool = False) -> bool:
        """Write the object whole: readers see all of it or nothing of it.

        Args:
            key: where.
            data: its bytes; a contiguous uint8 buffer.
            create: write only if there is no such object yet (atomic).

        Returns:
            False when `create` is set and the object was already there; else True.
        """
        try:
            obstore.put(self.store, key, data, mode="create" if create else "overwrite", use_multipart=False)
        except AlreadyExistsError:
            return False
        except Exception as error:
            raise self._explain(error, key) from error
        return True

    def put_file(self, key: str, path: Path) -> bool:
        """Write an object from a file of any size, in parts; unless an object of that key and size is there already.

        For keys that name their content. Returns whether it was written.
        """
        try:
            if obstore.head(self.store, key)["size"] == path.stat().st_size:
                return False
        except FileNotFoundError:
            pass
        except Exception as error:
            raise self._explain(error, key) from error
        try:
            obstore.put(self.store, key, path, chunk_size=PART_BYTES)
        except Exception as error:
            raise self._explain(error, key) from error
        return True

    def put_if_changed(self, key: str, data: bytes | memoryview) -> bool:
        """Write an object unless the very same bytes are there already; returns whether it was written.

        A rewrite would change the ETag or time of an object, and with it the digest of what is made from it.
        """
        try:
            known = obstore.head(self.store, key)
        except FileNotFoundError:
            known = None
        except Exception as error:
            raise self._explain(error, key) from error
        if known is not None and known["size"] == len(data):
            # An ETag of S3 is often the MD5; where it is not (encryption, multipart, local files) the bytes are compared.
            md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
            if (known["e_tag"] or "").strip('"') == md5 or memoryview(self.read(key)) == data:
                return False
        return self.put(key, data)

    def put_json(self, key: str, value: Any, *, create: bool = False) -> bool:
        """Write `value` as indented JSON; see `put`."""
        return self.put(key, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode(), create=create)

    def delete(self, keys: Iterable[str]) -> None:
        """Remove objects, in requests of up to 1000 where the store can; one that is already gone is no error."""
        remaining = iter(keys)
        while batch := list(islice(remaining, 1 if self.location.is_local else LIST_PAGE)):
            try:
                obstore.delete(self.store, batch)
            except Exception as error:
                explained = self._explain(error, batch[0] if len(batch) == 1 else "")
                if not isinstance(explained, FileNotFoundError):
                    raise explained from error

    def check(self) -> None:
        """Find out early, and without patience, whether the location can be listed: server, bucket and credentials."""
        if self._absent():
            raise UsageError(f"{self.location.directory} is no directory; create it or correct {self.location}")
        store = self.store if self.location.is_local else _connect_s3(self.location, CHECK_TIMEOUT, CHECK_TIMEOUT)
        try:
            next(iter(obstore.list(store, chunk_size=1)), None)
        except Exception as error:
            raise self._explain(error, "") from error

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


def _connect_s3(
    location: Location, request_timeout: timedelta = REQUEST_TIMEOUT, retry_timeout: timedelta = RETRY_TIMEOUT
) -> S3Store:
    parts = urlsplit(location.url)
    session = boto3.Session()
    client = session.client("s3")  # knows the endpoint and the region from environment, profile and defaults alike
    endpoint = client.meta.endpoint_url
    is_aws = ".amazonaws.com" in endpoint
    region = client.meta.region_name
    try:
        credentials = Boto3CredentialProvider(session)
    except ValueError as error:
        raise UsageError(
            f"no S3 credentials for {location}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        ) from error
    return S3Store(
        parts.netloc,
        prefix=parts.path.strip("/") or None,
        config={
            "region": "us-east-1" if region in (None, "aws-global") else region,
            "virtual_hosted_style_request": is_aws,
            **({} if is_aws else {"endpoint": endpoint}),
        },
        client_options={
            "allow_http": endpoint.startswith("http://"),
            "connect_timeout": CONNECT_TIMEOUT,
            "timeout": request_timeout,
        },
        retry_config={"retry_timeout": retry_timeout, "max_retries": 12},
        credential_provider=credentials,
    )
