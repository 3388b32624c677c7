"""OpenStack Swift with its `s3api`, in one process of ours (see `swift_server`): where SeaweedFS has no wheel, or by wish."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path

from featurestore.errors import UsageError
from featurestore.services import swift_server
from featurestore.services.process import Command, Server

NAME = "Swift"


def is_installed() -> bool:
    """Whether this Python has Swift."""
    return find_spec("swift") is not None


def start(directory: Path, port: int, keys: tuple[str, str], lock: int) -> Server:
    """Start Swift on the data in `directory`; it is not ready yet on return.

    Args:
        directory: where its data and its log are.
        port: of 127.0.0.1, where it answers.
        keys: access key and secret key.
        lock: see `Server.start`.

    Raises:
        UsageError: when the directory's filesystem lacks extended attributes.
    """
    check_attributes(directory)
    words = [sys.executable, "-P", swift_server.__file__, str(directory), str(port), keys[0]]
    # Warnings go to the log, even where somebody's PYTHONWARNINGS makes them errors: eventlet announces its end.
    command = Command(words, environment={swift_server.SECRET_VARIABLE: keys[1], "PYTHONWARNINGS": "default"})
    return Server.start(f"S3 ({NAME})", command, directory / "s3.log", lock)


def check_attributes(directory: Path) -> None:
    """Raise `UsageError` where files take no extended attributes: Swift keeps the facts of an object in them."""
    if sys.platform != "linux":
        raise UsageError("the embedded Swift runs on Linux only; leave S3 out and use file:// locations")
    try:
        os.setxattr(directory, "user.heimdall.probe", b"1")
        os.removexattr(directory, "user.heimdall.probe")
    except OSError as error:
        raise UsageError(
            f"the filesystem of {directory} takes no extended attributes ({error.strerror}), which the embedded Swift needs; "
            "choose a directory on another filesystem (ext4, xfs, btrfs), or leave S3 out and use file:// locations"
        ) from error
