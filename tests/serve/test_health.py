"""The three health paths around any app, and what must pass through them untouched."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from farrier.health.report import near

from .conftest import CLASSES, Serve, app_of


@pytest.mark.parametrize("worker_class", CLASSES)
def test_health_of_every_class(serve: Serve, worker_class: str) -> None:
    site = serve(app_of(worker_class), WORKERS="1", WORKER_CLASS=worker_class)
    assert site.json("/health") == (200, {"status": "ok"})
    assert site.get("/") == (200, b"one")
    assert site.get("/healthy") == (200, b"one")
    status, worker = site.json("/health/worker")
    assert status == 200
    assert worker["pid"] == serve.state()["workers"][0]["pid"]
    assert worker["requests"] == 2
    assert worker["rss_bytes"] >= worker["pss_bytes"] > 0
    assert worker["uptime_seconds"] >= 0
    assert site.json("/health/ready") == (200, {"status": "ready", "checks": []})
    connection = site.connection()
    connection.request("HEAD", "/health")
    answer = connection.getresponse()
    assert (answer.status, answer.read(), answer.getheader("Cache-Control")) == (200, b"", "no-store")
    connection.close()
    connection.request("POST", "/health", body=b"x")
    assert connection.getresponse().status == 405
    connection.close()


@pytest.mark.parametrize("worker_class", ["sync", "uvicorn", "gevent"])
def test_checks_have_times_and_limits(serve: Serve, tmp_path: Path, worker_class: str) -> None:
    (tmp_path / "checks.py").write_text(
        "import asyncio, os, time\nfrom farrier.health import ready_check\n"
        "def fast(): pass\n"
        "async def waits():\n    await asyncio.sleep(0.05)\n"
        "@ready_check(timeout=0.2)\n"
        "def hangs():\n    if os.path.exists('late'): time.sleep(1)\n"
    )
    site = serve(
        app_of(worker_class), WORKERS="1", WORKER_CLASS=worker_class, FARRIER_READY="checks:fast,checks:waits"
    )
    status, ready = site.json("/health/ready")
    assert status == 200
    assert [check["name"] for check in ready["checks"]] == ["hangs", "checks:fast", "checks:waits"]
    assert ready["checks"][2]["seconds"] >= 0.05
    (tmp_path / "late").touch()
    status, ready = site.json("/health/ready")
    assert status == 503
    assert ready["checks"][0]["error"] == "no answer within 0.2 s"
    assert ready["checks"][1]["ok"]


def test_a_check_that_is_not_there_is_one_line(serve: Serve) -> None:
    site = serve(wait=None, WORKERS="1", FARRIER_READY="wsgi_app:no_such")
    assert site.wait() == 3
    assert site.event("halted")["message"] == "not started: FARRIER_READY: wsgi_app has no function 'no_such'"


@pytest.mark.parametrize("worker_class", ["sync", "asgi"])
def test_the_paths_move_and_go(serve: Serve, worker_class: str) -> None:
    site = serve(app_of(worker_class), WORKERS="1", WORKER_CLASS=worker_class, FARRIER_HEALTH_PATH="/_up/")
    assert site.json("/_up") == (200, {"status": "ok"})
    assert site.get("/health") == (200, b"one")
    off = serve(app_of(worker_class), WORKERS="1", WORKER_CLASS=worker_class, FARRIER_HEALTH_PATH="")
    assert off.get("/health") == (200, b"one")


@pytest.mark.parametrize("worker_class", ["asgi", "uvicorn"])
def test_lifespan_passes_through(serve: Serve, tmp_path: Path, worker_class: str) -> None:
    (tmp_path / "asgi_app.py").write_text(
        "async def app(scope, receive, send):\n"
        "    if scope['type'] == 'lifespan':\n"
        "        await receive()\n"
        "        scope['state']['opened'] = b'by startup'\n"
        "        await send({'type': 'lifespan.startup.complete'})\n"
        "        await receive()\n"
        "        open('closed', 'w').close()\n"
        "        await send({'type': 'lifespan.shutdown.complete'})\n"
        "        return\n"
        "    await send({'type': 'http.response.start', 'status': 200, 'headers': []})\n"
        "    await send({'type': 'http.response.body', 'body': scope['state']['opened']})\n"
    )
    site = serve("asgi_app:app", WORKERS="1", WORKER_CLASS=worker_class)
    assert site.get("/")[1] == b"by startup"
    site.stop()
    assert (tmp_path / "closed").exists()


@pytest.mark.parametrize("worker_class", CLASSES)
def test_what_a_check_says_is_for_this_host_and_the_log(
    serve: Serve, tmp_path: Path, worker_class: str
) -> None:
    (tmp_path / "checks.py").write_text("def db():\n    raise OSError('db.internal: password of shop')\n")
    site = serve(app_of(worker_class), WORKERS="1", WORKER_CLASS=worker_class, FARRIER_READY="checks:db")
    assert "db.internal" in site.json("/health/ready")[1]["checks"][0]["error"]
    for _ in range(3):
        status, body = site.get("/health/ready", X_Forwarded_For="203.0.113.4")
        assert (status, json.loads(body)["checks"][0]["error"]) == (503, "OSError")
        assert b"db.internal" not in body
    said = site.event("check_failed")
    assert (said["check"], "db.internal" in said["message"]) == ("checks:db", True)
    assert [one["event"] for one in site.events].count("check_failed") == 1


@pytest.mark.parametrize(
    ("peer", "forwarded", "full"),
    [("127.0.0.1", False, True), ("::1", False, True), ("", False, True), (None, False, True),
     ("10.0.0.4", False, False), ("127.0.0.1", True, False), ("", True, False)],
)  # fmt: skip
def test_who_is_near(peer: str | None, forwarded: bool, full: bool) -> None:
    assert near(peer, forwarded) is full
