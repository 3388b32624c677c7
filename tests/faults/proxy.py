"""A TCP proxy on 127.0.0.1 that does to a connection what networks do, on a schedule; and the one before PostgreSQL.

The bytes on both sides are real: clients see real resets (RST), real ends of stream and a port on which nobody listens.
"""

from __future__ import annotations

import select
import socket
import struct
import threading
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from typing import Self

from faults.schedule import Fault, Schedule

LONGEST_DELAY_S = 0.3
STALL_S = 600.0
"""Longer than any deadline in these tests."""

THROTTLE_S = 0.5
REFUSAL_S = 0.2
PIECES = 10
POLL_S = 0.05
PIPE_BYTES = 65_536

_NOT_YET = 80_877_103, 80_877_104
"""Codes of PostgreSQL's requests for TLS and for GSSAPI, which come before the startup message."""


class Proxy(ABC):
    """Listens while its context lasts; each connection has a thread, and a connection to the server behind."""

    def __init__(self, server_port: int, schedule: Schedule) -> None:
        self.schedule = schedule
        self._server = ("127.0.0.1", server_port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._stopping = threading.Event()
        self._refuse_s = 0.0
        self._acceptor = threading.Thread(target=self._accept, name="faults-accept", daemon=True)
        self._threads: list[threading.Thread] = []
        self._clients: set[socket.socket] = set()

    def __enter__(self) -> Self:
        self._acceptor.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._acceptor.join()
        for client in list(self._clients):
            with suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(timeout=5)

    @abstractmethod
    def serve(self, client: socket.socket, server: socket.socket) -> None:
        """One connection, until it ends; an `OSError` ends it, too."""

    def refuse(self, seconds: float) -> None:
        """Let nobody listen on the port for a while."""
        self._refuse_s = seconds

    def stall(self, client: socket.socket) -> None:
        """Say nothing until the client goes away, or for `STALL_S`."""
        end = time.monotonic() + STALL_S
        while time.monotonic() < end and not self._stopping.is_set():
            if select.select([client], [], [], POLL_S)[0] and not client.recv(1, socket.MSG_PEEK):
                return

    def send(self, client: socket.socket, data: bytes | memoryview, fault: Fault | None) -> bool:
        """Send an answer as the fault has it; returns whether the connection can go on."""
        kind = fault.kind if fault else ""
        if fault and kind in ("reset in response", "reset", "truncate"):
            client.sendall(memoryview(data)[: int(fault.amount * len(data))])
            if kind != "truncate":
                reset(client)
            return False
        if fault and kind == "throttle":
            for piece in range(PIECES):
                client.sendall(memoryview(data)[piece * len(data) // PIECES : (piece + 1) * len(data) // PIECES])
                self._stopping.wait(fault.amount * THROTTLE_S / PIECES)
            return True
        client.sendall(data)
        return True

    def _accept(self) -> None:
        self._listener.settimeout(POLL_S)
        while not self._stopping.is_set():
            if self._refuse_s:
                self._listener.close()
                self._stopping.wait(self._refuse_s)
                self._refuse_s = 0.0
                self._listener = self._listen_again()
            try:
                client, _ = self._listener.accept()
            except TimeoutError:
                continue
            thread = threading.Thread(target=self._run, args=(client,), name="faults-serve", daemon=True)
            self._clients.add(client)
            self._threads.append(thread)
            thread.start()
        self._listener.close()

    def _listen_again(self) -> socket.socket:
        for _ in range(100):  # somebody else's connection may have borrowed the port
            with suppress(OSError):
                listener = socket.create_server(("127.0.0.1", self.port))
                listener.settimeout(POLL_S)
                return listener
            time.sleep(POLL_S)
        raise OSError(f"port {self.port} is taken")

    def _run(self, client: socket.socket) -> None:
        client.settimeout(STALL_S)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with suppress(OSError), client, socket.create_connection(self._server, timeout=STALL_S) as server:
            server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.serve(client, server)
        self._clients.discard(client)


def reset(connection: socket.socket) -> None:
    """Close with RST: the other side sees "connection reset by peer"."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


class PostgresProxy(Proxy):
    """Before a PostgreSQL server: at most one fault per connection, somewhere in what the server sends."""

    longest_cut_bytes = 6000

    def serve(self, client: socket.socket, server: socket.socket) -> None:
        """Pass everything on, until the fault's place."""
        fault = self.schedule.draw()
        if fault and fault.kind in ("refuse", "starting up", "delay"):
            self.schedule.count(fault)
            if not self._at_once(client, fault):
                return
            fault = None
        place = int(fault.amount * self.longest_cut_bytes) if fault else None
        while not self._stopping.is_set():
            for ready in select.select([client, server], [], [], POLL_S)[0]:
                data = ready.recv(PIPE_BYTES)
                if not data:
                    return
                if ready is client:
                    server.sendall(data)
                elif fault is None or place is None or place >= len(data):
                    client.sendall(data)
                    place = None if place is None else place - len(data)
                else:
                    self.schedule.count(fault)
                    client.sendall(data[:place])
                    if not self._here(client, data[place:], fault):
                        return
                    fault = None

    def _at_once(self, client: socket.socket, fault: Fault) -> bool:
        """What happens to a connection before anything is sent; returns whether it goes on."""
        if fault.kind == "refuse":
            self.refuse(fault.amount * REFUSAL_S)
            reset(client)
        elif fault.kind == "starting up":
            self._say_starting_up(client)
        else:
            self._stopping.wait(fault.amount * LONGEST_DELAY_S)
        return fault.kind == "delay"

    def _here(self, client: socket.socket, data: bytes, fault: Fault) -> bool:
        """What happens in the midst of what the server sends; returns whether the connection goes on."""
        if fault.kind == "stall":
            self.stall(client)
            return False
        return self.send(client, data, Fault(fault.kind, 0.5))

    @staticmethod
    def _say_starting_up(client: socket.socket) -> None:
        """The words of a server that has just been started."""
        while True:
            head = client.recv(8, socket.MSG_WAITALL)
            if len(head) < 8:
                return
            length, code = struct.unpack("!ii", head)
            if code in _NOT_YET:
                client.sendall(b"N")
                continue
            client.recv(length - 8, socket.MSG_WAITALL)
            break
        words = b"SFATAL\0VFATAL\0C57P03\0Mthe database system is starting up\0\0"
        client.sendall(b"E" + struct.pack("!i", 4 + len(words)) + words)
