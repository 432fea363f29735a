"""Websockets and a stop: they have the graceful time, then a close that says to come back, and its answer."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from pathlib import Path

import pytest

from .conftest import ASGI_CLASSES, HUP, REPOSITORY, TERM, Serve, Site

websockets = pytest.importorskip("websockets.sync.client")
from websockets.exceptions import ConnectionClosed  # noqa: E402

APP = """
import asyncio
def note(text):
    with open("noted", "a") as file:
        file.write(text + " ")
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"3")]})
        await send({"type": "http.response.body", "body": b"one"})
        return
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept"})
    try:
        while scope["path"] == "/tells":
            await send({"type": "websocket.send", "text": "tick"})
            await asyncio.sleep(0.05)
        while True:
            message = await receive()
            if message["type"] == "websocket.disconnect":
                note(f"disconnected:{message['code']}")
                return
            await send({"type": "websocket.send", "text": message["text"]})
    except OSError:
        note("raised")
        raise
    finally:
        note("tidied")
"""

GRACE = 4


def site_of(serve: Serve, worker_class: str, hide: str = "", *arguments: str, **environ: str) -> Site:
    (serve.folder / "asgi_app.py").write_text(APP)
    environ = {"WORKERS": "1", "WORKER_CLASS": worker_class, "GRACEFUL_TIMEOUT": str(GRACE)} | environ
    if hide:
        code = f"import sys; sys.modules['{hide}'] = None; from farrier.cli import main; sys.exit(main())"
        return serve("serve", "asgi_app:app", *arguments, command=("-c", code), **environ)
    return serve("asgi_app:app", *arguments, **environ)


def connected(site: Site, path: str = "/", scheme: str = "ws", **more: object) -> object:
    return websockets.connect(
        f"{scheme}://{site.address[0]}:{site.address[1]}{path}", close_timeout=5, proxy=None, **more
    )


def stop_one(serve: Serve) -> int:
    """As a HUP does it: the one worker is asked to end, and another takes its place."""
    (worker,) = (one["pid"] for one in serve.state()["workers"])
    os.kill(worker, TERM)
    return int(worker)


def noted(folder: Path) -> list[str]:
    return (folder / "noted").read_text().split()


@pytest.mark.parametrize("worker_class", ASGI_CLASSES)
@pytest.mark.parametrize("tls", [False, True])
def test_a_websocket_has_the_grace_then_1012(
    serve: Serve, worker_class: str, certificate: tuple[str, str], tls: bool
) -> None:
    arguments = ("--certfile", certificate[0], "--keyfile", certificate[1]) if tls else ()
    site = site_of(serve, worker_class, "", *arguments)
    more = {"ssl": insecure()} if tls else {}
    with connected(site, scheme="wss" if tls else "ws", **more) as client:
        client.send("hello")
        assert client.recv(5) == "hello"
        worker = stop_one(serve)
        began = time.monotonic()
        time.sleep(GRACE - 2)
        client.send("still here")  # until the last second it is a websocket like any other
        assert client.recv(5) == "still here"
        with pytest.raises(ConnectionClosed) as closed:
            client.recv(5)
        assert GRACE - 1.3 < time.monotonic() - began < GRACE + 0.5
    assert closed.value.rcvd.code == closed.value.sent.code == 1012  # both sides said it
    ended = site.event("worker_ended", worker=worker)
    assert (ended["reason"], ended["severity"]) == ("stopped", "INFO")
    assert site.event("websockets_closed")["websockets"] == 1
    assert noted(serve.folder) == ["disconnected:1012", "tidied"]
    assert "requests_cut" not in site.text and "Traceback" not in site.text


@pytest.mark.parametrize("worker_class", ASGI_CLASSES)
def test_an_app_that_only_sends_is_told_by_its_next_send(serve: Serve, worker_class: str) -> None:
    site = site_of(serve, worker_class)
    with connected(site, "/tells") as client:
        assert client.recv(5) == "tick"
        stop_one(serve)
        with pytest.raises(ConnectionClosed) as closed:
            while True:
                assert client.recv(5) == "tick"
    assert closed.value.rcvd.code == 1012
    site.event("worker_ended")
    assert noted(serve.folder) == ["raised", "tidied"]
    assert "Traceback" not in site.text


@pytest.mark.parametrize("worker_class", ASGI_CLASSES)
def test_a_client_that_does_not_answer_the_close_holds_up_nobody(serve: Serve, worker_class: str) -> None:
    site = site_of(serve, worker_class)
    client = socket.create_connection(site.address, timeout=10)
    client.sendall(
        b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    assert client.recv(1000).startswith(b"HTTP/1.1 101")
    stop_one(serve)
    began = time.monotonic()
    assert client.recv(100) == b"\x88\x11" + (1012).to_bytes(2, "big") + b"service restart"
    assert client.recv(100) == b""
    assert time.monotonic() - began < GRACE + 1
    ended = site.event("worker_ended")
    assert (ended["reason"], ended["severity"]) == ("stopped", "INFO")
    assert "Traceback" not in site.text
    client.close()


@pytest.mark.parametrize("worker_class", ASGI_CLASSES)
def test_many_websockets_come_back_to_the_next_worker(serve: Serve, worker_class: str) -> None:
    site = site_of(serve, worker_class, GRACEFUL_TIMEOUT="2")
    codes = []
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connected(site)) for _ in range(30)]
        site.signal(HUP)
        for client in clients:
            with pytest.raises(ConnectionClosed) as closed:
                client.recv(10)
            codes.append(closed.value.rcvd.code)
            with connected(site) as again:
                again.send("back")
                assert again.recv(5) == "back"
    assert codes == [1012] * 30
    site.event("reloaded")
    assert "Traceback" not in site.text


def test_the_other_library(serve: Serve) -> None:
    wsproto = pytest.importorskip("wsproto")
    path = f"{REPOSITORY}:{Path(wsproto.__file__).parents[1]}"
    site = site_of(serve, "uvicorn", "websockets", PYTHONPATH=path)
    with connected(site) as client:
        client.send("hello")
        assert client.recv(5) == "hello"
        stop_one(serve)
        with pytest.raises(ConnectionClosed) as closed:
            client.recv(10)
    assert closed.value.rcvd.code == 1012
    site.event("worker_ended")
    assert noted(serve.folder) == ["disconnected:1012", "tidied"]


def insecure() -> object:
    import ssl

    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context
