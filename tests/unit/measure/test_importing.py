"""The process that imports an app: what it says of it, and what is alive then. A real process each time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
APP = """
def app(environ, start_response):
    start_response("200 OK", [])
    return [b"ok"]
def create_app():
    return app
async def loop_app(scope, receive, send):
    pass
"""


@pytest.fixture
def look(tmp_path: Path) -> Any:
    def run(before: str = "", uri: str = "tried:app", seconds: float = 30) -> tuple[dict[str, Any], str]:
        (tmp_path / "tried.py").write_text(before + APP)
        answer, hang = tmp_path / "answer", tmp_path / "hang"
        argv = ["-m", "farrier.measure.importing", uri, str(answer), str(hang), str(seconds)]
        subprocess.run(
            [sys.executable, *argv], cwd=tmp_path, timeout=60, capture_output=True,
            env={"PYTHONPATH": str(REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1"}, check=False,
        )  # fmt: skip
        return json.loads(answer.read_text()) if answer.exists() else {}, hang.read_text()

    return run


@pytest.mark.parametrize(
    ("uri", "interface"), [("tried:app", "wsgi"), ("tried:create_app()", "wsgi"), ("tried:loop_app", "asgi")]
)
def test_it_says_what_the_app_is_and_that_nothing_is_alive(look: Any, uri: str, interface: str) -> None:
    found, hang = look(uri=uri)
    assert found["interface"] == interface
    assert found["findings"] == []
    assert found["import_memory"] > 8 << 20
    assert found["gunicorn"].startswith("27.")
    assert hang == ""


@pytest.mark.parametrize(
    ("code", "finding"),
    [
        (
            "import threading\ndef report():\n  threading.Event().wait()\n"
            "threading.Thread(target=report, name='reporter', daemon=True).start()\n",
            "thread 'reporter' (tried.py) is alive after the import",
        ),
        (
            # Without a function of its own: its class says where it is from.
            "import threading\nclass Beat(threading.Thread):\n"
            "  def run(self):\n    threading.Event().wait()\n"
            "Beat(name='beat', daemon=True).start()\n",
            "thread 'beat' (tried.py) is alive after the import",
        ),
        (
            "import asyncio\nLOOP = asyncio.new_event_loop()\n",
            "event loop asyncio.unix_events._UnixSelectorEventLoop is open after the import",
        ),
        (
            "import sqlite3, tempfile\nDB = sqlite3.connect('kept.db')\n",
            "an open sqlite3 connection to kept.db",
        ),
        (
            "import fcntl\nLOCK = open('lock', 'w')\nfcntl.flock(LOCK, fcntl.LOCK_EX)\n",
            "a lock on lock is held, which workers would share",
        ),
        (
            "import fcntl\nLOCK = open('lock', 'w')\nfcntl.lockf(LOCK, fcntl.LOCK_EX)\n",
            "a lock on lock is held, which a fork does not have",
        ),
    ],
)
def test_what_is_alive_is_named(look: Any, code: str, finding: str) -> None:
    assert look(code)[0]["findings"] == [finding]


def test_sockets_are_told_by_their_ends(look: Any) -> None:
    code = (
        "import socket\nS = socket.create_server(('127.0.0.1', 0))\n"
        "C = socket.create_connection(S.getsockname())\n"
    )
    listening, connected = look(code)[0]["findings"]
    assert listening.startswith("a socket listening at 127.0.0.1:")
    port = listening.split(":")[1].split()[0]
    assert connected == f"a socket to 127.0.0.1:{port} is open after the import"


def test_a_child_process_is_named_by_its_command(look: Any) -> None:
    code = "import subprocess\nCHILD = subprocess.Popen(['sleep', '5'], stdout=-3, stderr=-3)\n"
    (finding,) = look(code)[0]["findings"]
    assert finding.startswith("child process ")
    assert "(sleep 5)" in finding


def test_what_is_over_after_the_import_is_no_finding(look: Any) -> None:
    code = (
        "import asyncio, socket, sqlite3, threading\n"
        "t = threading.Thread(target=int); t.start(); t.join()\n"
        "asyncio.run(asyncio.sleep(0))\nsocket.socket().close()\n"
        "sqlite3.connect(':memory:')\nDB = sqlite3.connect('gone.db'); DB.close()\n"
    )
    assert look(code)[0]["findings"] == []


def test_threads_that_openblas_renews_after_a_fork_are_no_finding(look: Any) -> None:
    pytest.importorskip("numpy")
    assert look("import numpy\nnumpy.ones((300, 300)) @ numpy.ones((300, 300))\n")[0]["findings"] == []


def test_an_import_that_fails_is_one_line_without_our_own_frames(look: Any) -> None:
    found, _ = look("import nowhere_to_be_found\n")
    assert found["error"] == "tried: No module named 'nowhere_to_be_found'"
    assert "tried.py" in found["stack"]
    assert "importing.py" not in found["stack"]


def test_an_import_that_hangs_says_where(look: Any) -> None:
    found, hang = look("import time\ntime.sleep(60)\n", seconds=0.5)
    assert found == {}
    assert 'tried.py", line 2' in hang
