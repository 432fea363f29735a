"""Whom the arbiter tells, before TERM, that nobody else accepts from the socket."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import HUP, TERM, TTIN, TTOU, Serve, Site
from .test_gate import on_socket
from .test_recycle import small
from .test_signals import until

NOTE = (
    "def worker_exit(server, worker):\n    open(f'alone.{worker.pid}', 'w').write(str(worker.slot.alone))\n"
)


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    (tmp_path / "gunicorn.conf.py").write_text(NOTE)
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


def told(folder: Path) -> list[str]:
    return sorted(one.read_text() for one in folder.glob("alone.*"))


def colour(serve: Serve, listener: socket.socket, name: str, **environ: str) -> Site:
    return on_socket(
        serve, listener, "wsgi_app:app", "ready" if "FARRIER_GATE" not in environ else None,
        **{"WORKERS": "2", "WORKER_CLASS": "sync", "FARRIER_INSTANCE": name} | environ,
    )  # fmt: skip


def test_a_stop_with_nobody_else_on_systemds_socket(serve: Serve, listener: socket.socket) -> None:
    site = colour(serve, listener, "blue")
    site.signal(TERM)
    assert site.wait() == 0
    assert told(serve.folder) == ["True", "True"]


def test_a_stop_beside_another_colour_that_serves(serve: Serve, listener: socket.socket) -> None:
    blue, green = colour(serve, listener, "blue"), colour(serve, listener, "green")
    blue.signal(TERM)
    assert blue.wait() == 0
    assert told(serve.folder) == ["False", "False"]
    green.signal(TERM)
    assert green.wait() == 0
    assert told(serve.folder) == ["False", "False", "True", "True"]


def test_a_gate_is_no_colour_that_serves(serve: Serve, listener: socket.socket) -> None:
    blue, gate = colour(serve, listener, "blue"), colour(serve, listener, "green", FARRIER_GATE="1")
    gate.event("ready")
    blue.signal(TERM)
    assert blue.wait() == 0
    assert told(serve.folder) == ["True", "True"]


@pytest.mark.parametrize(
    "what",
    [
        "its master is gone",
        "no worker is ready",
        "it stops",
        "not JSON",
        "no object",
        "odd workers",
        "odd pid",
    ],
)
def test_a_state_file_that_says_nothing_good(serve: Serve, listener: socket.socket, what: str) -> None:
    blue = colour(serve, listener, "blue")
    other = json.loads((serve.run / "blue.json").read_text()) | {"pid": os.getpid()}
    changed = {
        "its master is gone": {"pid": gone_pid()},
        "no worker is ready": {"workers": [worker | {"ready": False} for worker in other["workers"]]},
        "it stops": {"phase": "stopping"},
        "odd workers": {"workers": 7},
        "odd pid": {"pid": "many"},
    }.get(what, {})
    text = {"not JSON": "{", "no object": "[]"}.get(what, json.dumps(other | changed))
    (serve.run / "green.json").write_text(text)
    blue.signal(TERM)
    assert blue.wait() == 0
    assert told(serve.folder) == ["True", "True"]


def gone_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_one_less_and_a_hup_leave_others(serve: Serve, listener: socket.socket) -> None:
    site = colour(serve, listener, "blue")
    site.signal(TTOU)
    site.event("worker_ended")
    site.signal(HUP)
    site.event("reloaded")
    assert told(serve.folder) == ["False", "False"]


def test_a_single_worker_that_is_retired_first_is_alone(serve: Serve, listener: socket.socket) -> None:
    site = colour(
        serve, listener, "blue", WORKERS="1", MAX_REQUESTS="3", MAX_REQUESTS_JITTER="0", FARRIER_PLAN=small()
    )
    site.address = listener.getsockname()
    for _ in range(4):
        assert site.get() == (200, b"one")
    site.event("worker_ended", reason="recycled")
    assert told(serve.folder) == ["True"]
    site.signal(TTIN)
    until(lambda: sum(worker["ready"] for worker in serve.state("blue")["workers"]) == 2)
    for _ in range(12):
        assert site.get() == (200, b"one")
    site.event("worker_ended", 2, reason="recycled")
    assert told(serve.folder) == ["False", "True"]
