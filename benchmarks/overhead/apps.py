"""The apps under test: a fixed piece of work, about a millisecond of CPU, and an answer of 64 bytes."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

TURNS = int(os.environ.get("BENCH_TURNS", "0"))
BODY = b"x" * 63 + b"\n"
HEADERS = [("Content-Type", "text/plain"), ("Content-Length", "64")]
RAW_HEADERS = [(b"content-type", b"text/plain"), (b"content-length", b"64")]


def work(turns: int = TURNS) -> int:
    """The same steps each time, so that only what is around them can differ."""
    found = 1
    for turn in range(turns):
        found = (found * 31 + turn) % 1000003
    return found


def wsgi(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    work()
    start_response("200 OK", HEADERS)
    return [BODY]


async def asgi(scope: dict[str, Any], receive: Any, send: Callable[[Any], Awaitable[None]]) -> None:
    if scope["type"] != "http":
        raise RuntimeError("no lifespan")
    work()
    await send({"type": "http.response.start", "status": 200, "headers": RAW_HEADERS})
    await send({"type": "http.response.body", "body": BODY})


async def logged_asgi(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """The same with the access line of the others: uvicorn's own knows neither bytes nor seconds, agent,
    referer or request id, so whoever wants them writes such a layer."""
    if scope["type"] != "http":
        await asgi(scope, receive, send)
        return
    sent: list[int] = [500, 0]

    async def counted(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            sent[0] = message["status"]
        elif message["type"] == "http.response.body":
            sent[1] += len(message.get("body", b""))
        await send(message)

    began = time.monotonic()
    try:
        await asgi(scope, receive, counted)
    finally:
        seconds, headers = time.monotonic() - began, dict(scope["headers"])
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "severity": "INFO",
            "message": f"{scope['method']} {scope['path']} {sent[0]}",
            "pid": os.getpid(),
            "event": "request",
            "method": scope["method"],
            "path": scope["path"],
            "status": sent[0],
            "bytes": sent[1],
            "seconds": round(seconds, 6),
            "remote": scope["client"][0],
            "user_agent": headers.get(b"user-agent", b"-").decode("latin-1"),
            "referer": headers.get(b"referer", b"-").decode("latin-1"),
            "request_id": headers.get(b"x-request-id", b"-").decode("latin-1"),
        }
        logging.getLogger("gunicorn.access").info("%s", json.dumps(line))
