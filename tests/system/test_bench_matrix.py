"""The RAM matrix, a tiny run of it on a real host: results, the page, and nothing is left over."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lab import checkout, engine

pytestmark = [pytest.mark.docker, pytest.mark.systemd]
COMMAND = [sys.executable, "-m", "farrier", "bench", "matrix", "--quick"]


def containers() -> list[str]:
    """Hosts of the matrix that this checkout has now."""
    docker = engine.ensure()
    return docker.containers(f"name=farrier-{checkout.identity()}-matrix-")


def test_a_tier_is_measured_and_the_page_written(base_image: str, tmp_path: Path) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("this machine has one CPU: the matrix needs two")
    done = subprocess.run(
        [*COMMAND, "--only", "512-light-farrier-load"], cwd=checkout.ROOT, capture_output=True, text=True,
        timeout=300, env=os.environ | {"FARRIER_CACHE": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    (work,) = (tmp_path / "bench-matrix").glob("*/quick")
    load = json.loads((work / "512-light-farrier-load.json").read_text())
    assert load["requests"]["sent"] >= 10
    assert load["requests"]["failed"] == 0
    assert max(load["samples"]["processes"]) >= 2
    assert load["server"]["workers"] >= 1
    assert "512 MB" in (work / "page" / "index.html").read_text()
    assert [path.name for path in (work / "page" / "logs").iterdir()] == ["512-light-farrier-load.log.gz"]


def test_an_interrupt_takes_the_hosts_away(base_image: str, tmp_path: Path) -> None:
    before = set(containers())
    process = subprocess.Popen(
        [*COMMAND, "--only", "256-light-farrier-startup"], cwd=checkout.ROOT, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, env=os.environ | {"FARRIER_CACHE": str(tmp_path)},
    )  # fmt: skip
    try:
        end = time.monotonic() + 120
        while not set(containers()) - before:
            assert process.poll() is None, process.stdout and process.stdout.read()
            assert time.monotonic() < end, "no host was started"
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=90)
    finally:
        process.kill()
    assert process.returncode == 130, said
    assert not set(containers()) - before
