"""farrier probe against real sockets that answer well, badly, late and not at all."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from farrier.errors import FarrierError
from farrier.probe import Target, probe


@contextmanager
def answering(raw: bytes, path: Path | None = None, delay: float = 0.0) -> Iterator[str]:
    """A server that reads one request and says ``raw``."""
    listener = socket.socket(socket.AF_UNIX if path else socket.AF_INET)
    listener.bind(str(path) if path else ("127.0.0.1", 0))
    listener.listen()
    got: list[bytes] = []
    end = threading.Event()

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            got.append(connection.recv(4096))
            end.wait(delay)
            connection.sendall(raw)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"unix:{path}:/health" if path else f"http://127.0.0.1:{listener.getsockname()[1]}/health?x=1"
    finally:
        end.set()
        listener.close()


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def test_healthy() -> None:
    with answering(OK) as url:
        status, line = probe(url)
    assert status == 0
    assert line.startswith(f"{url}: 200 in ")


def test_a_unix_socket(tmp_path: Path) -> None:
    with answering(OK, tmp_path / "s") as url:
        assert probe(url)[0] == 0
    assert Target.parse("unix:/run/app.sock").path == "/health"


def test_another_status_shows_the_body_on_one_line() -> None:
    with answering(b'HTTP/1.1 503 Service Unavailable\r\n\r\n{"status":\n "not ready"}') as url:
        status, line = probe(url)
    assert status == 1
    assert "503 instead of 200" in line and line.endswith('{"status": "not ready"}')
    with answering(b"HTTP/1.1 204 No Content\r\n\r\n") as url:
        assert probe(url, expect=(200, 204))[0] == 0


def test_too_late() -> None:
    with answering(OK, delay=5) as url:
        began = time.monotonic()
        assert probe(url, timeout=0.2) == (1, f"{url}: no answer within 0.2 s")
        assert time.monotonic() - began < 2


@pytest.mark.parametrize(("raw", "says"), [(b"", "without an answer"), (b"SSH-2.0-x\r\n", "not HTTP")])
def test_what_is_no_answer(raw: bytes, says: str) -> None:
    with answering(raw) as url:
        status, line = probe(url)
    assert status == 1 and says in line


def test_nobody_there(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert probe(f"http://127.0.0.1:{port}/")[1].endswith("Connection refused")
    assert "No such file" in probe(f"unix:{tmp_path}/none:/health")[1]


@pytest.mark.parametrize(
    "url",
    ["", "localhost", "ftp://x/", "http://", "http://h:99999/", "http://h/a b", "unix:rel", "unix:/a:b"],
)
def test_a_wrong_question_says_what_is_allowed(url: str) -> None:
    with pytest.raises(FarrierError, match="allowed: http://HOST"):
        probe(url)


def test_the_command_is_fast_and_its_status_counts() -> None:
    command = [sys.executable, "-m", "farrier", "probe"]
    with answering(OK) as url:
        ended = subprocess.run([*command, url], capture_output=True, text=True, timeout=20)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert len(ended.stdout.splitlines()) == 1
    ended = subprocess.run([*command, "unix:/no/such:/x"], capture_output=True, text=True, timeout=20)
    assert (ended.returncode, ended.stdout) == (1, "")
    ended = subprocess.run([*command, "gopher://x"], capture_output=True, text=True, timeout=20)
    assert ended.returncode == 2
    assert len(ended.stderr.splitlines()) == 1
    ended = subprocess.run(
        [*command, "http://x/", "--expect", "fine"], capture_output=True, text=True, timeout=20
    )
    assert ended.returncode == 2


def test_plain_http_imports_nothing_heavy() -> None:
    code = (
        "import sys; from farrier.probe import probe; probe('unix:/no/such:/x');"
        "heavy = ('ssl', 'http.client', 'email', 'asyncio', 'json', 'farrier.sizing');"
        "print([n for n in heavy if n in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
