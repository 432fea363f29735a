"""The app under test: Flask, light or with about 150 MB of Python objects, with or without PostgreSQL.

The environment says which: BALLAST_MIB (objects made by the import), DATABASE (a libpq address), LEAK_KIB
(what a request leaves behind). A request takes about 2 ms of CPU and 20 ms of waiting; with a database it
asks two queries in place of half the waiting. /hog?mb=N takes N MiB and holds them: "out of memory".
"""

import os
import queue
import random
import time
from pathlib import Path

from flask import Flask, Response, request

RELEASE = (Path(__file__).parent / "release.txt").read_text().strip()
BALLAST = int(os.environ.get("BALLAST_MIB", "0"))
DATABASE = os.environ.get("DATABASE", "")
LEAK = int(os.environ.get("LEAK_KIB", "0")) * 1024
CPU, WAIT, READS = 0.002, 0.020, 10
#: What one entry of the catalogue takes, measured with CPython 3.11: 650 bytes.
ENTRIES_A_MIB = 1620

app = Flask(__name__)
leaked = []


def catalogue(mib):
    """Dicts, strings, lists and floats, as an app's own data and its libraries' tables are."""
    return {
        f"article-{number}": {
            "name": f"article number {number}",
            "price": number * 1.07,
            "tags": [f"tag-{number % 97}-{number}", f"shelf-{number}"],
            "stock": number + 100_000,
        }
        for number in range(mib * ENTRIES_A_MIB)
    }


CATALOGUE = catalogue(BALLAST)


class Pool:
    """A worker's connections: as many as the plan says, or five, as SQLAlchemy has it without one."""

    def __init__(self):
        try:
            from farrier.database import pool_settings

            sizes = pool_settings()
            self.size = sizes["pool_size"] + max(0, sizes["max_overflow"])
        except ImportError:
            self.size = 5
        self.free = queue.LifoQueue()
        for _ in range(self.size):
            self.free.put(None)

    def ask(self, key):
        import psycopg

        connection = self.free.get(timeout=30)
        try:
            if connection is None or connection.closed:
                connection = psycopg.connect(DATABASE, autocommit=True, connect_timeout=5)
            row = connection.execute("SELECT name, price FROM article WHERE id = %s", (key,)).fetchone()
            near = connection.execute(
                "SELECT count(*), avg(price) FROM article WHERE id BETWEEN %s AND %s", (key, key + 200)
            ).fetchone()
            return f"{row[0]} {row[1]} {near[0]}"
        except BaseException:
            if connection is not None:
                connection.close()
            connection = None
            raise
        finally:
            self.free.put(connection)


POOL = Pool() if DATABASE else None


def articles():
    """What a request reads: ten entries, nine of them of the tenth of the catalogue that everybody wants.

    Reading an object writes its reference count: pages that are read are shared with the parent no longer.
    """
    total, count = 0.0, len(CATALOGUE)
    for number in range(READS if count else 0):
        article = CATALOGUE[f"article-{random.randrange(count if number == 0 else count // 10)}"]
        total += article["price"] * len(article["tags"])
    return total


def compute(seconds):
    """So much CPU time of this thread."""
    end = time.thread_time() + seconds
    total = 0.0
    while time.thread_time() < end:
        total += sum(number * number for number in range(200))
    return total


@app.get("/")
def index():
    total = articles() + compute(CPU)
    said = POOL.ask(random.randrange(1, 19_000)) if POOL else ""
    time.sleep(WAIT / 2 if POOL else WAIT)
    if LEAK:
        leaked.append(bytearray(os.urandom(1024) * (LEAK // 1024)))
    return Response(f"{total:.2f} {said}\n", headers={"X-Release": RELEASE, "X-Worker": str(os.getpid())})


@app.get("/hog")
def hog():
    """As a report over everything, or an upload read at once, takes memory: in steps, all written to."""
    taken = []
    for _ in range(int(request.args["mb"]) // 8):
        taken.append(bytearray(b"x") * (8 << 20))
    time.sleep(1)
    return f"{len(taken) * 8} MiB\n"
