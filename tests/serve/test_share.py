"""Connections that are kept go round the workers; a worker that does not come for its own loses them."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import time
from collections import Counter

import pytest

from .conftest import CLASSES, Serve, Site, app_of
from .test_signals import until

KEEPING = [one for one in CLASSES if one != "sync"]


def worker_of(connection: http.client.HTTPConnection) -> int:
    connection.request("GET", "/health/worker")
    found: int = json.loads(connection.getresponse().read())["pid"]
    return found


def crowd(site: Site, count: int, stack: contextlib.ExitStack) -> list[http.client.HTTPConnection]:
    """So many clients that come at once and stay."""
    found = [site.connection() for _ in range(count)]
    for one in found:
        stack.callback(one.close)
        one.connect()
    return found


def ready(serve: Serve) -> set[int]:
    return {one["pid"] for one in serve.state()["workers"] if one["stage"] == "ready"}


@pytest.mark.parametrize("worker_class", KEEPING)
def test_clients_that_stay_are_spread_over_the_workers(serve: Serve, worker_class: str) -> None:
    site = serve(app_of(worker_class), WORKERS="3", WORKER_CLASS=worker_class, THREADS="4")
    with contextlib.ExitStack() as stack:
        held = Counter(worker_of(one) for one in crowd(site, 60, stack))
        assert len(held) == 3
        assert min(held.values()) >= 14, held


@pytest.mark.parametrize("worker_class", KEEPING)
def test_a_worker_that_comes_new_gets_the_next_ones(serve: Serve, worker_class: str) -> None:
    site = serve(app_of(worker_class), WORKERS="2", WORKER_CLASS=worker_class, THREADS="4")
    with contextlib.ExitStack() as stack:
        before = Counter(worker_of(one) for one in crowd(site, 20, stack))
        killed = min(before)
        os.kill(killed, signal.SIGKILL)
        until(lambda: len(ready(serve) - {killed}) == 2)
        after = Counter(worker_of(one) for one in crowd(site, 8, stack))
        assert not before.keys() & after.keys(), (before, after)


@pytest.mark.parametrize("worker_class", KEEPING)
def test_nobody_waits_for_a_worker_that_does_not_come(serve: Serve, worker_class: str) -> None:
    site = serve(app_of(worker_class), WORKERS="2", WORKER_CLASS=worker_class, THREADS="4")
    with contextlib.ExitStack() as stack:
        held = Counter(worker_of(one) for one in crowd(site, 20, stack))
        still = min(held)
        os.kill(still, signal.SIGSTOP)
        stack.callback(os.kill, still, signal.SIGCONT)
        # More than an even share for the other one, from the first on.
        began = time.monotonic()
        assert {worker_of(one) for one in crowd(site, 200, stack)} == {max(held)}
        # 50 ms once in a second, and not for each.
        assert time.monotonic() - began < 5


def test_workers_that_were_added_have_their_part(serve: Serve) -> None:
    site = serve(app_of("asgi"), WORKERS="1", WORKER_CLASS="asgi")
    for count in (2, 3):
        site.signal(signal.SIGTTIN)
        until(lambda count=count: len(ready(serve)) == count)
    with contextlib.ExitStack() as stack:
        held = Counter(worker_of(one) for one in crowd(site, 60, stack))
        assert min(held[one] for one in ready(serve)) >= 14, held


@pytest.mark.parametrize("worker_class", KEEPING)
def test_with_a_queue_for_each_worker_nobody_is_left_in_one(serve: Serve, worker_class: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        address = probe.getsockname()
    site = serve(
        app_of(worker_class),
        "--reuse-port",
        bind=f"127.0.0.1:{address[1]}",
        WORKERS="2",
        WORKER_CLASS=worker_class,
        THREADS="4",
    )
    site.address = address
    with contextlib.ExitStack() as stack:
        began = time.monotonic()
        assert len({worker_of(one) for one in crowd(site, 100, stack)}) == 2
        assert time.monotonic() - began < 1.5, "50 ms for each of those behind the first"
