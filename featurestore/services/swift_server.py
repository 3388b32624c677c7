"""A whole OpenStack Swift with its S3 interface in one process: a proxy, an account, a container and an object server.

Started by path (`python swift_server.py DIRECTORY PORT ACCESS_KEY`) with the secret key in the environment. Everything it
prints, the deprecation notices of eventlet included, belongs into a log. One process serves all four because they take
turns anyway in every request; they talk through ports of 127.0.0.1 that are drawn anew at each start, hence new rings.
"""

from __future__ import annotations

import logging
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

SECRET_VARIABLE = "HEIMDALL_SERVICES_SECRET_KEY"  # noqa: S105 - the name of the variable, not the secret
STORAGE = ("account", "container", "object")

SWIFT_CONF = """
[swift-hash]
swift_hash_path_suffix = heimdall
[storage-policy:0]
name = one-copy
default = yes
"""

# Timeouts are wide: all four servers share one thread, and a slow disk must not look like a dead server.
COMMON = """
[DEFAULT]
swift_dir = {etc}
devices = {devices}
mount_check = false
disable_fallocate = true
log_level = WARNING
conn_timeout = 10
node_timeout = 60
"""

STORAGE_CONF = """
[pipeline:main]
pipeline = {kind}-server
[app:{kind}-server]
use = egg:swift#{kind}
container_update_timeout = 10
disk_chunk_size = 1048576
network_chunk_size = 1048576
"""

PROXY_CONF = """
[pipeline:main]
pipeline = catch_errors gatekeeper listing_formats s3api tempauth copy slo dlo proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
error_suppression_limit = 1000000
object_chunk_size = 1048576
client_chunk_size = 1048576
[filter:s3api]
use = egg:swift#s3api
s3_acl = no
location = us-east-1
[filter:tempauth]
use = egg:swift#tempauth
user_{user} = {secret_key} .admin
"""
PLAIN_FILTERS = ("catch_errors", "gatekeeper", "listing_formats", "copy", "slo", "dlo")

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class Cache:
    """What Swift keeps in memcached, facts of accounts and containers, kept here: this is the only proxy there is."""

    def __init__(self) -> None:
        self._entries: dict[str, tuple[float, Any]] = {}

    def get(self, key: str, **_options: Any) -> Any:
        expires, value = self._entries.get(key, (0.0, None))
        return value if time.monotonic() < expires else None

    def set(self, key: str, value: Any, **options: Any) -> None:
        self._entries[key] = (time.monotonic() + float(options.get("time") or 60), value)

    def delete(self, key: str, **_options: Any) -> None:
        self._entries.pop(key, None)

    def around(self, application: Application) -> Application:
        """The application, with this cache where Swift looks for one."""

        def cached(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
            environ["swift.cache"] = self
            return application(environ, start_response)

        return cached


def create_in_turn(application: Application) -> Application:
    """Let `If-None-Match: *` writes of one object wait for each other, so that exactly one of them creates it.

    Swift looks whether the object exists before it takes the body: of simultaneous writers, all would win.
    """
    from swift.common.concurrency import Semaphore

    locks: WeakValueDictionary[str, Any] = WeakValueDictionary()

    def ordered(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ.get("HTTP_IF_NONE_MATCH") != "*":
            return application(environ, start_response)
        with locks.setdefault(environ["PATH_INFO"], Semaphore()):
            return application(environ, start_response)

    return ordered


def main(directory: Path, port: int, access_key: str, secret_key: str) -> None:
    """Serve S3 at `port` of 127.0.0.1 from `directory`, until killed."""
    os.environ["TZ"] = "UTC+0"  # as Swift's own launcher does: the times it reports are UTC
    time.tzset()
    os.umask(0o077)
    from swift.common import utils
    from swift.common.concurrency import eventlet, hubs
    from swift.common.utils import logs

    # Swift logs to syslog and nowhere else; ours go to stderr.
    logs.ThreadSafeSysLogHandler = lambda **_address: logging.StreamHandler(sys.stderr)
    utils.monkey_patch()
    hubs.use_hub(utils.get_hub())
    etc, devices = directory / "etc", directory / "devices"
    etc.mkdir(exist_ok=True)
    (devices / "d1").mkdir(parents=True, exist_ok=True)
    (etc / "swift.conf").write_text(SWIFT_CONF)
    utils.set_swift_dir(str(etc))
    from swift.common.storage_policy import reload_storage_policies

    reload_storage_policies()
    common = COMMON.format(etc=etc, devices=devices)
    sockets = {kind: _listen(0) for kind in STORAGE}
    for kind, socket in sockets.items():
        _write_ring(etc / f"{kind}.ring.gz", socket.getsockname()[1])
        conf = etc / f"{kind}.conf"
        conf.write_text(common + STORAGE_CONF.format(kind=kind))
        eventlet.spawn(_serve, socket, _load(conf))
    conf = etc / "proxy.conf"
    filters = "".join(f"[filter:{name}]\nuse = egg:swift#{name}\n" for name in PLAIN_FILTERS)
    conf.write_text(common + PROXY_CONF.format(user=access_key.replace(":", "_"), secret_key=secret_key) + filters)
    _serve(_listen(port), create_in_turn(Cache().around(_load(conf))))


def _listen(port: int) -> Any:
    from swift.common.concurrency import listen, socket

    listener = listen(("127.0.0.1", port), backlog=1024)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else small answers wait 40 ms for an ACK
    return listener


def _write_ring(path: Path, port: int) -> None:
    """A ring with one device, which therefore holds every partition."""
    from swift.common.ring import RingBuilder

    builder = RingBuilder(part_power=4, replicas=1, min_part_hours=0)
    builder.add_dev({"region": 1, "zone": 1, "ip": "127.0.0.1", "port": port, "device": "d1", "weight": 1.0})
    builder.rebalance()
    builder.get_ring().save(str(path))


def _load(conf: Path) -> Application:
    from swift.common.wsgi import loadapp

    application: Application = loadapp(str(conf), global_conf={"log_name": conf.stem})
    return application


def _serve(socket: Any, application: Application) -> None:
    from swift.common import constraints
    from swift.common.concurrency import wsgi
    from swift.common.http_protocol import SwiftHttpProtocol

    wsgi.MAX_HEADER_LINE = constraints.MAX_HEADER_SIZE
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="capitalize_response_headers is disabled")
        wsgi.server(
            socket,
            application,
            log_output=False,
            protocol=SwiftHttpProtocol,
            socket_timeout=60,
            capitalize_response_headers=False,  # S3 clients look for "ETag", not "Etag"
            url_length_limit=constraints.MAX_REQUEST_LINE,
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], os.environ.pop(SECRET_VARIABLE))
