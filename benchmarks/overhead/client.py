"""A lean closed loop over kept-alive connections, for a server on this machine.

    python3 client.py PORT REQUESTS CONNECTIONS [PATH]

Each connection asks again as soon as it has its answer, and opens anew where the server closes it. Prints
one JSON object: how many were answered, the seconds that it took, and the latencies' median and 99th
percentile in milliseconds. Exit status 1 if any answer is not 200.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import time

GRACE = 60.0


class Connection:
    """One of the loops."""

    def __init__(self, address: tuple[str, int], path: str, epoll: select.epoll) -> None:
        self.address, self.epoll = address, epoll
        self.request = (
            f"GET {path} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: farrier-bench/1\r\nAccept: */*\r\n"
            "Referer: http://localhost/before\r\n\r\n"
        ).encode()
        self.connect()

    def connect(self) -> None:
        self.socket = socket.create_connection(self.address)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.epoll.register(self.socket.fileno(), select.EPOLLIN)

    def ask(self) -> None:
        self.came = b""
        self.began = time.perf_counter()
        self.socket.sendall(self.request)

    def answered(self) -> bool:
        """Read what there is; whether the response is whole. Raises OSError where it can never be."""
        more = self.socket.recv(65536)
        self.came += more
        head, end, body = self.came.partition(b"\r\n\r\n")
        if not end:
            if not more:
                raise OSError(f"closed after {self.came!r}")
            return False
        if not head.startswith(b"HTTP/1.1 200"):
            raise OSError(head.decode("latin-1"))
        lower = head.lower()
        length = int(lower.partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        if len(body) < length:
            if not more:
                raise OSError("closed within a body")
            return False
        if b"connection: close" in lower:
            self.epoll.unregister(self.socket.fileno())
            self.socket.close()
            self.connect()
        return True


def run(port: int, requests: int, connections: int, path: str) -> dict[str, float]:
    epoll = select.epoll()
    by_file: dict[int, Connection] = {}
    latencies: list[float] = []
    began, asked = time.perf_counter(), 0
    for _ in range(min(connections, requests)):
        one = Connection(("127.0.0.1", port), path, epoll)
        by_file[one.socket.fileno()] = one
        one.ask()
        asked += 1
    while len(latencies) < requests:
        found = epoll.poll(GRACE)
        if not found:
            raise OSError(f"no answer within {GRACE:g} s")
        for descriptor, _ in found:
            one = by_file.pop(descriptor)
            if one.answered():
                latencies.append(time.perf_counter() - one.began)
                if asked < requests:
                    asked += 1
                    one.ask()
            by_file[one.socket.fileno()] = one
    seconds = time.perf_counter() - began
    latencies.sort()
    return {
        "requests": requests,
        "seconds": round(seconds, 4),
        "p50_ms": round(1000 * latencies[len(latencies) // 2], 3),
        "p99_ms": round(1000 * latencies[int(len(latencies) * 0.99)], 3),
    }


if __name__ == "__main__":
    try:
        print(json.dumps(run(*(int(one) for one in sys.argv[1:4]), *(sys.argv[4:5] or ["/"]))))
    except OSError as failure:
        print(f"client.py: {failure}", file=sys.stderr)
        sys.exit(1)
