"""An app of about 90 MB that takes so much CPU and waits so long for each request: `wsgi` and `asgi`.

BENCH_CPU and BENCH_WAIT say how long, in milliseconds. CPU is spent on work that Python apps do (looking up,
formatting, encoding records of its catalogue) until this thread has had that much CPU time, so a core that is
shared or throttled makes a request longer, never cheaper.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time

CPU_SECONDS = float(os.environ.get("BENCH_CPU", "1")) / 1000
WAIT_SECONDS = float(os.environ.get("BENCH_WAIT", "50")) / 1000
#: Records held in memory; about 0.45 kB each. FastAPI and its models are some 15 MB more than Flask is.
RECORDS = {"wsgi": 130_000, "asgi": 98_000}

_words = ("blue", "green", "copper", "walnut", "linen", "slate", "amber", "ivory")


def catalogue(count: int) -> dict[str, dict[str, object]]:
    """What a shop, say, loads at its start and keeps."""
    return {
        f"sku-{number}": {
            "name": f"{_words[number % 8]} {_words[number // 8 % 8]} {number}",
            "price": number * 7 % 9973 / 100,
            "stock": number % 311,
        }
        for number in range(count)
    }


def work(items: dict[str, dict[str, object]]) -> int:
    """Spends CPU_SECONDS of this thread's CPU; how many bytes came of it."""
    end = time.thread_time() + CPU_SECONDS
    size, first = 0, random.randrange(len(items))
    while time.thread_time() < end:
        first = (first * 31 + 17) % len(items)
        size += len(json.dumps(items[f"sku-{first}"]))
    return size


def _wsgi():  # type: ignore[no-untyped-def]
    from flask import Flask

    items = catalogue(RECORDS["wsgi"])
    app = Flask(__name__)

    @app.get("/")
    def index() -> dict[str, int]:
        size = work(items)
        if WAIT_SECONDS:
            time.sleep(WAIT_SECONDS)
        return {"bytes": size}

    return app


def _asgi():  # type: ignore[no-untyped-def]
    from fastapi import FastAPI

    items = catalogue(RECORDS["asgi"])
    app = FastAPI()

    @app.get("/")
    async def index() -> dict[str, int]:
        size = work(items)
        if WAIT_SECONDS:
            await asyncio.sleep(WAIT_SECONDS)
        return {"bytes": size}

    return app


if os.environ.get("BENCH_INTERFACE", "wsgi") == "asgi":
    asgi = _asgi()
else:
    wsgi = _wsgi()
