"""A graceful stop, seen by clients that look at every byte: who is answered, told, waited for, and let go."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import ssl
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import CLASSES, REPOSITORY, TERM, WSGI_CLASSES, Serve, Site, app_of
from .test_gate import on_socket

#: Those that keep connections; sync closes each one after its response. Uvicorn has two parsers.
KEEPING = (*(one for one in CLASSES if one != "sync"), "uvicorn without httptools")
HIDDEN = "import sys; sys.modules[{!r}] = None; from farrier.cli import main; sys.exit(main())"

WSGI = """
import time
def app(environ, start_response):
    path, seconds = environ["PATH_INFO"], float(environ.get("QUERY_STRING") or 0)
    if path == "/stream":
        start_response("200 OK", [("Content-Type", "text/event-stream")])
        return stream()
    if path == "/early":
        start_response("200 OK", [("Content-Length", "3")])
        return early(seconds)
    try:
        time.sleep(seconds)
    finally:
        seconds > 50 and open("tidied", "w").close()
    body = b"one" if path == "/unread" else environ["wsgi.input"].read() or b"one"
    if path == "/big":
        body = b"x" * 5_000_000
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
def early(seconds):
    yield b"o"
    time.sleep(seconds)
    yield b"ne"
def stream():
    try:
        while True:
            yield b"tick"
            time.sleep(0.1)
    finally:
        open("tidied", "w").close()
"""

ASGI = """
import asyncio, time
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                open("shut", "w").close()
                return
    path, seconds = scope["path"], float(scope["query_string"] or 0)
    async def start(*headers):
        await send({"type": "http.response.start", "status": 200, "headers": headers})
    async def part(data, more=True):
        await send({"type": "http.response.body", "body": data, "more_body": more})
    if path == "/stream":
        await start((b"content-type", b"text/event-stream"))
        try:
            while True:
                await part(b"tick")
                await asyncio.sleep(0.1)
        finally:
            open("tidied", "w").close()
    if path == "/early":
        await start((b"content-length", b"3"))
        await part(b"o")
        await asyncio.sleep(seconds)
        await part(b"ne", False)
        return
    if path == "/thread":
        await asyncio.to_thread(time.sleep, seconds)
    else:
        await asyncio.sleep(seconds)
    body = b""
    while path != "/unread":
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    body = b"x" * 5_000_000 if path == "/big" else body or b"one"
    await start((b"content-length", str(len(body)).encode()))
    await part(body, False)
"""


class Client:
    """A connection that shows what really comes. ``answer()`` is "status connection body"."""

    def __init__(self, address: tuple[str, int], tls: bool = False) -> None:
        self.socket = socket.create_connection(address, timeout=10)
        if tls:
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            self.socket = context.wrap_socket(self.socket)
        self.file = self.socket.makefile("rb")

    def send(self, data: str) -> None:
        self.socket.sendall(data.replace("\n", "\r\n").encode())

    def ask(self, path: str = "/", method: str = "GET") -> None:
        self.send(f"{method} {path} HTTP/1.1\nHost: x\n\n")

    def head(self) -> tuple[str, dict[str, str]]:
        status = self.file.readline().decode().split()
        headers = {}
        while (line := self.file.readline()) not in (b"\r\n", b""):
            name, value = line.decode().split(":", 1)
            headers[name.lower()] = value.strip().lower()
        return (status[1] if status else "nothing"), headers

    def answer(self) -> str:
        status, headers = self.head()
        body = self.file.read(int(headers.get("content-length", 0))).decode()
        return f"{status} {headers.get('connection', 'keep-alive')} {body}"

    def end(self) -> bytes:
        """What is left until FIN; an RST raises ConnectionResetError."""
        return self.file.read()

    def close(self) -> None:
        self.file.close()
        self.socket.close()


class Stopping:
    """One server, one worker, clients that are closed, and the stop."""

    def __init__(self, serve: Serve, worker_class: str, words: tuple[str, ...], **environ: str) -> None:
        (serve.folder / "wsgi_app.py").write_text(WSGI)
        (serve.folder / "asgi_app.py").write_text(ASGI)
        self.tls = "--certfile" in words
        threads = {"THREADS": "4"} if worker_class == "gthread" else {}
        environ = {"WORKERS": "1", "GRACEFUL_TIMEOUT": "20", "KEEPALIVE": "60"} | threads | environ
        worker_class, _, hidden = worker_class.partition(" without ")
        words = (app_of(worker_class), *words)
        began = time.monotonic()
        how = {"command": ("-c", HIDDEN.format(hidden))} if hidden else {}
        self.site: Site = serve(
            *(("serve", *words) if hidden else words), WORKER_CLASS=worker_class, **how, **environ
        )
        #: Seconds that the start took: what this machine is slow by.
        self.boot = time.monotonic() - began
        self.worker = serve.state()["workers"][0]["pid"]
        self.clients: list[Client] = []
        self.stopped = 0.0

    def client(self, asked: bool = True) -> Client:
        """A connection, with one request answered and kept alive if ``asked``."""
        client = Client(self.site.address, self.tls)
        self.clients.append(client)
        if asked:
            client.ask()
            assert client.answer() == "200 keep-alive one"
        return client

    def stop(self, number: int = TERM) -> None:
        self.stopped = time.monotonic()
        self.site.signal(number)
        self.site.event("stopping")
        # The worker has the signal a moment after the master says so.
        time.sleep(0.2)

    @property
    def seconds(self) -> float:
        """Since the stop."""
        return time.monotonic() - self.stopped

    def ended_well(self) -> None:
        assert self.site.wait(30) == 0
        assert not [line for line in self.site.lines if '"severity": "ERROR"' in line or "Traceback" in line]


@pytest.fixture(params=["plain", "tls"])
def arguments(request: pytest.FixtureRequest, certificate: tuple[str, str]) -> tuple[str, ...]:
    return () if request.param == "plain" else ("--certfile", certificate[0], "--keyfile", certificate[1])


@contextlib.contextmanager
def stopping(
    serve: Serve, worker_class: str, words: tuple[str, ...] = (), **environ: str
) -> Iterator[Stopping]:
    made = Stopping(serve, worker_class, words, **environ)
    try:
        yield made
    finally:
        for client in made.clients:
            client.close()


@pytest.mark.parametrize("worker_class", KEEPING)
def test_every_client_is_answered_and_told(
    serve: Serve, worker_class: str, arguments: tuple[str, ...]
) -> None:
    """One connection in each state that it can be in when the stop comes."""
    with stopping(serve, worker_class, arguments) as site:
        idle, asks, in_hand, headed, head, body, waits, unread = (site.client() for _ in range(8))
        fresh, silent = site.client(asked=False), site.client(asked=False)
        in_hand.ask("/slow?1")
        headed.ask("/early?1")
        assert headed.head()[1].get("connection", "keep-alive") == "keep-alive"
        head.send("GET / HTTP/1.1\nHo")
        body.send("POST / HTTP/1.1\nHost: x\nContent-Length: 8\n\nhalf")
        time.sleep(0.3)
        site.stop()
        # Its headers were not sent when the stop came.
        assert in_hand.answer() == "200 close one"
        assert 0.5 < site.seconds < 2 + site.boot
        # Its headers had promised to keep the connection: another request on it is answered.
        assert headed.file.read(3) == b"one"
        headed.ask()
        assert headed.answer() == "200 close one"
        asks.ask()
        assert asks.answer() == "200 close one"
        fresh.ask()
        assert fresh.answer() == "200 close one"
        waits.send("POST / HTTP/1.1\nHost: x\nContent-Length: 4\nExpect: 100-continue\n\n")
        assert waits.head()[0] == "100"
        waits.send("body")
        assert waits.answer() == "200 close body"
        unread.send(f"POST /unread HTTP/1.1\nHost: x\nContent-Length: 200000\n\n{'x' * 200_000}")
        assert unread.answer().endswith(" one")
        # Idle ones have the linger, and one that never asked as well.
        assert idle.end() == b"" and silent.end() == b""
        assert 2.5 < site.seconds < 4.5 + site.boot
        # What began to arrive is waited for beyond it.
        head.send("st: x\n\n")
        assert head.answer() == "200 close one"
        body.send("half")
        assert body.answer() == "200 close halfhalf"
        for one in (in_hand, headed, asks, fresh, waits, head, body):
            assert one.end() == b""
        unread.end()
        # None of these clients has closed its side.
        site.ended_well()
        assert site.seconds < 12 + site.boot


@pytest.mark.parametrize("worker_class", KEEPING)
def test_a_body_that_nobody_reads_comes_after_the_answer(
    serve: Serve, worker_class: str, arguments: tuple[str, ...]
) -> None:
    """Many clients send it behind the headers, and a 401 is there before it: nobody is reset for that."""
    with stopping(serve, worker_class, arguments) as site:
        client, large = site.client(), site.client()
        for _ in range(3):
            client.send("POST /unread HTTP/1.1\nHost: x\nContent-Length: 3000\n\n")
            if worker_class not in WSGI_CLASSES:
                assert client.answer() == "200 keep-alive one"
            time.sleep(0.1)
            client.send("x" * 3000)
            if worker_class in WSGI_CLASSES:
                assert client.answer() == "200 keep-alive one"
        site.stop()
        large.send(f"POST /unread HTTP/1.1\nHost: x\nContent-Length: 100000\n\n{'x' * 10}")
        told = large.answer()
        time.sleep(0.1)
        large.send("x" * 99_990)
        if "close" not in told:
            large.ask()
            assert large.answer() == "200 close one"
        assert large.end() == b""
        assert client.end() == b""
        site.ended_well()


@pytest.mark.parametrize("worker_class", KEEPING)
def test_what_was_sent_behind_a_request_is_answered(serve: Serve, worker_class: str) -> None:
    """Pipelined requests that are here when the close would be announced: the last one announces it."""
    with stopping(serve, worker_class) as site:
        client = site.client()
        client.send(
            "GET /slow?0.6 HTTP/1.1\nHost: x\n\nGET / HTTP/1.1\nHost: x\n\nGET / HTTP/1.1\nHost: x\n\n"
        )
        time.sleep(0.2)
        site.stop()
        assert client.answer() == "200 keep-alive one"
        assert client.answer() == "200 keep-alive one"
        assert client.answer() == "200 close one"
        assert client.end() == b""
        site.ended_well()


@pytest.mark.parametrize("worker_class", KEEPING)
def test_half_a_request_that_came_behind_another_is_waited_for(serve: Serve, worker_class: str) -> None:
    with stopping(serve, worker_class) as site:
        client = site.client()
        client.send("GET /slow?0.6 HTTP/1.1\nHost: x\n\nGET / HT")
        time.sleep(0.2)
        site.stop()
        assert client.answer() == "200 keep-alive one"
        time.sleep(4)
        client.send("TP/1.1\nHost: x\n\n")
        assert client.answer() == "200 close one"
        site.ended_well()


@pytest.mark.parametrize("worker_class", KEEPING)
def test_a_promise_made_long_ago_has_the_linger_too(serve: Serve, worker_class: str) -> None:
    """A response that began before the stop ends after the linger: its client may go on all the same."""
    with stopping(serve, worker_class) as site:
        client = site.client()
        client.ask("/early?4")
        client.head()
        site.stop()
        assert client.file.read(3) == b"one"
        assert site.seconds > 3.5
        time.sleep(1)
        client.ask()
        assert client.answer() == "200 close one"
        site.ended_well()


@pytest.mark.parametrize("worker_class", KEEPING)
def test_a_slow_client_gets_the_whole_of_a_large_response(
    serve: Serve, worker_class: str, arguments: tuple[str, ...]
) -> None:
    """The app is done and the server holds what the client has not read, far beyond the linger."""
    with stopping(serve, worker_class, arguments) as site:
        client = site.client()
        client.ask("/big")
        length = int(client.head()[1]["content-length"])
        site.stop()
        time.sleep(5)
        assert len(client.file.read(length)) == length == 5_000_000
        assert site.seconds > 5
        site.ended_well()


@pytest.mark.parametrize("worker_class", KEEPING)
def test_a_stream_has_the_grace_and_then_a_clean_end(serve: Serve, worker_class: str) -> None:
    """The app's ``finally`` runs, the client sees FIN without a last chunk, the log names the request."""
    with stopping(serve, worker_class, GRACEFUL_TIMEOUT="4") as site:
        client = site.client(asked=False)
        client.ask("/stream")
        assert client.head()[1]["transfer-encoding"] == "chunked"
        # As at a HUP: when all stops, the master waits for last words half a second.
        os.kill(site.worker, TERM)
        began = time.monotonic()
        rest = client.end()
        assert 3.7 < time.monotonic() - began < 4.7 + site.boot
        assert rest.endswith(b"4\r\ntick\r\n") and not rest.endswith(b"0\r\n\r\n")
        cut = site.site.event("requests_cut")
        assert [one["request"] for one in cut["requests_in_hand"]] == ["GET /stream"]
        site.site.event("worker_ended", worker=site.worker)
        assert (serve.folder / "tidied").exists()
        if worker_class not in WSGI_CLASSES:
            # The app's own shutdown came last.
            assert (serve.folder / "shut").exists()
        assert "Traceback" not in site.site.text


@pytest.mark.parametrize("path", ["/stream", "/slow?60"])
def test_sync_has_its_one_request_end_in_the_same_way(serve: Serve, path: str) -> None:
    """It runs in the main thread, so that even one that only waits is ended with its ``finally``."""
    with stopping(serve, "sync", GRACEFUL_TIMEOUT="2") as site:
        client = site.client(asked=False)
        client.ask(path)
        time.sleep(0.3)
        os.kill(site.worker, TERM)
        began = time.monotonic()
        assert not client.end().endswith(b"0\r\n\r\n")
        assert 1.7 < time.monotonic() - began < 2.7 + site.boot
        cut = site.site.event("requests_cut")
        assert [one["request"] for one in cut["requests_in_hand"]] == [f"GET {path}"]
        site.site.event("worker_ended", worker=site.worker)
        assert (serve.folder / "tidied").exists()
        assert "Traceback" not in site.site.text


def test_sync_lingers_for_a_client_that_has_said_nothing(serve: Serve) -> None:
    with stopping(serve, "sync") as site:
        late = site.client(asked=False)
        time.sleep(0.3)
        site.stop()
        time.sleep(1)
        late.ask()
        assert late.answer() == "200 close one"
        site.ended_well()
    with stopping(serve, "sync") as site:
        silent = site.client(asked=False)
        time.sleep(0.3)
        site.stop()
        assert silent.end() == b""
        assert 2.5 < site.seconds < 4.5 + site.boot
        site.ended_well()


@pytest.mark.parametrize("worker_class", [one for one in KEEPING if " " not in one])
def test_one_that_is_alone_goes_on_accepting_while_an_old_client_is_idle(
    serve: Serve, worker_class: str
) -> None:
    """As a queue stops it: the less time between it and the next one, the shorter anybody waits."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        site = on_socket(
            serve, listener, app_of(worker_class), "ready",
            WORKERS="1", WORKER_CLASS=worker_class, KEEPALIVE="60",
        )  # fmt: skip
        address = listener.getsockname()
        old = Client(address)
        old.ask()
        assert old.answer() == "200 keep-alive one"
        # The answer is here before its thread has come back to the worker, for which it is idle then.
        time.sleep(0.3)
        site.signal(TERM)
        site.event("stopping")
        time.sleep(1)
        new = Client(address)
        new.ask()
        assert new.answer() == "200 close one"
        old.ask()
        assert old.answer() == "200 close one"
        # Nobody is left to whom anything was promised: who comes now is the next one's.
        assert site.wait(20) == 0
        late = Client(address)
        late.ask()
        site = on_socket(
            serve, listener, app_of(worker_class), "ready", WORKERS="1", WORKER_CLASS=worker_class
        )
        assert late.answer() == "200 keep-alive one"
        for client in (old, new, late):
            client.close()


@pytest.mark.parametrize("worker_class", CLASSES)
def test_an_idle_worker_ends_at_once(serve: Serve, worker_class: str) -> None:
    with stopping(serve, worker_class) as site:
        assert site.site.get()[0] == 200
        site.stop()
        site.ended_well()
        assert site.seconds < 2.5 + site.boot  # not the linger


@pytest.mark.parametrize("path", ["/slow?15", "/thread?15"])
@pytest.mark.parametrize("worker_class", CLASSES)
def test_a_quick_stop_drops(serve: Serve, worker_class: str, path: str) -> None:
    with stopping(serve, worker_class) as site:
        client = site.client(asked=False)
        client.ask(path)
        time.sleep(0.3)
        site.stop(signal.SIGQUIT)
        with contextlib.suppress(ConnectionResetError):
            assert b"one" not in client.end()
        assert site.site.wait() == 0
        assert site.seconds < 4 + site.boot
        assert site.site.event("worker_int")["requests_in_hand"][0]["request"] == f"GET {path}"


@pytest.mark.parametrize("worker_class", CLASSES)
def test_clients_that_reset_take_nobody_with_them(serve: Serve, worker_class: str) -> None:
    """In the middle of a request, and after a response that closed the connection."""
    with stopping(serve, worker_class) as site:
        for request in ("GET / HT", "GET / HTTP/1.1\nHost: x\nConnection: close\n\n", ""):
            for _ in range(5):
                client = site.client(asked=False)
                client.send(request)
                if request.endswith("\n"):
                    client.answer()
                client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.close()
        assert site.site.get()[0] == 200
        assert serve.state()["workers"][0]["pid"] == site.worker
        site.stop()
        site.ended_well()


@pytest.mark.parametrize("worker_class", KEEPING)
def test_draining_takes_no_processor(serve: Serve, worker_class: str) -> None:
    """Three seconds of linger with one idle client cost little."""
    with stopping(serve, worker_class) as site:
        site.client()
        used = processor(site.worker)
        site.stop()
        time.sleep(2)
        assert processor(site.worker) - used < 0.3  # 100 looks; one every 20 ms


@pytest.mark.parametrize("worker_class", [one for one in KEEPING if " " not in one])
def test_under_plain_gunicorn_it_drains_too(serve: Serve, worker_class: str) -> None:
    conf = serve.folder / "farrier.conf.py"
    conf.write_text("from farrier.serve import settings\n\nglobals().update(settings())\n")
    site = serve(
        app_of(worker_class), "-c", str(conf), command=("-m", "gunicorn"), wait="worker_booted",
        WORKERS="1", WORKER_CLASS=worker_class, KEEPALIVE="60",
    )  # fmt: skip
    client = Client(site.address)
    client.ask()
    assert client.answer() == "200 keep-alive one"
    site.signal(TERM)
    time.sleep(0.5)
    client.ask()
    assert client.answer() == "200 close one"
    client.close()
    assert site.wait() == 0


@pytest.mark.parametrize("worker_class", ["gthread", "gevent", "asgi"])
def test_http2_streams_are_answered_and_idle_clients_let_go(serve: Serve, worker_class: str) -> None:
    h2 = pytest.importorskip("h2.connection")
    settings = ("--http-protocols", "h2,h1", "--http2-cleartext", "prior-knowledge")
    path = f"{REPOSITORY}:{Path(h2.__file__).parents[1]}"
    with stopping(serve, worker_class, settings, PYTHONPATH=path) as site:
        idle, busy = HTTP2(site.site.address), HTTP2(site.site.address)
        for client in (idle, busy):
            client.ask("/")
            client.until("StreamEnded")
        busy.ask("/slow?1")
        time.sleep(0.3)
        site.stop()
        busy.until("StreamEnded")
        idle.until("ConnectionTerminated", or_the_end=True)
        assert site.seconds < 5
        site.ended_well()


class HTTP2:
    """A client that opens with the preface."""

    def __init__(self, address: tuple[str, int]) -> None:
        from h2.config import H2Configuration
        from h2.connection import H2Connection

        self.socket = socket.create_connection(address, timeout=10)
        self.state = H2Connection(H2Configuration(client_side=True))
        self.state.initiate_connection()

    def ask(self, path: str) -> None:
        headers = {":method": "GET", ":path": path, ":scheme": "http", ":authority": "x"}
        self.state.send_headers(self.state.get_next_available_stream_id(), headers.items(), end_stream=True)
        self.socket.sendall(self.state.data_to_send())

    def until(self, event: str, or_the_end: bool = False) -> None:
        seen: list[str] = []
        while event not in seen:
            data = self.socket.recv(65536)
            if not data:
                assert or_the_end, f"the connection ended after {seen}"
                return
            seen += [type(one).__name__ for one in self.state.receive_data(data)]
            with contextlib.suppress(OSError):
                self.socket.sendall(self.state.data_to_send())


def processor(pid: int) -> float:
    """Seconds that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
