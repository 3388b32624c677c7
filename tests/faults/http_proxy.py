"""The proxy before an S3 server: it knows requests from answers, and does something to each on its schedule.

Bits are flipped in what can be protected over http: uploads (their SHA-256 is signed) and whole objects below `flippable`
(documents have an MD5 as their ETag, chunks a CRC-32C). Listings, and ranges of raw captures, carry no checksum in S3: a bit
that flips there shows only with https, so none is flipped here.
"""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass
from io import BufferedReader
from urllib.parse import unquote

from faults.proxy import LONGEST_DELAY_S, REFUSAL_S, Proxy, reset
from faults.schedule import BEFORE, Fault, Schedule

ANSWERS = {
    "answer 429": (b"429 Too Many Requests", b"TooManyRequests"),
    "answer 503": (b"503 Slow Down", b"SlowDown"),
    "answer 500": (b"500 Internal Server Error", b"InternalError"),
    "answer lost": (b"500 Internal Server Error", b"InternalError"),
}


@dataclass
class Message:
    """A request or an answer."""

    head: bytes
    body: bytearray

    @property
    def start(self) -> str:
        """Its first line."""
        return self.head.partition(b"\r\n")[0].decode("latin-1")

    def header(self, name: str) -> str:
        """A header's value, "" when absent."""
        for line in self.head.decode("latin-1").split("\r\n")[1:]:
            found, _, value = line.partition(":")
            if found.strip().lower() == name:
                return value.strip()
        return ""

    def flip(self, amount: float) -> None:
        """Turn over one bit of the body."""
        bit = int(amount * len(self.body) * 8)
        self.body[bit // 8] ^= 1 << bit % 8


@dataclass(frozen=True)
class Exchange:
    """A request that the server answered, and how large the bodies were.

    Attributes:
        method: as GET.
        path: `/BUCKET/KEY`.
        query: what stands behind the path: "" unless it is a listing or the like.
        sent_bytes: of the request's body.
        received_bytes: of the answer's body.
        began: when the request was read, on the clock of `time.monotonic`.
        ended: when the server had answered it.
    """

    method: str
    path: str
    query: str
    sent_bytes: int
    received_bytes: int
    began: float
    ended: float


def round_trips(exchanges: list[Exchange]) -> list[Exchange]:
    """The longest row of requests each of which began after the one before was answered: what a distant server costs.

    Found by taking, again and again, the one that ends first of those that begin later.
    """
    row: list[Exchange] = []
    for exchange in sorted(exchanges, key=lambda exchange: exchange.ended):
        if not row or exchange.began >= row[-1].ended:
            row.append(exchange)
    return row


class S3Proxy(Proxy):
    """Before an S3 server; draws a fault for every request, and notes each that is answered in `exchanges`.

    Args:
        server_port: of the server.
        schedule: of faults.
        flippable: path of the objects whose bits may be flipped on their way to the reader.
        flip_once: flip each object at its first reading only.
        distance_s: how long each request is under way before it reaches the server.
    """

    def __init__(
        self, server_port: int, schedule: Schedule, flippable: str = "/", *, flip_once: bool = False, distance_s: float = 0.0
    ) -> None:
        super().__init__(server_port, schedule)
        self._distance_s = distance_s
        self._flippable, self._flip_once = flippable, flip_once
        self._flipped: set[str] = set()
        self.exchanges: list[Exchange] = []

    @property
    def url(self) -> str:
        """Of the endpoint."""
        return f"http://127.0.0.1:{self.port}"

    def serve(self, client: socket.socket, server: socket.socket) -> None:
        """One request after the other."""
        with client.makefile("rb") as from_client, server.makefile("rb") as from_server:
            while (head := _read_head(from_client)) is not None:
                request = Message(head, bytearray())
                began = time.monotonic()
                fault = self.schedule.draw()
                if fault and fault.kind == "reset in request":
                    self.schedule.count(fault)
                    reset(client)
                    return
                request.body = bytearray(from_client.read(int(request.header("content-length") or 0)))
                if fault and fault.kind in BEFORE and not self._before(client, request, fault):
                    return
                if fault and fault.kind in ("answer 429", "answer 503", "answer 500"):
                    client.sendall(_answer(fault.kind))
                    continue
                if self._distance_s:
                    time.sleep(self._distance_s)
                server.sendall(request.head + request.body)
                answer = _read_answer(from_server, request)
                if answer is None:
                    reset(client)
                    return
                self._note(request, answer, began)
                if not self._after(client, request, answer, fault):
                    return

    def _note(self, request: Message, answer: Message, began: float) -> None:
        method, target, _ = request.start.split(" ")
        path, _, query = target.partition("?")
        sizes = len(request.body), len(answer.body)
        self.exchanges.append(Exchange(method, unquote(path), query, *sizes, began, time.monotonic()))

    def _before(self, client: socket.socket, request: Message, fault: Fault) -> bool:
        """Do what comes before the server; returns whether the connection goes on."""
        if fault.kind == "flip in request":
            if request.body and request.start.startswith("PUT "):
                self.schedule.count(fault)
                request.flip(fault.amount)
            return True
        self.schedule.count(fault)
        if fault.kind == "delay":
            self._stopping.wait(fault.amount * LONGEST_DELAY_S)
        elif fault.kind == "stall":
            self.stall(client)
            return False
        elif fault.kind == "refuse":
            self.refuse(fault.amount * REFUSAL_S)
            reset(client)
            return False
        return True

    def _after(self, client: socket.socket, request: Message, answer: Message, fault: Fault | None) -> bool:
        """Answer, with a fault if it is one of answers; returns whether the connection goes on."""
        if fault is None or fault.kind in BEFORE:
            client.sendall(answer.head + answer.body)
            return True
        if fault.kind == "flip in response":
            if self._may_flip(request, answer):
                self.schedule.count(fault)
                answer.flip(fault.amount)
            client.sendall(answer.head + answer.body)
            return True
        self.schedule.count(fault)
        if fault.kind == "answer lost":
            client.sendall(_answer(fault.kind))
            return True
        return self.send(client, answer.head + answer.body, fault)

    def _may_flip(self, request: Message, answer: Message) -> bool:
        method, path, _ = request.start.split(" ")
        whole_object = method == "GET" and "?" not in path and not request.header("range")
        if not whole_object or not path.startswith(self._flippable) or " 200 " not in answer.start or not answer.body:
            return False
        seen = path in self._flipped
        self._flipped.add(path)
        return not (seen and self._flip_once)


def _answer(kind: str) -> bytes:
    status, code = ANSWERS[kind]
    body = b"<?xml version='1.0'?><Error><Code>" + code + b"</Code><Message>injected</Message></Error>"
    head = b"HTTP/1.1 " + status + b"\r\nContent-Type: application/xml\r\nContent-Length: " + str(len(body)).encode()
    return head + b"\r\n\r\n" + body


def _read_head(stream: BufferedReader) -> bytes | None:
    """Up to the empty line; `None` when the stream ends."""
    lines = []
    while True:
        line = stream.readline()
        if not line.endswith(b"\r\n"):
            return None
        lines.append(line)
        if line == b"\r\n":
            return b"".join(lines)


def _read_answer(stream: BufferedReader, request: Message) -> Message | None:
    head = _read_head(stream)
    if head is None:
        return None
    answer = Message(head, bytearray())
    if answer.header("transfer-encoding") == "chunked":
        while True:
            line = stream.readline()
            size = int(line, 16)
            answer.body += line + stream.read(size + 2)
            if not size:
                return answer
    if not request.start.startswith("HEAD "):
        answer.body += stream.read(int(answer.header("content-length") or 0))
    return answer
