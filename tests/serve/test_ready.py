"""What the service manager is told, over a real NOTIFY_SOCKET, and that it is true when it is said."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from .conftest import ASGI_CLASSES, CLASSES, HUP, TERM, Serve, Told, app_of

CHECK = """
import os
from farrier.health import ready_check

@ready_check
def flag():
    if not os.path.exists("flag"):
        raise RuntimeError("no flag yet")
"""


@pytest.mark.parametrize("worker_class", CLASSES)
def test_ready_is_said_only_when_the_workers_checks_pass(
    serve: Serve, told: Told, tmp_path: Path, worker_class: str
) -> None:
    app = tmp_path / f"{app_of(worker_class).split(':')[0]}.py"
    app.write_text(app.read_text() + CHECK)
    site = serve(
        app_of(worker_class),
        wait="not_ready",
        WORKERS="2",
        WORKER_CLASS=worker_class,
        NOTIFY_SOCKET=told.path,
    )
    told.nothing_more("READY", 0.7)
    assert "no flag yet" in site.event("not_ready")["message"]
    (tmp_path / "flag").touch()
    message = told.until("READY")
    assert message["MAINPID"] == str(site.process.pid)
    assert message["STATUS"] == "2 of 2 workers ready"
    assert all(worker["ready"] for worker in serve.state()["workers"])
    status, health = site.json("/health/ready")
    assert (status, health["checks"][0]["name"], health["checks"][0]["ok"]) == (200, "flag", True)
    (tmp_path / "flag").unlink()
    status, health = site.json("/health/ready")
    assert (status, health["checks"][0]["error"]) == (503, "RuntimeError: no flag yet")


def test_reloading_ready_and_stopping_are_said_in_order(serve: Serve, told: Told) -> None:
    site = serve(WORKERS="1", NOTIFY_SOCKET=told.path)
    told.until("READY")
    site.signal(HUP)
    assert int(told.until("RELOADING")["MONOTONIC_USEC"]) > 0
    told.until("READY")
    site.signal(TERM)
    told.until("STOPPING")
    assert site.wait() == 0
    order = [key for message in told.messages for key in message if key in ("READY", "RELOADING", "STOPPING")]
    assert order == ["READY", "RELOADING", "READY", "STOPPING"]


def test_ready_is_said_again_after_a_reload_that_was_refused(
    serve: Serve, told: Told, tmp_path: Path
) -> None:
    site = serve(WORKERS="1", NOTIFY_SOCKET=told.path)
    told.until("READY")
    (tmp_path / "wsgi_app.py").write_text("1/0\n")
    site.signal(HUP)
    told.until("RELOADING")
    told.until("READY")
    assert site.get()[0] == 200


def test_the_watchdog_is_fed_and_children_cannot_speak_for_the_service(
    serve: Serve, told: Told, tmp_path: Path
) -> None:
    app = tmp_path / "wsgi_app.py"
    app.write_text(
        "import os\ndef app(environ, start_response):\n"
        "    start_response('200 OK', [])\n"
        "    return [repr([n for n in os.environ if n in ('NOTIFY_SOCKET', 'WATCHDOG_USEC')]).encode()]\n"
    )
    site = serve(WORKERS="1", NOTIFY_SOCKET=told.path, WATCHDOG_USEC="400000")
    for _ in range(3):
        told.until("WATCHDOG", seconds=1)
    assert site.get() == (200, b"[]")


def test_an_app_that_does_not_import_ends_it_with_one_line_on_top(
    serve: Serve, told: Told, tmp_path: Path
) -> None:
    (tmp_path / "wsgi_app.py").write_text("import no_such_module\n")
    site = serve(wait=None, WORKERS="4", NOTIFY_SOCKET=told.path)
    assert site.wait() == 3
    failed = site.event("boot_failed")
    assert failed["message"] == "wsgi_app: No module named 'no_such_module'"
    assert failed["stack"].startswith('  File "') and "gunicorn" not in failed["stack"]
    assert site.event("halted")["message"] == "not started: wsgi_app: No module named 'no_such_module'"
    assert "Traceback" not in site.text
    # Said once, by one worker, and why at the very end.
    assert [one["event"] for one in site.events] == ["starting", "listening", "boot_failed", "halted"]
    told.nothing_more("READY", 0.05)


@pytest.mark.parametrize(
    ("app", "worker_class", "status", "says"),
    [
        ("no_such:app", "sync", 3, "no_such: No module named 'no_such'; start it in the app's folder, or"),
        ("no_such.deep:app", "sync", 3, "--chdir or PYTHONPATH"),
        ("wsgi_app:nothing", "sync", 4, "say wsgi_app:NAME"),
        ("wsgi_app:nothing", "sync", 4, "Failed to find attribute 'nothing' in 'wsgi_app'"),
        ("wsgi_app:create_app", "gthread", 4, "say 'wsgi_app:create_app()'"),
        ("asgi_app:app", "gthread", 4, "is an ASGI app"),
        ("asgi_app:app", "sync", 4, "asgi or uvicorn"),
        ("wsgi_app:app", "asgi", 4, "sync, gthread or gevent"),
        ("wsgi_app:app", "uvicorn", 4, "is a WSGI app"),
    ],
)
def test_an_app_that_cannot_be_served_is_one_line(
    serve: Serve, app: str, worker_class: str, status: int, says: str
) -> None:
    site = serve(app, wait=None, WORKERS="1", WORKER_CLASS=worker_class)
    assert site.wait() == status
    assert says in site.event("halted")["message"]
    assert "Traceback" not in site.text


@pytest.mark.parametrize("worker_class", ["gthread", "uvicorn"])
def test_a_factory_works(serve: Serve, worker_class: str) -> None:
    site = serve(app_of(worker_class, "create_app()"), WORKERS="1", WORKER_CLASS=worker_class)
    assert site.get() == (200, b"one")


def test_a_preloaded_app_that_does_not_import_is_one_line(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "wsgi_app.py").write_text("import no_such_module\n")
    site = serve(wait=None, WORKERS="1", PRELOAD_APP="1")
    assert site.wait() == 3
    assert site.lines[-1] == "farrier serve: wsgi_app: No module named 'no_such_module'"


def test_a_startup_that_fails_is_said(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "asgi_app.py").write_text(
        "async def app(scope, receive, send):\n"
        "    await receive()\n"
        "    await send({'type': 'lifespan.startup.failed', 'message': 'no database'})\n"
    )
    for worker_class in ("asgi", "uvicorn"):
        site = serve("asgi_app:app", wait=None, WORKERS="1", WORKER_CLASS=worker_class)
        assert site.wait() == 3
        assert "startup failed" in site.event("halted")["message"]
        assert "no database" in site.text


@pytest.mark.parametrize("worker_class", ASGI_CLASSES)
def test_a_startup_that_hangs_is_given_up_by_a_stop(serve: Serve, tmp_path: Path, worker_class: str) -> None:
    app = tmp_path / "asgi_app.py"
    app.write_text(app.read_text().replace("message = await receive()", "await asyncio.sleep(60)", 1))
    site = serve("asgi_app:app", wait=None, WORKERS="1", WORKER_CLASS=worker_class)
    site.event("worker_booted")
    time.sleep(0.5)
    began = time.monotonic()
    site.signal(signal.SIGTERM)
    assert site.wait() == 0
    assert time.monotonic() - began < 3
    assert site.event("worker_ended")["severity"] == "INFO"


def test_an_app_whose_startup_takes_long_gets_no_request_before(serve: Serve, tmp_path: Path) -> None:
    """Gunicorn's asgi worker waits for 30 s, here half a second, and then serves without."""
    app = tmp_path / "asgi_app.py"
    late = "message = await receive(); await asyncio.sleep(2); globals().update(VERSION=b'started')"
    app.write_text(app.read_text().replace("message = await receive()", late, 1))
    command = (
        "import asyncio, sys; wait = asyncio.wait_for; sys.argv[0] = 'farrier'; "
        "asyncio.wait_for = lambda what, timeout: wait(what, 0.5 if timeout == 30.0 else timeout); "
        "from farrier.__main__ import main; sys.exit(main())"
    )
    site = serve("asgi_app:app", command=("-c", command, "serve"), WORKERS="1", WORKER_CLASS="asgi")
    assert site.get() == (200, b"started")


def test_a_crash_loop_before_the_first_readiness_ends(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "wsgi_app.py").write_text("import os; os.kill(os.getpid(), 11)\n")
    site = serve(wait=None, WORKERS="1")
    assert site.wait(20) == 3
    assert "SIGSEGV" in site.event("halted")["message"]


def test_the_others_do_not_wait_for_a_first_worker_that_is_slow(serve: Serve, tmp_path: Path) -> None:
    app = tmp_path / "wsgi_app.py"
    app.write_text("import time; time.sleep(2.5)\n" + app.read_text())
    site = serve(WORKERS="3")
    assert site.event("ready")["seconds"] < 4.8


@pytest.mark.parametrize("worker_class", CLASSES)
def test_where_nobody_awaits_ready_a_worker_serves_at_once(
    serve: Serve, tmp_path: Path, worker_class: str
) -> None:
    """A liveness probe must not end a container for a database that is down."""
    app = tmp_path / f"{app_of(worker_class).split(':')[0]}.py"
    app.write_text(app.read_text() + CHECK)
    site = serve(app_of(worker_class), WORKERS="1", WORKER_CLASS=worker_class)
    assert "serves, but is not ready: flag" in site.event("not_ready")["message"]
    assert site.get("/health")[0] == 200
    assert site.get("/health/ready")[0] == 503
    (pid,) = (worker["pid"] for worker in serve.state()["workers"])
    site.signal(HUP)
    # A replacement on trial is held back until it is ready.
    site.event("not_ready", 2)
    assert site.get("/health")[0] == 200
    assert pid in [worker["pid"] for worker in serve.state()["workers"]]
    (tmp_path / "flag").touch()
    site.event("reloaded")
    assert site.get("/health/ready")[0] == 200


def test_a_death_before_readiness_says_its_exit_status(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "wsgi_app.py").write_text("import os; os._exit(9)\n")
    site = serve(wait=None, WORKERS="1")
    assert site.wait(20) == 3
    assert "it died before it was ready (exit status 9)" in site.event("halted")["message"]
