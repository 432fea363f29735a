"""``farrier measure`` as a person calls it: real Gunicorn, and figures held against what the apps do."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from farrier.sizing import kind_of

REPOSITORY = Path(__file__).resolve().parents[2]
MIB = 1 << 20

#: About 60 MiB of objects, of which a request reads a few; /leak waits and keeps 10 KiB, 1 MiB in 100.
HEAVY = """
import time, itertools
COUNT = itertools.count()
DATA = [{"id": i, "name": f"name {i}", "tags": [str(i), i * 1.5]} for i in range(110_000)]
KEPT = []
def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/leak":
        KEPT.append(bytearray(b"x" * 10486))
        time.sleep(0.008)
    if path == "/wait":
        until = time.thread_time() + 0.001
        while time.thread_time() < until:
            pass
        time.sleep(0.01)
    if path == "/broken":
        raise RuntimeError("broken by design")
    if path == "/flaky" and next(COUNT) % 3 == 1:
        raise RuntimeError("broken now and then")
    status = "404 Not Found" if path == "/missing" else "200 OK"
    body = DATA[7]["name"].encode()
    start_response(status, [("Content-Length", str(len(body)))])
    return [body]
"""

LOOP = """
import asyncio
async def app(scope, receive, send):
    assert scope["type"] == "http"
    held = bytearray(b"x" * (1 << 20))
    await asyncio.sleep(0.002)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})
def create_app():
    return app
"""

#: Preloaded it answers nothing: the thread that answers for it is only in the process that imported it.
THREADED = """
import queue, subprocess, threading
ASKED, ANSWERS = queue.Queue(), queue.Queue()
def answer():
    while True:
        ANSWERS.put(ASKED.get())
threading.Thread(target=answer, name="answerer", daemon=True).start()
CHILD = subprocess.Popen(["sleep", "29.7531"], start_new_session=True, env={})
def app(environ, start_response):
    ASKED.put(b"ok")
    body = ANSWERS.get(timeout=0.1)
    start_response("200 OK", [("Content-Length", "2")])
    return [body]
"""

TOLD = """
def app(environ, start_response):
    open("asked", "w").close()
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
"""

Measure = Callable[..., subprocess.CompletedProcess[str]]


def environ(**given: str) -> dict[str, str]:
    found = {name: value for name, value in os.environ.items() if not name.startswith(("FARRIER_", "WORKER"))}
    found.update(PYTHONPATH=str(REPOSITORY), PYTHONDONTWRITEBYTECODE="1")
    return found | given


@pytest.fixture
def apps(tmp_path: Path) -> Path:
    for name, text in (("heavy", HEAVY), ("loop", LOOP), ("threaded", THREADED)):
        (tmp_path / f"{name}.py").write_text(text)
    return tmp_path


@pytest.fixture
def measure(apps: Path) -> Measure:
    def run(*arguments: str, **given: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "farrier", "measure", *arguments],
            cwd=apps, env=environ(**given), capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip

    return run


def object_of(done: subprocess.CompletedProcess[str], status: int = 0) -> dict[str, Any]:
    assert done.returncode == status, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def command_lines() -> list[str]:
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                found.append((folder / "cmdline").read_bytes().decode().replace("\0", " ").strip())
            except OSError:
                continue
    return found


def left_over(token: str) -> list[str]:
    """Command lines of the processes that carry ``token`` in their environment."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                if token.encode() in (folder / "environ").read_bytes():
                    found.append((folder / "cmdline").read_bytes().decode().replace("\0", " "))
            except OSError:
                continue
    return found


def test_a_heavy_app_that_leaks_is_measured_whole(measure: Measure) -> None:
    found = object_of(measure("heavy:app", "--request", "GET /leak", "--json", PROBE="measured-whole"))
    assert found["schema"] == 1
    assert (found["interface"], found["worker_class"], found["framework"]) == ("wsgi", "gthread", None)
    asked = found["requests"][0]
    assert (asked["status"], asked["statuses"]) == (200, {"200": asked["count"]})
    assert found["kind"] == kind_of(found["cpu_per_request"], found["wait_per_request"], "wsgi")
    assert found["growth_per_1000"] == pytest.approx(10 * MIB, rel=0.3)
    # One by one a thousand of them would have taken most of the time, and there would be no second boot.
    assert not [note for note in found["notes"] if "growth" in note]
    # Alone each worker has all of its own; preloaded it keeps the objects that no request touches.
    alone, shared = found["alone"], found["shared"]
    assert alone["uss"] > 50 * MIB
    assert alone["uss"] < alone["pss"] < alone["rss"]
    assert shared["uss"] < 0.4 * alone["uss"]
    assert found["shared_fraction"] == pytest.approx(1 - shared["uss"] / found["app_memory"], abs=0.001)
    assert found["import_memory"] < found["app_memory"]
    assert found["boot_seconds"] > 0
    assert (found["preload_safe"], found["preload_findings"]) == (True, [])
    assert found["connection_memory"] is None
    assert found["failed"] is None
    assert left_over("PROBE=measured-whole") == []


def test_times_are_those_of_the_app_and_a_404_and_a_failure_are_said(measure: Measure) -> None:
    asked = [word for path in ("/wait", "/broken", "/missing") for word in ("--request", f"GET {path}")]
    found = object_of(measure("heavy:app", *asked, "--worker-class", "sync", "--json", "--seconds", "7"))
    # Half of the requests that are left burn 1 ms and wait 10.
    assert found["cpu_per_request"] > 0.0005
    assert found["wait_per_request"] > 0.003
    assert [one["status"] for one in found["requests"]] == [200, 500, 404]
    assert found["requests"][1]["count"] == 3
    assert any(note.startswith("GET /broken answers 500: left out") for note in found["notes"])
    assert any(note.startswith("GET /missing answered 404: name") for note in found["notes"])


def test_a_request_that_fails_now_and_then_is_no_success(measure: Measure) -> None:
    done = measure("heavy:app", "--request", "GET /flaky", "--seconds", "9", "--json")
    found = object_of(done, status=1)
    assert found["requests"][0]["statuses"].keys() == {"200", "500"}
    assert found["requests"][0]["status"] == 500
    assert found["failed"].startswith("no request succeeded: GET /flaky answered 500 in ")
    assert found["cpu_per_request"] is None


def test_an_event_loop_has_its_connections_measured_too(measure: Measure) -> None:
    found = object_of(measure("loop:create_app()", "--json", "--seconds", "9"))
    assert (found["interface"], found["worker_class"], found["kind"]) == ("asgi", "asgi", "async")
    # Each request in hand holds 1 MiB while it waits.
    assert found["request_memory"] == pytest.approx(MIB, rel=0.3)
    assert 0 < found["connections"]["idle"] < MIB / 4
    assert found["connection_memory"] == max(found["connections"].values())


def test_an_app_that_lives_by_its_thread_is_not_preloaded(measure: Measure) -> None:
    found = object_of(measure("threaded:app", "--json", "--seconds", "8", PROBE="measured-thread"))
    assert found["preload_safe"] is False
    assert found["preload_findings"][0] == "thread 'answerer' (threaded.py) is alive after the import"
    assert "(sleep 29.7531)" in found["preload_findings"][1]
    assert "preloaded, GET / answers 500, alone 200" in found["preload_findings"]
    assert left_over("PROBE=measured-thread") == []
    # Its children had left the group and the session, and had another environment.
    assert [one for one in command_lines() if one == "sleep 29.7531"] == []


def test_an_app_that_answers_only_5xx_fails_and_its_memory_stands(measure: Measure) -> None:
    done = measure("heavy:app", "--request", "GET /broken", "--json", "--seconds", "9")
    found = object_of(done, status=1)
    assert done.stderr.splitlines()[-1] == "farrier: no request succeeded: GET /broken answers 500"
    assert found["failed"] in done.stderr
    assert found["app_memory"] > 50 * MIB
    assert found["alone"]["workers"] == 1
    for name in (
        "growth_per_1000",
        "cpu_per_request",
        "wait_per_request",
        "shared",
        "shared_fraction",
        "kind",
    ):
        assert found[name] is None, name


def test_an_app_that_does_not_import_is_one_line_after_its_log(measure: Measure, apps: Path) -> None:
    (apps / "bad.py").write_text("print('on its way')\nimport nowhere_to_be_found\n")
    done = measure("bad:app")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1] == "farrier: bad: No module named 'nowhere_to_be_found'"
    assert "  | on its way" in done.stderr


def test_a_class_for_the_other_interface_is_refused(measure: Measure) -> None:
    done = measure("loop:app", "--worker-class", "gthread")
    assert done.returncode == 2
    assert done.stderr == "farrier: worker class gthread: loop:app is ASGI; allowed are asgi, uvicorn\n"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_who_interrupts_it_leaves_nothing_behind(apps: Path, number: int, status: int) -> None:
    token = f"PROBE=interrupted-{number}"
    name, _, value = token.partition("=")
    (apps / "told.py").write_text(TOLD)
    (apps / "tmp").mkdir()
    os.mkfifo(apps / "asked")
    process = subprocess.Popen(
        [sys.executable, "-m", "farrier", "measure", "told:app"],
        cwd=apps, env=environ(TMPDIR=str(apps / "tmp"), **{name: value}), stderr=subprocess.PIPE,
    )  # fmt: skip
    # Opens when the first request has come to the app.
    with open(apps / "asked"):
        process.send_signal(number)
        process.communicate(timeout=20)
    assert process.returncode == status
    assert left_over(token) == []
    assert list((apps / "tmp").iterdir()) == []
