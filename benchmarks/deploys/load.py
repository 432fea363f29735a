"""The load: an open loop of new and kept-alive connections, GET and POST, that never retries.

    python3 benchmarks/deploys/load.py ORDER.json        (run.py starts it; stop it by a line on its input)

Open loop: when a request is due does not depend on whether an earlier one was answered, and its latency
counts from then. A stall of a second is so seen by every request that meant to begin in it, not by one.

New connections: requests come at random (Poisson); each opens a connection and asks for `Connection: close`.
Kept-alive: clients with a connection each and a think time of 0.2 to 1.5 s, below every linger in the field.
When the server said `Connection: close`, or closed the connection between two requests, its client opens a
new one; when it still waits for an answer as its next request falls due, that one opens another connection.

The whole of it is one thread on one core with its own epoll loop, so that what it costs is known: it reports
its share of the core and by how much it sent late.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import heapq
import json
import os
import random
import resource
import select
import socket
import struct
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

#: Seconds from its intended time after which a request without a whole answer has failed.
PATIENCE = 30.0
#: Seconds between two requests of a kept-alive client, drawn evenly. Gunicorn's own keep-alive is 2 s.
THINK = (0.2, 1.5)
#: Seconds that a connection is left open after its last answer, for the server to close it first.
PARTING = 1.0
#: Every twentieth POST is so large that it takes many packets to arrive.
LARGE_EVERY, LARGE, SMALL = 20, 60_000, 2_000
#: What became of a request, by its code in a record. IDLE_CLOSED is no request: see Load.idle_closed().
OUTCOMES = ("ok", "refused", "reset", "closed", "unanswered", "status", "body")
OK, REFUSED, RESET, CLOSED, UNANSWERED, STATUS, BODY = range(len(OUTCOMES))
IDLE_CLOSED = 100
#: intended (monotonic seconds), lateness (s), latency (s), group, outcome, new connection, server's number
RECORD = struct.Struct("<dffBBBH")
#: Failures that are told with all that is known of them.
TOLD_MOST = 300

CONNECTING, SENDING, WAITING, IDLE, PARTED = range(5)
IN, OUT, BROKEN = select.EPOLLIN, select.EPOLLOUT, select.EPOLLERR | select.EPOLLHUP


@dataclass
class Request:
    """One request, from when it is due to what became of it."""

    number: int
    group: int
    due: float
    client: Client | None = None
    began: float = 0.0
    connection: Connection | None = None
    over: bool = False


@dataclass
class Client:
    """A kept-alive client: its group, and the connection that it will use next."""

    group: int
    connection: Connection | None = None


class Connection:
    """One TCP connection and the request on it, if there is one."""

    __slots__ = (
        "answer",
        "client",
        "expected",
        "idle_since",
        "leaving",
        "output",
        "request",
        "served",
        "sock",
        "state",
    )

    def __init__(self, sock: socket.socket, client: Client | None) -> None:
        self.sock = sock
        self.client = client
        self.state = CONNECTING
        self.request: Request | None = None
        self.output = b""
        self.answer = b""
        self.expected = b""
        self.leaving = False
        self.served = 0
        self.idle_since = 0.0


@dataclass
class Group:
    """Requests that are counted together."""

    name: str
    post: bool
    kept: bool
    rate: float
    """Requests a second that are meant to be sent."""


@dataclass
class Order:
    """What to do, as ORDER.json holds it."""

    address: str
    port: int
    groups: list[Group]
    records: str
    """The file for the records."""
    core: int | None = None
    seconds: float | None = None
    """When to stop by itself; else a line on standard input, or its end, stops it."""
    patience: float = PATIENCE
    connections_most: int = 15_000
    """Open connections at which it gives up, for its own sake: the server is far behind by then."""
    concurrency: int | None = None
    """Closed loop with so many clients instead, to find a server's capacity."""
    seed: int = 4

    @classmethod
    def read(cls, path: str) -> Order:
        data = json.loads(Path(path).read_text())
        return cls(**{**data, "groups": [Group(**one) for one in data["groups"]]})


@dataclass
class Load:
    """The generator at work."""

    order: Order
    epoll: select.epoll = field(default_factory=select.epoll)
    open: dict[int, Connection] = field(default_factory=dict)
    dues: list[tuple[float, int, int, Client | None]] = field(default_factory=list)
    waiting: deque[Request] = field(default_factory=deque)
    parting: deque[tuple[float, Connection]] = field(default_factory=deque)
    records: bytearray = field(default_factory=bytearray)
    told: list[dict[str, Any]] = field(default_factory=list)
    servers: dict[tuple[str, str], int] = field(default_factory=dict)
    boots: dict[int, float] = field(default_factory=dict)
    shares: list[float] = field(default_factory=list)
    number: int = 0
    answered: int = 0

    def __post_init__(self) -> None:
        self.random = random.Random(self.order.seed)
        self.exhausted = False
        self.text = ("farrier " * (LARGE // 8 + 2)).encode()
        self.stopping = False

    # --- when requests are due --------------------------------------------------------------------

    def begin(self, now: float) -> None:
        """The first due time of every group and client."""
        if self.order.concurrency:
            for number in range(self.order.concurrency):
                which = number % len(self.order.groups)
                client = Client(which) if self.order.groups[which].kept else None
                self.push(now + number * 0.002, which, client)
            return
        for index, group in enumerate(self.order.groups):
            if group.kept:
                for _ in range(max(1, round(group.rate * sum(THINK) / 2))):
                    self.push(now + self.random.uniform(0, THINK[1]), index, Client(index))
            elif group.rate:
                self.push(now + self.random.expovariate(group.rate), index, None)

    def push(self, due: float, group: int, client: Client | None) -> None:
        self.number += 1
        heapq.heappush(self.dues, (due, self.number, group, client))

    def issue(self, now: float) -> None:
        """Send what is due, and say when the next of the same group or client is."""
        while self.dues and self.dues[0][0] <= now:
            due, number, group, client = heapq.heappop(self.dues)
            if not self.order.concurrency:
                if client is None:
                    self.push(due + self.random.expovariate(self.order.groups[group].rate), group, None)
                else:
                    self.push(due + self.random.uniform(*THINK), group, client)
            self.send(Request(number, group, due, client))

    # --- one request ------------------------------------------------------------------------------

    def send(self, request: Request) -> None:
        request.began = time.monotonic()
        self.waiting.append(request)
        client = request.client
        connection = client.connection if client else None
        if connection is None or connection.state != IDLE:
            connection = self.connect(client)
        connection.request, request.connection = request, connection
        group = self.order.groups[request.group]
        head = f"{'POST' if group.post else 'GET'} /?{request.number} HTTP/1.1\r\nHost: bench\r\n"
        if not group.kept:
            head += "Connection: close\r\n"
        tag = b"%d " % request.number
        if group.post:
            size = LARGE if request.number % LARGE_EVERY == 0 else SMALL
            body = tag + self.text[: size - len(tag)]
            connection.output = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
            connection.expected = body
        else:
            connection.output = f"{head}\r\n".encode()
            connection.expected = tag
        if connection.state == IDLE:
            self.write(connection)

    def connect(self, client: Client | None) -> Connection:
        if len(self.open) >= self.order.connections_most:
            self.exhausted = True
            self.stop()
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = Connection(sock, client)
        if client is not None:
            client.connection = connection
        # A refusal on loopback may come at once; epoll then reports it like a later one.
        sock.connect_ex((self.order.address, self.order.port))
        self.open[sock.fileno()] = connection
        self.epoll.register(sock.fileno(), IN | OUT)
        return connection

    def write(self, connection: Connection) -> None:
        try:
            count = connection.sock.send(connection.output)
        except BlockingIOError:
            count = 0
        except OSError as error:
            self.fail(connection, error)
            return
        connection.output = connection.output[count:]
        state = SENDING if connection.output else WAITING
        if state != connection.state:
            self.epoll.modify(connection.sock.fileno(), IN | OUT if state == SENDING else IN)
            connection.state = state

    def read(self, connection: Connection) -> None:
        try:
            data = connection.sock.recv(262144)
        except BlockingIOError:
            return
        except OSError as error:
            self.fail(connection, error)
            return
        if connection.state in (IDLE, PARTED):
            self.idle_closed(connection, bool(data))
        elif not data:
            self.end(connection, CLOSED, f"closed after {len(connection.answer)} bytes of an answer")
        else:
            connection.answer += data
            self.parse(connection)

    def parse(self, connection: Connection) -> None:
        """Whether the answer is whole, and right."""
        head, found, body = connection.answer.partition(b"\r\n\r\n")
        if not found:
            return
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        if len(body) < int(headers.get("content-length", 0)):
            return
        status = first.split(" ", 2)[1] if " " in first else "0"
        server = (headers.get("x-release", ""), headers.get("x-worker", ""))
        where = self.servers.setdefault(server, len(self.servers))
        if where not in self.boots:
            self.boots[where] = float(headers.get("x-boot", 0))
        connection.leaving = headers.get("connection", "").lower() == "close"
        if status >= "500":
            self.end(connection, STATUS, f"{first}: {body[:120]!r}", where)
        elif body != connection.expected:
            self.end(connection, BODY, f"{first}: {len(body)} bytes, {body[:60]!r}", where)
        else:
            self.done(connection, where)

    def done(self, connection: Connection, where: int) -> None:
        """A right answer: keep the connection, or let the server close it."""
        request = connection.request
        assert request is not None
        self.record(request, OK, connection, where)
        connection.request, connection.answer, connection.expected = None, b"", b""
        connection.served += 1
        self.answered += 1
        connection.idle_since = time.monotonic()
        mine = connection.client is not None and connection.client.connection is connection
        if mine and not connection.leaving:
            connection.state = IDLE
        else:
            if mine and connection.client:
                connection.client.connection = None
            connection.state = PARTED
            self.parting.append((connection.idle_since + PARTING, connection))
        self.again(request, connection.idle_since)

    def again(self, request: Request, now: float) -> None:
        """In a closed loop the end of one request is the beginning of the next."""
        if self.order.concurrency and not self.stopping:
            self.push(now, request.group, request.client)

    def fail(self, connection: Connection, error: OSError) -> None:
        if connection.state in (IDLE, PARTED):
            self.idle_closed(connection, False)
            return
        kinds = {errno.ECONNREFUSED: REFUSED, errno.ETIMEDOUT: UNANSWERED}
        self.end(connection, kinds.get(error.errno or 0, RESET), str(error))

    def end(self, connection: Connection, outcome: int, text: str, where: int = 0xFFFF) -> None:
        """A failed request: noted with what is known of it, and never tried again."""
        request = connection.request
        assert request is not None
        self.record(request, outcome, connection, where)
        if len(self.told) < TOLD_MOST:
            idle = round(request.due - connection.idle_since, 4) if connection.served else None
            self.told.append(
                {"due": request.due, "at": time.monotonic(), "kind": OUTCOMES[outcome], "text": text,
                 "group": self.order.groups[request.group].name, "number": request.number,
                 "port": _port(connection.sock), "served_before": connection.served, "idle": idle,
                 "connected": connection.state != CONNECTING, "unsent": len(connection.output)}
            )  # fmt: skip
        connection.request = None
        self.close(connection)
        self.again(request, time.monotonic() + 0.01)

    def record(self, request: Request, outcome: int, connection: Connection, where: int) -> None:
        request.over, request.connection = True, None
        latency = time.monotonic() - request.due
        new = 0 if connection.served else 1
        self.records += RECORD.pack(
            request.due, request.began - request.due, latency, request.group, outcome, new, where
        )

    def idle_closed(self, connection: Connection, said: bool) -> None:
        """Between two requests: counted, but no failure; after `Connection: close` not even counted."""
        if connection.state == IDLE and connection.client:
            now = time.monotonic()
            self.records += RECORD.pack(
                now, 0.0, now - connection.idle_since, connection.client.group, IDLE_CLOSED, 0, int(said)
            )
        self.close(connection)

    def close(self, connection: Connection) -> None:
        if connection.client is not None and connection.client.connection is connection:
            connection.client.connection = None
        if self.open.pop(connection.sock.fileno(), None):
            connection.sock.close()

    # --- the loop ---------------------------------------------------------------------------------

    def ready(self, number: int, mask: int) -> None:
        """What epoll says of one connection."""
        connection = self.open.get(number)
        if connection is None:
            return
        if connection.state == CONNECTING:
            error = connection.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error:
                self.fail(connection, OSError(error, os.strerror(error)))
            elif mask & OUT:
                self.write(connection)
            return
        if mask & (IN | BROKEN):
            self.read(connection)
        if mask & OUT and connection.state == SENDING and number in self.open:
            self.write(connection)

    def expire(self, now: float) -> None:
        """Requests that nobody answered, and connections that the server did not close after the last one."""
        while self.waiting and (self.waiting[0].over or self.waiting[0].due + self.order.patience <= now):
            request = self.waiting.popleft()
            if request.connection is not None:
                received = len(request.connection.answer)
                self.end(
                    request.connection, UNANSWERED, f"{received} bytes within {self.order.patience:.0f} s"
                )
        while self.parting and self.parting[0][0] <= now:
            connection = self.parting.popleft()[1]
            if connection.state == PARTED:
                self.close(connection)

    def run(self) -> dict[str, Any]:
        """Until it is stopped and the last request is answered or given up; what came of it."""
        order = self.order
        began = now = time.monotonic()
        spent = time.process_time()
        sample = (began, spent)
        if order.seconds is None:
            self.epoll.register(sys.stdin.fileno(), IN)
        self.begin(began)
        while not self.stopping or any(not one.over for one in self.waiting):
            wait = self.dues[0][0] - now if self.dues and not self.stopping else 0.1
            for number, mask in self.epoll.poll(min(0.1, max(0.0, wait))):
                if number == 0:
                    self.stop()
                else:
                    self.ready(number, mask)
            now = time.monotonic()
            if order.seconds is not None and now >= began + order.seconds:
                self.stop()
            if not self.stopping:
                self.issue(now)
            self.expire(now)
            if now - sample[0] >= 1.0:
                spent = time.process_time()
                self.shares.append((spent - sample[1]) / (now - sample[0]))
                sample = (now, spent)
        for connection in list(self.open.values()):
            self.close(connection)
        return self.result(began, now)

    def stop(self) -> None:
        if not self.stopping and self.order.seconds is None:
            self.epoll.unregister(sys.stdin.fileno())
        self.stopping = True

    def result(self, began: float, ended: float) -> dict[str, Any]:
        Path(self.order.records).write_bytes(self.records)
        return {
            "began": began,
            "ended": ended,
            "answered": self.answered,
            "exhausted": self.exhausted,
            "cpu": round(sum(self.shares) / len(self.shares), 4) if self.shares else 0.0,
            "cpu_most": round(max(self.shares), 4) if self.shares else 0.0,
            "servers": [
                {"release": release, "worker": worker, "boot": self.boots[index]}
                for (release, worker), index in self.servers.items()
            ],
            "failures": self.told,
        }


def _port(sock: socket.socket) -> int:
    """The client's port, to find the connection in a packet trace."""
    try:
        port: int = sock.getsockname()[1]
        return port
    except OSError:
        return 0


def main() -> None:
    order = Order.read(sys.argv[1])
    if order.core is not None:
        os.sched_setaffinity(0, {order.core})
    # Others on this core must not make it late; what it sends late is reported all the same.
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    gc.disable()  # nothing here lives in circles for long, and a collection would be lateness
    load = Load(order)
    print(json.dumps({"monotonic": time.monotonic(), "time": time.time()}), flush=True)
    print(json.dumps(load.run()), flush=True)


if __name__ == "__main__":
    main()
