"""``systemctl stop`` of a deploy ends it: nobody takes it for a failure that has another way on."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from farrier.release import apply, command, install, layout, room, systemd
from farrier.release.build import Build
from farrier.release.machine import Stopped
from farrier.release.spec import Spec

SPEC = {"name": "shop", "app": "main:app", "source": {"type": "requirement", "requirement": "shop"}}


@pytest.fixture
def stoppable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process takes SIGTERM as a deploy's unit does; no scope is made around what it runs."""
    monkeypatch.setattr(room, "bounded", lambda argv, *_: argv)
    monkeypatch.setattr(systemd, "systemctl", lambda *_args, **_more: "")
    before = signal.signal(signal.SIGTERM, apply._stopped)
    yield
    signal.signal(signal.SIGTERM, before)


def _stop(_line: str) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_a_stop_while_uv_is_fetched_does_not_lead_to_pip(
    tmp_path: Path, stoppable: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(install, "RUNTIME", tmp_path / "lib")
    monkeypatch.setattr(install, "VAR", tmp_path / "var")
    slow = tmp_path / "python"
    # The stop comes while the fetch is under way.
    slow.write_text("#!/bin/sh\nkill -TERM $PPID\nexec sleep 600\n")
    slow.chmod(0o755)
    said: list[str] = []
    spec = Spec.from_mapping(SPEC)
    python = SimpleNamespace(path=str(slow), pip_wheel=str(tmp_path / "pip.whl"))
    view: Any = SimpleNamespace(spec=spec, layout=layout.Layout("shop", tmp_path), python=python)
    build = Build(view, SimpleNamespace(installer=""), None, SimpleNamespace(say=said.append))  # type: ignore[arg-type]
    with pytest.raises(Stopped, match="stopped by systemctl stop"):
        build.choose_installer()
    assert said == [f"fetching uv {install.UV}"]
    # What was half fetched is gone.
    assert not list((tmp_path / "lib" / "tools").iterdir())


def test_what_a_stopped_run_had_started_writes_no_more(tmp_path: Path, stoppable: None) -> None:
    mark = tmp_path / "pid"
    line = f"echo $$ > {mark}; echo begun; exec sleep 600"
    with pytest.raises(Stopped):
        command.run(["/bin/sh", "-c", line], on_line=_stop)
    with pytest.raises(ProcessLookupError):
        os.kill(int(mark.read_text()), 0)


def test_killed_for_memory_is_one_line_that_says_how_much_there_was(
    stoppable: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "free", lambda: 116 << 20)
    with pytest.raises(room.TooLarge) as told:
        room.run(["/bin/sh", "-c", "kill -9 $$"], None, "shop", what="commands.build: npm ci")
    assert str(told.value).startswith(
        "commands.build: npm ci: killed, because it needed more than the 100 MiB that are free"
    )
    with pytest.raises(Exception, match="no such package"):
        room.run(["/bin/sh", "-c", "echo ERROR: no such package; exit 1"], None, "shop", what="pip")
