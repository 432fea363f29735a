"""The benchmark's quick run, on the real host: 50,000 requests, and none fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.deploys import cells
from lab import checkout

pytestmark = [pytest.mark.docker, pytest.mark.systemd]


def test_quick_run_loses_nothing_and_writes_its_page(base_image: str, tmp_path: Path) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("this machine has one CPU: the server and its load need one each")
    done = subprocess.run(
        [sys.executable, "benchmarks/deploys/run.py", "--quick", "--out", str(tmp_path)],
        cwd=checkout.ROOT, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    for name in ("requests.csv.gz", "deploys.csv", "index.html", "summary.json"):
        assert (tmp_path / name).stat().st_size, name
    work = checkout.cache_dir() / "bench-deploys" / checkout.identity() / "quick"
    found = [json.loads((work / f"{cell.name}.json").read_text()) for cell in cells.quick()]
    ours = [one for one in found if one["cell"]["ours"]]
    assert {one["cell"]["worker_class"] for one in ours} == set(cells.CLASSES)
    assert sum(one["counts"]["sent"] for one in ours) >= 50_000
    assert [one["failures"] for one in ours if one["failures"]] == []
    assert all(not deploy["refused"] for one in ours for deploy in one["deploys"])
    assert all(deploy["first_new_answer"] for one in ours for deploy in one["deploys"])
    recycled = [one["recycled"] for one in ours if one["cell"]["strategy"] == "recycling"]
    assert recycled, "no class was recycled"
    assert all(recycled)
    theirs = [one for one in found if not one["cell"]["ours"]]
    assert any(one["counts"]["ok"] < one["counts"]["sent"] for one in theirs), "a load that finds nothing"
    figures = {one["figure"]: one for one in json.loads((tmp_path / "summary.json").read_text())}
    assert figures["failed requests"]["holds"] is True
    assert figures["failed requests while workers are recycled"]["holds"] is True
