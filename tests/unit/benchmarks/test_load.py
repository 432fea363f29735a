"""The load generator counts what it says it counts: shown against a server that misbehaves in each way."""

from __future__ import annotations

import json
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.deploys import load
from benchmarks.deploys.load import IDLE_CLOSED, OUTCOMES, RECORD

SCRIPT = Path(load.__file__)
Behaviour = Callable[[socket.socket, bytes, bytes], bool]


class Server:
    """Reads whole requests and answers as told; the behaviour returns whether the connection goes on."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port: int = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.talk, args=(connection,), daemon=True).start()

    def talk(self, connection: socket.socket) -> None:
        with connection:
            data = b""
            while True:
                while b"\r\n\r\n" not in data:
                    block = connection.recv(65536)
                    if not block:
                        return
                    data += block
                head, _, data = data.partition(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
                while len(data) < length:
                    data += connection.recv(65536)
                body, data = data[:length], data[length:]
                try:
                    if not self.behaviour(connection, head, body):
                        return
                except OSError:
                    return


def right(head: bytes, body: bytes, extra: bytes = b"", status: bytes = b"200 OK") -> bytes:
    number = head.partition(b"?")[2].partition(b" ")[0]
    answer = body or number + b" "
    lines = b"HTTP/1.1 %s\r\nContent-Length: %d\r\nX-Release: A\r\nX-Worker: 7\r\nX-Boot: 0.5\r\n%s\r\n"
    return lines % (status, len(answer), extra) + answer


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., tuple[Counter[str], dict[str, Any], list[Any]]]]:
    servers: list[Server] = []

    def loaded(
        behaviour: Behaviour | None, rate: float = 100, seconds: float = 1.5, **more: Any
    ) -> tuple[Counter[str], dict[str, Any], list[Any]]:
        if behaviour is None:
            with socket.socket() as unused:
                unused.bind(("127.0.0.1", 0))
                port = unused.getsockname()[1]
        else:
            servers.append(Server(behaviour))
            port = servers[-1].port
        groups = [
            {"name": f"{kept}-{method}", "post": method == "post", "kept": kept == "kept", "rate": rate / 4}
            for kept in ("new", "kept")
            for method in ("get", "post")
        ]
        order = {"address": "127.0.0.1", "port": port, "groups": groups, "seconds": seconds,
                 "records": str(tmp_path / "records"), **more}  # fmt: skip
        (tmp_path / "order.json").write_text(json.dumps(order))
        done = subprocess.run(
            [sys.executable, str(SCRIPT), str(tmp_path / "order.json")],
            capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
        records = list(RECORD.iter_unpack((tmp_path / "records").read_bytes()))
        kinds = Counter("idle" if row[4] == IDLE_CLOSED else OUTCOMES[row[4]] for row in records)
        return kinds, json.loads(done.stdout.splitlines()[-1]), records

    yield loaded
    for server in servers:
        server.listener.close()


def test_right_answers_in_every_group(run: Any) -> None:
    def behave(connection: socket.socket, head: bytes, body: bytes) -> bool:
        connection.sendall(right(head, body))
        return b"Connection: close" not in head

    kinds, result, records = run(behave)
    assert set(kinds) == {"ok"}
    assert kinds["ok"] > 60
    assert {row[3] for row in records} == {0, 1, 2, 3}
    assert result["servers"] == [{"release": "A", "worker": "7", "boot": 0.5}]
    assert any(row[3] in (2, 3) and row[5] == 0 for row in records), "no connection was used twice"
    assert all(row[5] == 1 for row in records if row[3] in (0, 1))


@pytest.mark.parametrize("kind", ["reset", "closed", "status", "body"])
def test_each_kind_of_failure_is_named(run: Any, kind: str) -> None:
    def behave(connection: socket.socket, head: bytes, body: bytes) -> bool:
        if kind == "reset":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif kind == "closed":
            connection.sendall(right(head, body)[:-1])
        elif kind == "status":
            connection.sendall(right(head, body, status=b"503 Service Unavailable"))
        else:
            connection.sendall(right(head, body[:-1] + b"?" if body else b"wrong"))
        return False

    kinds, result, _ = run(behave, seconds=1.0)
    assert set(kinds) == {kind}
    assert len(result["failures"]) == min(load.TOLD_MOST, kinds[kind])
    assert result["failures"][0]["kind"] == kind


def test_a_port_where_nobody_listens_refuses(run: Any) -> None:
    kinds, _, _ = run(None, seconds=0.5)
    assert set(kinds) == {"refused"}


def test_announced_and_idle_closes_are_no_failures(run: Any) -> None:
    """After `Connection: close`, and between two requests, the client opens a new connection."""

    def announced(connection: socket.socket, head: bytes, body: bytes) -> bool:
        connection.sendall(right(head, body, b"Connection: close\r\n"))
        return False

    def between(connection: socket.socket, head: bytes, body: bytes) -> bool:
        connection.sendall(right(head, body))
        return False

    assert set(run(announced)[0]) == {"ok"}
    kinds, _, _ = run(between)
    assert set(kinds) == {"ok", "idle"}


def test_a_stall_is_seen_by_all_who_meant_to_begin_in_it(run: Any) -> None:
    """Open loop: half a second without answers shows as about half a second's worth of slow requests."""
    stall: list[float] = []

    def behave(connection: socket.socket, head: bytes, body: bytes) -> bool:
        now = time.monotonic()
        if not stall:
            stall.extend((now + 0.5, now + 1.0))
        if stall[0] <= now < stall[1]:
            time.sleep(stall[1] - now)
        connection.sendall(right(head, body))
        return b"Connection: close" not in head

    kinds, _, records = run(behave, rate=200, seconds=2)
    assert set(kinds) == {"ok"}
    slow = sorted(row[2] for row in records if row[2] > 0.05)
    assert 50 < len(slow) < 130, "about 90 requests were due in the stall's first 0.45 s"
    assert slow[-1] < 0.7
    assert abs(slow[len(slow) // 2] - 0.27) < 0.12, "their waits are spread evenly over the stall"


def test_no_answer_within_patience_is_a_failure(run: Any) -> None:
    assert load.PATIENCE == 30.0

    def behave(connection: socket.socket, head: bytes, body: bytes) -> bool:
        time.sleep(60)
        return False

    kinds, _, records = run(behave, rate=40, seconds=0.3, patience=1.0)
    assert set(kinds) == {"unanswered"}
    assert all(1.0 <= row[2] < 1.5 for row in records)
