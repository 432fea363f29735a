"""Why workers end, as the log says it: timed out, crashed, recycled, killed for memory, stopped."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import threading
import time
from pathlib import Path

import pytest

from .conftest import CLASSES, HUP, TERM, Serve, Site, app_of


def ask_in_background(site: Site, path: str) -> threading.Thread:
    def ask() -> None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            site.get(path)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("worker_class", CLASSES)
def test_an_app_that_exits_in_a_request_ends_that_request(
    serve: Serve, tmp_path: Path, worker_class: str
) -> None:
    for name in ("wsgi_app.py", "asgi_app.py"):
        app = tmp_path / name
        app.write_text(
            app.read_text().replace('== "/hang":', '== "/exit":\n        raise SystemExit(3)\n    if not 1:')
        )
    site = serve(app_of(worker_class), WORKERS="1", WORKER_CLASS=worker_class)
    client = site.connection()
    client.request("GET", "/slow?1")
    until_taken(client.sock)
    assert site.get("/exit")[0] == 500
    assert client.getresponse().read() == b"one"
    client.close()
    site.line("SystemExit")
    assert not [one for one in site.events if one["event"] == "worker_ended"]


@pytest.mark.parametrize("worker_class", [one for one in CLASSES if one != "sync"])
def test_a_worker_without_file_descriptors_leaves_the_rest_in_the_queue(
    serve: Serve, worker_class: str
) -> None:
    few = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40)); "
        "sys.argv[0] = 'farrier'; from farrier.cli import main; sys.exit(main())"
    )
    site = serve(app_of(worker_class), command=("-c", few, "serve"), WORKERS="1", WORKER_CLASS=worker_class)
    # What is imported at a first request must not be it.
    assert site.get() == (200, b"one")
    clients = [socket.create_connection(site.address) for _ in range(50)]
    time.sleep(1)
    for one in clients:
        one.close()
    deadline = time.monotonic() + 10
    while site.get()[0] != 200:
        assert time.monotonic() < deadline
    assert not [one for one in site.events if one["event"] == "worker_ended"]


@pytest.mark.parametrize("worker_class", ["sync", "asgi", "uvicorn"])
def test_a_timeout_names_the_request_the_stacks_and_the_memory(serve: Serve, worker_class: str) -> None:
    site = serve(app_of(worker_class), WORKERS="1", WORKER_CLASS=worker_class, WORKER_TIMEOUT="1")
    ask_in_background(site, "/hang?why=1")
    said = site.event("worker_timeout")
    assert said["requests_in_hand"][0]["request"] == "GET /hang?why=1"
    assert said["requests_in_hand"][0]["seconds"] > 0.8
    assert "time.sleep(60)" in said["stacks"]
    assert said["rss_bytes"] > 1_000_000 and said["pss_bytes"] > 0
    ended = site.event("worker_ended")
    assert ended["reason"] == "timed out"
    assert ended["last_request"] == "GET /hang?why=1"
    site.event("worker_booted", 2)


def test_a_worker_that_cannot_speak_is_spoken_for(serve: Serve, tmp_path: Path) -> None:
    """Stopped by SIGSTOP nothing in the worker runs: the master still knows what it was doing."""
    (tmp_path / "wsgi_app.py").write_text(
        "import os, time\n"
        "def app(environ, start_response):\n"
        "    os.kill(os.getpid(), 19)\n"
        "    time.sleep(30)\n"
    )
    site = serve(WORKERS="1", WORKER_TIMEOUT="1", WORKER_CLASS="gthread")
    ask_in_background(site, "/report?year=all")
    ended = site.event("worker_ended")
    told = (ended["reason"], ended["last_request"], ended["in_hand"])
    assert told == ("timed out", "GET /report?year=all", 1)


@pytest.mark.parametrize("worker_class", ["asgi", "uvicorn"])
def test_a_loop_that_is_busy_but_turns_is_not_stuck(serve: Serve, tmp_path: Path, worker_class: str) -> None:
    """A turn of half a second each: the sign of life is due by the clock, not by so many turns."""
    app = tmp_path / "asgi_app.py"
    app.write_text(app.read_text().replace("time.sleep(60)", "time.sleep(0.05)"))
    site = serve(app_of(worker_class), WORKERS="1", WORKER_CLASS=worker_class, WORKER_TIMEOUT="3")
    until = time.monotonic() + 7

    def ask_again() -> None:
        client = site.connection()
        while time.monotonic() < until:
            client.request("GET", "/hang")
            client.getresponse().read()

    threads = [threading.Thread(target=ask_again) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not [one for one in site.events if one["event"] in ("worker_timeout", "worker_ended")]


def test_a_crash_is_named_with_its_request(serve: Serve) -> None:
    site = serve(WORKERS="1", WORKER_CLASS="sync")
    ask_in_background(site, "/die")
    ended = site.event("worker_ended")
    assert (ended["reason"], ended["signal"], ended["last_request"]) == ("crashed", "SIGSEGV", "GET /die")
    site.event("worker_booted", 2)
    assert site.get()[0] == 200


@pytest.mark.parametrize("worker_class", CLASSES)
def test_recycling_is_named_and_its_requests_counted(serve: Serve, worker_class: str) -> None:
    site = serve(
        app_of(worker_class),
        WORKERS="1",
        WORKER_CLASS=worker_class,
        MAX_REQUESTS="5",
        MAX_REQUESTS_JITTER="0",
    )
    for _ in range(5):
        assert site.get()[0] == 200
    ended = site.event("worker_ended")
    assert (ended["reason"], ended["requests"]) == ("recycled", 5)
    site.event("worker_booted", 2)
    assert site.get()[0] == 200


@pytest.mark.parametrize("worker_class", CLASSES)
def test_a_stop_finishes_the_request_in_hand_and_runs_the_hook(
    serve: Serve, tmp_path: Path, worker_class: str
) -> None:
    (tmp_path / "gunicorn.conf.py").write_text(
        "def worker_exit(server, worker):\n    open(f'left.{worker.pid}', 'w').close()\n"
    )
    site = serve(app_of(worker_class), WORKERS="1", WORKER_CLASS=worker_class)
    (pid,) = (worker["pid"] for worker in serve.state()["workers"])
    connection = site.connection()
    connection.request("GET", "/slow?0.6")
    # The health of the process answers from the board only once the request above is in hand; a sync
    # worker has no second hand, so there its own socket tells: the queue is empty when it was taken.
    until_taken(connection.sock)
    site.signal(TERM)
    answer = connection.getresponse()
    assert (answer.status, answer.read()) == (200, b"one")
    if worker_class != "gthread":
        # Gunicorn's gthread decides when a request begins; it lingers on the connection instead.
        assert answer.getheader("Connection", "").lower() == "close"
    assert site.wait() == 0
    assert (tmp_path / f"left.{pid}").exists()
    assert site.event("worker_ended")["reason"] == "stopped"


def until_taken(client: socket.socket) -> None:
    """Wait until the server has read all that the client sent (nothing is left in its receive queue)."""
    import time

    local, remote = client.getsockname(), client.getpeername()
    wanted = (hexed(*remote), hexed(*local))
    for _ in range(500):
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            words = line.split()
            if (words[1], words[2]) == wanted and words[9] != "0" and words[4].endswith("00000000"):
                return
        time.sleep(0.005)
    raise AssertionError("the server never took the request")


def hexed(host: str, port: int) -> str:
    packed = socket.inet_aton(host)[::-1].hex().upper()
    return f"{packed}:{port:04X}"


def memory_cgroup(name: str) -> Path | None:
    """A memory cgroup (v1) that a test may write, or None."""
    root = Path("/sys/fs/cgroup/memory")
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            for base in (root / path.lstrip("/"), root):
                try:
                    (base / name).mkdir()
                except OSError:
                    continue
                return base / name
    return None


def test_a_kill_for_memory_is_told_from_a_crash(serve: Serve, tmp_path: Path) -> None:
    group = memory_cgroup(f"farrier-test-{os.getpid()}")
    if group is None:
        pytest.skip("no memory cgroup that may be written here")
    (tmp_path / "wsgi_app.py").write_text(
        "def app(environ, start_response):\n"
        "    if environ['PATH_INFO'] == '/eat':\n"
        "        kept = [bytes(bytearray(1 << 20)) for _ in range(400)]\n"
        "    start_response('200 OK', [])\n    return [b'ok']\n"
    )
    try:
        (group / "memory.limit_in_bytes").write_text(str(160 << 20))
        enter = f"import os; open({str(group / 'cgroup.procs')!r}, 'w').write(str(os.getpid()));"
        run = (
            "import sys; os.execv(sys.executable, [sys.executable, '-m', 'farrier', 'serve', *sys.argv[1:]])"
        )
        site = serve("wsgi_app:app", command=("-c", enter + run), WORKERS="1", WORKER_CLASS="sync")
        ask_in_background(site, "/eat")
        ended = site.event("worker_ended")
        assert (ended["reason"], ended["last_request"]) == ("killed for memory", "GET /eat")
        site.event("worker_booted", 2)
        victim = site.json("/health/worker")[1]["pid"]
        os.kill(victim, signal.SIGKILL)
        assert site.event("worker_ended", worker=victim)["reason"] == "crashed"
        site.stop()
    finally:
        group.rmdir()


@pytest.mark.parametrize("worker_class", ["sync", "gthread", "asgi", "uvicorn", "gevent"])
def test_a_request_that_a_stop_cuts_is_named(serve: Serve, worker_class: str) -> None:
    site = serve(
        app_of(worker_class),
        WORKERS="1",
        WORKER_CLASS=worker_class,
        GRACEFUL_TIMEOUT="1",
        LOG_LEVEL="warning",
    )
    connection = site.connection()
    connection.request("GET", "/slow?20")
    until_taken(connection.sock)
    site.signal(TERM)
    assert site.wait() == 0
    connection.close()
    said = [one for one in site.events if one["event"] in ("worker_ended", "requests_cut")]
    assert "GET /slow?20" in json.dumps(said)
    assert {one["severity"] for one in said} == {"WARNING"}


@pytest.mark.parametrize("worker_class", ["sync", "gthread"])
def test_a_worker_that_drains_has_the_grace_not_the_timeout(serve: Serve, worker_class: str) -> None:
    """Exchanged by HUP with a request in hand that is longer than ``timeout``."""
    site = serve(
        WORKERS="1", WORKER_CLASS=worker_class, THREADS="2" if worker_class == "gthread" else "1",
        WORKER_TIMEOUT="2", GRACEFUL_TIMEOUT="20",
    )  # fmt: skip
    connection = site.connection()
    connection.request("GET", "/slow?4")
    until_taken(connection.sock)
    if worker_class == "sync":
        site.signal(TERM)
    else:
        site.signal(HUP)
    answer = connection.getresponse()
    assert (answer.status, answer.read()) == (200, b"one")
    connection.close()
    assert site.event("worker_ended")["reason"] == "stopped"
    assert not any(one["event"] == "worker_timeout" for one in site.events)
