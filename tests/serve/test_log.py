"""Every line of a production log is one JSON object; development reads like a log."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import CLASSES, HUP, Serve, app_of


def access_lines(path: Path, count: int) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(lines) == count
    return lines


@pytest.mark.parametrize("worker_class", CLASSES)
def test_access_lines_are_json_with_the_requests_id(serve: Serve, tmp_path: Path, worker_class: str) -> None:
    path = tmp_path / "access.log"
    site = serve(app_of(worker_class), "--access-logfile", str(path), WORKERS="1", WORKER_CLASS=worker_class)
    connection = site.connection()
    connection.request("GET", "/a%20b?c=d", headers={"X-Request-ID": "mine-1", "User-Agent": "test"})
    answer = connection.getresponse()
    answer.read()
    assert answer.getheader("X-Request-ID") == "mine-1"
    connection.close()
    connection.request("POST", "/post", body=b"1234567")
    answer = connection.getresponse()
    assert answer.read() == b"1234567"
    made = answer.getheader("X-Request-ID")
    connection.close()
    site.stop()
    # Two threads may write their lines in either order.
    first, second = sorted(access_lines(path, 2), key=lambda line: str(line["method"]))
    assert first["event"] == "request"
    assert (first["method"], first["path"], first["status"]) == ("GET", "/a%20b?c=d", 200)
    assert (first["request_id"], first["user_agent"], first["remote"]) == ("mine-1", "test", "127.0.0.1")
    assert (second["method"], second["bytes"], second["request_id"]) == ("POST", 7, made)
    assert 0 <= float(str(second["seconds"])) < 5
    for line in site.lines:
        assert {"time", "severity", "message", "pid"} <= json.loads(line).keys()


@pytest.mark.parametrize("worker_class", CLASSES)
def test_a_format_of_ones_own_is_used_as_it_is(serve: Serve, tmp_path: Path, worker_class: str) -> None:
    path = tmp_path / "access.log"
    site = serve(
        app_of(worker_class), "--access-logfile", str(path), "--access-logformat", "%(m)s %(U)s %(s)s %(B)s",
        WORKERS="1", WORKER_CLASS=worker_class,
    )  # fmt: skip
    assert site.get("/x")[0] == 200
    site.stop()
    assert path.read_text().splitlines() == ["GET /x 200 3"]


@pytest.mark.parametrize("worker_class", CLASSES)
def test_a_slow_request_is_logged(serve: Serve, worker_class: str) -> None:
    site = serve(app_of(worker_class), WORKERS="1", WORKER_CLASS=worker_class, FARRIER_SLOW_REQUEST="0.2")
    assert site.get("/")[0] == 200
    assert site.get("/slow?0.25")[0] == 200
    said = site.event("slow_request")
    assert said["request"] == "GET /slow?0.25"
    assert 0.25 <= said["seconds"] < 5
    assert [one["event"] for one in site.events].count("slow_request") == 1


def test_development_reads_like_a_log_and_reloads(serve: Serve, tmp_path: Path) -> None:
    site = serve(wait=None, ENVIRONMENT="development", FARRIER_LOG="")
    site.line("ready: 2 workers")
    assert not any(line.startswith("{") for line in site.lines)
    state = serve.state()["settings"]
    assert (state["workers"], state["reload"], state["max_requests"], state["preload_app"]) == (
        2,
        True,
        0,
        False,
    )


def test_a_wrong_threshold_is_one_line(serve: Serve) -> None:
    site = serve(wait=None, WORKERS="1", FARRIER_SLOW_REQUEST="soon")
    assert site.wait() != 0
    assert "FARRIER_SLOW_REQUEST=soon" in site.lines[-1]
    assert "Traceback" not in site.text


@pytest.mark.parametrize("worker_class", ["gthread", "uvicorn", "gevent"])
def test_an_edit_in_development_is_served(serve: Serve, tmp_path: Path, worker_class: str) -> None:
    site = serve(app_of(worker_class), WORKERS="1", WORKER_CLASS=worker_class, ENVIRONMENT="development")
    assert site.get()[1] == b"one"
    app = tmp_path / f"{app_of(worker_class).split(':')[0]}.py"
    with saved(app, app.read_text().replace('b"one"', 'b"two!"')):
        site.event("worker_booted", 2)
        site.event("worker_ended")
    assert site.get()[1] == b"two!"
    with saved(app, "def oops(:\n"):
        site.event("boot_failed")
    assert site.get()[0] == 500


@contextlib.contextmanager
def saved(path: Path, text: str) -> Iterator[None]:
    """Saves a file, and again every other second: the reloader sees what changes after its first look."""
    path.write_text(text)
    done = threading.Event()

    def again() -> None:
        while not done.wait(2):
            path.write_text(text)

    thread = threading.Thread(target=again)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def test_each_step_of_a_life_is_one_line(serve: Serve) -> None:
    """And at the level of the quiet plans nothing but these."""
    site = serve(WORKERS="1", WORKER_CLASS="sync", LOG_LEVEL="warning")
    site.signal(HUP)
    site.event("reloaded")
    site.stop()
    said = [json.loads(line).get("event") for line in site.lines]
    assert said == ["starting", "listening", "ready", "reloading", "reloaded", "stopping", "stopped"]
    site = serve(WORKERS="1", WORKER_CLASS="sync")
    site.signal(HUP)
    site.event("reloaded")
    site.stop()
    said = [json.loads(line).get("event") for line in site.lines]
    assert None not in said
    assert sorted(said) == sorted(
        ["starting", "listening", "ready", "reloading", "reloaded", "stopping", "stopped"]
        + ["worker_booted", "worker_ended"] * 2
    )


def test_a_stricter_level_of_ones_own_hides_them(serve: Serve) -> None:
    site = serve(wait=None, WORKERS="1", LOG_LEVEL="error")
    site_ready(serve)
    site.stop()
    assert site.lines == []


def site_ready(serve: Serve) -> None:
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        try:
            if serve.state()["ready"]:
                return
        except (OSError, ValueError):
            pass
        time.sleep(0.02)
    raise AssertionError("it was never ready")


@pytest.mark.parametrize("streaming", [False, True])
def test_a_timeout_of_a_sync_worker_is_no_error_of_the_request(
    serve: Serve, tmp_path: Path, streaming: bool
) -> None:
    (tmp_path / "wsgi_app.py").write_text(
        "import time\ndef app(environ, start_response):\n"
        + ("    start_response('200 OK', [])\n    yield b'x'\n" if streaming else "")
        + "    time.sleep(60)\n"
    )
    path = tmp_path / "access.log"
    site = serve(
        "wsgi_app:app", "--access-logfile", str(path), WORKERS="1", WORKER_CLASS="sync", WORKER_TIMEOUT="1"
    )
    connection = site.connection()
    connection.request("GET", "/")
    answer = connection.getresponse()
    assert answer.status == (200 if streaming else 500)
    connection.close()
    assert site.event("worker_ended")["reason"] == "timed out"
    assert "Error handling request" not in site.text and "WORKER TIMEOUT" not in site.text
    site.stop()
    if not streaming:
        assert path.read_text() == ""


CHATTY = r"""
import logging, os, sys, threading, traceback, warnings
print("imported", end="")
print(" at last")
logging.getLogger("shop").warning("a warning of the app")
def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/print":
        print("first\nsecond", file=sys.stderr)
        print('{"mine": 1}', flush=True)
        os.write(2, b"raw text\n")
    if path == "/traceback":
        try:
            try:
                {}["no"]
            except KeyError:
                1 / 0
        except ZeroDivisionError:
            traceback.print_exc()
    if path == "/thread":
        thread = threading.Thread(target=lambda: 1 / 0, name="background")
        thread.start()
        thread.join()
    if path == "/logged":
        try:
            1 / 0
        except ZeroDivisionError:
            logging.basicConfig()
            logging.getLogger("shop").exception("the order failed")
    if path == "/errors":
        environ["wsgi.errors"].write("said to wsgi.errors\n")
    if path == "/fork":
        pid = os.fork()
        if not pid:
            print("from the child")
            sys.stdout.flush()
            os._exit(0)
        os.waitpid(pid, 0)
    start_response("200 OK", [("Content-Length", "0")])
    return []
"""


@pytest.mark.parametrize(("worker_class", "preload"), [("sync", ""), ("gthread", ""), ("gthread", "1")])
def test_what_the_app_writes_is_json_lines(
    serve: Serve, tmp_path: Path, worker_class: str, preload: str
) -> None:
    (tmp_path / "wsgi_app.py").write_text(CHATTY)
    out = tmp_path / "out"
    code = (
        f"import os, sys; os.dup2(os.open({str(out)!r}, os.O_CREAT | os.O_WRONLY | os.O_APPEND), 1);"
        "os.execv(sys.executable, [sys.executable, '-m', 'farrier', 'serve', *sys.argv[1:]])"
    )
    site = serve(
        command=("-c", code), WORKERS="1", WORKER_CLASS=worker_class, FARRIER_APP="shop", PRELOAD_APP=preload
    )
    for path in ("/print", "/traceback", "/thread", "/logged", "/errors", "/fork"):
        assert site.get(path)[0] == 200
    site.stop()
    assert [line for line in site.lines if not line.startswith("{")] == ["raw text"]
    said = [json.loads(line) for line in site.lines if line.startswith("{")]
    of_app = [one for one in said if one.get("stream") == "stderr"]
    assert all({"time", "severity", "message", "pid", "app"} <= one.keys() for one in of_app)
    messages = [one["message"] for one in of_app]
    assert messages[:3] == ["a warning of the app", "first", "second"]
    caught = [one for one in of_app if "stack" in one]
    assert {one["severity"] for one in caught} == {"ERROR"}
    assert "ZeroDivisionError: division by zero" in [one["message"] for one in caught]
    (thread,) = (one for one in caught if "background" in one["stack"])
    assert thread["stack"].startswith("Exception in thread") and "ZeroDivisionError" in thread["stack"]
    (logged,) = (one for one in caught if "the order failed" in one["message"])
    assert logged["stack"].startswith("Traceback") and logged["stack"].endswith("division by zero")
    assert "said to wsgi.errors" in messages
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [one.get("message") for one in lines] == ["imported at last", None, "from the child"]
    assert lines[1] == {"mine": 1}


def test_flask_and_uvicorn_write_no_text_between_json_lines(serve: Serve, tmp_path: Path) -> None:
    pytest.importorskip("flask")
    (tmp_path / "wsgi_app.py").write_text(
        "import flask\napp = flask.Flask(__name__)\n@app.get('/')\ndef broken():\n    return {}['nothing']\n"
    )
    (tmp_path / "asgi_app.py").write_text(
        "async def app(scope, receive, send):\n"
        "    if scope['type'] == 'lifespan': raise RuntimeError('no lifespan')\n"
        "    print('about to fail')\n    raise KeyError('nothing')\n"
    )
    for worker_class in CLASSES:
        site = serve(app_of(worker_class), WORKERS="1", WORKER_CLASS=worker_class)
        assert site.get()[0] == 500
        site.stop()
        said = [json.loads(line) for line in site.lines]
        failed = [one for one in said if "KeyError: 'nothing'" in one.get("stack", "")]
        assert [one["severity"] for one in failed] == ["ERROR"]


def test_capture_output_off_leaves_the_apps_text_alone(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "gunicorn.conf.py").write_text("capture_output = False\n")
    app = tmp_path / "wsgi_app.py"
    app.write_text("import sys; print('plain', file=sys.stderr)\n" + app.read_text())
    site = serve(WORKERS="1")
    assert "plain" in site.lines
