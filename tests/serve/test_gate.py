"""How a candidate starts: as a gate that accepts nothing, or with a few workers to which TTIN adds."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path

import pytest

from .conftest import CLASSES, HUP, TERM, TTIN, TTOU, Serve, Site, Told, app_of
from .test_ready import CHECK

ACTIVATED = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.set_inheritable(3, True); os.set_blocking(3, True);"
    "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1');"
    "os.execv(sys.executable, [sys.executable, '-m', 'farrier', 'serve', *sys.argv[2:]])"
)


def on_socket(serve: Serve, listener: socket.socket, app: str, wait: str | None, **environ: str) -> Site:
    """As systemd starts a colour: the shared socket as descriptor 3."""
    number = listener.fileno()
    return serve(
        str(number), app, command=("-c", ACTIVATED), bind="", pass_fds=(number,), wait=wait, **environ
    )


@pytest.mark.parametrize("worker_class", CLASSES)
def test_a_gate_passes_the_checks_says_ready_and_accepts_nothing(
    serve: Serve, told: Told, tmp_path: Path, worker_class: str
) -> None:
    app = tmp_path / f"{app_of(worker_class).split(':')[0]}.py"
    app.write_text(app.read_text() + CHECK)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        site = on_socket(
            serve, listener, app_of(worker_class), None,
            FARRIER_GATE="1", WORKERS="3", WORKER_CLASS=worker_class, NOTIFY_SOCKET=told.path,
        )  # fmt: skip
        site.event("not_ready")
        told.nothing_more("READY", 0.6)
        (tmp_path / "flag").touch()
        assert told.until("READY")["STATUS"] == "1 of 1 worker ready"
        state = serve.state()
        assert (state["phase"], state["gate"], len(state["workers"])) == ("ready", True, 1)
        with socket.create_connection(listener.getsockname()) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            client.settimeout(1)
            with pytest.raises(TimeoutError):
                client.recv(1)
            # It is still in the queue, for whoever serves.
            taken, _ = listener.accept()
            with taken:
                assert taken.recv(5) == b"GET /"
        assert [one["message"] for one in site.events if one["event"] == "worker_ended"] == []
        began = time.monotonic()
        site.signal(TERM)
        assert site.wait() == 0
        # Far from graceful_timeout, which is 30 s.
        assert time.monotonic() - began < 6


def test_a_gate_beside_a_server_with_its_own_address(serve: Serve) -> None:
    site = serve(WORKERS="1", FARRIER_INSTANCE="blue")
    gate = serve(bind=f"127.0.0.1:{site.address[1]}", wait=None, FARRIER_GATE="1", FARRIER_INSTANCE="green")
    gate.event("ready")
    assert {site.get()[0] for _ in range(5)} == {200}
    gate.signal(TERM)
    assert gate.wait() == 0
    assert site.get() == (200, b"one")


def test_a_gate_of_an_app_that_does_not_import_ends(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "wsgi_app.py").write_text("import no_such_module\n")
    gate = serve(wait=None, FARRIER_GATE="1", WORKERS="4")
    assert gate.wait() == 3
    assert "no_such_module" in gate.event("halted")["message"]


def test_first_workers_are_ready_alone_and_ttin_adds(serve: Serve, told: Told, tmp_path: Path) -> None:
    """As a rolling deploy uses it; the count outlives a HUP until the number itself is changed."""
    chosen = tmp_path / "settings.json"
    chosen.write_text(json.dumps({"workers": 3}))
    site = serve(FARRIER_SETTINGS=str(chosen), FARRIER_FIRST_WORKERS="1", NOTIFY_SOCKET=told.path)
    assert told.until("READY")["STATUS"] == "1 of 1 worker ready"
    assert len(serve.state()["workers"]) == 1
    for count in (2, 3):
        site.signal(TTIN)
        site.event("worker_booted", count)
    site.signal(TTOU)
    site.event("worker_ended")
    site.signal(HUP)
    site.event("reloaded", seconds=30)
    assert serve.state()["workers_wanted"] == 2
    chosen.write_text(json.dumps({"workers": 4}))
    site.signal(HUP)
    site.event("reloaded", 2, seconds=30)
    assert serve.state()["workers_wanted"] == 4


def test_the_hook_of_the_number_hears_the_first_number_once(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "gunicorn.conf.py").write_text(
        "def nworkers_changed(server, new, old):\n    open('counts', 'a').write(f'{old}>{new} ')\n"
    )
    serve(WORKERS="3", FARRIER_FIRST_WORKERS="2")
    assert (tmp_path / "counts").read_text().split() == ["None>2"]


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("FARRIER_FIRST_WORKERS", "0", "a whole number of workers from 1 to 1024"),
        ("FARRIER_FIRST_WORKERS", "many", "a whole number of workers from 1 to 1024"),
        ("FARRIER_FIRST_WORKERS", "1.5", "a whole number of workers from 1 to 1024"),
        ("FARRIER_GATE", "yes", "must be 1"),
    ],
)
def test_a_wrong_value_is_one_line(serve: Serve, name: str, value: str, allowed: str) -> None:
    site = serve(wait=None, **{name: value})
    assert site.wait() == 2
    assert len(site.lines) == 1
    assert site.lines[0].startswith(f"farrier serve: {name}={value}: ") and allowed in site.lines[0]
