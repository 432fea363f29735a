"""The app under load: 0.3 ms of CPU and 3 ms of waiting for a request, and a boot of about half a second.

The same file is `main:wsgi` and `main:asgi`, so that every server answers alike. A GET is answered with its
number, a POST with its own body. Every answer says which release and which process gave it, and how long that
process took to import the app (X-Boot, seconds): a deploy's own part is what it takes beyond that.
"""

import asyncio
import os
import time
from pathlib import Path

BEGAN = time.perf_counter()
#: A change of this file is a new release.
RELEASE = (Path(__file__).parent / "release.txt").read_text().strip()
CPU, WAIT = 0.0003, 0.003
BOOT_CPU, BOOT_WAIT = 0.2, 0.3


def compute(seconds: float) -> None:
    """So much CPU time of this thread, however busy the machine is."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def headers(size: int) -> list[tuple[str, str]]:
    return [
        ("Content-Type", "text/plain"),
        ("Content-Length", str(size)),
        ("X-Release", RELEASE),
        ("X-Worker", str(os.getpid())),
        ("X-Boot", BOOT),
    ]


def wsgi(environ, start_response):
    body = environ["wsgi.input"].read() or environ["QUERY_STRING"].encode() + b" "
    compute(CPU)
    time.sleep(WAIT)
    start_response("200 OK", headers(len(body)))
    return [body]


async def asgi(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    body = body or scope["query_string"] + b" "
    compute(CPU)
    await asyncio.sleep(WAIT)
    pairs = [(name.lower().encode(), value.encode()) for name, value in headers(len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": pairs})
    await send({"type": "http.response.body", "body": body})


compute(BOOT_CPU)
time.sleep(BOOT_WAIT)
BOOT = f"{time.perf_counter() - BEGAN:.3f}"
