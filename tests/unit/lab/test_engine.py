"""Only the engine that was started here is ever stopped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import checkout, engine
from lab.errors import LabError


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


def test_an_engine_that_a_person_chose_is_not_replaced(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    with pytest.raises(LabError, match=r"^DOCKER_HOST=unix://\S+/none.sock does not answer: "):
        engine.ensure()


@pytest.mark.parametrize(("in_ci", "outcome"), [("true", "error"), ("", "skipped")])
def test_without_an_engine_tests_are_skipped_and_in_ci_they_fail(
    tmp_path: Path, in_ci: str, outcome: str
) -> None:
    environment = {**os.environ, "DOCKER_HOST": f"unix://{tmp_path}/none.sock", "CI": in_ci}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests/system/test_lab.py"]
    ran = subprocess.run(
        command, cwd=checkout.ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert "DOCKER_HOST=" in ran.stdout
    assert outcome in ran.stdout.splitlines()[-1]
    assert "passed" not in ran.stdout.splitlines()[-1]


def test_no_docker_on_the_path_is_no_engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert engine.find() is None
