"""What the state file says of the traffic: every request counted once, whatever became of it."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import threading
import time
import timeit
from pathlib import Path
from typing import Any

import pytest

from farrier.serve.board import Board
from farrier.serve.traffic import BOUNDS, Pace, Traffic

from .conftest import CLASSES, HUP, WSGI_CLASSES, Serve, Site, app_of

WSGI = """
import time
def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/raise":
        raise RuntimeError("broken")
    if path == "/slow":
        time.sleep(float(environ["QUERY_STRING"]))
    if path == "/half":
        start_response("200 OK", [("Content-Length", "100")])
        return half()
    status = "503 Service Unavailable" if path == "/503" else "404 Not Found" if path == "/404" else "200 OK"
    start_response(status, [("Content-Length", "2")])
    return [b"ok"]
def half():
    yield b"only so much"
    raise RuntimeError("broken in the middle")
"""

ASGI = """
import asyncio
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    path = scope["path"]
    if path == "/raise":
        raise RuntimeError("broken")
    if path == "/slow":
        await asyncio.sleep(float(scope["query_string"]))
    status = 503 if path == "/503" else 404 if path == "/404" else 200
    length = b"100" if path == "/half" else b"2"
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", length)]})
    if path == "/half":
        await send({"type": "http.response.body", "body": b"only so much", "more_body": True})
        raise RuntimeError("broken in the middle")
    await send({"type": "http.response.body", "body": b"ok"})
"""


def site_of(serve: Serve, worker_class: str, **environ: str) -> Site:
    name = app_of(worker_class)
    source = WSGI if worker_class in WSGI_CLASSES else ASGI
    (serve.folder / f"{name.split(':')[0]}.py").write_text(source)
    return serve(name, WORKERS="1", WORKER_CLASS=worker_class, **environ)


def ask(site: Site, *paths: str) -> None:
    for path in paths:
        with contextlib.suppress(http.client.HTTPException, OSError):
            site.get(path)


def traffic(serve: Serve, requests: int, seconds: float = 8.0) -> dict[str, Any]:
    """The state file's traffic, once it shows so many requests; it is refreshed once a second."""
    deadline = time.monotonic() + seconds
    while True:
        found: dict[str, Any] = serve.state()["traffic"]
        if found["requests"] >= requests or time.monotonic() > deadline:
            return found
        time.sleep(0.05)


@pytest.mark.parametrize("worker_class", CLASSES)
def test_every_request_counts_once_with_its_outcome(serve: Serve, worker_class: str) -> None:
    """No access log is on. Errors are answers of 500 and above, none at all, and half ones."""
    site = site_of(serve, worker_class)
    ask(site, "/", "/", "/404", "/503", "/raise", "/half", "/slow?0.06")
    found = traffic(serve, 7)
    assert (found["requests"], found["errors"]) == (7, 3)
    assert found["latency"]["bounds"] == list(BOUNDS)
    assert sum(found["latency"]["counts"]) == 7
    # The slow one: above 50 ms.
    assert sum(found["latency"]["counts"][BOUNDS.index(0.1) :]) >= 1
    assert 0.06 <= found["seconds"] < 5


@pytest.mark.parametrize("worker_class", CLASSES)
def test_health_is_no_traffic(serve: Serve, worker_class: str) -> None:
    site = site_of(serve, worker_class)
    ask(site, "/health", "/health/worker", "/health/ready", "/")
    assert traffic(serve, 1)["requests"] == 1


@pytest.mark.parametrize("worker_class", ["gthread", "uvicorn"])
def test_workers_that_have_ended_go_on_counting(serve: Serve, worker_class: str) -> None:
    site = site_of(serve, worker_class)
    ask(site, "/", "/503")
    site.signal(HUP)
    site.event("reloaded", seconds=30)
    ask(site, "/")
    found = traffic(serve, 3)
    assert (found["requests"], found["errors"], sum(found["latency"]["counts"])) == (3, 1, 3)


def test_requests_that_die_with_their_worker_are_errors(serve: Serve) -> None:
    site = site_of(serve, "gthread")
    clients = [site.connection() for _ in range(2)]
    for client in clients:
        client.request("GET", "/slow?30")
    pid = serve.state()["workers"][0]["pid"]
    deadline = time.monotonic() + 10
    while len(established(site)) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.3)
    os.kill(pid, signal.SIGKILL)
    site.event("worker_ended", worker=pid)
    for client in clients:
        client.close()
    found = traffic(serve, 2)
    assert (found["requests"], found["errors"]) == (2, 2)


def established(site: Site) -> list[str]:
    port = f":{site.address[1]:04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return [row[1] for row in rows if row[1].endswith(port) and row[3] == "01"]


@pytest.mark.parametrize("worker_class", CLASSES)
def test_a_client_that_leaves_is_no_error_of_ours(serve: Serve, worker_class: str) -> None:
    """It sends half of its body, or does not wait for the answer."""
    site = site_of(serve, worker_class)
    for _ in range(3):
        with socket.create_connection(site.address) as client:
            client.sendall(b"GET /slow?0.2 HTTP/1.1\r\nHost: x\r\n\r\n")
            time.sleep(0.05)
    ask(site, "/")
    time.sleep(0.5)
    found = traffic(serve, 2)
    assert found["errors"] == 0


def test_threads_lose_no_count() -> None:
    slot = Board().take()
    threads = [
        threading.Thread(target=lambda: [slot.counters.add(0.02, True) for _ in range(5000)])
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = slot.traffic
    assert (found.requests, found.errors, found.counts[BOUNDS.index(0.025)]) == (40000,) * 3
    assert found.seconds == pytest.approx(800)


def test_sums_and_bounds() -> None:
    slot = Board().take()
    for seconds in (0.001, 0.005, 0.0051, 29.0, 31.0):
        slot.counters.add(seconds, False)
    found = Traffic(requests=2, errors=1).plus([slot.traffic])
    found.lost(3)
    assert (found.requests, found.errors) == (10, 4)
    assert (found.counts[0], found.counts[1], found.counts[-2], found.counts[-1]) == (2, 1, 1, 1)


def test_a_count_costs_less_than_three_microseconds() -> None:
    slot = Board().take()
    # CPU time: the machine may be busy with something else.
    runs = timeit.repeat(
        lambda: slot.counters.add(0.0123, False), number=20000, repeat=5, timer=time.process_time
    )
    best = min(runs) / 20000
    print(f"one count: {best * 1e6:.2f} microseconds")
    assert best < 3e-6


def test_the_state_file_says_how_workers_ended_and_what_a_reload_came_to(
    serve: Serve, tmp_path: Path
) -> None:
    site = serve(WORKERS="1", WORKER_CLASS="sync")
    state = serve.state()
    assert state["last_reload"] is None
    assert set(state["endings"]) == {
        "recycled", "stopped", "timed out", "killed for memory", "crashed", "failed to boot",
    }  # fmt: skip
    os.kill(state["workers"][0]["pid"], signal.SIGKILL)
    site.event("worker_booted", 2)
    before = time.time()
    site.signal(HUP)
    site.event("reloaded")
    state = serve.state()
    assert (state["endings"]["crashed"], state["endings"]["stopped"]) == (1, 1)
    assert state["last_reload"]["refused"] is None
    assert before <= state["last_reload"]["at"] <= time.time()
    (tmp_path / "wsgi_app.py").write_text("import no_such_module\n")
    site.signal(HUP)
    site.event("reload_refused")
    state = serve.state()
    assert "no_such_module" in state["last_reload"]["refused"]
    assert state["endings"]["failed to boot"] == 1


@pytest.mark.parametrize("worker_class", WSGI_CLASSES)
def test_counting_leaves_no_circle_for_the_collector(serve: Serve, worker_class: str) -> None:
    """A request, its response and the client's socket are gone with the last reference to them."""
    (serve.folder / "wsgi_app.py").write_text(
        "import gc\n"
        "gc.disable()\n"
        "def app(environ, start_response):\n"
        "    alive = sum(type(one).__name__ == 'Response' for one in gc.get_objects())\n"
        "    start_response('200 OK', [('Content-Length', '4')])\n"
        "    return [b'%4d' % alive]\n"
    )
    site = serve(WORKERS="1", WORKER_CLASS=worker_class)
    for _ in range(20):
        last = int(site.get()[1])
    assert last <= 3


def test_the_pace_is_that_of_the_last_half_minute() -> None:
    pace = Pace()
    assert [pace.add(float(second), 100 + 40 * second) for second in range(3)] == [0.0, 0.0, 40.0]
    assert [pace.add(float(second), 180) for second in range(3, 32)][-1] == 0.0
