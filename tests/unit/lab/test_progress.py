"""Progress: a line per step, the last words of what failed, and nothing that outlives an interrupt."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lab import checkout
from lab.errors import LabError
from lab.progress import Steps


def test_each_step_is_a_line_with_its_time(capsys: pytest.CaptureFixture[str]) -> None:
    with Steps() as steps, steps.step("Boot") as outcome:
        outcome += ["fast", "warm"]
    assert re.fullmatch(r"\[0:0\d\] Boot: fast, warm \(\d\.\d s\)\n", capsys.readouterr().out)


def test_a_failed_command_ends_in_its_last_lines_and_its_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    script = "for n in 1 2 3 4; do echo line $n; done; exit 3"
    with (
        pytest.raises(LabError, match=rf"^Boot: line 3 \| line 4 \(whole output: {log}\)$"),
        Steps() as steps,
    ):
        steps.stream("Boot", ["sh", "-c", script], log)
    assert log.read_text().splitlines()[0] == "line 1"


def test_cancel_ends_what_runs(tmp_path: Path) -> None:
    with Steps() as steps, ThreadPoolExecutor(1) as pool:
        waits = pool.submit(steps.stream, "Wait", ["sleep", "60"], tmp_path / "log")
        while not steps._processes:
            time.sleep(0.01)
        steps.cancel()
        assert isinstance(waits.exception(timeout=10), KeyboardInterrupt)
        with pytest.raises(KeyboardInterrupt):
            steps.stream("Next", ["touch", str(tmp_path / "begun")], tmp_path / "log")
    assert not (tmp_path / "begun").exists()


def test_a_step_that_lasts_says_so_in_a_log() -> None:
    script = (
        "import time, lab.progress as p; p._LOG_EVERY = 1\n"
        "with p.Steps() as s, s.step('Long'): s.detail('Long', 'half way'); time.sleep(2.5)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=checkout.ROOT, check=True
    )
    assert re.search(r"^\[0:0\d\] \.\.\. Long \d s: half way$", ran.stdout, re.M)
