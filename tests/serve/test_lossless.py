"""A HUP, an exchange of colours and a restart under load lose no request, kept-alive or new, GET or POST.

A small proof that runs everywhere, for every class; benchmarks/ holds the large one.
"""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from .conftest import CLASSES, HUP, TERM, Serve, app_of
from .test_gate import on_socket

#: Times that each is done: more by hand, for longer proofs.
ROUNDS = int(os.environ.get("ROUNDS", "2"))


@dataclass
class Client(threading.Thread):
    """One client that never retries; think time between requests keeps the load small."""

    address: tuple[str, int]
    keep: bool
    end: threading.Event
    think: float = 0.002
    done: int = 0
    longest: float = 0.0
    failed: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(daemon=True)

    __hash__ = threading.Thread.__hash__

    def run(self) -> None:
        connection = http.client.HTTPConnection(*self.address, timeout=30)
        while not self.end.is_set():
            began = time.monotonic()
            try:
                self.ask(connection)
                self.done += 1
            except (OSError, http.client.HTTPException) as error:
                self.failed.append(f"{error!r} after {time.monotonic() - began:.3f} s, request {self.done}")
                connection.close()
            self.longest = max(self.longest, time.monotonic() - began)
            time.sleep(self.think)
        connection.close()

    def ask(self, connection: http.client.HTTPConnection) -> None:
        body = b"x" * 2000 if self.done % 2 else None
        headers = {} if self.keep else {"Connection": "close"}
        connection.request("POST" if body else "GET", "/slow?0.005", body=body, headers=headers)
        answer = connection.getresponse()
        if (answer.status, answer.read()) != (200, body or b"one"):
            raise http.client.HTTPException(str(answer.status))


@contextmanager
def load(address: tuple[str, int]) -> Iterator[list[Client]]:
    """Busy kept-alive clients, ones that think for a while, and new connections; nothing may fail."""
    end = threading.Event()
    clients = [Client(address, keep, end) for keep in (True, True, True, False, False)]
    clients += [Client(address, True, end, think) for think in (0.3, 1.2)]
    for client in clients:
        client.start()
    try:
        yield clients
    finally:
        end.set()
        for client in clients:
            client.join(35)
    assert [failure for client in clients for failure in client.failed] == []
    assert sum(client.done for client in clients) > 100


@pytest.mark.parametrize("worker_class", CLASSES)
def test_hup_under_load_loses_nothing(serve: Serve, worker_class: str) -> None:
    site = serve(app_of(worker_class), WORKERS="2", WORKER_CLASS=worker_class)
    with load(site.address):
        for count in range(1, ROUNDS + 1):
            site.signal(HUP)
            site.event("reloaded", count, seconds=40)


@pytest.mark.parametrize("worker_class", CLASSES)
def test_two_colours_on_one_socket_lose_nothing(serve: Serve, worker_class: str) -> None:
    """Overlap, as systemd does it: one colour starts beside the other, which then stops."""
    chosen = {"WORKERS": "1", "WORKER_CLASS": worker_class}
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
        old = on_socket(serve, listener, app_of(worker_class), "ready", FARRIER_INSTANCE="blue", **chosen)
        with load(listener.getsockname()):
            for count in range(ROUNDS):
                colour = ("green", "blue")[count % 2]
                new = on_socket(
                    serve, listener, app_of(worker_class), "ready", FARRIER_INSTANCE=colour, **chosen
                )
                old.signal(TERM)
                assert old.wait(30) == 0
                old = new


@pytest.mark.parametrize("worker_class", CLASSES)
def test_a_restart_behind_a_held_socket_loses_nothing(serve: Serve, worker_class: str) -> None:
    """Queue: the only one stops and the next starts; who comes between waits, and no longer than that."""
    chosen = {"WORKERS": "2", "WORKER_CLASS": worker_class}
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
        site = on_socket(serve, listener, app_of(worker_class), "ready", **chosen)
        gap = 0.0
        with load(listener.getsockname()) as clients:
            for _ in range(ROUNDS):
                time.sleep(1.5)
                began = time.monotonic()
                site.signal(TERM)
                assert site.wait(30) == 0
                drained = time.monotonic() - began
                site = on_socket(serve, listener, app_of(worker_class), "ready", **chosen)
                gap = max(gap, time.monotonic() - began)
                print(f"{worker_class}: drained in {drained:.2f} s, serving again after {gap:.2f} s")
        longest = max(client.longest for client in clients)
        print(f"{worker_class}: the longest wait was {longest:.2f} s")
        assert longest < gap + 1


@pytest.mark.parametrize("worker_class", CLASSES)
def test_an_inherited_socket_keeps_its_backlog(serve: Serve, worker_class: str) -> None:
    """Nobody listens again on what systemd opened: neither the master nor a worker."""
    with socket.create_server(("127.0.0.1", 0), backlog=77) as listener:
        on_socket(serve, listener, app_of(worker_class), "ready", WORKERS="2", WORKER_CLASS=worker_class)
        assert backlog(listener.getsockname()[1]) == "77"


def backlog(port: int) -> str:
    """What `ss` shows as Send-Q of the listening socket."""
    command = ["ss", "-ltnH", f"sport = :{port}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[2]


@pytest.mark.parametrize("worker_class", CLASSES)
def test_the_planned_backlog_stays(serve: Serve, worker_class: str) -> None:
    """Whatever the servers would rather have."""
    site = serve(app_of(worker_class), "--backlog", "321", WORKERS="1", WORKER_CLASS=worker_class)
    assert backlog(site.address[1]) == "321"


@pytest.mark.parametrize("worker_class", ["asgi", "uvicorn", "gevent"])
def test_a_full_worker_leaves_connections_in_the_queue(serve: Serve, worker_class: str) -> None:
    """Two at once and no more: the third waits its turn instead of being refused."""
    site = serve(
        app_of(worker_class),
        "--worker-connections",
        "2",
        WORKERS="1",
        WORKER_CLASS=worker_class,
        KEEPALIVE="0",
    )
    answers: list[int] = []
    threads = [threading.Thread(target=lambda: answers.append(site.get("/slow?0.2")[0])) for _ in range(6)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert answers == [200] * 6
    assert time.monotonic() - began > 0.55


@pytest.mark.parametrize("worker_class", ["asgi", "uvicorn", "gevent"])
def test_idle_kept_alive_connections_keep_nobody_out(serve: Serve, worker_class: str) -> None:
    """A browser keeps six connections for a minute: they must not count as requests in hand."""
    site = serve(
        app_of(worker_class),
        "--worker-connections",
        "2",
        WORKERS="1",
        WORKER_CLASS=worker_class,
        KEEPALIVE="60",
    )
    kept = [http.client.HTTPConnection(*site.address, timeout=5) for _ in range(12)]
    for connection in kept:
        connection.request("GET", "/")
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (200, b"one")
    for connection in kept:  # each is still good for another one
        connection.request("GET", "/")
        assert connection.getresponse().read() == b"one"
        connection.close()


@pytest.mark.parametrize("worker_class", ["gthread", "asgi", "uvicorn", "gevent"])
@pytest.mark.parametrize("busy", [True, False], ids=["used", "idle"])
def test_kept_alive_clients_beyond_every_limit_keep_nobody_out(
    serve: Serve, worker_class: str, busy: bool
) -> None:
    """Used ones are told the close with their next response, idle ones are let go after the linger."""
    limit = "150" if worker_class == "gthread" else "2"
    site = serve(app_of(worker_class), "--worker-connections", limit, "--threads", "2",
                 WORKERS="1", WORKER_CLASS=worker_class, KEEPALIVE="60")  # fmt: skip
    end, failed, kept = threading.Event(), [], []

    def client(number: int) -> None:
        connection = http.client.HTTPConnection(*site.address, timeout=20)
        kept.append(connection)
        try:
            while True:
                connection.request("GET", "/")
                answer = connection.getresponse()
                if (answer.status, answer.read()) != (200, b"one"):
                    raise http.client.HTTPException(str(answer.status))
                if end.wait(0.5 + number / 300 if busy else 60):
                    return
        except (OSError, http.client.HTTPException) as error:
            failed.append(repr(error))

    threads = [threading.Thread(target=client, args=(number,), daemon=True) for number in range(170)]
    for thread in threads:
        thread.start()
    time.sleep(4)
    waits = []
    for _ in range(10):
        began = time.monotonic()
        assert site.get("/")[0] == 200
        waits.append(time.monotonic() - began)
    end.set()
    for thread in threads:
        thread.join(20)
    for connection in kept:
        connection.close()
    assert failed == []
    assert sorted(waits)[5] < 1.0


FEW_FILES = (
    "import os, resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (120, 120));"
    "os.execv(sys.executable, [sys.executable, '-m', 'farrier', 'serve', *sys.argv[1:]])"
)


@pytest.mark.parametrize("worker_class", ["gthread", "asgi", "uvicorn", "gevent"])
def test_idle_clients_beyond_the_file_descriptors_keep_nobody_out(serve: Serve, worker_class: str) -> None:
    """The limit that a worker meets first where it may hold thousands: a bare shell gives 1024 files."""
    site = serve(app_of(worker_class), "--worker-connections", "500", command=("-c", FEW_FILES),
                 WORKERS="1", WORKER_CLASS=worker_class, KEEPALIVE="60")  # fmt: skip
    kept = [site.connection(8) for _ in range(150)]
    try:
        for connection in kept:
            connection.request("GET", "/")
            assert connection.getresponse().read() == b"one"
    finally:
        for connection in kept:
            connection.close()


@pytest.mark.parametrize("worker_class", ["asgi", "uvicorn", "gevent"])
def test_busy_kept_alive_clients_do_not_starve_a_newcomer(serve: Serve, worker_class: str) -> None:
    """Two clients that never pause have both places; a third still gets its turn."""
    site = serve(app_of(worker_class), "--worker-connections", "2", WORKERS="1", WORKER_CLASS=worker_class)
    end = threading.Event()

    def hog() -> None:
        connection = http.client.HTTPConnection(*site.address, timeout=10)
        while not end.is_set():
            connection.request("GET", "/slow?0.05")
            connection.getresponse().read()
        connection.close()

    hogs = [threading.Thread(target=hog) for _ in range(2)]
    for thread in hogs:
        thread.start()
    try:
        assert [site.get("/slow?0.05")[0] for _ in range(5)] == [200] * 5
    finally:
        end.set()
        for thread in hogs:
            thread.join(10)
