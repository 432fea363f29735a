"""What is gevent's own: patched in the worker only, a stop that knows idle from half-arrived."""

from __future__ import annotations

import http.client
import os
import socket
import ssl
import threading
import time
from pathlib import Path

import pytest

from .conftest import TERM, Serve, Site
from .test_endings import until_taken

GEVENT = {"WORKERS": "1", "WORKER_CLASS": "gevent"}


def kept(site: Site, tls: bool = False) -> socket.socket:
    """A connection with one answered request, kept alive."""
    client = socket.create_connection(site.address, timeout=10)
    if tls:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        client = context.wrap_socket(client)
    client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer(client) == b"200 keep-alive one"
    return client


def answer(client: socket.socket) -> bytes:
    """Status, Connection and body of one response."""
    found = http.client.HTTPResponse(client)
    found.begin()
    return f"{found.status} {found.getheader('Connection')} ".encode() + found.read()


def test_the_master_is_not_patched_and_the_worker_is(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "wsgi_app.py").write_text(
        "import socket, sys\n"
        "def app(environ, start_response):\n"
        "    body = socket.socket.__module__.encode()\n"
        "    start_response('200 OK', [('Content-Length', str(len(body)))])\n"
        "    return [body]\n"
    )
    (tmp_path / "gunicorn.conf.py").write_text(
        "import sys\ndef child_exit(server, worker):\n"
        "    open('master', 'w').write(' '.join(name for name in sys.modules if 'gevent' in name))\n"
    )
    site = serve(**GEVENT)
    assert site.get()[1].startswith(b"gevent.")
    site.stop()
    assert (tmp_path / "master").read_text().split() == ["farrier.serve.workers.gevent"]
    assert "MonkeyPatchWarning" not in site.text


def test_many_wait_at_once_in_one_worker(serve: Serve) -> None:
    site = serve(**GEVENT)
    answers: list[int] = []
    threads = [threading.Thread(target=lambda: answers.append(site.get("/slow?0.5")[0])) for _ in range(12)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert answers == [200] * 12
    assert time.monotonic() - began < 3


def test_a_loop_that_hangs_is_named_with_its_stack_and_those_that_wait(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "wsgi_app.py").write_text(
        "import time\n"
        "def waits():\n    time.sleep(60)\n"
        "def spins():\n    while True: pass\n"
        "def app(environ, start_response):\n"
        "    waits() if environ['PATH_INFO'] == '/waits' else spins()\n"
    )
    site = serve(**GEVENT, WORKER_TIMEOUT="1")
    clients = []
    for path in (b"/waits", b"/spins?why=1"):
        clients.append(socket.create_connection(site.address))
        clients[-1].sendall(b"GET " + path + b" HTTP/1.1\r\nHost: x\r\n\r\n")
    said = site.event("worker_timeout")
    assert {one["request"] for one in said["requests_in_hand"]} == {"GET /waits", "GET /spins?why=1"}
    assert "in spins" in said["stacks"] and "in waits" in said["stacks"]
    assert site.event("worker_ended")["reason"] == "timed out"
    site.event("worker_booted", 2)
    for client in clients:
        client.close()


@pytest.mark.parametrize("tls", [False, True])
def test_a_stop_tells_idle_from_half_arrived(
    serve: Serve, certificate: tuple[str, str], tmp_path: Path, tls: bool
) -> None:
    """Idle connections have the linger and no more; a request that began to arrive has the grace."""
    (tmp_path / "wsgi_app.py").write_text(
        (tmp_path / "wsgi_app.py").read_text()
        + "whole = app\n"
        + "def app(environ, start_response):\n"
        + "    if environ['PATH_INFO'] != '/unread':\n        return whole(environ, start_response)\n"
        + "    start_response('200 OK', [('Content-Length', '0')])\n    return []\n"
    )
    arguments = ("--certfile", certificate[0], "--keyfile", certificate[1]) if tls else ()
    site = serve("wsgi_app:app", *arguments, **GEVENT, GRACEFUL_TIMEOUT="20")
    idle, unread, asks, head, body = (kept(site, tls) for _ in range(5))
    fresh = socket.create_connection(site.address, timeout=10)  # with TLS: in the middle of the handshake
    unread.sendall(b"POST /unread HTTP/1.1\r\nHost: x\r\nContent-Length: 300000\r\n\r\n" + b"x" * 300_000)
    assert answer(unread) == b"200 keep-alive "
    head.sendall(b"GET / HTTP/1.1\r\nHo")
    body.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nha")
    began = time.monotonic()
    site.signal(TERM)
    site.event("stopping")
    time.sleep(0.5)  # the client's think time, within the linger
    asks.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer(asks) == b"200 close one"
    assert idle.recv(100) == b""
    assert 2.5 < time.monotonic() - began < 8
    assert fresh.recv(100) == unread.recv(100) == asks.recv(100) == b""
    head.sendall(b"st: x\r\n\r\n")
    body.sendall(b"lf")
    assert answer(head) == b"200 close one"
    assert answer(body) == b"200 close half"
    assert site.wait() == 0
    assert not [line for line in site.lines if '"severity": "ERROR"' in line]
    for client in (idle, unread, asks, head, body, fresh):
        client.close()


def test_what_is_not_done_within_the_grace_is_ended_with_its_finally(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "wsgi_app.py").write_text(
        "import time\n"
        "def app(environ, start_response):\n"
        "    try:\n        time.sleep(60)\n"
        "    finally:\n        open('tidied', 'w').close()\n"
    )
    site = serve(**GEVENT, GRACEFUL_TIMEOUT="1")
    client = socket.create_connection(site.address, timeout=10)
    client.sendall(b"GET /long HTTP/1.1\r\nHost: x\r\n\r\n")
    until_taken(client)
    (worker,) = (worker["pid"] for worker in serve.state()["workers"])
    # As at a HUP; when all stops, the master kills at the same moment.
    os.kill(worker, TERM)
    assert client.recv(100) == b""
    site.event("worker_ended", worker=worker)
    assert (tmp_path / "tidied").exists()
    assert site.event("requests_cut")["requests_in_hand"][0]["request"] == "GET /long"
    client.close()


def test_without_the_package_it_is_one_line(serve: Serve) -> None:
    hidden = "import sys; sys.modules['gevent'] = None; from farrier.cli import main; sys.exit(main())"
    site = serve("serve", "wsgi_app:app", command=("-c", hidden), wait=None, bind="", **GEVENT)
    assert site.wait() == 1
    assert site.lines == [
        "farrier serve: worker_class gevent needs the package gevent: add it to the app's requirements"
    ]


def test_under_plain_gunicorn_it_serves_and_drains(serve: Serve, tmp_path: Path) -> None:
    conf = tmp_path / "farrier.conf.py"
    conf.write_text("from farrier.serve import settings\n\nglobals().update(settings())\n")
    site = serve("wsgi_app:app", "-c", str(conf), command=("-m", "gunicorn"), wait="worker_booted", **GEVENT)
    client = kept(site)
    site.signal(TERM)
    time.sleep(0.3)  # within the linger; Gunicorn's own master says nothing to wait for
    client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer(client) == b"200 close one"
    client.close()
    assert site.wait() == 0
