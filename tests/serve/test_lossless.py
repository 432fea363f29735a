"""A HUP under load loses no request, kept-alive or new, GET or POST, with any class.

A small proof that runs everywhere; benchmarks/ holds the large one.
"""

from __future__ import annotations

import http.client
import threading
import time
from dataclasses import dataclass, field

import pytest

from .conftest import CLASSES, HUP, Serve, Site, app_of


@dataclass
class Client(threading.Thread):
    """One client that never retries; think time between requests keeps the load small."""

    site: Site
    keep: bool
    end: threading.Event
    done: int = 0
    failed: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(daemon=True)

    __hash__ = threading.Thread.__hash__

    def run(self) -> None:
        connection = self.site.connection()
        while not self.end.is_set():
            try:
                self.ask(connection)
                self.done += 1
            except (OSError, http.client.HTTPException) as error:
                self.failed.append(repr(error))
                connection.close()
            time.sleep(0.002)
        connection.close()

    def ask(self, connection: http.client.HTTPConnection) -> None:
        body = b"x" * 2000 if self.done % 2 else None
        headers = {} if self.keep else {"Connection": "close"}
        connection.request("POST" if body else "GET", "/slow?0.005", body=body, headers=headers)
        answer = connection.getresponse()
        if (answer.status, answer.read()) != (200, body or b"one"):
            raise http.client.HTTPException(str(answer.status))


@pytest.mark.parametrize("worker_class", CLASSES)
def test_hup_under_load_loses_nothing(serve: Serve, worker_class: str) -> None:
    site = serve(app_of(worker_class), WORKERS="2", WORKER_CLASS=worker_class)
    end = threading.Event()
    clients = [Client(site, keep, end) for keep in (True, True, True, False, False)]
    for client in clients:
        client.start()
    for count in (1, 2):
        site.signal(HUP)
        site.event("reloaded", count, seconds=40)
    end.set()
    for client in clients:
        client.join(10)
    assert [failure for client in clients for failure in client.failed] == []
    assert sum(client.done for client in clients) > 100


@pytest.mark.parametrize("worker_class", ["gthread", "asgi", "uvicorn", "gevent"])
def test_the_planned_backlog_stays(serve: Serve, worker_class: str) -> None:
    """What `ss` shows as Send-Q of the listening socket, whatever the servers would rather have."""
    import subprocess

    site = serve(app_of(worker_class), "--backlog", "321", WORKERS="1", WORKER_CLASS=worker_class)
    shown = subprocess.run(
        ["ss", "-ltnH", f"sport = :{site.address[1]}"], capture_output=True, text=True, check=True
    ).stdout
    assert shown.split()[2] == "321"


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
