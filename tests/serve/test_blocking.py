"""systemd lets accept() wait, for all who share the socket, whenever it starts another colour."""

from __future__ import annotations

import http.client
import os
import socket
import time

import pytest

from .conftest import CLASSES, TERM, Serve, app_of
from .test_gate import on_socket


@pytest.mark.parametrize("worker_class", CLASSES)
def test_no_worker_waits_for_a_connection_that_another_one_took(serve: Serve, worker_class: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        site = on_socket(
            serve, listener, app_of(worker_class), "ready", WORKERS="2", WORKER_CLASS=worker_class
        )
        site.address = listener.getsockname()
        assert not os.get_blocking(listener.fileno())
        kept = []
        for _ in range(40):
            # What becomes of the mark when systemd starts a candidate that hangs, or a gate.
            listener.setblocking(True)
            kept.append(http.client.HTTPConnection(*site.address, timeout=4))
            assert site.get() == (200, b"one")
            for one in kept[-6:]:
                one.request("GET", "/")
                answer = one.getresponse()
                assert (answer.status, answer.read()) == (200, b"one")
        for one in kept:
            one.close()
        began = time.monotonic()
        site.signal(TERM)
        assert site.wait() == 0
        assert time.monotonic() - began < 6
