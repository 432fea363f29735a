"""``farrier probe URL``: one request, one line, an exit status. For containers and cron.

Sockets by hand: ``urllib`` alone takes four times as long to import as this whole check, and a
container runs it every few seconds.
"""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from farrier.errors import FarrierError

HEALTHY, UNHEALTHY, REFUSED = 0, 1, 2
FORMS = "http://HOST[:PORT]/PATH, https://… or unix:/SOCKET:/PATH"


@dataclass(frozen=True)
class Target:
    """Where to ask. ``address`` is a socket path, or host and port."""

    address: str | tuple[str, int]
    path: str
    host: str
    tls: bool = False

    @classmethod
    def parse(cls, url: str) -> Target:
        """Raises FarrierError for anything that is not of one of FORMS."""
        if url.startswith("unix:"):
            return cls._unix(url)
        try:
            parts = urlsplit(url)
            port = parts.port or (443 if parts.scheme == "https" else 80)
        except ValueError as error:
            raise FarrierError(f"{url!r}: {error}; allowed: {FORMS}") from error
        if parts.scheme not in ("http", "https") or not parts.hostname or _unsafe(url):
            raise FarrierError(f"{url!r} is not a URL that can be probed; allowed: {FORMS}")
        return cls(
            (parts.hostname, port),
            _request_path(parts),
            parts.netloc.rpartition("@")[2],
            parts.scheme == "https",
        )

    @classmethod
    def _unix(cls, url: str) -> Target:
        path, _, request = url[len("unix:") :].removeprefix("//").partition(":")
        if not path.startswith("/") or _unsafe(url) or (request and not request.startswith("/")):
            raise FarrierError(f"{url!r} is not a socket that can be probed; allowed: {FORMS}")
        return cls(path, request or "/health", "localhost")


def _request_path(parts: SplitResult) -> str:
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def _unsafe(url: str) -> bool:
    return any(character.isspace() or not character.isprintable() for character in url)


def probe(
    url: str,
    timeout: float = 5.0,
    expect: tuple[int, ...] = (200,),
    insecure: bool = False,
    ca: str | None = None,
) -> tuple[int, str]:
    """Ask once. Returns the exit status and the line to print; ``timeout`` seconds bound all of it.

    Raises FarrierError (exit status 2) for a URL or a CA file that cannot be used.
    """
    if not timeout > 0:
        raise FarrierError(f"--timeout: {timeout:g} is not more than 0 seconds")
    target = Target.parse(url)
    began = time.monotonic()
    try:
        status, body = _ask(target, began + timeout, insecure, ca)
    except TimeoutError:
        return UNHEALTHY, f"{url}: no answer within {timeout:g} s"
    except OSError as error:
        return UNHEALTHY, f"{url}: {error.strerror or error}"
    except ValueError as error:
        return UNHEALTHY, f"{url}: {error}"
    milliseconds = (time.monotonic() - began) * 1000
    if status in expect:
        return HEALTHY, f"{url}: {status} in {milliseconds:.0f} ms"
    wanted = " or ".join(str(one) for one in expect)
    return UNHEALTHY, f"{url}: {status} instead of {wanted} in {milliseconds:.0f} ms{_excerpt(body)}"


def _excerpt(body: bytes) -> str:
    text = " ".join(body.decode("utf-8", "replace").split())
    return f": {text[:200]}" if text else ""


def _ask(target: Target, deadline: float, insecure: bool, ca: str | None) -> tuple[int, bytes]:
    context = _context(insecure, ca) if target.tls else None
    with _connect(target, deadline) as plain:
        connection = plain
        if context is not None:
            name = str(target.address[0])
            connection = context.wrap_socket(plain, server_hostname=name)
        try:
            request = (
                f"GET {target.path} HTTP/1.1\r\nHost: {target.host}\r\n"
                "User-Agent: farrier-probe\r\nAccept: application/json, */*\r\nConnection: close\r\n\r\n"
            )
            connection.sendall(request.encode("utf-8"))
            return _response(connection, deadline)
        finally:
            connection.close()


def _context(insecure: bool, ca: str | None):  # type: ignore[no-untyped-def]
    import ssl

    try:
        context = ssl.create_default_context(cafile=ca)
    except OSError as error:
        raise FarrierError(f"--ca: {ca}: {error.strerror or error}") from error
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _connect(target: Target, deadline: float) -> socket.socket:
    if isinstance(target.address, tuple):
        return socket.create_connection(target.address, timeout=_left(deadline))
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(_left(deadline))
    try:
        connection.connect(target.address)
    except OSError:
        connection.close()
        raise
    return connection


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _response(connection: socket.socket, deadline: float, limit: int = 65536) -> tuple[int, bytes]:
    """The status and what arrives of the body, up to ``limit`` bytes. ValueError: not HTTP."""
    received = b""
    while len(received) < limit:
        connection.settimeout(_left(deadline))
        piece = connection.recv(8192)
        received += piece
        if not piece or _complete(received):
            break
    if not received:
        raise ValueError("the connection was closed without an answer")
    head, _, body = received.partition(b"\r\n\r\n")
    words = head.split(b"\r\n", 1)[0].split(None, 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/") or not words[1].isdigit():
        raise ValueError("the answer is not HTTP")
    return int(words[1]), body


def _complete(received: bytes) -> bool:
    head, end, body = received.partition(b"\r\n\r\n")
    if not end:
        return False
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            length = line.split(b":", 1)[1].strip()
            return length.isdigit() and len(body) >= int(length)
    return False
