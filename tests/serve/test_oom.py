"""Whom the kernel takes first when memory ends."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from farrier.serve import oom

from .conftest import Serve, app_of


def score(pid: int) -> int:
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text())


def test_a_worker_goes_before_its_arbiter_and_its_successor_too(serve: Serve) -> None:
    site = serve(app_of("sync"), "--workers", "1")
    own = score(site.process.pid)
    pids = []
    for count in (1, 2):
        pid = int(site.event("worker_booted", count)["worker"])
        pids.append(pid)
        assert score(pid) == min(oom.MOST, own + oom.ABOVE)
        os.kill(pid, signal.SIGKILL)
    assert len(set(pids)) == 2
    assert score(site.process.pid) == own


def test_a_score_has_an_end_and_one_that_is_not_there_stops_no_worker(tmp_path: Path) -> None:
    file = tmp_path / "oom_score_adj"
    file.write_text("900\n")
    oom.go_first(file)
    assert file.read_text() == "1000"
    oom.go_first(tmp_path / "none" / "oom_score_adj")
