"""The closed loop counts what it says it counts: shown against servers that behave in each way."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from benchmarks.closed_loop import Order, Window, measure

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
Behaviour = Callable[[socket.socket], bool]
"""Answers one request; whether the connection goes on."""


@contextmanager
def server(behaviour: Behaviour) -> Iterator[int]:
    """A server with a thread for each connection; its port."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)

    def serve(connection: socket.socket) -> None:
        with connection:
            try:
                while connection.recv(4096) and behaviour(connection):
                    pass
            except OSError:
                pass

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def load(port: int, clients: int = 4, drain: float = 0.3) -> Window:
    return measure(Order(port, clients=clients, warmup=0.05, seconds=0.3, drain=drain))


def test_a_kept_connection_is_used_again_and_each_request_counts_once() -> None:
    served = []

    def behaviour(connection: socket.socket) -> bool:
        served.append(connection)
        connection.sendall(ANSWER)
        return True

    with server(behaviour) as port:
        seen = load(port)
    assert len({id(one) for one in served}) == 4
    assert 0 < seen.answered <= len(served)
    assert abs(len(seen.latencies) - seen.answered) <= 4
    assert (seen.failed, seen.cut) == ({}, 0)
    assert 0 < seen.percentile(0.5) <= seen.percentile(0.99) <= seen.percentile(1.0)


def test_a_server_that_closes_after_each_answer_loses_nothing() -> None:
    def said(connection: socket.socket) -> bool:
        connection.sendall(ANSWER.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        return False

    def unsaid(connection: socket.socket) -> bool:
        connection.sendall(ANSWER)
        return False

    for behaviour in (said, unsaid):
        with server(behaviour) as port:
            seen = load(port)
        assert seen.answered
        assert set(seen.failed) <= ({"closed", "reset"} if behaviour is unsaid else set())


def test_an_answer_in_pieces_is_one_answer() -> None:
    def behaviour(connection: socket.socket) -> bool:
        for piece in (ANSWER[:10], ANSWER[10:-1], ANSWER[-1:]):
            connection.sendall(piece)
        return True

    with server(behaviour) as port:
        seen = load(port)
    assert seen.answered
    assert not seen.failed


def test_what_is_no_answer_has_failed() -> None:
    def wrong(connection: socket.socket) -> bool:
        connection.sendall(ANSWER.replace(b"200 OK", b"503 No"))
        return True

    with server(wrong) as port:
        seen = load(port)
    assert not seen.answered
    assert set(seen.failed) == {"status 503"}
    with server(lambda connection: False) as port:
        assert set(load(port).failed) == {"closed"}
    assert set(load(port).failed) == {"refused"}


def test_clients_that_are_starved_count_with_the_time_they_have_waited() -> None:
    fed: list[socket.socket] = []
    lock = threading.Lock()
    over = threading.Event()

    def behaviour(connection: socket.socket) -> bool:
        with lock:
            if connection not in fed:
                fed.append(connection)
            feeds = fed.index(connection) == 0
        if not feeds:
            over.wait(5)
            return False
        connection.sendall(ANSWER)
        return True

    with server(behaviour) as port:
        seen = measure(Order(port, clients=3, warmup=0.0, seconds=0.3, drain=0.5))
        over.set()
    assert seen.answered
    assert seen.cut == 2
    assert seen.percentile(1.0) >= 0.3


def test_a_kept_connection_that_dies_in_mid_request_has_failed() -> None:
    served: dict[socket.socket, int] = {}

    def behaviour(connection: socket.socket) -> bool:
        served[connection] = served.get(connection, 0) + 1
        if served[connection] > 1:
            time.sleep(0.03)  # it took the request, and worked on it for a while
            return False
        connection.sendall(ANSWER)
        return True

    with server(behaviour) as port:
        seen = load(port)
    assert seen.answered
    assert seen.failed["closed"]
    assert seen.anew == 0


def test_a_connection_that_is_reset_as_soon_as_it_is_there_is_a_failed_request() -> None:
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connection.close()

    threading.Thread(target=accept, daemon=True).start()
    try:
        seen = load(listener.getsockname()[1], clients=20)
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
    assert not seen.answered
    assert set(seen.failed) <= {"reset", "closed", "refused"}
    assert sum(seen.failed.values())


def test_a_length_that_is_no_number_is_a_failed_request() -> None:
    def behaviour(connection: socket.socket) -> bool:
        connection.sendall(ANSWER.replace(b": 2", b": two"))
        return True

    with server(behaviour) as port:
        assert set(load(port).failed) == {"without a length"}
