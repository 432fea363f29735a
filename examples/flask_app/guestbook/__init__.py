"""Guestbook: a small Flask app for threads. Gunicorn loads ``guestbook:app``."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flask import Flask, abort, jsonify, redirect, render_template, request
from flask.typing import ResponseReturnValue

PROJECT = Path(__file__).resolve().parent.parent
STARTED = time.time()
LONGEST_MS = 10_000

app = Flask(__name__)


def database_path() -> Path:
    """``DATA_DIR``, else ``data`` beside the app (a shared folder on a host)."""
    return Path(os.environ.get("DATA_DIR") or PROJECT / "data") / "guestbook.db"


@contextmanager
def database() -> Iterator[sqlite3.Connection]:
    """One connection per request: cheap with SQLite, and safe across threads and forks."""
    path = database_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, timeout=10)
    connection.row_factory = sqlite3.Row
    try:
        with connection:
            connection.execute(
                "CREATE TABLE IF NOT EXISTS entries (id INTEGER PRIMARY KEY, name TEXT, message TEXT)"
            )
            yield connection
    finally:
        connection.close()


def ready() -> None:
    """Raises when the guestbook cannot be opened (FARRIER_READY=guestbook:ready)."""
    with database() as connection:
        connection.execute("SELECT 1 FROM entries LIMIT 1").fetchone()


def milliseconds(default: int) -> int:
    given = request.args.get("ms", str(default))
    if not given.isdecimal() or int(given) > LONGEST_MS:
        abort(400, f"ms={given}: a whole number from 0 to {LONGEST_MS}")
    return int(given)


@app.get("/")
def index() -> ResponseReturnValue:
    with database() as connection:
        entries = connection.execute("SELECT name, message FROM entries ORDER BY id DESC LIMIT 50").fetchall()
    release = os.environ.get("FARRIER_RELEASE", "none")
    return render_template("index.html", entries=entries, pid=os.getpid(), release=release)


@app.post("/sign")
def sign() -> ResponseReturnValue:
    name, message = request.form.get("name", "").strip(), request.form.get("message", "").strip()
    if not name or not message or len(name) > 80 or len(message) > 1000:
        abort(400, "name (80 characters at most) and message (1000 at most) are both needed")
    with database() as connection:
        connection.execute("INSERT INTO entries (name, message) VALUES (?, ?)", (name, message))
    return redirect("/", code=303)


@app.get("/entries")
def entries() -> ResponseReturnValue:
    with database() as connection:
        rows = connection.execute("SELECT id, name, message FROM entries ORDER BY id DESC LIMIT 50")
        return jsonify([dict(row) for row in rows])


@app.get("/whoami")
def whoami() -> ResponseReturnValue:
    return {
        "pid": os.getpid(),
        "instance": os.environ.get("FARRIER_INSTANCE"),
        "release": os.environ.get("FARRIER_RELEASE"),
        "uptime_seconds": round(time.time() - STARTED, 3),
    }


@app.get("/wait")
def wait() -> ResponseReturnValue:
    """A request of known cost for load tests: it only waits (I/O)."""
    ms = milliseconds(50)
    time.sleep(ms / 1000)
    return {"pid": os.getpid(), "waited_ms": ms}


@app.get("/spin")
def spin() -> ResponseReturnValue:
    """A request of known cost for load tests: it only computes (CPU)."""
    ms = milliseconds(10)
    # Thread time, not wall time: the cost stays the same under load.
    end = time.thread_time() + ms / 1000
    while time.thread_time() < end:
        pass
    return {"pid": os.getpid(), "spun_ms": ms}
