"""URLs as they may be shown: passwords have no place in errors, logs and reports."""

from __future__ import annotations

import re

from featurestore.errors import UsageError


def without_credentials(url: str) -> str:
    """A URL without user and password, and without the values of its query, where drivers take passwords, too.

    Everything up to the last @ goes: a password that was not percent-encoded may hold any character.
    """
    scheme, separator, rest = url.rpartition("@")[0].partition("://")
    if separator or rest:
        url = f"{scheme}://{url.rpartition('@')[2]}"
    elif "@" in url:
        url = url.rpartition("@")[2]
    return re.sub(r"([?&][^=&#]*=)[^&#]*", r"\1…", url)


def require_no_credentials(url: str, option: str, instead: str) -> str:
    """The URL, if it holds no user and no password.

    Raises:
        UsageError: when it does; they are not repeated.
    """
    if "@" in url.partition("://")[2].partition("/")[0]:
        raise UsageError(f"{option} {without_credentials(url)} carries credentials in its URL; {instead}")
    return url
