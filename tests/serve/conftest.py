"""A real ``farrier serve`` (or plain ``gunicorn``) on loopback, watched through its own log lines."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]

WSGI_APP = """
import os, time
def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/slow":
        time.sleep(float(environ.get("QUERY_STRING") or 0.3))
    if path == "/hang":
        time.sleep(60)
    if path == "/die":
        os.kill(os.getpid(), 11)
    body = environ["wsgi.input"].read() or VERSION
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
VERSION = b"one"
def create_app():
    return app
"""

ASGI_APP = """
import asyncio, os, time
VERSION = b"one"
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    if scope["path"] == "/slow":
        await asyncio.sleep(float(scope["query_string"] or 0.3))
    if scope["path"] == "/hang":
        time.sleep(60)
    body = body or VERSION
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
def create_app():
    return app
"""

WSGI_CLASSES, ASGI_CLASSES = ("sync", "gthread", "gevent"), ("asgi", "uvicorn")
CLASSES = WSGI_CLASSES + ASGI_CLASSES


class Site:
    """One running server and everything it said."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.lines: list[str] = []
        self.changed = threading.Condition()
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        self.address: tuple[str, int] = ("127.0.0.1", 0)

    def _read(self) -> None:
        assert self.process.stderr is not None
        for raw in self.process.stderr:
            with self.changed:
                self.lines.append(raw.decode("utf-8", "replace").rstrip("\n"))
                self.changed.notify_all()
        with self.changed:
            self.changed.notify_all()

    @property
    def text(self) -> str:
        with self.changed:
            return "\n".join(self.lines)

    @property
    def events(self) -> list[dict[str, Any]]:
        with self.changed:
            found = [json.loads(line) for line in self.lines if line.startswith("{")]
        return [one for one in found if "event" in one]

    def until(self, seen: Callable[[], Any], seconds: float = 15.0, what: str = "it") -> Any:
        """Wait for the log to show something; each line that arrives wakes this up."""
        deadline = time.monotonic() + seconds
        with self.changed:
            while True:
                found = seen()
                if found:
                    return found
                left = deadline - time.monotonic()
                if left <= 0 or not self.reader.is_alive():
                    raise AssertionError(f"{what} did not happen; the log:\n" + "\n".join(self.lines))
                self.changed.wait(left)

    def event(self, name: str, count: int = 1, seconds: float = 15.0, **match: Any) -> dict[str, Any]:
        """The ``count``-th event of this name whose fields match."""

        def seen() -> dict[str, Any] | None:
            found = [
                one
                for one in self.events
                if one["event"] == name and all(one.get(key) == value for key, value in match.items())
            ]
            return found[count - 1] if len(found) >= count else None

        return self.until(seen, seconds, f"event {name} {match} ({count})")  # type: ignore[no-any-return]

    def line(self, part: str, seconds: float = 15.0) -> str:
        return self.until(lambda: next((one for one in self.lines if part in one), None), seconds, repr(part))  # type: ignore[no-any-return]

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def wait(self, seconds: float = 15.0) -> int:
        status = self.process.wait(seconds)
        self.reader.join(5)
        return status

    def connection(self, timeout: float = 10.0) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(*self.address, timeout=timeout)

    def get(self, path: str = "/", **headers: str) -> tuple[int, bytes]:
        connection = self.connection()
        try:
            connection.request(
                "GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()}
            )
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def json(self, path: str) -> tuple[int, dict[str, Any]]:
        status, body = self.get(path)
        return status, json.loads(body)

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.reader.join(5)
        for stream in (self.process.stderr, self.process.stdout):
            if stream is not None:
                stream.close()


class Serve:
    """Starts servers in a folder of their own and ends them after the test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.run = folder / "run"
        self.run.mkdir()
        self.sites: list[Site] = []
        (folder / "wsgi_app.py").write_text(WSGI_APP)
        (folder / "asgi_app.py").write_text(ASGI_APP)

    def environ(self, **given: str) -> dict[str, str]:
        found = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("FARRIER_", "GUNICORN_"))
        }
        for name in ("WORKERS", "ENVIRONMENT", "WEB_CONCURRENCY", "NOTIFY_SOCKET", "PORT", "WORKER_CLASS"):
            found.pop(name, None)
        found.update(
            PYTHONPATH=str(REPOSITORY),
            PYTHONDONTWRITEBYTECODE="1",
            FARRIER_LOG="json",
            FARRIER_RUN_DIR=str(self.run),
            LOG_LEVEL="info",
        )
        return found | given

    def __call__(
        self,
        app: str = "wsgi_app:app",
        *arguments: str,
        wait: str | None = "ready",
        command: tuple[str, ...] = ("-m", "farrier", "serve"),
        bind: str = "127.0.0.1:0",
        pass_fds: tuple[int, ...] = (),
        **environ: str,
    ) -> Site:
        process = subprocess.Popen(
            [sys.executable, *command, app, *(("--bind", bind) if bind else ()), *arguments],
            cwd=self.folder,
            env=self.environ(**environ),
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            pass_fds=pass_fds,
        )
        site = Site(process)
        self.sites.append(site)
        if wait:
            where = str(site.event("listening")["bind"])
            if where.startswith("http"):
                host, port = where.split("//")[1].rsplit(":", 1)
                site.address = (host, int(port))
            site.event(wait)
        return site

    def state(self, name: str = "app") -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.run / f"{name}.json").read_text())
        return found


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    made = Serve(tmp_path)
    yield made
    for site in made.sites:
        site.stop()


class Told:
    """A real NOTIFY_SOCKET: what the service manager is told, in order."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)
        self.messages: list[dict[str, str]] = []

    def until(self, key: str, seconds: float = 15.0) -> dict[str, str]:
        """Read until a message has ``key``."""
        deadline = time.monotonic() + seconds
        while True:
            self.socket.settimeout(max(0.01, deadline - time.monotonic()))
            message = dict(line.split("=", 1) for line in self.socket.recv(4096).decode().splitlines())
            self.messages.append(message)
            if key in message:
                return message

    def nothing_more(self, key: str, seconds: float) -> None:
        with pytest.raises(TimeoutError):
            self.until(key, seconds)


@pytest.fixture
def told(tmp_path: Path) -> Iterator[Told]:
    made = Told(tmp_path / "notify")
    yield made
    made.socket.close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
            "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
            "-keyout", str(key), "-out", str(cert),
        ],
        check=True, capture_output=True,
    )  # fmt: skip
    return str(cert), str(key)


def app_of(worker_class: str, attribute: str = "app") -> str:
    return f"{'wsgi' if worker_class in WSGI_CLASSES else 'asgi'}_app:{attribute}"


HUP, TERM, TTIN, TTOU = signal.SIGHUP, signal.SIGTERM, signal.SIGTTIN, signal.SIGTTOU
