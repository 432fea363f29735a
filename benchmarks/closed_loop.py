"""A closed loop: clients that each ask, wait for the whole answer, and ask again at once. Nobody retries.

    python3 benchmarks/closed_loop.py ORDER         (ORDER is JSON; measure() starts it)

A window opens after the warm-up. Throughput counts right answers that came inside it; latency counts every
request that was begun inside it, however late its answer comes: the clients go on asking until the last of
those is answered, or `drain` seconds have passed. Those that are still unanswered then count with the time
they have waited (`cut`), so that a server which starves some of its clients does not look fast. Latency
counts from the moment at which a client would send, connecting included, by the nanosecond clock.

Clients keep their connection where the server does. A request on a kept connection that the server closes
within 5 ms, before anything of the answer, crossed that close and is asked anew (`anew` counts them); one
that is cut off in any other way has failed. One thread, one epoll loop, with as little Python in it
as it can do with: it costs about 60 microseconds of CPU a request, and says what it took.
"""

from __future__ import annotations

import array
import contextlib
import errno
import gc
import json
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

#: Seconds without an answer after which a request has failed.
PATIENCE = 30.0
#: Seconds that a client pauses whose connection was refused: a loop without one would only burn a core.
PAUSE = 0.05
#: Seconds within which a kept connection may turn out to have been closed before the request came: a server
#: that closes after an answer without saying so crosses the next request. Later than that it has failed.
CROSSED = 0.005
IN, OUT = select.EPOLLIN, select.EPOLLOUT
_clock = time.perf_counter_ns


@dataclass
class Order:
    """What to do. Seconds."""

    port: int
    path: str = "/"
    clients: int = 100
    warmup: float = 0.5
    seconds: float = 2.0
    drain: float = 6.0
    core: int | None = None
    """The processor that the load runs on."""


@dataclass(frozen=True)
class Window:
    """What came of it."""

    seconds: float
    answered: int
    """Right answers inside the window."""
    latencies: Sequence[int]
    """Nanoseconds, sorted, of the requests that were begun inside it and answered rightly, or cut."""
    failed: dict[str, int]
    """Requests begun inside it that were not answered rightly, by kind."""
    cut: int
    cpu: float
    """The load's own share of a core."""
    anew: int = 0
    """Requests of it that crossed the server's close on a kept connection, and were asked anew."""

    @property
    def throughput(self) -> float:
        """Right answers a second."""
        return self.answered / self.seconds

    def percentile(self, share: float) -> float:
        """Seconds within which this share of the requests was answered (nearest rank); 0.0 without any."""
        if not self.latencies:
            return 0.0
        rank = max(0, -(-len(self.latencies) * share // 1) - 1)
        return self.latencies[int(rank)] / 1e9


def measure(order: Order, timeout: float = 120) -> Window:
    """Runs the load in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-I", __file__, json.dumps(asdict(order))],
        stdout=subprocess.PIPE, timeout=timeout, check=True,
    )  # fmt: skip
    head, _, data = done.stdout.partition(b"\n")
    latencies = array.array("Q")
    latencies.frombytes(data)
    return Window(latencies=sorted(latencies), **json.loads(head))


class _Client:
    __slots__ = ("began", "buffer", "connected", "sent", "served", "sock")

    def __init__(self) -> None:
        self.sock: socket.socket | None = None
        self.began = 0
        self.sent = 0
        self.buffer = b""
        self.connected = False
        self.served = 0


class _Load:
    """The loop at work."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.request = f"GET {order.path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
        self.address = ("127.0.0.1", order.port)
        self.epoll = select.epoll()
        self.clients = [_Client() for _ in range(order.clients)]
        self.by_fd: dict[int, _Client] = {}
        self.paused: list[tuple[int, _Client]] = []
        self.latencies = array.array("Q")
        self.failed: dict[str, int] = {}
        self.answered = 0
        self.cut = 0
        self.anew = 0
        self.opens = self.closes = 0

    def ask(self, client: _Client) -> None:
        """The next request of a client, on its connection if it still has one."""
        client.began = _clock()
        client.buffer = b""
        if client.sock is not None:
            try:
                client.sock.send(self.request)
                client.sent = client.began
                return
            except OSError:  # closed by the server since its last answer
                self.close(client)
        sock = socket.socket()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.sock, client.connected, client.served = sock, False, 0
        self.by_fd[sock.fileno()] = client
        self.epoll.register(sock.fileno(), OUT)
        error = sock.connect_ex(self.address)
        if error not in (0, errno.EINPROGRESS):
            self.fail(client, "refused")

    def close(self, client: _Client) -> None:
        if client.sock is not None:
            self.by_fd.pop(client.sock.fileno(), None)
            client.sock.close()
            client.sock = None

    def fail(self, client: _Client, kind: str) -> None:
        """A request that was not answered rightly; its client goes on with another one."""
        if self.opens <= client.began < self.closes:
            self.failed[kind] = self.failed.get(kind, 0) + 1
        self.close(client)
        client.began = 0
        self.paused.append((_clock() + int(PAUSE * 1e9), client))

    def ready(self, fd: int, mask: int) -> None:
        client = self.by_fd.get(fd)
        if client is None or client.sock is None:
            return
        if not client.connected:
            if client.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                self.fail(client, "refused")
                return
            client.connected = True
            self.epoll.modify(fd, IN)
            try:
                client.sock.send(self.request)
            except OSError:  # accepted, and closed or reset at once
                self.fail(client, "reset")
                return
            client.sent = _clock()
            return
        try:
            data = client.sock.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            self.parted(client, "reset")
            return
        if not data:
            self.parted(client, "closed")
            return
        if client.buffer:
            data = client.buffer + data
        self.received(client, data)

    def parted(self, client: _Client, kind: str) -> None:
        """The server closed on a request, which has failed.

        But where it closed a kept connection before anything of the answer and at once, it closed between
        two requests and the second crossed it: that is asked anew, and counts from when it was begun.
        """
        crossed = _clock() - client.sent <= CROSSED * 1e9
        if client.served and not client.buffer and crossed:
            began = client.began
            self.anew += self.opens <= began < self.closes
            self.close(client)
            self.ask(client)
            if client.sock is not None:  # else it was refused, and has failed
                client.began = began
        else:
            self.fail(client, kind)

    def received(self, client: _Client, data: bytes) -> None:
        end = data.find(b"\r\n\r\n")
        if end < 0:
            client.buffer = data
            return
        head = data[:end].lower()
        at = head.find(b"content-length:")
        if at < 0:
            self.fail(client, "without a length")
            return
        said = head[at + 15 :].split(b"\r", 1)[0].strip()
        if not said.isdigit():
            self.fail(client, "without a length")
            return
        length = int(said)
        if len(data) < end + 4 + length:
            client.buffer = data
            return
        now = _clock()
        if data[9:12] != b"200":
            self.fail(client, f"status {data[9:12].decode(errors='replace')}")
            return
        if self.opens <= now < self.closes:
            self.answered += 1
        if self.opens <= client.began < self.closes:
            self.latencies.append(now - client.began)
        client.served += 1
        if b"connection: close" in head:
            self.close(client)
        self.ask(client)

    def look(self, now: int) -> bool:
        """Gives up what waits too long; whether a request of the window is still in hand."""
        left = False
        for client in self.clients:
            if client.began and now - client.began > PATIENCE * 1e9:
                self.fail(client, "unanswered")
            left = left or self.opens <= client.began < self.closes
        return left

    def run(self) -> dict[str, Any]:
        start = _clock()
        self.opens = start + int(self.order.warmup * 1e9)
        self.closes = self.opens + int(self.order.seconds * 1e9)
        limit = self.closes + int(self.order.drain * 1e9)
        for client in self.clients:
            self.ask(client)
        looked, poll = start, self.epoll.poll
        while True:
            for fd, mask in poll(0.02):
                self.ready(fd, mask)
            now = _clock()
            while self.paused and self.paused[0][0] <= now:
                self.ask(self.paused.pop(0)[1])
            if now - looked > 20_000_000:
                looked = now
                if now >= self.closes and (not self.look(now) or now >= limit):
                    break
                if now < self.closes:
                    self.look(now)
        for client in self.clients:
            if client.sock is not None and self.opens <= client.began < self.closes:
                self.latencies.append(now - client.began)
                self.cut += 1
            self.close(client)
        used = time.process_time() * 1e9 / (now - start)
        return {
            "seconds": self.order.seconds, "answered": self.answered, "failed": self.failed,
            "cut": self.cut, "anew": self.anew, "cpu": round(used, 4),
        }  # fmt: skip


def main() -> None:
    order = Order(**json.loads(sys.argv[1]))
    if order.core is not None:
        os.sched_setaffinity(0, {order.core})
    # What else runs on its core must not make an answer look late.
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    gc.disable()
    load = _Load(order)
    said = load.run()
    sys.stdout.buffer.write(json.dumps(said).encode() + b"\n" + load.latencies.tobytes())


if __name__ == "__main__":
    main()
