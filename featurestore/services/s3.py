"""An embedded S3: OpenStack Swift with its `s3api`, in one process of ours (see `swift_server`)."""

from __future__ import annotations

import http.client
import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import boto3
from botocore.client import Config

from featurestore.errors import HeimdallError, UsageError
from featurestore.services import swift_server
from featurestore.services.process import Command, Server

ACCESS_KEY = "heimdall:demo"  # Swift's form: account:user
REGION = "us-east-1"


def start(directory: Path, port: int, secret_key: str, lock: int) -> Server:
    """Start Swift on the data in `directory`; it is not ready yet on return.

    Raises:
        UsageError: when Swift is not installed, or the directory's filesystem lacks extended attributes.
    """
    if find_spec("swift") is None:
        raise UsageError("Swift is not installed here (no module swift); pip install 'heimdall-featurestore[local]'")
    directory.mkdir(exist_ok=True)
    _check_attributes(directory)
    words = [sys.executable, "-P", swift_server.__file__, str(directory), str(port), ACCESS_KEY]
    # Warnings go to the log, even where somebody's PYTHONWARNINGS makes them errors: eventlet announces its end.
    command = Command(words, environment={swift_server.SECRET_VARIABLE: secret_key, "PYTHONWARNINGS": "default"})
    return Server.start("S3 (Swift)", command, directory / "s3.log", lock)


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


def _check_attributes(directory: Path) -> None:
    """Swift keeps the facts of an object in extended attributes of its file."""
    if sys.platform != "linux":
        raise UsageError("the embedded S3 (Swift) runs on Linux only; leave S3 out and use file:// locations")
    try:
        os.setxattr(directory, "user.heimdall.probe", b"1")
        os.removexattr(directory, "user.heimdall.probe")
    except OSError as error:
        raise UsageError(
            f"the filesystem of {directory} takes no extended attributes ({error.strerror}), which the embedded S3 needs; "
            "choose a directory on another filesystem (ext4, xfs, btrfs), or leave S3 out and use file:// locations"
        ) from error
