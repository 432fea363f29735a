"""The boxes hold what they promise, and a tiny run of the sizing benchmark comes to an end with all its
parts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.box import BOX_LABEL, Boxes
from benchmarks.sizing import figures, page
from benchmarks.sizing.cells import MIB, Cell, Point
from benchmarks.sizing.plans import Planner
from benchmarks.sizing.session import Session, Shape
from benchmarks.sizing.store import Store
from lab import checkout, engine

pytestmark = pytest.mark.docker

#: Takes 10 MB a step and says how far it came.
GREEDY = "import time\nheld=[]\nwhile True:\n    held.append(bytearray(10**7)); print(len(held), flush=True)"


def test_a_box_is_held_to_its_memory_and_cpu(base_image: str) -> None:
    with Boxes("test") as boxes:
        greedy = boxes.start(["python3", "-c", GREEDY], memory=64 * MIB, cpus=1)
        busy = boxes.start(["python3", "-c", "while True: pass"], memory=64 * MIB, cpus=0.25)
        status, said = greedy.result(30)
        before, began = busy.usage(), time.monotonic()
        assert status == 137, "the kernel ends what takes more"
        assert 0 < len(said.splitlines()) <= 7
        while busy.usage().throttled_seconds == before.throttled_seconds:
            assert time.monotonic() - began < 30
        after = busy.usage()
        assert (after.oom_kills, after.times_full) == (0, 0)
        assert 0 < after.peak < 64 * MIB
        assert after.cpu_seconds - before.cpu_seconds < 0.6 * (time.monotonic() - began) + 0.1
    assert not boxes.docker.containers(f"label={BOX_LABEL}=test-{os.getpid()}")


STOPPED = """
import sys
from benchmarks.box import Boxes
with Boxes("stopped") as boxes:
    boxes.start(["sleep", "300"], memory=64 * 2**20, cpus=1)
    print("up", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_stopped_leaves_no_box(base_image: str, number: signal.Signals) -> None:
    run = subprocess.Popen(
        [sys.executable, "-c", STOPPED],
        cwd=checkout.ROOT, env={**os.environ, "PYTHONPATH": str(checkout.ROOT)},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    with run:
        assert run.stdout is not None
        assert run.stdout.readline() == "up\n"
        docker = engine.ensure()
        label = f"label={BOX_LABEL}=stopped-{run.pid}"
        assert len(docker.containers(label)) == 1
        run.send_signal(number)
        assert run.wait(60)
    assert not docker.containers(label)


def test_a_tiny_run_finds_plan_best_and_a_rule(base_image: str, tmp_path: Path) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("this machine has one CPU: the boxes and their load need one each")
    cell = Cell("async", 512, 1.0)
    said: list[str] = []
    with Boxes("tiny") as boxes:
        kept = Store(tmp_path, "digest", cell.kind, cell.cpus)
        planner = Planner(boxes, kept, said.append, seconds=10)
        shape = Shape(repeats=2, tries=1, window_share=0.2, grid=2, rules=("default",))
        Session(boxes, kept, [cell], said.append, planner, shape=shape).measure()
        assert not boxes.started
    found = figures.result(kept, cell, planner)
    assert found is not None, said
    assert found.plan.is_up
    assert found.plan.throughput > 10
    assert found.best.throughput >= found.plan.throughput * 0.5
    assert found.measurement["cpu_per_request"] > 0.001, "the app takes a millisecond of CPU"
    assert found.rules["default"].seen.point == Point("gunicorn", "uvicorn", 1)
    assert {len(window["round"].split(":")) for window in found.plan.windows} == {2}
    page.write([found], tmp_path / "page", {"gunicorn": "27"})
    for name in ("samples.csv.gz", "cells.csv", "summary.json", "index.html", "plots/async.svg"):
        assert (tmp_path / "page" / name).stat().st_size, name
    assert "async-512m-1cpu" in (tmp_path / "page" / "cells.csv").read_text()
    # Another look at what is stored needs no box.
    again = Store(tmp_path, "digest", cell.kind, cell.cpus)
    assert again.is_done(cell)
    assert figures.measured(again, cell).keys() == figures.measured(kept, cell).keys()
