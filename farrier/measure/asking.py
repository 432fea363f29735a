"""The requests that a person names, and a client that sends them: sockets by hand, for its own memory counts.

``http.client`` alone would bring the package email with it.
"""

from __future__ import annotations

import json
import re
import socket
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..errors import FarrierError

FORM = 'METHOD /PATH [BODY], such as "GET /" or "POST /orders {\\"id\\": 1}"'
#: Largest part of a response that is kept to say what was wrong with it; the rest is read and dropped.
HEAD_LIMIT = 65536

#: How often a request is asked at first, until it has an answer below 500.
TRIES = 3
#: The share of 5xx above which a request counts as failing.
FAILING_FROM = 0.1


class NoAnswer(Exception):
    """One line: what became of a request that got no response."""


@dataclass
class Request:
    """One of those that were named, and what was answered."""

    method: str
    path: str
    body: bytes = b""
    statuses: Counter[int] = field(default_factory=Counter)

    @property
    def name(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def status(self) -> int | None:
        """What it was answered most, of the failures if it is failing; None: nothing yet."""
        among = self.statuses
        if self.failing:
            among = Counter({status: count for status, count in among.items() if status >= 500})
        return among.most_common(1)[0][0] if among else None

    @property
    def failures(self) -> int:
        """Answers of 5xx."""
        return sum(count for status, count in self.statuses.items() if status >= 500)

    @property
    def failing(self) -> bool:
        """Whether it answers 5xx too often for its figures to be those of a page."""
        return self.failures > FAILING_FROM * self.statuses.total()

    @property
    def share_failed(self) -> str:
        return f"{self.failures:,} of {self.statuses.total():,} requests"

    @classmethod
    def parse(cls, text: str) -> Request:
        """Raises FarrierError for anything that is not of FORM."""
        found = re.fullmatch(r"\s*([A-Z]{1,20}) +(/[!-~]*)(?:\s+(.+?))?\s*", text, re.DOTALL)
        if found is None or found[1] in ("CONNECT", "TRACE"):
            raise FarrierError(f"--request {text!r}: give {FORM}")
        return cls(found[1], found[2], (found[3] or "").encode())

    def message(self, headers: Sequence[tuple[str, str]] = ()) -> bytes:
        """As it is sent. ``headers`` are a person's own and replace those of the same name."""
        lines = {"host": "localhost", "user-agent": "farrier-measure", "accept": "*/*"}
        if self.body:
            lines["content-type"] = (
                "application/json" if _is_json(self.body) else "application/x-www-form-urlencoded"
            )
        if self.body or self.method in ("POST", "PUT", "PATCH"):
            lines["content-length"] = str(len(self.body))
        lines.update({name.lower(): value for name, value in headers})
        head = "".join(f"{name.title()}: {value}\r\n" for name, value in lines.items())
        return f"{self.method} {self.path} HTTP/1.1\r\n{head}\r\n".encode("latin-1", "replace") + self.body


def parse_header(text: str) -> tuple[str, str]:
    """``NAME: VALUE``. Raises FarrierError."""
    found = re.fullmatch(r"([A-Za-z0-9!#$%&'*+.^_`|~-]+)\s*:\s*([ -~]*)", text.strip())
    if found is None:
        raise FarrierError(f'--header {text!r}: give NAME: VALUE, such as "Host: shop.example"')
    return found[1], found[2].strip()


def _is_json(body: bytes) -> bool:
    try:
        json.loads(body)
    except ValueError:
        return False
    return True


class Connection:
    """One client. Keeps its connection where the server does, opens another where not."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.address = address
        self.socket: socket.socket | None = None
        self.begun = False

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self.socket is not None:
            self.socket.close()
            self.socket = None

    def send(self, data: bytes, deadline: float) -> None:
        """Raises NoAnswer."""
        try:
            if self.socket is None:
                self.socket = socket.create_connection(self.address, timeout=_left(deadline))
                self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.socket.settimeout(_left(deadline))
            self.socket.sendall(data)
        except OSError as error:
            self.close()
            raise NoAnswer(_reason(error)) from error

    def receive(self, method: str, deadline: float) -> int:
        """The status of the response, when all of it has arrived. Raises NoAnswer."""
        try:
            status, keep = self._receive(method, deadline)
        except (OSError, ValueError) as error:
            self.close()
            raise NoAnswer(_reason(error)) from error
        if not keep:
            self.close()
        return status

    def ask(self, data: bytes, method: str, deadline: float) -> tuple[int, float]:
        """Status and seconds. Raises NoAnswer."""
        kept = self.socket is not None
        began = time.perf_counter()
        try:
            self.send(data, deadline)
            return self.receive(method, deadline), time.perf_counter() - began
        except NoAnswer as error:
            # A kept connection may be closed at any time (RFC 9112, 9.3): ask on a new one, once.
            if not kept or isinstance(error.__cause__, TimeoutError):
                raise
            began = time.perf_counter()
            self.send(data, deadline)
            return self.receive(method, deadline), time.perf_counter() - began

    def _receive(self, method: str, deadline: float) -> tuple[int, bool]:
        status, rest = 0, b""
        while status < 200:
            head, rest = self._head(rest, deadline)
            first, *lines = head.decode("latin-1").split("\r\n")
            version, _, words = first.partition(" ")
            status = int(words[:3])
        headers = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip().lower()
        keep = headers.get("connection") != "close" and version == "HTTP/1.1"
        if method == "HEAD" or status in (204, 304):
            return status, keep
        if "chunked" in headers.get("transfer-encoding", ""):
            self._chunks(rest, deadline)
        elif "content-length" in headers:
            self._skip(int(headers["content-length"]) - len(rest), deadline)
        else:
            while self._more(deadline, may_end=True):
                pass
            keep = False
        return status, keep

    def _head(self, data: bytes, deadline: float) -> tuple[bytes, bytes]:
        while b"\r\n\r\n" not in data:
            if len(data) > HEAD_LIMIT:
                raise ValueError("a response with endless headers")
            data += self._more(deadline)
        head, _, rest = data.partition(b"\r\n\r\n")
        return head, rest

    def _chunks(self, data: bytes, deadline: float) -> None:
        while True:
            while b"\r\n" not in data:
                data += self._more(deadline)
            size, _, data = data.partition(b"\r\n")
            left = int(size.split(b";")[0], 16) + 2
            if left > 2:
                while len(data) < left:
                    left -= len(data)
                    data = self._more(deadline)
                data = data[left:]
                continue
            while not (data.startswith(b"\r\n") or b"\r\n\r\n" in data):
                data += self._more(deadline)
            return

    def _skip(self, count: int, deadline: float) -> None:
        while count > 0:
            count -= len(self._more(deadline))

    def _more(self, deadline: float, may_end: bool = False) -> bytes:
        if self.socket is None:
            raise ConnectionResetError("there is no connection")
        self.socket.settimeout(_left(deadline))
        data = self.socket.recv(65536)
        if not data and not may_end:
            raise ConnectionResetError("the connection was closed before the response was there")
        return data


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, ConnectionRefusedError):
        return "the connection was refused"
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return f"not an HTTP response ({error})"
