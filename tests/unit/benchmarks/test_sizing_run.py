"""What a run does with the time it has, with sessions that fail, and with what is still missing after one."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.box import PACKAGES, Boxes
from benchmarks.sizing import cells, run, session, store
from benchmarks.sizing.cells import Cell
from benchmarks.sizing.session import FULL
from lab import checkout
from lab.errors import LabError

CELLS = [Cell(kind, 256, cpus) for kind in ("io", "cpu") for cpus in cells.CPUS]


@pytest.fixture
def boxes() -> Boxes:
    """Of which no one is started here."""
    found = Boxes("none")
    found.farrier = checkout.ROOT
    found.remove_all = lambda: None  # type: ignore[method-assign]
    return found


def options(**values: Any) -> argparse.Namespace:
    return argparse.Namespace(**{"every_cell": False, "again": False, "minutes": 1000, **values})


def test_a_session_that_fails_does_not_end_the_run_and_is_told(
    boxes: Boxes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[str] = []

    def fails(boxes: Boxes, kept: store.Store, fresh: list[Cell], *rest: object) -> None:
        begun.append(fresh[0].name)
        raise LabError("the engine is away")

    monkeypatch.setattr(run, "session", fails)
    log = tmp_path / "log" / "failures.log"
    assert not run.run(boxes, CELLS, tmp_path, options(), FULL, failures=log)
    order = [f"{kind}-256m-{cpus:g}cpu" for cpus in (1.0, 2.0, 0.5) for kind in ("io", "cpu")]
    assert begun == order * run.ATTEMPTS
    assert log.read_text().count("LabError: the engine is away") == len(begun)


def test_no_session_begins_that_would_not_end_in_time(
    boxes: Boxes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[tuple[str, float]] = []

    def fails(boxes: Boxes, kept: store.Store, fresh: list[Cell], *rest: object) -> None:
        begun.append((fresh[0].kind, fresh[0].cpus))
        raise LabError("so that no time of its own counts")

    monkeypatch.setattr(run, "session", fails)
    log = tmp_path / "failures.log"
    assert not run.run(boxes, CELLS, tmp_path, options(minutes=10), FULL, failures=log)
    assert begun
    assert set(begun) <= {key for key, seconds in run.GUESS.items() if seconds <= 600}
    begun.clear()
    assert not run.run(boxes, CELLS, tmp_path, options(minutes=0), FULL)
    assert not begun


def test_the_samples_belong_to_what_is_measured_not_to_the_images_name(
    boxes: Boxes, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = store.digest(boxes.contents, boxes.farrier, "wsgi")
    assert all(name in boxes.contents for name in PACKAGES)
    store.digest.cache_clear()
    monkeypatch.setattr(cells, "CLIENTS", 50)
    assert store.digest(boxes.contents, boxes.farrier, "wsgi") != known
    store.digest.cache_clear()


def test_a_change_in_one_class_leaves_the_samples_of_the_others(boxes: Boxes, tmp_path: Path) -> None:
    def digests(changed: str) -> dict[str, str]:
        copy = tmp_path / changed.replace("/", "-")
        shutil.copytree(
            boxes.farrier / "farrier", copy / "farrier", ignore=shutil.ignore_patterns("__pycache__")
        )
        if changed:
            with (copy / "farrier" / changed).open("a") as file:
                file.write("# more\n")
        return {interface: store.digest(boxes.contents, copy, interface) for interface in ("wsgi", "asgi")}

    before = digests("")
    for changed, void in (
        ("serve/workers/uvicorn.py", {"asgi"}),
        ("serve/workers/gthread.py", {"wsgi"}),
        ("serve/workers/share.py", {"asgi", "wsgi"}),
        ("serve/arbiter.py", {"asgi", "wsgi"}),
        ("sizing/plan.py", set()),
    ):
        after = digests(changed)
        assert {one for one in before if after[one] != before[one]} == void, changed


@pytest.mark.parametrize("worker_class", ["sync", "gthread", "asgi", "uvicorn"])
def test_what_a_class_loads_counts_for_its_samples(worker_class: str) -> None:
    script = f"import sys, farrier.serve.workers.{worker_class}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    interface = "asgi" if worker_class in ("asgi", "uvicorn") else "wsgi"
    names = store.FOREIGN[interface]
    assert all((checkout.ROOT / "farrier" / name).is_file() for name in names)
    foreign = {"farrier." + name.removesuffix(".py").replace("/", ".") for name in names}
    assert not foreign & set(loaded.split())


def test_what_is_left_is_estimated_by_sessions_of_the_same_kind() -> None:
    groups = cells.groups(CELLS)
    progress = run.Progress(groups)
    first, second = groups[0], groups[1]
    assert progress.left() == sum(run.GUESS[group[0].kind, group[0].cpus] for group in groups)
    progress.ratios = [(first[0].kind, 2.0), (second[0].kind, 0.5)]
    assert progress.expected(first) == 2 * run.GUESS[first[0].kind, first[0].cpus]
    assert progress.expected(second) == 0.5 * run.GUESS[second[0].kind, second[0].cpus]


def test_a_window_that_others_spoiled_is_not_measured_again_before_they_are_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = SimpleNamespace(now=0.0)
    clock.monotonic = lambda: clock.now
    clock.sleep = lambda seconds: setattr(clock, "now", clock.now + seconds)
    said: list[str] = []
    waiting = SimpleNamespace(say=said.append)
    monkeypatch.setattr(session, "time", clock)
    monkeypatch.setattr(session, "busy_seconds", lambda cores: min(clock.now, 30.0))
    session.Session.await_quiet(waiting, (0,))  # type: ignore[arg-type]
    assert clock.now == 31
    assert said == ["others have 100% of the boxes' cores: it waits for them"]
    monkeypatch.setattr(session, "busy_seconds", lambda cores: clock.now)
    session.Session.await_quiet(waiting, (0,))  # type: ignore[arg-type]
    assert clock.now == 31 + session.QUIET_SECONDS
