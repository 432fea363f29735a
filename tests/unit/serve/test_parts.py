"""The parts of serving that need no server: the board, what an app is, why a worker ended, the log."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from farrier.errors import FarrierError
from farrier.health.asgi import HealthMiddleware as ASGIHealth
from farrier.health.checks import Check, run_checks, run_checks_async
from farrier.health.wsgi import HealthMiddleware as WSGIHealth
from farrier.serve.apps import interface, request_id
from farrier.serve.board import BOOTED, READY, SIZE, Board
from farrier.serve.endings import MemoryKills, describe
from farrier.serve.events import FIELDS, JsonFormatter, ReadableFormatter
from farrier.serve.notify import Notifier
from farrier.serve.state import StateFile, instance_name, release_name


def test_a_worker_writes_its_slot_and_the_master_reads_it() -> None:
    board = Board(4)
    mine, other = board.take(), board.take()
    if (pid := os.fork()) == 0:
        mine.stage = BOOTED
        mine.stage = READY
        mine.requests, mine.in_hand = 2**40, 7
        mine.doing = "GET /ü" + "x" * 500
        mine.note = "why"
        os._exit(0)
    os.waitpid(pid, 0)
    assert (mine.ready, mine.booted, mine.proven, mine.requests, mine.in_hand) == (True, True, True, 2**40, 7)
    assert mine.doing.startswith("GET /üxxx") and len(mine.doing) < 200
    assert mine.note == "why"
    assert (other.ready, other.requests, other.doing, other.note) == (False, 0, "", "")


def test_a_slot_is_clean_for_the_next_worker() -> None:
    board = Board(1)
    slot = board.take()
    slot.note, slot.requests = "n" * SIZE, 5
    slot.stage = READY
    with pytest.raises(RuntimeError, match="no free slot"):
        board.take()
    board.give_back(slot)
    again = board.take()
    assert (again.note, again.requests, again.proven) == ("", 0, False)


def wsgi(environ: Any, start_response: Any) -> None: ...
async def asgi(scope: Any, receive: Any, send: Any) -> None: ...
def asgi_by_hand(scope: Any, receive: Any, send: Any) -> Any: ...
def factory() -> None: ...
def anything(*args: Any) -> None: ...


class Flask:
    def __call__(self, environ: Any, start_response: Any) -> None: ...


class Starlette:
    async def __call__(self, scope: Any, receive: Any, send: Any) -> None: ...


@pytest.mark.parametrize(
    ("app", "kind"),
    [
        (wsgi, "wsgi"), (Flask(), "wsgi"), (asgi, "asgi"), (Starlette(), "asgi"), (asgi_by_hand, "asgi"),
        (factory, "factory"), (anything, None), (Flask().__call__, "wsgi"),
    ],
)  # fmt: skip
def test_what_an_app_speaks(app: Any, kind: str | None) -> None:
    assert interface(app) == kind


def test_a_clients_id_must_be_fit_for_a_log() -> None:
    assert request_id("a-1") == "a-1"
    for given in (None, "", "a\nb", "x" * 200, 'a"b'):
        made = request_id(given)
        assert made != given and len(made) == 16


def worker(**given: Any) -> Any:
    slot = Board(1).take()
    slot.stage = READY
    facts = {
        "aborted": False,
        "retired": 0.0,
        "slot": slot,
        "cfg": SimpleNamespace(timeout=30, graceful_timeout=8),
    }
    return SimpleNamespace(**{**facts, **given})


@pytest.mark.parametrize(
    ("status", "facts", "memory", "reason"),
    [
        (0, {}, False, "stopped"),
        (0, {"retired": 1.0}, False, "stopped"),
        (signal.SIGKILL, {}, True, "killed for memory"),
        (signal.SIGKILL, {}, False, "crashed"),
        (signal.SIGKILL, {"retired": 1.0}, False, "stopped"),
        (signal.SIGKILL, {"aborted": True}, False, "timed out"),
        (signal.SIGSEGV, {}, False, "crashed"),
        (1 << 8, {}, False, "crashed"),
        (signal.SIGTERM, {}, False, "stopped"),
    ],
)
def test_why_a_worker_ended(status: int, facts: dict[str, Any], memory: bool, reason: str) -> None:
    assert describe(worker(**facts), status, memory).reason == reason


def test_one_that_was_never_ready_failed_to_boot() -> None:
    fresh = worker(slot=Board(1).take())
    fresh.slot.note = "app: No module named 'x'"
    ending = describe(fresh, 3 << 8, False)
    assert (ending.failed_to_boot, ending.message) == (True, "app: No module named 'x'")


@pytest.mark.parametrize(
    ("cgroup", "file"),
    [
        ("0::/system.slice/app.service", "sys/fs/cgroup/system.slice/app.service/memory.events"),
        ("0::/../elsewhere", "sys/fs/cgroup/memory.events"),
        ("5:memory:/docker/abc\n0::/x", "sys/fs/cgroup/memory/docker/abc/memory.oom_control"),
        ("5:memory:/docker/abc", "sys/fs/cgroup/memory/memory.oom_control"),
    ],
)
def test_memory_kills_are_counted_in_either_hierarchy(tmp_path: Path, cgroup: str, file: str) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(cgroup + "\n")
    counter = tmp_path / file
    counter.parent.mkdir(parents=True)
    counter.write_text("low 0\noom_kill 1\n")
    kills = MemoryKills(str(tmp_path))
    assert not kills.happened()
    counter.write_text("low 0\noom_kill 2\n")
    assert kills.happened()
    assert not kills.happened()


def record(**fields: Any) -> logging.LogRecord:
    made = logging.LogRecord("x", logging.WARNING, "f", 1, "%s", ('said "it" 100%',), None)
    setattr(made, FIELDS, fields)
    return made


def test_a_json_line_is_one_line_whatever_is_in_it() -> None:
    line = JsonFormatter().format(record(event="e", stack="a\nb", path="/ü\u2028"))
    assert len(line.split("\n")) == 1
    found = json.loads(line)
    assert (found["severity"], found["message"], found["event"]) == ("WARNING", 'said "it" 100%', "e")
    assert found["stack"] == "a\nb"


def test_a_readable_line_has_pairs_and_stacks_below() -> None:
    text = ReadableFormatter("%(levelname)s %(message)s").format(record(event="e", seconds=0.5, stack="a\nb"))
    assert text == 'WARNING said "it" 100% (seconds=0.5)\na\nb'


def test_the_notify_socket_is_taken_and_can_be_given_back() -> None:
    environ = {"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "2000000", "WATCHDOG_PID": str(os.getpid()), "A": "b"}
    notifier = Notifier.take(environ)
    assert environ == {"A": "b"}
    assert notifier.awaited and notifier.watchdog_seconds == 2.0 and notifier.pace(10) == 0.5
    notifier.restore(environ)
    assert environ["NOTIFY_SOCKET"] == "@x"
    assert not Notifier.take({}).awaited
    assert Notifier.take({"WATCHDOG_USEC": "1", "WATCHDOG_PID": "1"}).watchdog_seconds is None


def test_a_state_file_is_replaced_whole_and_said_once_when_it_cannot_be(tmp_path: Path) -> None:
    said: list[str] = []
    log = SimpleNamespace(warning=lambda text, *args: said.append(text % args))
    state = StateFile.from_environ({"FARRIER_RUN_DIR": str(tmp_path), "FARRIER_INSTANCE": "blue"}, log)
    state.write({"a": 1})
    first = (tmp_path / "blue.json").stat().st_ino
    state.write({"a": 1})
    assert (tmp_path / "blue.json").stat().st_ino == first
    state.write({"a": 2})
    assert json.loads((tmp_path / "blue.json").read_text()) == {"a": 2}
    assert os.listdir(tmp_path) == ["blue.json"]
    StateFile(str(tmp_path / "blue.json"), log).remove()
    assert (tmp_path / "blue.json").exists()
    assert (tmp_path / "blue.json").stat().st_mode & 0o777 == 0o640
    lost = StateFile("/no/such/folder/x.json", log)
    lost.write({})
    lost.write({})
    assert len(said) == 1 and "/no/such/folder/x.json" in said[0]
    late = StateFile(str(tmp_path / "later" / "x.json"), log)
    late.write({})
    (tmp_path / "later").mkdir()
    late.write({})
    assert (tmp_path / "later" / "x.json").exists()


def test_names_of_instance_and_release(tmp_path: Path) -> None:
    assert instance_name({"FARRIER_INSTANCE": "../blue", "FARRIER_APP": "shop"}) == "_blue"
    assert instance_name({"FARRIER_APP": "shop"}) == "shop"
    folder = tmp_path / "releases" / "7" / "src"
    folder.mkdir(parents=True)
    (tmp_path / "blue").symlink_to(tmp_path / "releases" / "7")
    assert release_name({}, str(tmp_path / "blue" / "src")) == "7"
    assert release_name({"FARRIER_RELEASE": "8"}, str(folder)) == "8"
    assert release_name({}, str(tmp_path)) is None


def test_a_check_in_either_world() -> None:
    async def fine() -> None:
        await asyncio.sleep(0)

    def bad() -> bool:
        return False

    async def late() -> None:
        await asyncio.sleep(5)

    checks = [Check("fine", fine), Check("bad", bad), Check("late", late, 0.05)]
    expected = [
        ("fine", True, None),
        ("bad", False, "returned False"),
        ("late", False, "no answer within 0.05 s"),
    ]
    for outcomes in (run_checks(checks), asyncio.run(run_checks_async(checks))):
        assert [(one.name, one.ok, one.error) for one in outcomes] == expected


def test_the_middleware_by_hand() -> None:
    said: list[str] = []
    around = WSGIHealth(lambda environ, start_response: [b"app"], path="/up")
    assert around({"PATH_INFO": "/other"}, None) == [b"app"]  # type: ignore[arg-type]
    body = around(
        {"PATH_INFO": "/up/worker", "REQUEST_METHOD": "GET"}, lambda status, headers: said.append(status)
    )
    assert (said, json.loads(b"".join(body))["requests"]) == (["200 OK"], 1)
    with pytest.raises(FarrierError, match="must start with /"):
        ASGIHealth(asgi, path="up")


def test_websockets_and_lifespan_pass_by_the_middleware() -> None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append((scope, receive, send))

    around = ASGIHealth(app)
    for kind in ("websocket", "lifespan"):
        scope = {"type": kind, "path": "/health"}
        asyncio.run(around(scope, len, print))  # type: ignore[arg-type]
        assert seen[-1][0] is scope and seen[-1][1] is len and seen[-1][2] is print
