"""Requests as a person writes them, and the client that sends them to a real socket."""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from farrier.errors import FarrierError
from farrier.measure.asking import Connection, NoAnswer, Request, parse_header


@pytest.mark.parametrize(
    ("text", "method", "path", "body"),
    [
        ("GET /", "GET", "/", b""),
        (" GET  /a?b=c%20d ", "GET", "/a?b=c%20d", b""),
        ('POST /orders {"id": 1, "of": "a b"}', "POST", "/orders", b'{"id": 1, "of": "a b"}'),
        ("PUT /form a=1&b=2", "PUT", "/form", b"a=1&b=2"),
    ],
)
def test_a_request_is_read(text: str, method: str, path: str, body: bytes) -> None:
    found = Request.parse(text)
    assert (found.method, found.path, found.body) == (method, path, body)


@pytest.mark.parametrize(
    "text", ["", "GET", "get /", "/", "GET http://a/", "GET a", "GET /\xe9", "CONNECT /x", "GET/"]
)
def test_what_is_no_request_is_refused_with_what_is_one(text: str) -> None:
    with pytest.raises(FarrierError, match="GET /") as caught:
        Request.parse(text)
    assert caught.value.status == 2
    assert "\n" not in str(caught.value)


def test_a_message_has_what_its_body_needs_and_a_persons_own_headers() -> None:
    message = Request.parse('POST /x {"a": 1}').message([parse_header("host: shop.example")])
    head, _, body = message.partition(b"\r\n\r\n")
    assert b"Content-Type: application/json" in head
    assert b"Content-Length: 8" in head
    assert b"Host: shop.example" in head
    assert b"localhost" not in head
    assert body == b'{"a": 1}'
    assert b"urlencoded" in Request.parse("POST /x a=1").message()
    assert b"Content-Length: 0" in Request.parse("POST /x").message()


@pytest.mark.parametrize("text", ["Host", "a b: c", "X: a\r\nY: b", ": x"])
def test_what_is_no_header_is_refused(text: str) -> None:
    with pytest.raises(FarrierError, match="NAME: VALUE"):
        parse_header(text)


@pytest.mark.parametrize(
    ("statuses", "status", "failing"),
    [
        ({}, None, False),
        ({200: 90, 500: 10}, 200, False),
        ({200: 67, 500: 20, 503: 13}, 500, True),
        ({404: 10}, 404, False),
        ({500: 3}, 500, True),
    ],
)
def test_more_than_a_tenth_of_5xx_is_a_request_that_fails(
    statuses: dict[int, int], status: int | None, failing: bool
) -> None:
    request = Request("GET", "/", statuses=Counter(statuses))
    assert (request.status, request.failing) == (status, failing)


@contextmanager
def answering(*answers: bytes) -> Iterator[tuple[str, int]]:
    """A server that gives each connection the next of ``answers`` and closes it."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            for answer in answers:
                client, _ = server.accept()
                with client:
                    client.recv(65536)
                    client.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()
        thread.join(10)


@pytest.mark.parametrize(
    ("answer", "status", "kept"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 200, True),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, True),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n", 201, True),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1;x\r\nd\r\n0\r\n\r\n",
            200,
            True,
        ),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", 200, False),
        (b"HTTP/1.1 500 Oops\r\n\r\nuntil the end", 500, False),
    ],
)
def test_a_response_is_read_to_its_end(answer: bytes, status: int, kept: bool) -> None:
    with answering(answer) as address, Connection(address) as connection:
        assert connection.ask(b"GET / HTTP/1.1\r\n\r\n", "GET", time.monotonic() + 5)[0] == status
        assert (connection.socket is not None) == kept


@pytest.mark.parametrize(
    ("answer", "why"), [(b"", "closed"), (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok", "closed"),
                        (b"nonsense\r\n\r\n", "not an HTTP response")],
)  # fmt: skip
def test_half_a_response_is_none(answer: bytes, why: str) -> None:
    with answering(answer) as address, Connection(address) as connection, pytest.raises(NoAnswer, match=why):
        connection.ask(b"GET / HTTP/1.1\r\n\r\n", "GET", time.monotonic() + 5)


def test_a_kept_connection_that_was_closed_is_no_failure() -> None:
    good = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    with answering(good, good) as address, Connection(address) as connection:
        for _ in range(2):
            assert connection.ask(b"GET / HTTP/1.1\r\n\r\n", "GET", time.monotonic() + 5)[0] == 200


def test_who_does_not_answer_is_left_at_the_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, Connection(server.getsockname()) as connection:
        with pytest.raises(NoAnswer, match="no answer in time"):
            connection.ask(b"GET / HTTP/1.1\r\n\r\n", "GET", time.monotonic() + 0.05)
