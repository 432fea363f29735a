"""Every line of a production log is one JSON object; development reads like a log."""

from __future__ import annotations

import json
import time
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
    first, second = access_lines(path, 2)
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
    app.write_text(app.read_text().replace('b"one"', 'b"two!"'))
    site.event("worker_booted", 2)
    site.event("worker_ended")
    assert site.get()[1] == b"two!"
    app.write_text("def oops(:\n")
    site.event("boot_failed")
    assert site.get()[0] == 500


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
