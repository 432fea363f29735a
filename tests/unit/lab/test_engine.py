"""Only the engine that was started here is ever stopped."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import engine


@pytest.fixture(autouse=True)
def own_state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    running = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield running
    running.kill()
    running.wait()


def test_without_a_record_nothing_is_stopped() -> None:
    assert engine.started_here() is None
    assert engine.stop() == "not started here, left as it is"


def test_a_pid_that_another_process_took_over_is_left_alone(process: subprocess.Popen[bytes]) -> None:
    engine._record().write_text(json.dumps({"pid": process.pid, "started": "1"}))
    assert engine.stop() == "not started here, left as it is"
    assert process.poll() is None


def test_ours_is_stopped_when_nobody_needs_it(
    process: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "find", lambda: None)
    engine._record().write_text(json.dumps({"pid": process.pid, "started": engine.started_at(process.pid)}))
    assert engine.started_here() == process.pid
    assert engine.stop() == "stopped"
    assert process.wait() != 0
    assert engine.started_here() is None


def test_no_docker_on_the_path_is_no_engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert engine.find() is None
