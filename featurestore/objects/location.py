"""URLs under which objects live: `s3://bucket/prefix` and `file:///dir`; nothing else, and nothing that could mean another."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn
from urllib.parse import SplitResult, unquote_to_bytes, urlsplit

from featurestore.errors import UsageError
from featurestore.redaction import without_credentials

BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}", re.ASCII)
"""Of a bucket's name everything else is left out: HTTP clients take http://host/../other for http://host/other."""

CREDENTIALS_ELSEWHERE = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or a profile) instead"


@dataclass(frozen=True)
class Location:
    """A URL under which objects live: `s3://bucket/prefix` or `file:///dir`.

    Raises:
        UsageError: when `url` has another scheme, no bucket, or carries credentials; or when it could be taken for another
            place: by `.` or `..` or nothing between two slashes of a prefix, a query, a fragment, or control characters.
    """

    url: str

    @classmethod
    def parse(cls, text: str) -> Location:
        """Accept a URL or a local path, and return its normal form (absolute, no trailing slash)."""
        if re.match(r"[A-Za-z0-9]{2,}:/", text) and "://" not in text:
            shown = without_credentials(text)
            raise UsageError(f"location {shown!r} is not usable; is it meant to begin with {text.partition(':')[0]}://?")
        if "://" not in text:
            if not text or "\0" in text:
                raise UsageError(f"location {text!r} is not usable; expected s3://BUCKET/PREFIX or a directory")
            return cls(Path(text).expanduser().absolute().as_uri())
        return cls(text.rstrip("/") if text.rstrip("/") != "file:" else text)

    def __post_init__(self) -> None:
        if not self.url.isprintable():
            self._refuse("a URL holds no control characters")
        try:
            parts = urlsplit(self.url)
            host = parts.hostname
        except ValueError:  # brackets, or letters that would turn into others
            self._refuse("its host is none")
        if parts.username is not None or parts.password is not None:
            raise UsageError(f"{parts.scheme}://…@{host} carries credentials in its URL; {CREDENTIALS_ELSEWHERE}")
        if "?" in self.url or "#" in self.url:
            self._refuse("it has a query or a fragment; write %3F and %23 where ? and # are part of a directory's name")
        if parts.scheme == "s3":
            self._check_s3(parts)
        elif parts.scheme != "file" or parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
            self._refuse("expected s3://BUCKET/PREFIX or file:///DIRECTORY")
        elif b"\0" in unquote_to_bytes(parts.path):
            self._refuse("no directory has a NUL in its name")

    def _check_s3(self, parts: SplitResult) -> None:
        if not BUCKET.fullmatch(parts.netloc) or ".." in parts.netloc:
            self._refuse("expected s3://BUCKET/PREFIX, and a bucket's name is made of letters, digits, dots and hyphens")
        if parts.path and any(part in ("", ".", "..") for part in parts.path[1:].split("/")):
            self._refuse("a part of its prefix is empty, . or ..")

    def _refuse(self, why: str) -> NoReturn:
        raise UsageError(f"location {without_credentials(self.url)!r} is not usable; {why}")

    def __str__(self) -> str:
        return self.url

    @property
    def is_local(self) -> bool:
        """True for `file://`."""
        return self.url.startswith("file:")

    @property
    def directory(self) -> Path:
        """The directory of a `file://` location."""
        return Path(os.fsdecode(unquote_to_bytes(urlsplit(self.url).path)))
